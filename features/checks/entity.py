"""One entity's features computed from a file, with the events behind them: for `headrace features show`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import RESERVED, Entity, FeatureView, Stream, duration_ms, used_columns
from features.events import Parsed, Verdict, encode_key, entity_keys, without_duplicates
from features.history import Spine, point_in_time
from features.rows import Status

Read = Callable[[], Iterator[tuple[str, Parsed]]]
"""Reads the file from its beginning: (stream name, events with their verdicts), in chunks."""


@dataclass(frozen=True)
class EntityInFile:
    """An entity in a file: its deduplicated events by stream, and the newest known_at of the file (None: no event).

    ``named`` counts the events that have a key of such an entity, whichever it is.
    """

    events: Mapping[str, pa.Table]
    clock: int | None
    named: int


def find_entity(read: Read, streams: Mapping[str, Stream], entity: Entity, values: Mapping[str, Any]) -> EntityInFile:
    """The events of an entity; memory is bounded by its events, not by the file.

    The file is read twice: which of two records with one event id counts depends on both, and the other may be another
    entity's and stand before.

    Args:
        values: those of the entity's keys, see parsed_key().
    """
    key = encode_key(values, entity)
    clock: int | None = None
    named = 0
    ids: dict[str, list[pa.Array]] = {}
    for name, table in _valid(read()):
        clock = max(clock or 0, pc.max(table["known_at"]).as_py())
        if entity.keys.keys() <= streams[name].dtypes.keys():
            keys = _keys(table, entity)
            named += len(keys) - keys.null_count
            ids.setdefault(name, []).append(pc.unique(table["event_id"].filter(_equal(keys, key))))
    wanted = {name: pa.concat_arrays(chunks) for name, chunks in ids.items() if sum(map(len, chunks))}
    records: dict[str, list[pa.Table]] = {name: [] for name in wanted}
    for name, table in _valid(read()) if wanted else ():
        if name in wanted:
            records[name].append(table.filter(pc.is_in(table["event_id"], value_set=wanted[name])))
    events = {}
    for name, tables in records.items():
        unique = without_duplicates(pa.concat_tables(tables), duration_ms(streams[name].dedupe_horizon))
        events[name] = unique.filter(_equal(_keys(unique, entity), key))
    return EntityInFile(events, clock, named)


def _valid(parsed: Iterable[tuple[str, Parsed]]) -> Iterator[tuple[str, pa.Table]]:
    for name, chunk in parsed:
        table = chunk.events.filter(pa.array(chunk.verdicts[chunk.rows] == Verdict.VALID))
        if table.num_rows:
            yield name, table


def _keys(table: pa.Table, entity: Entity) -> pa.Array:
    return entity_keys({name: table[name] for name in entity.keys}, entity)


def _equal(keys: pa.Array, key: str) -> pa.Array:
    return pc.fill_null(pc.equal(keys, key), fill_value=False)


def view_answer(view: FeatureView, key: Mapping[str, Any], as_of: int, in_file: EntityInFile) -> dict[str, Any]:
    """The view's features of the entity at as_of (ms), with its status and its newest event's time (ms)."""
    spine = Spine(pa.array([encode_key(key, view.entity)], pa.string()), np.array([as_of], dtype=np.int64))
    events = {stream.name: in_file.events[stream.name] for stream in view.streams if stream.name in in_file.events}
    matrix = point_in_time(view, spine, events)
    status = Status(int(matrix.status[0]))
    newest = None if status == Status.NOT_FOUND else int(matrix.newest_event[0])
    (values,) = matrix.to_table().to_pylist()
    return {"view": view.name, "status": status.name, "newest_event": newest, "features": values}


def events_behind(view: FeatureView, as_of: int, in_file: EntityInFile, most: int) -> tuple[list[dict[str, Any]], int]:
    """The entity's newest ``most`` events in the view's windows at as_of (ms), newest first, and the number of others.

    Each has its stream, event_id and event_time, and the columns that the view uses, except nulls.
    """
    bounds = [view.tiling.bounds(window) for window in view.tiling.windows]
    at = np.array([as_of], dtype=np.int64)
    left = min(int(window.left(at)[0]) for window in bounds)
    right = max(int(window.right(at)[0]) for window in bounds)
    rows: list[dict[str, Any]] = []
    for stream in view.streams:
        if stream.name in in_file.events:
            table = in_file.events[stream.name].select(used_columns(view, stream))
            time, known = (np.asarray(table[name].to_numpy()) for name in ("event_time", "known_at"))
            inside = (time >= left) & (time < right) & (known <= as_of) & (time >= known - view.horizon_ms)
            rows += [{"stream": stream.name, **row} for row in table.filter(pa.array(inside)).to_pylist()]
    rows.sort(key=lambda row: (row["event_time"], row["offset"]), reverse=True)
    hidden = {*RESERVED, *view.entity.keys} - {"event_id", "event_time"}
    shown = [{name: v for name, v in row.items() if v is not None and name not in hidden} for row in rows[:most]]
    return shown, len(rows) - len(shown)
