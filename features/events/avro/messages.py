"""Avro messages → typed columns: plain binary, or with the Confluent header that names the writer's schema.

Header: a zero byte, the schema id as 4 bytes big-endian, then the binary
(https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format).
fastavro decodes message by message in C; columns and everything after them are shared with JSON.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import Stream
from features.errors import FormatError
from features.events.decoded import Decoded, LocalNanoseconds, Nanoseconds, from_objects
from features.events.values.lookup import Envelopes
from features.events.values.reasons import Problems, RefusedError, show

HEADER_BYTES = 5

MAGIC = 0


def decode(
    values: pa.Array,
    stream: Stream,
    schemas: Callable[[int], str] | None,
    only: Int64s | None = None,
    envelopes: Envelopes | None = None,
) -> Decoded:
    """The typed columns of the messages, and the problems of those that are refused.

    Args:
        values: binary; null for a tombstone.
        stream: ``stream.schema`` is the reader schema, and without ``schemas`` the writer's as well.
        schemas: schema id → the writer's schema as JSON text, KeyError for an unknown id; if set, every message needs
            the header. Any other error of it (a registry that is down) is raised here: no record is to blame.
        only, envelopes: as from_objects() takes them.

    Raises:
        FormatError: the stream's schema is not an Avro schema, or it has none and ``schemas`` is None.
    """
    reader = _stream_schema(stream)
    if schemas is None:
        writers, start, reader = _same_schema(values, stream, reader), 0, None
    else:
        writers, start = _named_schemas(values, schemas), HEADER_BYTES
    objects: list[dict[str, Any] | None] = []
    problems: Problems = {}
    for row, (message, writer) in enumerate(zip(values.to_pylist(), writers, strict=True)):
        objects.append(None)
        try:
            objects[row] = None if message is None else _record(message, start, writer, reader)
        except RefusedError as refused:
            problems[row] = str(refused)
    return from_objects(objects, stream, problems, only, envelopes)


def _stream_schema(stream: Stream) -> Any:
    """The stream's own schema, parsed; None if it has none."""
    try:
        return None if stream.schema is None else parsed(stream.schema)
    except ValueError as error:
        where = f"stream '{stream.name}': schema"
        raise FormatError(where, "an Avro schema as JSON text", str(error), "Mend schema= of the stream.") from None


def _same_schema(values: pa.Array, stream: Stream, schema: Any) -> list[Any]:
    """The writer's schema of each message without a header: the stream's."""
    if schema is None:
        next_step = "Give the stream schema=, or set kafka.schema_registry."
        required = "an Avro schema, as messages without a registry name none"
        raise FormatError(f"stream '{stream.name}': schema", required, "none", next_step)
    return [schema] * len(values)


@lru_cache(maxsize=256)
def parsed(text: str) -> Any:
    """The parsed schema. Raises ValueError with the reason if it is not valid, or refers to itself."""
    import fastavro

    fastavro.read.LOGICAL_READERS["long-timestamp-nanos"] = lambda number, *_: Nanoseconds(number)
    fastavro.read.LOGICAL_READERS["long-local-timestamp-nanos"] = lambda number, *_: LocalNanoseconds(number)
    try:
        schema = fastavro.parse_schema(json.loads(text))
    except Exception as error:  # noqa: BLE001  # fastavro has no common ancestor for what a bad schema raises
        raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from None
    if any(_cycles(schema, frozenset())):
        # A message of it nests as deep as its sender likes, and fastavro's C recursion ends the process.
        raise ValueError("a schema that refers to itself")
    return schema


def _cycles(schema: Any, inside: frozenset[str]) -> Iterator[str]:
    """The names of records that contain themselves."""
    if isinstance(schema, str):
        if schema in inside:
            yield schema
    elif isinstance(schema, list):
        for branch in schema:
            yield from _cycles(branch, inside)
    elif isinstance(schema, dict):
        within = inside | {schema["name"]} if "name" in schema else inside
        members = [schema.get("type"), schema.get("items"), schema.get("values")]
        for member in members + [field["type"] for field in schema.get("fields", ())]:
            yield from _cycles(member, within)


def _named_schemas(values: pa.Array, schemas: Callable[[int], str]) -> list[Any]:
    """The writer's schema of each message by its header, or the RefusedError of the message.

    A schema is looked up once per batch.
    """
    heads = pc.binary_slice(values, 0, HEADER_BYTES).dictionary_encode()
    distinct = [_writer(head, schemas) for head in heads.dictionary.to_pylist()]
    return [None if index is None else distinct[index] for index in heads.indices.to_pylist()]


def _writer(head: bytes, schemas: Callable[[int], str]) -> Any:
    if not head:
        return RefusedError("empty_value: an Avro record is required; got no bytes")
    if head[0] != MAGIC:
        return RefusedError(f"wrong_magic: the first byte must be {MAGIC}; got 0x{head[0]:02x}")
    if len(head) < HEADER_BYTES:
        return RefusedError(f"truncated: a header of {HEADER_BYTES} bytes is required; got {len(head)}")
    number = int.from_bytes(head[1:], "big")
    try:
        return parsed(schemas(number))
    except KeyError:
        return RefusedError(f"unknown_schema: a schema id that the registry has is required; got {number}")
    except ValueError as error:
        return RefusedError(f"bad_schema: schema {number} must be an Avro schema; got {error}")


def _record(message: bytes, start: int, writer: Any, reader: Any) -> Any:
    if isinstance(writer, RefusedError):
        raise writer
    stream = io.BytesIO(message)
    stream.seek(start)
    value = _value(stream, writer, reader)
    if stream.tell() != len(message):
        raise RefusedError(
            f"trailing_bytes: nothing is allowed behind the record; got {len(message) - stream.tell()} bytes"
        )
    if type(value) is not dict:
        raise RefusedError(f"not_an_object: an Avro record is required; got {show(value)}")
    return value


def _value(stream: io.BytesIO, writer: Any, reader: Any) -> Any:
    from fastavro import schemaless_reader
    from fastavro.read import SchemaResolutionError

    try:
        return schemaless_reader(stream, writer, reader)
    except SchemaResolutionError as error:
        text = str(error)[:200]
        raise RefusedError(
            f"incompatible_schema: the stream's schema must be able to read the writer's; {text}"
        ) from None
    except UnicodeDecodeError as error:
        raise RefusedError(
            f"bad_utf8: UTF-8 is required; got byte 0x{error.object[error.start]:02x} in a string"
        ) from None
    except (EOFError, IndexError):
        raise RefusedError("truncated: a whole Avro record is required; the bytes end inside it") from None
    except Exception as error:  # noqa: BLE001  # damaged bytes reach conversions that raise whatever they like
        raise RefusedError(
            f"bad_avro: an Avro record is required; {type(error).__name__}: {str(error)[:100]}"
        ) from None
