"""Public data sets of machines, short texts and journeys as events: the mapping of their columns to ours.

Each reader yields (stream name, table of our columns) in the file's order. ``docs/data.md`` describes the same mapping.
"""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import FormatError
from features.events import ms_of_timestamps
from features.formats.csv_rows import read_csv
from features.formats.datasets import Tables, events_of, shaped, text
from features.formats.files import Columns, InputFile, cast, read_parquet, to_ms

NEW_YORK = "America/New_York"
MS_A_MINUTE = 60_000.0


def nab(source: InputFile) -> Tables:
    """Readings of the Numenta Anomaly Benchmark (Parquet); those in its labelled windows are labels, known at once."""
    return shaped(read_parquet(source, ("series", "timestamp", "value", "in_window")), source, _nab)


def _nab(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    time = to_ms(rows["timestamp"], "ms", "timestamp")
    readings = events_of(
        rows, event_time=time, sensor=text(rows["series"]), value=cast(rows["value"], "float64", "value")
    )
    labels = readings.drop_columns(["value"]).filter(pc.fill_null(pc.equal(rows["in_window"], 1), False))
    return [("readings", readings), ("incidents", labels)]


def mentions(source: InputFile) -> Tables:
    """Texts about airlines (CSV), each with the sentiment that people saw in it as its label, known at once."""
    names = ("tweet_id", "tweet_created", "airline", "airline_sentiment", "text")
    return shaped(read_csv(source, dict.fromkeys(names, "string")), source, _mentions)


def _mentions(rows: pa.Table) -> list[tuple[str, pa.Table]]:
    parts = r"\A(.{10}) (.{8}) ([+-]\d\d):?(\d\d)\z"
    times = pc.replace_substring_regex(rows["tweet_created"], parts, r"\1T\2\3:\4")
    about = {"event_id": rows["tweet_id"], "event_time": times, "company": rows["airline"]}
    said = events_of(rows, **about, text=rows["text"])
    labels = events_of(rows, **about, sentiment=rows["airline_sentiment"])
    known = pc.is_valid(rows["airline_sentiment"])
    return [("mentions", said), ("mention_labels", labels.filter(known))]


def green_taxi(source: InputFile) -> Tables:
    """New York's green taxis (Parquet): a pick-up, and a drop-off by the same id with the minutes that it took."""
    names = ("lpep_pickup_datetime", "lpep_dropoff_datetime", "PULocationID", "DOLocationID", "trip_distance")
    return shaped(read_parquet(source, names), source, partial(_green_taxi, where=source.where))


def _green_taxi(rows: pa.Table, where: str) -> list[tuple[str, pa.Table]]:
    start, end = (_in_new_york(rows[f"lpep_{what}_datetime"], where) for what in ("pickup", "dropoff"))
    zones = {
        "pickup_zone": cast(rows["PULocationID"], "int64", "PULocationID"),
        "dropoff_zone": cast(rows["DOLocationID"], "int64", "DOLocationID"),
        "distance": cast(rows["trip_distance"], "float64", "trip_distance"),
    }
    minutes = pc.divide(pc.cast(pc.subtract(end, start), pa.float64()), MS_A_MINUTE)
    pickups = events_of(rows, event_time=start, **zones, zone=zones["pickup_zone"])
    dropoffs = events_of(rows, event_time=end, **zones, zone=zones["dropoff_zone"], minutes=minutes)
    return [("pickups", pickups), ("dropoffs", dropoffs)]


def _in_new_york(column: Columns, where: str) -> Columns:
    """Epoch ms of local times; the first of an hour that comes twice, the end of one that does not exist."""
    if not pa.types.is_timestamp(column.type):
        raise FormatError(where, "local times as timestamps", str(column.type))
    if column.type.tz is None:
        column = pc.assume_timezone(column, NEW_YORK, ambiguous="earliest", nonexistent="latest")
    return ms_of_timestamps(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
