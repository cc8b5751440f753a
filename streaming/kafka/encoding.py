"""Events as the messages of their topic: the inverse of ``features.events.parse``.

``parse`` reads back the very events: ids, times, values and, from the header ``known_at``, when each became known.
What a stream computes is not written, as its readers compute it; nor is an id where the stream makes ids of offsets.
A column that a whole table leaves empty is left out of its messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import single_array
from features.definitions import Stream, path_text
from features.errors import DefinitionError
from features.events import written
from features.events.avro import SchemaRegistry, avro_writer
from streaming.kafka.producer import KNOWN_AT, Headers

if TYPE_CHECKING:
    import polars as pl

Message = tuple[bytes, bytes, Headers]
"""Key, value, headers."""

Tree = dict[str, Any]
"""Keys of a message → a column of values, or another Tree."""

KEYS = ("user_id", "session_id", "item_id")

FINER_THAN_MS = {"us": 1_000, "ns": 1_000_000}

LARGEST = 2**63 - 1


def messages(
    events: pa.Table, stream: Stream, shift_ms: int | None = 0, registry: SchemaRegistry | None = None
) -> Iterator[Message]:
    """Key, value and headers of each event, in order.

    Args:
        events: ``event_id``, ``event_time``, ``known_at`` and any of the stream's fields, as event_schema() types them.
        stream: defines the format of its messages.
        shift_ms: is added to both times. None is for live traffic: times stay, and the broker's time is known_at.
        registry: has the schemas of Avro messages and their numbers; None writes them without a number.

    Raises:
        DefinitionError: two fields have one path in the message, or events cannot be written (Stream.unwritable).
        FormatError: the stream's Avro schema cannot hold an event.
        StoreError: the registry does not answer.
    """
    if stream.each is not None or stream.unwritable:
        got = stream.unwritable or "one whose messages have several"
        next_step = "Import the file, or send its messages as they are."
        raise DefinitionError(f"stream '{stream.name}'", "events that are written one by one", got, next_step)
    if shift_ms:
        events = _shifted(events, shift_ms)
    keys = keys_of(events, stream).cast(pa.binary()).to_pylist()
    values = _avro(events, stream, registry) if stream.format == "avro" else _json(events, stream)
    if shift_ms is None:
        return ((key, value, []) for key, value in zip(keys, values, strict=True))
    known = single_array(events["known_at"]).cast(pa.string()).cast(pa.binary()).to_pylist()
    return ((key, value, [(KNOWN_AT, time)]) for key, value, time in zip(keys, values, known, strict=True))


def _shifted(events: pa.Table, shift_ms: int) -> pa.Table:
    for name in ("event_time", "known_at"):
        index = events.schema.get_field_index(name)
        events = events.set_column(index, name, pc.add(events[name], shift_ms))
    return events


def keys_of(events: pa.Table, stream: Stream) -> pa.Array:
    """The message key of each event as text, so that a user's events keep order: a user, session, item or other id."""
    others = [name for name in stream.mapped if name.endswith("_id") and name not in KEYS]
    names = [name for name in (*KEYS, *others) if name in stream.mapped and name in events.column_names]
    return pc.coalesce(*(single_array(events[name]).cast(pa.string()) for name in (*names, "event_id")))


def _tree(events: pa.Table, stream: Stream, times: pa.Array, *, sparse: bool) -> Tree:
    """The columns at their paths in the message; without the empty ones if ``sparse``."""
    paths = stream.written_paths
    columns = {} if stream.event_id is None else {paths["event_id"]: single_array(events["event_id"])}
    time = {paths["event_time"]: times}
    fields: dict[tuple[str, ...], pa.Array] = {}
    for name, field in stream.mapped.items():
        if name in events.column_names and not (sparse and events[name].null_count == events.num_rows):
            path = paths[name]
            if path in fields:
                raise _overlap(stream, path)
            fields[path] = written(single_array(events[name]), field)
    # An id that is a field, too, is written as the field has it: ids are read from numbers as well as texts.
    return _nested(columns | time | fields | time, stream)


def _nested(columns: Mapping[tuple[str, ...], pa.Array], stream: Stream) -> Tree:
    tree: Tree = {}
    for path, column in columns.items():
        *parents, last = path
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise _overlap(stream, path)
        if last in node:
            raise _overlap(stream, path)
        node[last] = column
    return tree


def _overlap(stream: Stream, path: Sequence[str]) -> DefinitionError:
    required = "paths that one message can have"
    return DefinitionError(
        f"stream '{stream.name}'", required, f"'{path_text(path)}' beside another path that it overlaps"
    )


def _json(events: pa.Table, stream: Stream) -> list[bytes]:
    import polars as pl

    if not events.num_rows:
        return []
    instants = single_array(events["event_time"])
    # A number, too, may be read by a pattern: RFC 3339 is read as itself by every stream.
    times = rfc_3339(instants) if stream.time.patterns else in_unit(instants, stream.time_unit)
    struct = _struct(_tree(events, stream, times, sparse=True), "message")
    encoded: list[bytes] = pl.select(struct.struct.json_encode().cast(pl.Binary)).to_series().to_list()
    return encoded


def _struct(tree: Tree, name: str) -> pl.Expr:
    import polars as pl

    members = [
        _struct(value, key) if isinstance(value, dict) else pl.lit(pl.Series(key, pl.from_arrow(value))).alias(key)
        for key, value in tree.items()
    ]
    return pl.struct(members).alias(name)


def in_unit(times_ms: pa.Array, unit: str) -> pa.Array:
    """The times as numbers in ``unit``, or, where those are coarser than a millisecond, as RFC 3339 texts."""
    times: NDArray[np.int64] = np.asarray(times_ms)
    if unit == "ms":
        return times_ms
    if unit == "s" and not (times % 1_000).any():
        return pa.array(times // 1_000)
    factor = FINER_THAN_MS.get(unit)
    if factor and int(np.abs(times).max(initial=0)) <= LARGEST // factor:
        return pa.array(times * factor)
    return rfc_3339(times_ms)


def rfc_3339(times_ms: pa.Array) -> pa.Array:
    """The times as RFC 3339 texts in UTC, to the millisecond."""
    return pc.strftime(times_ms.cast(pa.timestamp("ms", "UTC")), format="%Y-%m-%dT%H:%M:%SZ")


def _avro(events: pa.Table, stream: Stream, registry: SchemaRegistry | None) -> list[bytes]:
    """Avro binary, behind the header of the registry if there is a registry; record by record, in C."""
    writer = avro_writer(stream, registry)
    instants = single_array(events["event_time"])
    if writer.takes_instants:
        times = instants.cast(pa.timestamp("ms", "UTC"))
    elif writer.logical_time or stream.time.patterns:
        times = pa.array([writer.time(ms) for ms in instants.to_pylist()])
    else:
        times = in_unit(instants, stream.time_unit)
    return [writer.encode(record) for record in _records(_tree(events, stream, times, sparse=False)).to_pylist()]


def _records(tree: Tree) -> pa.StructArray:
    columns = [_records(value) if isinstance(value, dict) else value for value in tree.values()]
    return pa.StructArray.from_arrays(columns, list(tree))
