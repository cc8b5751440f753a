"""State rows: what an online store keeps of an entity, folded from events and finalized at read.

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

from features.arrays import Entries, Int64s, row_bounds, run_starts
from features.definitions import FeatureView
from features.rows import compiled
from features.rows.compiled import OCTET, stored_rows
from features.rows.decoder import refused
from features.rows.entities import EntityEvents, entity_events, event_columns, rows_of_events
from features.rows.finalizing import warm_up
from features.rows.kernels import Fresh, Heads, Merge, Packed, Stored, contract
from features.rows.layout import binary_array, offsets_of
from features.rows.matrix import BatchKey, PackedRows
from features.rows.plan import Kept, Plan, plan_of
from features.rows.programs import CODECS, KINDS, lines_of
from features.rows.tables import Distinct, Recent, Table, Tiles, half_life_of

SPARE = np.empty(0, dtype=np.int64)

REDUCERS = {"min": contract.SMALLER, "max": contract.LARGER, "count": contract.ADDED}
"""What becomes of these columns; of other floats the sum, and of all else nothing."""

OCTETS_A_ROW, OCTETS_AN_ENTRY = 512, 16
"""What room is made for at first, beside the bytes of the old rows; where it is too little, for twice as much."""


ROWS_AT_ONCE = 1 << 15
"""Rows folded together: row and hash must fit one 64-bit key, and arrays of this size stay in the cache."""


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


def make_ready(view: FeatureView) -> None:
    """The kernels that fold and finalize rows are loaded, or compiled on a machine that never did."""
    warm_up(view)
    fold_nothing(view)


def merge_of(view: FeatureView, stream_id: int) -> Merge:
    """How the view's rows of a stream are folded, made once."""
    merges: dict[int, Merge] = view.kept.setdefault("merges", {})
    if stream_id not in merges:
        merges[stream_id] = _merge(plan_of(view).kept, view.schema_hash, stream_id)
    return merges[stream_id]


def _merge(every: Sequence[Kept], schema_hash: int, stream_id: int) -> Merge:
    columns = [(kept, spec) for kept in every for spec in kept.table.columns]
    windows = [[(b.length_ms + b.delay_ms, b.delay_ms, b.tile_ms) for b in kept.tiling.all_bounds()] for kept in every]
    levels = [list(kept.tiling.levels) for kept in every]
    window_ends, level_ends = (np.cumsum([len(one) for one in several]).tolist() for several in (windows, levels))
    return Merge(
        identity=np.array([schema_hash, stream_id], dtype=np.uint64),
        tables=lines_of([_table(*one) for one in zip(every, window_ends, level_ends, strict=True)], 7),
        columns=np.array([CODECS.get(spec.codec, contract.UNSIGNED) for _, spec in columns], dtype=np.int64),
        reducers=np.array([_reducer(kept, spec.name, spec.codec) for kept, spec in columns], dtype=np.int64),
        half_lives=np.array([_half_life(kept, spec.name) for kept, spec in columns], dtype=np.float64),
        windows=lines_of([one for several in windows for one in several], 3),
        levels=lines_of([one for several in levels for one in several], 2),
    )


def _table(kept: Kept, window_end: int, level_end: int) -> tuple[int, ...]:
    table = kept.table
    k = table.k if isinstance(table, Recent | Distinct) else 0
    own = (KINDS[type(table)], kept.tiling.finest_ms, len(table.columns))
    return (*own, window_end, level_end, k, int(_has_texts(kept)))


def _has_texts(kept: Kept) -> bool:
    return any(spec.codec == "text" for spec in kept.table.columns)


def _reducer(kept: Kept, name: str, codec: str) -> int:
    if isinstance(kept.table, Recent | Distinct):
        return contract.SAME
    return REDUCERS.get(name, contract.SUMMED if codec == "float" else contract.SAME)


def _half_life(kept: Kept, name: str) -> float:
    return float(half_life_of(name)) if isinstance(kept.table, Tiles) and name.startswith("decay") else 0.0


