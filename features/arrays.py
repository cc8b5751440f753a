"""Sorted entries of many rows at once: the arrays that every kernel works on.

An entry is a partial aggregate of one row (an entity's state row, or an entity's history) at one time: a tile's
start, or an event's own time. Entries are sorted by row, then time; ``lo`` and ``hi`` name the run of entries inside
a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Column = NDArray[Any]

LARGEST = np.iinfo(np.int64).max


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


def plain_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array in Arrow's simplest layout for it: no dictionary, and texts as string."""
    array = single_array(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    is_other_text = pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type)
    return array.cast(pa.string()) if is_other_text else array


def bytes_of(values: pa.Array) -> tuple[Int64s, NDArray[np.uint8]]:
    """Where n texts or binary values begin among their bytes, and where the last ends; and these bytes."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return offsets.astype(np.int64) - offsets[0], content_of(values)


def content_of(values: pa.Array) -> NDArray[np.uint8]:
    """The bytes of all texts or binary values, one behind the other."""
    _, positions, content = values.buffers()
    offsets = np.frombuffer(positions, np.int32)
    first, end = offsets[values.offset], offsets[values.offset + len(values)]
    return np.frombuffer(content or b"", np.uint8)[first:end]


def pieces_of(sizes: Int64s, most: int, most_items: int | None = None) -> Iterator[tuple[int, int]]:
    """[start, stop) of pieces of the items, in their order: of at most that size and so many, or of one item."""
    ends, start = np.cumsum(sizes, dtype=np.int64), 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        fits = int(np.searchsorted(ends, before + most, side="right"))
        stop = max(start + 1, fits if most_items is None else min(fits, start + most_items))
        yield start, stop
        start = stop


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


class RowTimeKeys:
    """One int64 per (row, time) that sorts by row, then time.

    A key is row × span + time while that stays inside int64; else the time's rank takes the place of the time.
    ``keys`` are those of the entries.

    Args:
        row: of the entries, 0 or more; not empty.
        time: of the entries, any int64.
    """

    def __init__(self, row: Int64s, time: Int64s) -> None:
        self._last_row = int(row.max())
        self._low, self._high = int(time.min()), int(time.max())
        self._span = self._high - self._low + 2
        self._times: Int64s | None = None
        if (self._last_row + 2) * self._span > LARGEST:
            self._times, step = np.unique(time, return_inverse=True)
            self._span = len(self._times) + 1
        else:
            step = time - self._low
        self.keys: Int64s = row * self._span + step

    def of(self, row: Int64s, time: Int64s) -> Int64s:
        """The key of any pair: at most those of the entries at or after it, and above those of the entries before."""
        if self._times is None:
            step: Int64s = np.clip(time, self._low, min(self._high + 1, LARGEST)) - self._low
        else:
            step = np.searchsorted(self._times, time)
        return np.minimum(row, self._last_row + 1) * self._span + step

    def times(self, row: Int64s, keys: Int64s) -> Int64s:
        """The times in keys of the entries, whose rows these are."""
        step = keys - row * self._span
        return step + self._low if self._times is None else self._times[step]


def order_by_row_time(row: Int64s, time: Int64s) -> Int64s:
    """The stable order by row, then time: nearly free for two sorted runs."""
    if not len(row):
        return np.empty(0, dtype=np.int64)
    return np.argsort(RowTimeKeys(row, time).keys, kind="stable")


def find(entries: Entries, rows: Int64s, times: Int64s) -> Int64s:
    """For each (row, time), the first entry of that row at or after the time (entries sorted by row, time)."""
    if not len(entries):
        return np.zeros(len(rows), dtype=np.int64)
    if "key" not in entries.cache:
        entries.cache["key"] = RowTimeKeys(entries.row, entries.time)
    key: RowTimeKeys = entries.cache["key"]
    return np.asarray(np.searchsorted(key.keys, key.of(rows, times)), dtype=np.int64)


def running_maximum(row: Int64s, values: Int64s) -> Int64s:
    """The largest value so far within each row (rows sorted ascending)."""
    if not len(values):
        return values
    key = RowTimeKeys(row, values)
    return key.times(row, np.maximum.accumulate(key.keys))


Floats = NDArray[np.float64]

Int64s = NDArray[np.int64]

Bools = NDArray[np.bool_]
