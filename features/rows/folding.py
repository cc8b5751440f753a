"""State rows: an entity's tables in the online store, folded from events and finalized at read.

    row ──decode──► entries ─┐
    events ──lift──► entries ┴─merge──► entries ──encode──► row          fold
    row ──decode──► entries ──finalizers at as_of──► features            finalize

Both take and return whole batches of rows; nothing here loops over entities or cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Entries, Int64s, bytes_of, row_bounds, run_starts
from features.definitions import FeatureView, Stream
from features.events import (
    CANNOT_BE_FOLDED,
    NOT_OF_A_RECORD,
    EventColumns,
    Parsed,
    Verdict,
    errors_alone,
    with_dead_letters,
)
from features.rows import compiled
from features.rows.compiled import ONE_BYTE, stored_rows
from features.rows.decoder import refused
from features.rows.entities import EntityEvents, Events, convert, entity_events, event_columns, rows_of_events
from features.rows.finalizing import warm_up
from features.rows.kernels import Heads, Merge, NewEntries, Packed, Stored, contract
from features.rows.layout import binary_array
from features.rows.matrix import BatchKey, PackedRows
from features.rows.plan import Plan, TableSpec, plan_of
from features.rows.programs import CODECS, KINDS, lines_of
from features.rows.tables import REST, ColumnSpec, Distinct, Frequencies, Oldest, Recent, Table, Tiles, half_life_of

SPARE = np.empty(0, dtype=np.int64)

REDUCERS = {"min": contract.SMALLER, "max": contract.LARGER, "count": contract.ADDED}
"""Reducers of these columns; other floats are summed, alone or as pairs, and all else stays as it is."""

INTEGER_REDUCERS = {contract.SMALLER: contract.SMALLER_INTEGER, contract.LARGER: contract.LARGER_INTEGER}

BYTES_A_ROW, BYTES_AN_ENTRY = 512, 16
"""The room made at first, beside the bytes of the old rows; where it is too little, it is doubled."""

ROWS_AT_ONCE = 1 << 15
"""Rows folded together: row and hash must fit a 64-bit key, and arrays of this size stay in the cache."""


class Fold:
    """A batch of events and a view's rows: ``keys`` to get from the store, then ``rows`` to put back.

    folding = Fold(view, {"activity": events})
    changed = folding.rows(store.get(folding.keys), BatchKey(stream_id, batch_id, now))

    What the content of an event makes a library raise is raised when it is made, not by ``rows``.
    """

    def __init__(self, view: FeatureView, events: Events) -> None:
        self.view = view
        self.plan: Plan = plan_of(view)
        columns = event_columns(view, events)
        for stream_columns in columns:
            convert([spec.table for spec in self.plan.tables], stream_columns)
        self.keys, rows = rows_of_events(view, columns) if columns else (pa.array([], pa.string()), [])
        self._events = [entity_events(view, stream, row) for stream, row in zip(columns, rows, strict=True)]

    def rows(self, values: pa.Array, batch: BatchKey) -> PackedRows:
        """The rows after the batch, without those that it was folded into before (the fence).

        Args:
            values: the stored value of each of ``keys`` (binary, null where there is none), in their order.
            batch: rows written by this or a later batch are left alone.
        """
        parts = [
            self.rows_from(start, values.slice(start, ROWS_AT_ONCE), batch)
            for start in range(0, len(self.keys), ROWS_AT_ONCE)
        ]
        if not parts:
            return PackedRows(self.keys, pa.array([], pa.binary()))
        return PackedRows(
            pa.concat_arrays([part.keys for part in parts]), pa.concat_arrays([part.values for part in parts])
        )

    def rows_from(self, start: int, values: pa.Array, batch: BatchKey) -> PackedRows:
        """As ``rows``, of the keys from ``start`` on that ``values`` has, ROWS_AT_ONCE at most."""
        keys = self.keys.slice(start, len(values))
        old = old_rows(self.view, batch.stream_id, values)
        if old is None:
            raise refused(self.view, PackedRows(keys, values), batch.stream_id)
        heads = old.heads
        open_rows = ~heads.known | is_open(heads.batch_id, batch.batch_id)
        events = [_between(stream_events, start, len(keys), open_rows) for stream_events in self._events]
        for stream_events in events:
            heads.touched[stream_events.row] = True
        _move_on(heads, events, batch)
        return PackedRows(
            keys.filter(pa.array(heads.touched)),
            folded(old, [_lifted(spec.table, events) for spec in self.plan.tables]),
        )


def _lifted(table: Table, events: list[EntityEvents]) -> Entries | None:
    """The entries of the events of the table's source; None where there are none."""
    for stream_events in events:
        if stream_events.columns.stream.name == table.source.stream:
            filtered, _ = stream_events.filtered(table.source)
            return table.lift(filtered) if len(filtered.row) else None
    return None


