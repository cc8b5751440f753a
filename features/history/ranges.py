"""Runs of entries inside windows, many at once, and sums, minima and maxima over them.

A short run is gathered entry by entry. Where runs overlap so much that this would be far more than the entries there
are (an item with very many events and very many answers), blocks of BLOCK entries, of BLOCK blocks and so on are
reduced once, and a run is a few entries at its ends and whole blocks between: a segment tree of wide nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.arrays import Column, Entries, Int64s, concatenated
from features.double_double import sums_of_runs
from features.rows import REST

BLOCK = 32

WORTH_BLOCKS = 4
"""Blocks are made where the runs are together this many times longer than the entries."""


@dataclass(frozen=True)
class Ranges:
    """For each of n answers, the run [lo, hi) of the entries inside its window."""

    entries: Entries
    lo: Int64s
    hi: Int64s

    @property
    def length(self) -> Int64s:
        """The number of entries of each answer."""
        return self.hi - self.lo

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """True for answers that have an entry."""
        return self.hi > self.lo

    @cached_property
    def index(self) -> Int64s:
        """The concatenated indices of each answer's entries."""
        return concatenated(self.lo, self.length)

    @cached_property
    def owner(self) -> Int64s:
        """The answer to which each element of ``index`` belongs."""
        return np.repeat(np.arange(len(self.lo)), self.length)

    def count(self, name: str) -> Int64s:
        """The exact sum of an integer column in each run."""
        sums = self.entries.prefix_sums(name)
        return sums[self.hi] - sums[self.lo]

    def reduced(self, ufunc: np.ufunc, name: str) -> Column:
        """The column reduced over each run; 0 where it is empty."""
        values = self._blocks.reduced(name, ufunc)[self._pieces.index] if self._in_blocks else None
        return self._over_pieces(ufunc, self.entries.columns[name][self.index] if values is None else values)

    def paired(self, name: str) -> tuple[Column, Column]:
        """The sum of the pairs of the column and its rest over each run, as pairs; 0 where it is empty."""
        pairs = self._blocks.paired(name) if self._in_blocks else _pair(self.entries, name)
        index = self._pieces.index
        sums = np.zeros((2, len(self.lo)))
        if len(index):
            starts = np.searchsorted(self._pieces.owner, np.flatnonzero(self.filled))
            with np.errstate(over="ignore", invalid="ignore"):  # a sum that leaves float64 has no value
                sums[:, self.filled] = sums_of_runs(pairs[0][index], pairs[1][index], starts)
        return sums[0], sums[1]

    def decayed(self, name: str, as_of: Int64s, half_life_ms: int) -> NDArray[np.float64]:
        """The sum of weight · 2^((time - as_of) / half_life_ms) over each run; as_of (ms) is the answer's."""
        if self._in_blocks:
            weights, times = self._blocks.decayed(name, half_life_ms)
            index = self._pieces.index
        else:
            weights, times, index = self.entries.columns[name], self.entries.time, self.index
        age = (as_of[self._pieces.owner] - times[index]).astype(np.float64)
        return self._over_pieces(np.add, weights[index] * np.exp2(-age / half_life_ms))

    def _over_pieces(self, ufunc: np.ufunc, values: Column) -> Column:
        result = np.zeros(len(self.lo), dtype=values.dtype)
        if len(values):
            starts = np.searchsorted(self._pieces.owner, np.flatnonzero(self.filled))
            with np.errstate(over="ignore", invalid="ignore"):  # a sum that leaves float64 has no value
                result[self.filled] = ufunc.reduceat(values, starts)
        return result

    @cached_property
    def _in_blocks(self) -> bool:
        return int(self.length.sum()) > WORTH_BLOCKS * len(self.entries) + BLOCK**2

    @cached_property
    def _pieces(self) -> Pieces:
        return self._blocks.pieces(self.lo, self.hi) if self._in_blocks else Pieces(self.index, self.owner)

    @property
    def _blocks(self) -> Blocks:
        if "blocks" not in self.entries.cache:
            self.entries.cache["blocks"] = Blocks(self.entries)
        blocks: Blocks = self.entries.cache["blocks"]
        return blocks


