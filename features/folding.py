"""Rows and new entries to rows, by the compiled fold: a view's plan as arrays that it runs through, and its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features import compiled
from features.aggregations import Kept, plan_of
from features.definitions import FeatureView
from features.entries import Entries, row_bounds
from features.hashing import weights
from features.kernels import contract
from features.kernels.contract import Fresh, Heads, Merge, Packed, Stored
from features.programs import CODECS, KINDS, lines_of
from features.rows.layout import binary_array, offsets_of
from features.tables import Distinct, Recent, Tiles, half_life_of
from features.windows import Int64s

OCTET = np.zeros(1, dtype=np.uint8)
SPARE = np.empty(0, dtype=np.int64)
REDUCERS = {"min": contract.SMALLER, "max": contract.LARGER, "count": contract.ADDED}
"""What becomes of these columns; of other floats the sum, and of all else nothing."""
OCTETS_A_ROW, OCTETS_AN_ENTRY = 512, 16
"""What room is made for at first, beside the bytes of the old rows; where it is too little, for twice as much."""


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


# --- a fold ---------------------------------------------------------------------------------------------------------


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


def stored_rows(rows: pa.Array, asked: Int64s) -> Stored:
    """Rows without nulls as a kernel takes them, each to be read as of the time asked for."""
    _, places, octets = rows.buffers()
    offsets = np.frombuffer(places, dtype=np.int32)[rows.offset : rows.offset + len(rows) + 1]
    data = np.frombuffer(octets, dtype=np.uint8) if octets is not None else OCTET
    # One type of array for a kernel, whoever made the buffer.
    data.flags.writeable = offsets.flags.writeable = False
    return Stored(data, offsets, weights(1), asked)


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
