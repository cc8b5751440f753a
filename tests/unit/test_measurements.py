"""Data sets of machines, short texts and journeys: each row becomes the events that it was, with labels by its id."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from whole_files import Read, whole

from features.definitions import Stream
from features.errors import FormatError
from features.events.parsing import Verdict

RealFile = Callable[[str], Path]

ZONES = {"pickup_zone": "int64", "dropoff_zone": "int64", "zone": "int64", "distance": "float64"}
STREAMS = {
    stream.name: stream
    for stream in (
        Stream("readings", "t.readings", {"sensor": "string", "value": "float64"}),
        Stream("incidents", "t.incidents", {"sensor": "string"}),
        Stream("mentions", "t.mentions", {"company": "string", "text": "string"}, event_id="id"),
        Stream("mention_labels", "t.labels", {"company": "string", "sentiment": "string"}, event_id="id"),
        Stream("pickups", "t.pickups", ZONES, event_id="id"),
        Stream("dropoffs", "t.dropoffs", {**ZONES, "minutes": "float64"}, event_id="id"),
    )
}

TRIP = {
    "lpep_pickup_datetime": [datetime.fromisoformat("2022-01-01T00:14:21")],
    "lpep_dropoff_datetime": [datetime.fromisoformat("2022-01-01T00:15:33")],
    "PULocationID": [42],
    "DOLocationID": [43],
    "trip_distance": [0.44],
}


def trips(folder: Path, **changed: list[object]) -> Read:
    path = folder / "trips.parquet"
    pq.write_table(pa.table({**TRIP, **changed}), path)
    return whole(path, "green-taxi", STREAMS)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def test_readings_in_labelled_windows_are_labels_by_the_same_id(real_file: RealFile) -> None:
    path = real_file("machines.parquet")
    read, rows = whole(path, "nab", STREAMS), pd.read_parquet(path)
    assert read.verdicts == {
        "readings": {Verdict.VALID: len(rows)},
        "incidents": {Verdict.VALID: int(rows.in_window.sum())},
    }
    readings, labels = read.events["readings"], read.events["incidents"]
    labelled = pc.is_in(readings["event_id"], value_set=labels["event_id"].combine_chunks())
    assert np.array_equal(np.asarray(labelled), rows.in_window == 1)
    assert np.array_equal(readings["value"].to_numpy(), rows.value)
    assert Counter(readings["sensor"].to_pylist()) == Counter(rows.series)
    assert np.array_equal(readings["event_time"].to_numpy(), rows.timestamp.astype("datetime64[ms]").astype("int64"))


def test_texts_keep_their_zone_and_their_sentiment_is_a_label(real_file: RealFile) -> None:
    path = real_file("mentions.csv")
    read, rows = whole(path, "mentions", STREAMS), pd.read_csv(path, dtype={"tweet_id": str})
    assert read.verdicts == {name: {Verdict.VALID: len(rows)} for name in ("mentions", "mention_labels")}
    texts, labels = read.events["mentions"], read.events["mention_labels"]
    assert texts["event_id"].to_pylist() == labels["event_id"].to_pylist() == rows.tweet_id.tolist()
    assert texts["text"].to_pylist() == rows.text.tolist()
    assert labels["sentiment"].to_pylist() == rows.airline_sentiment.tolist()
    times = pd.to_datetime(rows.tweet_created, utc=True).astype("datetime64[ms, UTC]").astype("int64")
    assert np.array_equal(texts["event_time"].to_numpy(), times)


def test_a_trip_is_a_pick_up_and_a_drop_off_in_new_yorks_time(real_file: RealFile) -> None:
    path = real_file("green-taxi.parquet")
    read, rows = whole(path, "green-taxi", STREAMS), pd.read_parquet(path)
    assert read.verdicts == {name: {Verdict.VALID: len(rows)} for name in ("pickups", "dropoffs")}
    pickups, dropoffs = read.events["pickups"], read.events["dropoffs"]
    assert pickups["event_id"].equals(dropoffs["event_id"])
    local = rows.lpep_pickup_datetime.dt.tz_localize("America/New_York", ambiguous=np.ones(len(rows), bool))
    assert np.array_equal(pickups["event_time"].to_numpy(), local.astype("datetime64[ms, UTC]").astype("int64"))
    minutes = pc.divide(pc.cast(pc.subtract(dropoffs["event_time"], pickups["event_time"]), pa.float64()), 60_000.0)
    assert dropoffs["minutes"].equals(minutes)
    assert pickups["zone"].equals(pickups["pickup_zone"])
    assert dropoffs["zone"].equals(dropoffs["dropoff_zone"])
    assert np.array_equal(dropoffs["dropoff_zone"].to_numpy(), rows.DOLocationID)


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("2022-07-01T12:00", "2022-07-01T12:00:00-04:00"),
        ("2022-03-13T02:30", "2022-03-13T03:00:00-04:00"),  # an hour that did not exist
        ("2022-11-06T01:30", "2022-11-06T01:30:00-04:00"),  # an hour that came twice
    ],
)
def test_a_local_time_is_its_first_instant(tmp_path: Path, local: str, expected: str) -> None:
    read = trips(tmp_path, lpep_pickup_datetime=[datetime.fromisoformat(local)])
    assert read.events["pickups"]["event_time"].to_pylist() == [ms(expected)]


def test_a_trip_of_a_null_time_or_zone_is_refused_or_null_alone(tmp_path: Path) -> None:
    start = pa.array([None, TRIP["lpep_pickup_datetime"][0]], pa.timestamp("us"))
    end = pa.array([TRIP["lpep_dropoff_datetime"][0]] * 2, pa.timestamp("us"))
    path = tmp_path / "a.parquet"
    columns = {"PULocationID": [1, None], "DOLocationID": [1, 2], "trip_distance": [1.0, None]}
    pq.write_table(pa.table({"lpep_pickup_datetime": start, "lpep_dropoff_datetime": end, **columns}), path)
    read = whole(path, "green-taxi", STREAMS)
    assert read.verdicts["pickups"] == {Verdict.DEAD_LETTER: 1, Verdict.VALID: 1}
    assert read.events["pickups"]["pickup_zone"].to_pylist() == [None]
    assert read.events["dropoffs"]["minutes"].null_count == 1


def test_times_that_are_no_timestamps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="local times as timestamps"):
        trips(tmp_path, lpep_pickup_datetime=["noon"])


@pytest.mark.parametrize("kind", ["nab", "green-taxi"])
def test_a_file_without_one_of_the_columns_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"customer": ["x"]}), path)
    with pytest.raises(FormatError, match="requires column"):
        whole(path, kind, STREAMS)


def test_a_text_without_a_sentiment_has_no_label_and_one_with_a_bad_time_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    head = "tweet_id,tweet_created,airline,airline_sentiment,text\n"
    path.write_text(f'{head}1,2015-02-16 23:36:05 -0800,Delta,,"said,\nso"\n2,yesterday,Delta,neutral,x\n')
    read = whole(path, "mentions", STREAMS)
    assert read.events["mentions"]["text"].to_pylist() == ["said,\nso"]
    assert read.events["mentions"]["event_time"].to_pylist() == [ms("2015-02-16T23:36:05-08:00")]
    assert read.verdicts["mentions"] == {Verdict.VALID: 1, Verdict.DEAD_LETTER: 1}
    assert read.verdicts["mention_labels"] == {Verdict.DEAD_LETTER: 1}
