"""State rows: what an online store keeps of an entity, folded from events and finalized at read.

    row ──decode──► entries ─┐
    events ──lift──► entries ┴─merge──► entries ──encode──► row          fold
    row ──decode──► entries ──finalizers at as_of──► features            finalize

Both take and return whole batches of rows; nothing here loops over entities or cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.aggregations import Answer, Plan, plan_of
from features.answers import answered
from features.columns import EventColumns, Values, arrow_type
from features.definitions import FeatureView
from features.entries import Entries, order_by_row_time, run_starts
from features.errors import HeadraceError
from features.folding import folded, old_rows
from features.kernels.contract import Heads
from features.rows import Layout, decode
from features.tables import Lane, LaneEvents, Table
from features.windows import Int64s

ROWS_AT_ONCE = 1 << 15
"""Rows folded together: row and hash must fit one 64-bit key, and arrays of this size stay in the cache."""


class Status(IntEnum):
    """Whether an entity has features (the three of Feast's FieldStatus that an online read can give)."""

    PRESENT = 0
    OUTSIDE_MAX_AGE = 1
    NOT_FOUND = 2


@dataclass(frozen=True)
class BatchKey:
    """Which batch writes: of which stream (a generation of it), its number, and the time of writing in ms."""

    stream_id: int
    batch_id: int
    written_at: int


@dataclass(frozen=True)
class PackedRows:
    """State rows by key: text keys, and a binary value or null (no row yet) for each."""

    keys: pa.Array
    values: pa.Array

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, length: int) -> PackedRows:
        """Some of the rows, without copying."""
        return PackedRows(self.keys.slice(start, length), self.values.slice(start, length))