@dataclass(frozen=True)
class OldRows:
    """The stored rows of a fold, checked; ``heads`` says of each what its header does."""

    stored: Stored
    merge: Merge
    heads: Heads


def old_rows(view: FeatureView, stream_id: int, values: pa.Array) -> OldRows | None:
    """The rows (null where there is none yet); None where one of them is no row of this view and stream."""
    missing = values.null_count
    stored = stored_rows(values.fill_null(b"") if missing else values, SPARE)
    n, merge = len(values), merge_of(view, stream_id)
    known, touched = np.zeros((2, n), dtype=bool)
    batch_id, newest, clock, fresh_clock = np.zeros((4, n), dtype=np.int64)
    heads = Heads(known, touched, batch_id, newest, clock, fresh_clock, np.zeros(2, dtype=np.int64))
    bad = compiled.read_heads()(tuple(stored), tuple(merge), tuple(heads))
    return None if bad >= 0 or n - int(known.sum()) != missing else OldRows(stored, merge, heads)


def fold_nothing(view: FeatureView) -> None:
    """The kernels of the fold are loaded, or compiled on a machine that never did."""
    rows = old_rows(view, 0, pa.nulls(1, pa.binary()))
    if rows is not None:
        folded(rows, [None] * len(rows.merge.tables))


def folded(rows: OldRows, lifted: Sequence[Entries | None]) -> pa.Array:
    """The touched rows (as the heads say) with the entries of each table, sorted by row, merged in.

    Args:
        lifted: of each table the new entries; None for none.
    """
    n = len(rows.heads.known)
    fresh = _fresh(rows.merge, lifted, n)
    given = tuple(rows.stored), tuple(rows.merge), tuple(fresh), tuple(rows.heads)
    old = int(rows.stored.offsets[-1]) - int(rows.stored.offsets[0])
    out = np.empty(OCTETS_A_ROW * (n + 1) + old + OCTETS_AN_ENTRY * len(fresh.numbers), dtype=np.uint8)
    offsets, first = np.zeros(n + 1, dtype=np.int64), 0
    while (first := compiled.fold_rows()(*given, tuple(Packed(out, offsets)), first)) >= 0:
        out = np.concatenate([out, np.empty_like(out)])
    ends = offsets[1:][rows.heads.touched]
    return binary_array(np.concatenate([[0], ends]), out[: offsets[-1]])


def _fresh(merge: Merge, lifted: Sequence[Entries | None], n: int) -> Fresh:
    """The entries as lines of numbers, and their texts as bytes."""
    bounds = np.zeros((len(lifted), n + 1), dtype=np.int64)
    lines: list[Int64s] = []
    texts: list[NDArray[np.uint8]] = [OCTET[:0]]
    for number, entries in enumerate(lifted):
        own = 1 + int(merge.tables[number, 2]) + int(merge.tables[number, 6])
        if entries is None or not len(entries):
            lines += [np.empty(0, dtype=np.int64)] * own
            continue
        bounds[number] = row_bounds(entries.row, n)
        of_table = [entries.time, *(np.ascontiguousarray(one).view(np.int64) for one in entries.columns.values())]
        if entries.pool is not None:
            of_table[-1:] = _places(entries.columns["value"], entries.pool, texts)
        lines += of_table
    sizes = np.cumsum([0, *(len(line) for line in lines)])
    return Fresh(bounds, sizes[:-1], np.concatenate([np.empty(0, np.int64), *lines]), np.concatenate(texts))


def _places(codes: Int64s, pool: pa.Array, texts: list[NDArray[np.uint8]]) -> list[Int64s]:
    """The length of each text, and -1 minus its place among the bytes of all."""
    ends = offsets_of(pool)
    data = pool.buffers()[2]
    octets = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]] if data is not None else OCTET[:0]
    base = sum(map(len, texts)) - int(ends[0])
    texts.append(octets)
    return [np.diff(ends)[codes], -1 - base - ends[:-1][codes]]