def is_open(written_by: Int64s, batch_id: int) -> NDArray[np.bool_]:
    """The fence: True for rows that a batch may still be folded into, by the batch that wrote them last."""
    return written_by < batch_id


def _between(events: EntityEvents, start: int, count: int, open_rows: NDArray[np.bool_]) -> EntityEvents:
    """The events of rows start … start + count that are open, with rows counted from start."""
    lo, hi = np.searchsorted(events.row, [start, start + count])
    row = events.row[lo:hi] - start
    keep = open_rows[row]
    arrays = (events.index[lo:hi], row, events.time[lo:hi], events.known_at[lo:hi], events.seq[lo:hi])
    return EntityEvents(events.columns, *(array[keep] for array in arrays))


def _move_on(heads: Heads, events: list[EntityEvents], batch: BatchKey) -> None:
    """Update the heads: the newest event and clock of each row, and the batch that writes them."""
    lowest = np.iinfo(np.int64).min
    for old, new, attribute in ((heads.newest, heads.newest, "time"), (heads.clock, heads.new_clock, "known_at")):
        latest = np.where(heads.known, old, lowest)
        for stream_events in events:
            starts = run_starts(stream_events.row)
            if len(starts):
                rows, times = stream_events.row[starts], getattr(stream_events, attribute)
                latest[rows] = np.maximum(latest[rows], np.maximum.reduceat(times, starts))
        new[:] = np.where(latest == lowest, 0, latest)
    heads.batch[:] = batch.batch_id, batch.written_at


def fold(view: FeatureView, stored: PackedRows, events: Mapping[str, pa.Table], batch: BatchKey) -> PackedRows:
    """The rows that a batch of events changes, as they are after it; ``stored`` may hold more keys, or none of them."""
    folding = Fold(view, events)
    index = pc.index_in(folding.keys, value_set=stored.keys)
    return folding.rows(stored.values.take(index) if len(stored) else pa.nulls(len(folding.keys), pa.binary()), batch)


def make_ready(view: FeatureView) -> None:
    """Load the kernels that fold and finalize rows, or compile them on a machine that never did."""
    warm_up(view)
    fold_nothing(view)


def merge_of(view: FeatureView, stream_id: int) -> Merge:
    """The arrays by which the view's rows of a stream are folded, made once."""
    merges: dict[int, Merge] = view.cache.setdefault("merges", {})
    if stream_id not in merges:
        merges[stream_id] = _merge(plan_of(view).tables, view.schema_hash, stream_id)
    return merges[stream_id]


def _merge(specs: Sequence[TableSpec], schema_hash: int, stream_id: int) -> Merge:
    columns = [(spec.table, column) for spec in specs for column in spec.table.columns]
    windows = [[(b.length_ms + b.delay_ms, b.delay_ms, b.tile_ms) for b in spec.tiling.all_bounds()] for spec in specs]
    levels = [list(spec.tiling.levels) for spec in specs]
    window_ends, level_ends = (np.cumsum([len(lines) for lines in by_table]).tolist() for by_table in (windows, levels))
    return Merge(
        identity=np.array([schema_hash, stream_id], dtype=np.uint64),
        tables=lines_of([_table(*line) for line in zip(specs, window_ends, level_ends, strict=True)], 7),
        columns=np.array([CODECS.get(column.codec, contract.UNSIGNED) for _, column in columns], dtype=np.int64),
        reducers=np.array([_reducer(table, column) for table, column in columns], dtype=np.int64),
        half_lives=np.array([_half_life(table, column.name) for table, column in columns], dtype=np.float64),
        windows=lines_of([line for lines in windows for line in lines], 3),
        levels=lines_of([line for lines in levels for line in lines], 2),
    )