@dataclass(frozen=True)
class FeatureMatrix:
    """The features of n entities: an Arrow column per feature, null where it has no value or the entity is not PRESENT.

    ``as_of`` is the instant in ms that each row was finalized at: the one asked for, or the row's clock when that is
    later.
    """

    names: tuple[str, ...]
    columns: tuple[pa.Array, ...]
    status: NDArray[np.int8]
    as_of: Int64s
    newest_event: Int64s

    def to_table(self) -> pa.Table:
        """The features as an Arrow table."""
        return pa.table(dict(zip(self.names, self.columns, strict=True)))

    def to_numpy(self, names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """(n, features) in float64, NaN for null; only numeric features can be asked for."""
        by_name = dict(zip(self.names, self.columns, strict=True))
        columns = [by_name[name] for name in (names or self.names)]
        return np.column_stack([c.cast(pa.float64()).to_numpy(zero_copy_only=False) for c in columns])


def layout_of(view: FeatureView, stream_id: int) -> Layout:
    """How the rows of this view and stream are stored."""
    return Layout(view.name, view.schema_hash, stream_id, plan_of(view).kept)


# --- events of an entity --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EntityEvents:
    """One stream's events that concern the view's entity, sorted by row, time, sequence.

    ``row`` is the place of the entity's key; ``place`` the event's place in its columns.
    """

    columns: EventColumns
    place: Int64s
    row: Int64s
    time: Int64s
    known_at: Int64s
    seq: Int64s
    lanes: dict[Lane, tuple[LaneEvents, NDArray[np.bool_]]] = field(default_factory=dict, init=False, compare=False)

    def lane(self, lane: Lane) -> tuple[LaneEvents, NDArray[np.bool_]]:
        """The lane's events, and which of these events they are; picked once, however many tables are of the lane."""
        if lane not in self.lanes:
            self.lanes[lane] = self._picked(lane)
        return self.lanes[lane]

    def _picked(self, lane: Lane) -> tuple[LaneEvents, NDArray[np.bool_]]:
        inside = lane.mask(self.columns)[self.place]
        values = self.columns.values(lane.column) if lane.column else None
        if values is not None:
            chosen = self.place[inside]
            values = Values(values.numbers[chosen], values.valid[chosen], values.pool)
        return LaneEvents(self.row[inside], self.time[inside], self.seq[inside], values), inside


def entity_events(view: FeatureView, columns: EventColumns, row: Int64s) -> EntityEvents:
    """The events with a row (-1 has none) that are not late for the view, sorted by row, time, sequence."""
    timely = columns.time >= columns.known_at - view.horizon_ms
    place = np.flatnonzero((row >= 0) & timely)
    order = order_by_row_time(row[place], columns.time[place])
    rising = bool((np.diff(columns.seq) >= 0).all())
    place = place[order]
    events = EntityEvents(columns, place, row[place], columns.time[place], columns.known_at[place], columns.seq[place])
    return events if rising else _ties_by_sequence(events)


def _ties_by_sequence(events: EntityEvents) -> EntityEvents:
    """The events, sorted by row and time, with those of the same row and time by sequence: few are."""
    same = (events.row[1:] == events.row[:-1]) & (events.time[1:] == events.time[:-1])
    tied = np.zeros(len(events.row), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    if not len(places):
        return events
    order = np.arange(len(events.row))
    order[places] = places[np.lexsort((events.seq[places], events.time[places], events.row[places]))]
    arrays = (events.place, events.row, events.time, events.known_at, events.seq)
    return EntityEvents(events.columns, *(array[order] for array in arrays))


def rows_of_events(view: FeatureView, events: Sequence[EventColumns]) -> tuple[pa.Array, list[Int64s]]:
    """The different keys of the entity in these streams' events, and each event's place among them (-1: none)."""
    texts = [columns.entity_keys(view.entity) for columns in events]
    encoded = pa.chunked_array(texts, type=pa.string()).combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary, np.split(codes, np.cumsum([len(text) for text in texts])[:-1])


def event_columns(view: FeatureView, events: Mapping[str, pa.Table]) -> list[EventColumns]:
    """The columns of those of the streams that the view reads."""
    return [EventColumns(events[stream.name], stream) for stream in view.streams if stream.name in events]


# --- fold -----------------------------------------------------------------------------------------------------------


class Fold:
    """One batch of events against the rows of one view: ``keys`` to get from the store, then ``rows`` to put back.

    folding = Fold(view, {"activity": events})
    changed = folding.rows(store.get(folding.keys), BatchKey(stream_id, batch_id, now))
    """

    def __init__(self, view: FeatureView, events: Mapping[str, pa.Table]) -> None:
        self.view = view
        self.plan: Plan = plan_of(view)
        columns = event_columns(view, events)
        self.keys, rows = rows_of_events(view, columns) if columns else (pa.array([], pa.string()), [])
        self._events = [entity_events(view, one, row) for one, row in zip(columns, rows, strict=True)]

    def rows(self, values: pa.Array, batch: BatchKey) -> PackedRows:
        """The rows after the batch, without those that it was folded into before (the fence).

        Args:
            values: the stored value of each of ``keys`` (binary, null where there is none), in their order.
            batch: rows written by this or a later batch are left alone.
        """
        parts = [
            self._chunk(start, values.slice(start, ROWS_AT_ONCE), batch)
            for start in range(0, len(self.keys), ROWS_AT_ONCE)
        ]
        if not parts:
            return PackedRows(self.keys, pa.array([], pa.binary()))
        return PackedRows(
            pa.concat_arrays([part.keys for part in parts]), pa.concat_arrays([part.values for part in parts])
        )

    def _chunk(self, start: int, values: pa.Array, batch: BatchKey) -> PackedRows:
        keys = self.keys.slice(start, ROWS_AT_ONCE)
        old = old_rows(self.view, batch.stream_id, values)
        if old is None:
            raise refused(self.view, PackedRows(keys, values), batch.stream_id)
        heads = old.heads
        open_rows = ~heads.known | is_open(heads.batch_id, batch.batch_id)
        events = [_between(one, start, len(keys), open_rows) for one in self._events]
        for one in events:
            heads.touched[one.row] = True
        _move_on(heads, events, batch)
        return PackedRows(
            keys.filter(pa.array(heads.touched)), folded(old, [_lifted(kept.table, events) for kept in self.plan.kept])
        )


def _lifted(table: Table, events: list[EntityEvents]) -> Entries | None:
    """The entries of the events in the table's lane; None where there are none."""
    for one in events:
        if one.columns.stream.name == table.lane.stream:
            lane, _ = one.lane(table.lane)
            return table.lift(lane) if len(lane.row) else None
    return None


def is_open(written_by: Int64s, batch_id: int) -> NDArray[np.bool_]:
    """The fence: which rows a batch may still be folded into, by the batch that wrote them last."""
    return written_by < batch_id


def _between(events: EntityEvents, start: int, count: int, open_rows: NDArray[np.bool_]) -> EntityEvents:
    """The events of rows start … start + count that are open, with rows counted from start."""
    lo, hi = np.searchsorted(events.row, [start, start + count])
    row = events.row[lo:hi] - start
    keep = open_rows[row]
    arrays = (events.place[lo:hi], row, events.time[lo:hi], events.known_at[lo:hi], events.seq[lo:hi])
    return EntityEvents(events.columns, *(array[keep] for array in arrays))


def _move_on(heads: Heads, events: list[EntityEvents], batch: BatchKey) -> None:
    """The heads say what the rows are to say: their newest event and clock, and which batch writes them."""
    lowest = np.iinfo(np.int64).min
    for old, new, attribute in ((heads.newest, heads.newest, "time"), (heads.clock, heads.fresh_clock, "known_at")):
        latest = np.where(heads.known, old, lowest)
        for one in events:
            starts = run_starts(one.row)
            if len(starts):
                rows = one.row[starts]
                latest[rows] = np.maximum(latest[rows], np.maximum.reduceat(getattr(one, attribute), starts))
        new[:] = np.where(latest == lowest, 0, latest)
    heads.batch[:] = batch.batch_id, batch.written_at


def fold(view: FeatureView, stored: PackedRows, events: Mapping[str, pa.Table], batch: BatchKey) -> PackedRows:
    """The rows that a batch of events changes, as they are after it; ``stored`` may hold more keys, or none of them."""
    folding = Fold(view, events)
    places = pc.index_in(folding.keys, value_set=stored.keys)
    return folding.rows(stored.values.take(places) if len(stored) else pa.nulls(len(folding.keys), pa.binary()), batch)


def refused(view: FeatureView, rows: PackedRows, stream_id: int) -> Exception:
    """Which of the rows that a kernel refused is none of the view and stream, and what is wrong with it."""
    try:
        decode(rows.values, rows.keys, layout_of(view, stream_id))
    except HeadraceError as error:
        return error
    return AssertionError("a row that only the compiled kernels refuse")


# --- finalize -------------------------------------------------------------------------------------------------------


def finalize(view: FeatureView, rows: PackedRows, as_of: int | Int64s, stream_id: int) -> FeatureMatrix:
    """Every feature of the rows' entities at ``as_of`` (ms, one for all or one each), in the order of the keys.

    A row can be read as of its clock (the newest known_at folded into it) or later: an earlier as_of reads as of the
    clock, and the matrix says so. Rows that are null are NOT_FOUND, as are those whose newest event is older than twice
    the view's ttl; older than the ttl is OUTSIDE_MAX_AGE; both have null for every feature.
    """
    found = answered(view, rows.values, as_of, stream_id)
    if found is None:
        raise refused(view, rows, stream_id)
    columns = tuple(found.columns[name] for name in view.names)
    return FeatureMatrix(view.names, columns, found.status, found.as_of, found.newest)


def statuses(view: FeatureView, newest: Int64s, as_of: Int64s, known: NDArray[np.bool_]) -> NDArray[np.int8]:
    """The status of each entity by the age of its newest event."""
    age = as_of - newest
    status = np.where(age > view.ttl_ms, Status.OUTSIDE_MAX_AGE, Status.PRESENT)
    return np.where(known & (age <= 2 * view.ttl_ms), status, Status.NOT_FOUND).astype(np.int8)


def assembled(
    view: FeatureView, answers: Mapping[str, Answer], status: NDArray[np.int8], as_of: Int64s, newest: Int64s
) -> FeatureMatrix:
    """The answers as Arrow columns, null for every entity that is not PRESENT."""
    absent = status != Status.PRESENT
    columns = tuple(_column(answers[f.name], arrow_type(f.dtype), absent) for f in view.features)
    return FeatureMatrix(view.names, columns, status, as_of, newest)


def _column(answer: Answer, dtype: pa.DataType, absent: NDArray[np.bool_]) -> pa.Array:
    if isinstance(answer.values, pa.Array):
        values = answer.values if answer.values.type == dtype else answer.values.cast(dtype)
        return pc.if_else(pa.array(absent), pa.scalar(None, type=dtype), values) if absent.any() else values
    null = absent if answer.valid is None else absent | ~answer.valid
    return pa.array(answer.values, mask=null).cast(dtype)