def _pair(entries: Entries, name: str) -> tuple[Column, Column]:
    return entries.columns[name], entries.columns[name + REST]


@dataclass(frozen=True)
class Pieces:
    """The pieces of runs: indices into a line of entries and blocks, and the answer of each, sorted by answer."""

    index: Int64s
    owner: Int64s


class Blocks:
    """Reductions of aligned blocks of entries, of blocks of blocks and so on, in a flat array after the entries."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        sizes = [len(entries)]
        while sizes[-1] > BLOCK:
            sizes.append(-(-sizes[-1] // BLOCK))
        self._first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._levels = len(sizes)

    def _line(self, values: Column, ufunc: np.ufunc) -> Column:
        levels = [values]
        for _ in range(1, self._levels):
            with np.errstate(over="ignore", invalid="ignore"):
                levels.append(ufunc.reduceat(levels[-1], np.arange(0, len(levels[-1]), BLOCK)))
        return np.concatenate(levels)

    def reduced(self, name: str, ufunc: np.ufunc) -> Column:
        """The line of a column."""
        key = f"line {name}"
        if key not in self._entries.cache:
            self._entries.cache[key] = self._line(self._entries.columns[name], ufunc)
        return np.asarray(self._entries.cache[key])

    def paired(self, name: str) -> tuple[Column, Column]:
        """The lines of the pairs of a column and its rest."""
        key = f"line of pairs {name}"
        if key not in self._entries.cache:
            levels = [_pair(self._entries, name)]
            for _ in range(1, self._levels):
                starts = np.arange(0, len(levels[-1][0]), BLOCK)
                with np.errstate(over="ignore", invalid="ignore"):
                    levels.append(sums_of_runs(*levels[-1], starts))
            self._entries.cache[key] = tuple(np.concatenate(halves) for halves in zip(*levels, strict=True))
        line: tuple[Column, Column] = self._entries.cache[key]
        return line

    def decayed(self, name: str, half_life_ms: int) -> tuple[NDArray[np.float64], Int64s]:
        """A decayed column and times as lines: a block's weight is as of its newest entry, and cannot overflow."""
        key = f"line {name}"
        if key not in self._entries.cache:
            weights, times = [self._entries.columns[name].astype(np.float64)], [self._entries.time]
            for _ in range(1, self._levels):
                starts = np.arange(0, len(times[-1]), BLOCK)
                newest = np.maximum.reduceat(times[-1], starts)
                age = np.repeat(newest, np.diff(np.append(starts, len(times[-1])))) - times[-1]
                weights.append(np.add.reduceat(weights[-1] * np.exp2(-age / half_life_ms), starts))
                times.append(newest)
            self._entries.cache[key] = np.concatenate(weights), np.concatenate(times)
        line: tuple[NDArray[np.float64], Int64s] = self._entries.cache[key]
        return line

    def pieces(self, lo: Int64s, hi: Int64s) -> Pieces:
        """Each run as entries at its ends and whole blocks between."""
        parts = list(self._parts(lo, hi))
        owner = np.concatenate([part[0] for part in parts])
        start, length = (np.concatenate([part[field] for part in parts]) for field in (1, 2))
        order = np.argsort(owner, kind="stable")
        return Pieces(concatenated(start[order], length[order]), np.repeat(owner[order], length[order]))

    def _parts(self, lo: Int64s, hi: Int64s) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
        """(answers, starts in the line, lengths), level by level from the entries up."""
        owner = np.arange(len(lo))
        for level, first in enumerate(self._first):
            whole = (hi - lo <= 2 * BLOCK) | (level == self._levels - 1)
            yield owner[whole], lo[whole] + first, np.maximum(hi - lo, 0)[whole]
            owner, lo, hi = owner[~whole], lo[~whole], hi[~whole]
            above, below = -(-lo // BLOCK), hi // BLOCK
            yield owner, lo + first, above * BLOCK - lo
            yield owner, below * BLOCK + first, hi - below * BLOCK
            lo, hi = above, below
