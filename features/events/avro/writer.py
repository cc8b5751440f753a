"""Events → Avro messages, written with the stream's own schema or the registry's newest: the inverse of messages.py."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any
from uuid import UUID

import numpy as np

from features.definitions import TIME_UNITS_PER_MS, Base64Decimal, Field, Stream, path_text
from features.errors import FormatError
from features.events.avro.messages import HEADER_BYTES, MAGIC, parsed
from features.events.avro.registry import SchemaRegistry
from features.events.values.written import number_text
from features.zones import local_ms

EXACT = {"string": "string", "int64": "long", "float64": "double", "bool": "boolean"}
"""The Avro type that holds all values of a dtype."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LOCAL_KINDS = ("date", "local-timestamp-millis", "local-timestamp-micros", "local-timestamp-nanos")
"""Logical types without a zone: they hold what a clock shows."""


@dataclass(frozen=True)
class AvroWriter:
    """Writes a stream's messages.

    Args:
        schema: as parsed by fastavro.
        header: the first bytes of each message; empty without a registry.
    """

    stream: Stream
    schema: Any
    header: bytes

    def encode(self, message: Mapping[str, Any]) -> bytes:
        """The message in binary. Raises FormatError if the schema cannot hold it."""
        from fastavro import schemaless_writer

        buffer = io.BytesIO()
        buffer.write(self.header)
        message = self._of_schema(message)
        try:
            schemaless_writer(buffer, self.schema, message)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            got = f"{type(error).__name__}: {str(error)[:200]}".rstrip(". ")
            raise FormatError(f"stream '{self.stream.name}': schema", "types that hold its events", got) from error
        if not self._holds_all:
            self._check(message, buffer)
        return buffer.getvalue()

    def _of_schema(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The message with values of converted fields in the types that the schema has for them."""
        for keys, field in self._converted.items():
            *parents, last = keys
            inner: Any = message
            for key in parents:
                inner = (inner or {}).get(key)
            if isinstance(inner, dict) and inner.get(last) is not None:
                inner[last] = _of_type(inner[last], field, _not_null(_at(self.schema, keys)))
        return message

    @cached_property
    def _converted(self) -> dict[tuple[str, ...], Field]:
        """The paths of fields with a cast or a map."""
        fields = self.stream.mapped.items()
        return {self.stream.written_paths[name]: field for name, field in fields if field.is_converted}

    @cached_property
    def _holds_all(self) -> bool:
        """True if the schema has every field in the type that holds all values of its dtype."""
        paths = self.stream.written_paths
        fields = {paths[name]: EXACT[field.dtype] for name, field in self.stream.mapped.items()}
        ids = {} if self.stream.event_id is None else {paths["event_id"]: EXACT["string"]}
        return all(_not_null(_at(self.schema, path)) == [kind] for path, kind in (ids | fields).items())

    def _check(self, message: Mapping[str, Any], written: io.BytesIO) -> None:
        """Raise FormatError unless what is written reads as the message: fastavro casts 2.5 to int and 'x' to true."""
        from fastavro import schemaless_reader

        written.seek(len(self.header))
        for path, value, read in _differences(message, schemaless_reader(written, self.schema)):
            # The time is checked by whoever reads it: a number may be written as a datetime.
            if path != path_text(self.stream.written_paths["event_time"]):
                got = f"{path}: {value!r} would be {read!r}"
                raise FormatError(f"stream '{self.stream.name}': schema", "types that hold its events", got)

    def has(self, keys: Sequence[str]) -> bool:
        """True if the schema has a field at that path of keys."""
        return _at(self.schema, keys) is not None

    @property
    def takes_instants(self) -> bool:
        """True if event_time is an instant that fastavro takes as a datetime, in the unit of its type."""
        return self.logical_time in ("timestamp-millis", "timestamp-micros")

    def time(self, ms: int) -> datetime | date | int | float | str:
        """Epoch ms as the event_time that encode() expects.

        Raises:
            OverflowError: it is beyond the years 1 to 9999.
            FormatError: the schema has dates, and it is not a day's beginning in the stream's zone.
        """
        if self.logical_time in LOCAL_KINDS:
            return self._local(ms)
        if self.logical_time == "timestamp-nanos":
            return ms * 1_000_000
        if self.takes_instants:
            return EPOCH + timedelta(milliseconds=ms)
        if "long" not in self._time_type and "string" in self._time_type:
            return (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")
        unit = self.stream.time_unit
        if "double" in self._time_type and "long" not in self._time_type:
            return ms * TIME_UNITS_PER_MS[unit]
        return ms // 1_000 if unit == "s" else ms * int(TIME_UNITS_PER_MS[unit])

    def _local(self, ms: int) -> datetime | date | int:
        """What the clock of the stream's zone shows."""
        shown = EPOCH.replace(tzinfo=None) + timedelta(
            milliseconds=int(local_ms(np.array([ms]), self.stream.time_zone or "UTC")[0])
        )
        if self.logical_time == "local-timestamp-nanos":
            return (shown - EPOCH.replace(tzinfo=None)) // timedelta(microseconds=1) * 1_000
        if self.logical_time != "date":
            return shown
        if shown.time() != time.min:
            where, got = f"stream '{self.stream.name}': schema", f"{shown.isoformat()} for a date"
            raise FormatError(where, "types that hold its events", got)
        return shown.date()

    @cached_property
    def logical_time(self) -> str:
        """The logical type of event_time; empty if it has none."""
        kinds = _not_null(_at(self.schema, self.stream.written_paths["event_time"]))
        return next((kind.get("logicalType", "") for kind in kinds if isinstance(kind, dict)), "")

    @cached_property
    def _time_type(self) -> str:
        return json.dumps(_at(self.schema, self.stream.written_paths["event_time"]))


def _of_type(value: Any, field: Field, kinds: Sequence[Any]) -> Any:
    """The value in the type of the schema that reads as the same, if there is one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and any(isinstance(kind, dict) and kind.get("logicalType") == "decimal" for kind in kinds):
        return Decimal(repr(value))
    if is_number and kinds == ["string"] and not isinstance(field.cast, Base64Decimal):
        return number_text(value, field)
    if isinstance(value, str) and kinds in (["long"], ["int"]) and re.fullmatch("-?[0-9]+", value):
        return int(value)
    return value


def avro_writer(stream: Stream, registry: SchemaRegistry | None) -> AvroWriter:
    """A writer with the stream's schema; if it has none, with the registry's newest for its topic.

    Raises:
        FormatError: there is no schema, or it is not valid.
        StoreError: the registry does not answer.
    """
    where = f"stream '{stream.name}': schema"
    number, text = _numbered_schema(stream, registry)
    if text is None:
        next_step = "Give the stream schema=, or set kafka.schema_registry."
        raise FormatError(where, "an Avro schema to write messages with", "none", next_step)
    try:
        schema = parsed(text)
    except ValueError as error:
        raise FormatError(where, "an Avro schema as JSON text", str(error), "Mend schema= of the stream.") from None
    header = b"" if number is None else bytes([MAGIC]) + number.to_bytes(HEADER_BYTES - 1, "big")
    return AvroWriter(stream, schema, header)


def _numbered_schema(stream: Stream, registry: SchemaRegistry | None) -> tuple[int | None, str | None]:
    """The number in the header of messages (None without a registry), and the schema's text."""
    if registry is None:
        return None, stream.schema
    subject = f"{stream.topic}-value"
    if stream.schema is None:
        return registry.latest(subject)
    return registry.number(subject, stream.schema), stream.schema


def _at(schema: Any, path: Sequence[str]) -> Any:
    """The type of the field at that path; None if there is none."""
    if not path:
        return schema
    for record in schema if isinstance(schema, list) else [schema]:
        for field in record.get("fields", ()) if isinstance(record, dict) else ():
            if field["name"] == path[0]:
                return _at(field["type"], path[1:])
    return None


def _not_null(kind: Any) -> list[Any]:
    return [each for each in (kind if isinstance(kind, list) else [kind]) if each != "null"]


def _differences(message: Mapping[str, Any], read: Any, parents: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value, what was read) of each value that is not the same."""
    for name, value in message.items():
        path, got = f"{parents}{name}", read.get(name) if isinstance(read, Mapping) else None
        if isinstance(value, Mapping):
            yield from _differences(value, got, f"{path}.")
        elif value is not None:
            same = str(got) if isinstance(got, UUID) else got
            if same != value or isinstance(same, bool) != isinstance(value, bool):
                yield path, value, got
