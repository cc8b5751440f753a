"""The same messages by every way in: a topic in JSON (read fast and exactly) and in Avro, files, HTTP."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from shop_messages import BATCH, NOW, records

from features.definitions import Stream
from features.events import Parsed, Verdict
from features.events.parsing import parse
from features.formats import read_events
from serving.events.verdicts import judge

Message = Mapping[str, Any]

NOT_OF_THE_MESSAGE = ["known_at", "partition", "offset"]


def rows(parsed: Parsed) -> list[dict[str, Any]]:
    """The events as rows of what their messages say."""
    events: list[dict[str, Any]] = parsed.events.drop_columns(NOT_OF_THE_MESSAGE).to_pylist()
    return events


def by_topic(stream: Stream, messages: Sequence[Message]) -> Parsed:
    """The messages in JSON, few enough to be read exactly."""
    return parse(records([json.dumps(message).encode() for message in messages]), stream)


def by_fast_topic(stream: Stream, messages: Sequence[Message]) -> Parsed:
    """The messages in JSON, behind as many repetitions of themselves as the fast reader wants to see."""
    repeated = list(itertools.islice(itertools.cycle(messages), BATCH - BATCH % len(messages)))
    parsed = parse(records([json.dumps(message).encode() for message in [*repeated, *messages]]), stream)
    last = parsed.rows >= len(repeated)
    index = pa.array(range(len(repeated), len(parsed.verdicts)))
    return Parsed(
        parsed.events.filter(pa.array(last)),
        parsed.rows[last] - len(repeated),
        parsed.verdicts[len(repeated) :],
        parsed.reasons.take(index),
    )


def by_avro(stream: Stream, messages: Sequence[Message]) -> Parsed:
    """The messages in Avro, in the narrowest schema that holds them all."""
    schema = json.dumps(avro_schema(messages))
    values = []
    for message in messages:
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, fastavro.parse_schema(json.loads(schema)), message)
        values.append(buffer.getvalue())
    return parse(records(values), replace(stream, format="avro", schema=schema))


def by_file(stream: Stream, messages: Sequence[Message], folder: Path, file_format: str) -> Parsed:
    """The messages as lines of JSON, or flat in the columns of a CSV or Parquet file."""
    path = folder / f"{stream.name}.{file_format}"
    flat = [dict(_flat(message)) for message in messages]
    names = list(dict.fromkeys(name for row in flat for name in row))
    if file_format == "jsonl":
        path.write_text("".join(f"{json.dumps(message)}\n" for message in messages), encoding="utf-8")
    elif file_format == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(flat)
    else:
        pq.write_table(pa.table({name: [row.get(name) for row in flat] for name in names}), path)
    ((_, parsed),) = read_events(path, file_format, {stream.name: stream}, stream=stream.name)
    return parsed


def by_http(stream: Stream, messages: Sequence[Message]) -> Parsed:
    """What the topic has, posted by our names."""
    return judge(rows(by_topic(stream, messages)), stream, None, NOW).parsed


def avro_schema(values: Sequence[Any], name: str = "Message") -> Any:
    """The Avro type of these values; whatever is missing somewhere may be null."""
    present = [value for value in values if value is not None]
    if not present:
        return "null"
    nullable = ["null"] if len(present) < len(values) else []
    first = present[0]
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(key for value in present for key in value))
        fields = [(key, avro_schema([value.get(key) for value in present], f"{name}_{key}")) for key in names]
        record = {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields]}
        return [*nullable, record] if nullable else record
    if isinstance(first, list):
        items = avro_schema([item for value in present for item in value], f"{name}_item")
        return [*nullable, {"type": "array", "items": items}]
    kinds = {bool: "boolean", int: "long", float: "double", str: "string"}
    return nullable + list(dict.fromkeys(kinds[type(value)] for value in present))


def _flat(message: Message, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in message.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def all_valid(parsed: Parsed) -> bool:
    """Whether every record is a valid event."""
    return bool((parsed.verdicts == Verdict.VALID).all())
