"""Sorted entries of many rows at once: the arrays that every kernel works on.

An entry is a partial aggregate of one row (an entity's state row, or an entity's history) at one time: a tile's
start, or an event's own time. Entries are sorted by row, then time; ``lo`` and ``hi`` name the run of entries inside
a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Column = NDArray[Any]


@dataclass(frozen=True)
class Entries:
    """m entries: ``row`` and ``time`` (int64, ms) and further columns of length m; texts are codes into ``pool``."""

    row: Int64s
    time: Int64s
    columns: Mapping[str, Column]
    pool: pa.Array | None = None
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, index: Int64s | NDArray[np.bool_]) -> Entries:
        """The entries at this index, in this order."""
        columns = {name: column[index] for name, column in self.columns.items()}
        return Entries(self.row[index], self.time[index], columns, self.pool)

    def prefix_sums(self, name: str) -> Int64s:
        """m + 1 running sums of an integer column, from 0."""
        key = f"prefix {name}"
        if key not in self.cache:
            self.cache[key] = np.concatenate([[0], np.cumsum(self.columns[name], dtype=np.int64)])
        sums: Int64s = self.cache[key]
        return sums


def single_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array, whatever its chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays([pa.array([], column.type), *column.chunks])


def concatenated(starts: Int64s, lengths: Int64s) -> Int64s:
    """The concatenated ranges [start, start + length)."""
    total = int(lengths.sum())
    shift = starts - (np.cumsum(lengths) - lengths)
    return np.repeat(shift, lengths) + np.arange(total)


def run_starts(*keys: Column) -> Int64s:
    """The starts of runs of equal keys in arrays sorted by them."""
    changed = np.zeros(len(keys[0]), dtype=bool)
    changed[:1] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def run_ends(starts: Int64s, count: int) -> Int64s:
    """The end of each run that begins at ``starts``, in arrays of ``count``."""
    return np.append(starts[1:], count)[: len(starts)]


def row_bounds(row: Int64s, rows: int) -> Int64s:
    """rows + 1 offsets: entries of row i are [bounds[i], bounds[i + 1])."""
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))]).astype(np.int64)


def packed_key(row: Int64s, time: Int64s, low: int, span: int) -> Int64s:
    """One int64 per entry that sorts by row, then time; every time is in [low, low + span), rows × span below 2^63."""
    key: Int64s = row * span + (time - low)
    return key


def order_by_row_time(row: Int64s, time: Int64s) -> Int64s:
    """The stable order by row, then time: nearly free for two sorted runs."""
    if not len(row):
        return np.empty(0, dtype=np.int64)
    low = int(time.min())
    return np.argsort(packed_key(row, time, low, int(time.max()) - low + 1), kind="stable")


def find(entries: Entries, rows: Int64s, times: Int64s) -> Int64s:
    """For each (row, time), the first entry of that row at or after the time (entries sorted by row, time)."""
    if not len(entries):
        return np.zeros(len(rows), dtype=np.int64)
    if "key" not in entries.cache:
        low = int(entries.time.min())
        span = int(entries.time.max()) - low + 2
        entries.cache["key"] = (low, span, packed_key(entries.row, entries.time, low, span))
    low, span, key = entries.cache["key"]
    wanted = rows * span + np.clip(times - low, 0, span - 1)
    return np.asarray(np.searchsorted(key, wanted), dtype=np.int64)


Floats = NDArray[np.float64]

Int64s = NDArray[np.int64]

Bools = NDArray[np.bool_]
