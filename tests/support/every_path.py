"""The same messages by every path that events take into Headrace, and what became of each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from whole_files import whole

from features.definitions import Stream
from features.events import Records, parse
from features.events.json.messages import FEW_MESSAGES
from features.times import now_ms
from serving.events import judge

Row = dict[str, Any]
"""Of a flat message: the path of a value → the value."""

ANYTHING = ["null", "boolean", "long", "double", "string"]
NOT_COMPARED = ["known_at", "partition", "offset"]


@dataclass(frozen=True)
class Fared:
    """The events without their places, and the code of the reason for each message that is refused."""

    events: list[Row]
    codes: list[str | None]


def by_every_path(stream: Stream, rows: Sequence[Row], folder: Path) -> dict[str, Fared]:
    """Path → how the rows fared: as JSON and Avro messages, lines of JSON, CSV, Parquet and posted events."""
    return {
        "json": by_json(stream, rows),
        "json, many": by_json(stream, rows, FEW_MESSAGES),
        "avro": by_avro(stream, rows),
        "http": by_http(stream, rows),
        **by_files(stream, rows, folder),
    }


def by_json(stream: Stream, rows: Sequence[Row], least: int = 1) -> Fared:
    """The rows as messages of a topic, repeated until there are ``least``."""
    several = [json.dumps(row).encode() for row in rows] * -(-least // len(rows))
    return _fared(stream, several, len(rows))


def by_avro(stream: Stream, rows: Sequence[Row], types: Mapping[str, Any] | None = None) -> Fared:
    """The rows in Avro, each value of its own type unless ``types`` says another."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    fields = [{"name": name, "type": (types or {}).get(name, ANYTHING)} for name in names]
    schema = {"type": "record", "name": "Any", "fields": fields}
    written = []
    for row in rows:
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), {name: row.get(name) for name in names})
        written.append(buffer.getvalue())
    return _fared(replace(stream, format="avro", schema=json.dumps(schema)), written, len(rows))


def by_http(stream: Stream, rows: Sequence[Row]) -> Fared:
    """The rows as posted events: by our names, and numeric times in ms as HTTP has them."""
    paths = {"event_id": stream.event_id, "event_time": stream.event_time}
    paths |= {name: field.path or name for name, field in stream.mapped.items()}
    events = [{name: row[path] for name, path in paths.items() if path in row} for row in rows]
    judged = judge(events, stream, None, now_ms())
    return Fared(
        _without_places(judged.parsed.events), [reason and reason.partition(":")[0] for reason in judged.reasons]
    )


def by_files(stream: Stream, rows: Sequence[Row], folder: Path) -> dict[str, Fared]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    written = {"jsonl": as_lines(rows), "csv": as_csv(rows, names), "parquet": as_parquet(rows, names)}
    fared = {}
    for kind, content in written.items():
        path = folder / f"rows.{kind}"
        path.write_bytes(content)
        read = whole(path, kind, {stream.name: stream})
        codes = [reason and reason.partition(":")[0] for reason in read.reasons[stream.name]]
        fared[kind] = Fared(_without_places(read.events[stream.name]), codes)
    return fared


def as_lines(rows: Sequence[Row]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def as_csv(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """Null is an empty cell, true and false are words; texts are quoted, to keep empty ones apart from null."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(names)
    for row in rows:
        values = [row.get(name) for name in names]
        text.write(",".join(_cell(value) for value in values) + "\r\n")
    return text.getvalue().encode()


def _cell(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"'
    return "" if value is None else json.dumps(value)


def as_parquet(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """Typed columns; one with a text beside other values is text throughout."""

    def column(name: str) -> pa.Array:
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and kinds != {int, float}:
            return pa.array([value if value is None or type(value) is str else json.dumps(value) for value in values])
        return pa.array(values)

    sink = io.BytesIO()
    pq.write_table(pa.table({name: column(name) for name in names}), sink)
    return sink.getvalue()


def _fared(stream: Stream, messages: Sequence[bytes], count: int) -> Fared:
    size = len(messages)
    parsed = parse(Records(pa.array(messages, pa.binary()), None, np.zeros(size, np.int32), np.arange(size)), stream)
    within = pa.array(parsed.rows < count)
    codes = [reason and reason.partition(":")[0] for reason in parsed.reasons.to_pylist()[:count]]
    return Fared(_without_places(parsed.events.filter(within)), codes)


def _without_places(events: pa.Table) -> list[Row]:
    rows: list[Row] = events.drop_columns(NOT_COMPARED).to_pylist()
    return rows