def _table(spec: TableSpec, window_end: int, level_end: int) -> tuple[int, ...]:
    table = spec.table
    k = table.k if isinstance(table, Recent | Distinct | Frequencies) else 0
    own = (KINDS[type(table)], spec.tiling.finest_ms, len(table.columns))
    has_texts = any(column.codec == "text" for column in table.columns)
    return (*own, window_end, level_end, k, int(has_texts))


def _reducer(table: Table, column: ColumnSpec) -> int:
    if isinstance(table, Recent | Oldest | Distinct) or column.name == "value":
        return contract.SAME
    if isinstance(table, Tiles) and column.name + REST in table.slots:
        return contract.PAIRED
    if column.name.endswith(REST):
        return contract.SAME
    reducer = REDUCERS.get(column.name, contract.SUMMED if column.codec == "float" else contract.SAME)
    return INTEGER_REDUCERS[reducer] if column.codec == "integer" else reducer


def _half_life(table: Table, name: str) -> float:
    return float(half_life_of(name)) if isinstance(table, Tiles) and name.startswith("decay") else 0.0


@dataclass(frozen=True)
class OldRows:
    """The stored rows of a fold, checked; ``heads`` has the fields of their headers."""

    stored: Stored
    merge: Merge
    heads: Heads


def old_rows(view: FeatureView, stream_id: int, values: pa.Array) -> OldRows | None:
    """The rows, null for new keys; None if any of them is no row of this view and stream."""
    missing = values.null_count
    stored = stored_rows(values.fill_null(b"") if missing else values, SPARE)
    n, merge = len(values), merge_of(view, stream_id)
    known, touched = np.zeros((2, n), dtype=bool)
    batch_id, newest, clock, new_clock = np.zeros((4, n), dtype=np.int64)
    heads = Heads(known, touched, batch_id, newest, clock, new_clock, np.zeros(2, dtype=np.int64))
    bad = compiled.read_heads()(tuple(stored), tuple(merge), tuple(heads))
    return None if bad >= 0 or n - int(known.sum()) != missing else OldRows(stored, merge, heads)


def fold_nothing(view: FeatureView) -> None:
    """Load the kernels of the fold, or compile them on a machine that never did."""
    rows = old_rows(view, 0, pa.nulls(1, pa.binary()))
    if rows is not None:
        folded(rows, [None] * len(rows.merge.tables))


def folded(rows: OldRows, lifted: Sequence[Entries | None]) -> pa.Array:
    """The touched rows (by the heads) with the entries of each table, sorted by row, merged in.

    Args:
        lifted: of each table the new entries; None for none.
    """
    n = len(rows.heads.known)
    new = _new_entries(rows.merge, lifted, n)
    inputs = tuple(rows.stored), tuple(rows.merge), tuple(new), tuple(rows.heads)
    old = int(rows.stored.offsets[-1]) - int(rows.stored.offsets[0])
    out = np.empty(BYTES_A_ROW * (n + 1) + old + BYTES_AN_ENTRY * len(new.numbers), dtype=np.uint8)
    offsets, first = np.zeros(n + 1, dtype=np.int64), 0
    while (first := compiled.fold_rows()(*inputs, tuple(Packed(out, offsets)), first)) >= 0:
        out = np.concatenate([out, np.empty_like(out)])
    ends = offsets[1:][rows.heads.touched]
    return binary_array(np.concatenate([[0], ends]), out[: offsets[-1]])


def _new_entries(merge: Merge, lifted: Sequence[Entries | None], n: int) -> NewEntries:
    """The entries as lines of numbers, and their texts as bytes."""
    bounds = np.zeros((len(lifted), n + 1), dtype=np.int64)
    lines: list[Int64s] = []
    texts: list[NDArray[np.uint8]] = [ONE_BYTE[:0]]
    for number, entries in enumerate(lifted):
        own = 1 + int(merge.tables[number, 2]) + int(merge.tables[number, 6])
        if entries is None or not len(entries):
            lines += [np.empty(0, dtype=np.int64)] * own
            continue
        bounds[number] = row_bounds(entries.row, n)
        of_table = [entries.time, *(np.ascontiguousarray(column).view(np.int64) for column in entries.columns.values())]
        if entries.pool is not None:
            of_table[-1:] = _text_positions(entries.columns["value"], entries.pool, texts)
        lines += of_table
    sizes = np.cumsum([0, *(len(line) for line in lines)])
    return NewEntries(bounds, sizes[:-1], np.concatenate([np.empty(0, np.int64), *lines]), np.concatenate(texts))


def _text_positions(codes: Int64s, pool: pa.Array, texts: list[NDArray[np.uint8]]) -> list[Int64s]:
    """The length of each text, and -1 minus its position among the bytes of all."""
    ends, text_bytes = bytes_of(pool)
    base = sum(map(len, texts))
    texts.append(text_bytes)
    return [np.diff(ends)[codes], -1 - base - ends[:-1][codes]]


# --- events that no view can fold -----------------------------------------------------------------------------------
#
# Where work on many events raises an error, each is tried: parsed already, it is folded alone, in memory, into new rows
# of every view that reads it. So the verdict is a function of the record and the definitions, the same on every path.


def can_take(views: Sequence[FeatureView], columns: EventColumns) -> bool:
    """True if what the tables of the views take of these events can be computed; it is kept with them."""
    try:
        for view in views:
            convert([spec.table for spec in plan_of(view).tables], columns)
    except NOT_OF_A_RECORD:
        raise
    except BaseException:  # noqa: BLE001  # a panic of a library is no Exception
        return False
    return True


def foldable(parsed: Parsed, stream: Stream, views: Sequence[FeatureView]) -> Parsed:
    """The records as they are, if the views can take what they need of the valid events; else as tried() says."""
    valid = parsed.verdicts[parsed.rows] == Verdict.VALID
    events = parsed.events if valid.all() else parsed.events.filter(pa.array(valid))
    return parsed if can_take(views, EventColumns(events, stream)) else tried(parsed, stream, views)


def without_unfoldable(events: pa.Table, stream: Stream, views: Sequence[FeatureView]) -> pa.Table:
    """The stream's events, all of which are valid, without those that tried() would refuse."""
    broken = list(_errors(events, stream, views))
    return events.take(pa.array(np.setdiff1d(np.arange(events.num_rows), np.array(broken, dtype=np.int64))))


def tried(parsed: Parsed, stream: Stream, views: Sequence[FeatureView]) -> Parsed:
    """The records, of which the valid ones that a view cannot fold are dead letters."""
    valid = np.flatnonzero(parsed.verdicts[parsed.rows] == Verdict.VALID)
    errors = _errors(parsed.events.take(pa.array(valid)), stream, views)
    return with_dead_letters(parsed, {int(valid[row]): f"{CANNOT_BE_FOLDED}: {error}" for row, error in errors.items()})


def _errors(events: pa.Table, stream: Stream, views: Sequence[FeatureView]) -> dict[int, str]:
    """Index → error of the events that a view cannot fold."""

    def attempt(start: int, stop: int) -> None:
        for view in views:
            folding = Fold(view, {stream.name: events.slice(start, stop - start)})
            folding.rows(pa.nulls(len(folding.keys), pa.binary()), BatchKey(0, 0, 0))

    return errors_alone(events.num_rows, attempt)
