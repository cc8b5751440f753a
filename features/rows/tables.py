"""The kinds of tables in a state row, and the entries that each makes of events, for many rows at once.

The source of a table is a filtered stream: the events of one stream that pass a filter and whose column is not null.
Each kind of table has the four verbs of an aggregation (prepare / update / merge / finalize; Chronon's algebra):

* ``lift`` (prepare): one entry per event, here;
* merge (update and merge alike): entries of the same row and tile into one, in kernels/merging.py;
* the finalizers take the entries inside a window: those in history/finalizers.py the lifted events of a history, those
  in kernels/ the tiles of state rows. The parity tests hold them to the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from features.arrays import Column, Entries, Int64s
from features.definitions import Condition
from features.double_double import multiplied
from features.events import EventColumns, Values
from features.hashing import hash_numbers, hash_texts

HASH_BITS = 48

EXTREMA = ("min", "max")
"""Slots of tiles that are of the column's own type."""

REST = " rest"
"""The end of the name of a slot that is the low half of a pair (double_double.py); it follows the high one."""

EPOCH_OF_SLOPES = 1_577_836_800_000
"""2020-01-01 in epoch ms: the sums of times are of ms since then, which are smaller numbers."""

SMALLEST_MAGNITUDE, LARGEST_MAGNITUDE = 1e-9, 1e15


@dataclass(frozen=True)
class FilteredStream:
    """The events of a stream that pass every condition and whose column (if any) is not null."""

    stream: str
    conditions: tuple[tuple[str, Condition], ...]
    column: str | None = None

    def mask(self, events: EventColumns) -> NDArray[np.bool_]:
        """True for the events that belong to it."""
        matched = events.matches(self.conditions)
        return matched & events.values(self.column).valid if self.column else matched


@dataclass(frozen=True)
class FilteredEvents:
    """A filtered stream's events sorted by row, time and sequence; ``values`` is its column, or None."""

    row: Int64s
    time: Int64s
    seq: Int64s
    values: Values | None

    def value(self) -> Column:
        """The numbers of the column; ones without a column."""
        if self.values is None:
            return np.ones(len(self.row))
        return self.values.numbers


@dataclass(frozen=True)
class ColumnSpec:
    """A column of a table and its codec: 'count', 'hash', 'code', 'float', 'seq', 'integer' or 'text'."""

    name: str
    codec: str


@dataclass(frozen=True)
class Table(ABC):
    """A kind of aggregate of a filtered stream; kernels/merging.py merges the entries of a row."""

    source: FilteredStream

    exact_times = False
    """True where entries keep the event's own time rather than their tile's start."""

    sorted_by_hash = False
    """True where the entries of a row are in the order of their hashes, then of time."""

    @property
    @abstractmethod
    def columns(self) -> tuple[ColumnSpec, ...]:
        """The columns beside row and time."""

    @abstractmethod
    def lift(self, events: FilteredEvents) -> Entries:
        """An entry for each event, in the same order."""


@dataclass(frozen=True)
class Tiles(Table):
    """Per tile: how many events, and of the source's column the sum, min and max; decayed weights at the tile's start.

    ``slots`` are names of columns: 'count', 'sum', 'min', 'max'; 'square', 'time', 'time square' and 'time product',
    the sums of squares, of times, of their squares, and of values times times; 'decay <half life in ms>' and 'decayed
    sum <half life in ms>'. Those with a slot '<name> rest' are pairs. Min and max are integers where the source's
    column is one of ``integers``.
    """

    slots: tuple[str, ...] = ()
    integers: bool = False

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        return tuple(ColumnSpec(slot, self._codec(slot)) for slot in self.slots)

    def _codec(self, slot: str) -> str:
        if slot == "count":
            return "count"
        return "integer" if self.integers and slot in EXTREMA else "float"

    def lift(self, events: FilteredEvents) -> Entries:
        columns: dict[str, Column] = {}
        for slot in self.slots:
            if slot == "count":
                columns[slot] = np.ones(len(events.row), dtype=np.int64)
            elif slot.startswith("decay "):
                columns[slot] = np.ones(len(events.row))
            elif slot == "time":
                columns[slot] = _ages(events)
            elif slot in PRODUCTS:
                first, second = (factor(events) for factor in PRODUCTS[slot])
                with np.errstate(over="ignore", invalid="ignore"):
                    columns[slot], columns[slot + REST] = multiplied(first, second)
            elif slot.endswith(REST):
                columns.setdefault(slot, np.zeros(len(events.row)))
            else:
                columns[slot] = events.value().astype(np.int64 if self._codec(slot) == "integer" else np.float64)
        return Entries(events.row, events.time, columns)


def _floats(events: FilteredEvents) -> NDArray[np.float64]:
    return events.value().astype(np.float64)


def _ages(events: FilteredEvents) -> NDArray[np.float64]:
    return (events.time - EPOCH_OF_SLOPES).astype(np.float64)


PRODUCTS = {"square": (_floats, _floats), "time square": (_ages, _ages), "time product": (_ages, _floats)}
"""Slot → its factors."""


def half_life_of(slot: str) -> int:
    """The half life in ms in the name of a decay slot."""
    return int(slot.rsplit(maxsplit=1)[-1])


@dataclass(frozen=True)
class Recent(Table):
    """The newest ``k`` events with time, sequence and value; more only where some window cannot see newer ones yet."""

    k: int = 1
    value_codec: str | None = None
    exact_times = True

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        sequence = (ColumnSpec("seq", "seq"),)
        return (*sequence, ColumnSpec("value", self.value_codec)) if self.value_codec else sequence

    def lift(self, events: FilteredEvents) -> Entries:
        columns: dict[str, Column] = {"seq": events.seq}
        if not self.value_codec:
            return Entries(events.row, events.time, columns)
        columns["value"] = events.value()
        return Entries(events.row, events.time, columns, events.values.pool if events.values else None)


@dataclass(frozen=True)
class Oldest(Table):
    """The oldest event of each tile, with time, sequence and value."""

    value_codec: str = "float"
    exact_times = True

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        return (ColumnSpec("seq", "seq"), ColumnSpec("value", self.value_codec))

    def lift(self, events: FilteredEvents) -> Entries:
        columns = {"seq": events.seq, "value": events.value()}
        return Entries(events.row, events.time, columns, events.values.pool if events.values else None)


@dataclass(frozen=True)
class Distinct(Table):
    """The k + 1 smallest 48-bit hashes of the values in each tile, each value in the newest tile that has it.

    An older tile need not repeat a value: a window that sees the older tile sees the newer one too (but where some
    window's right end is still to pass a tile, every tile keeps its own). Sorted by row, then hash.
    """

    k: int = 256
    sorted_by_hash = True

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        return (ColumnSpec("hash", "hash"),)

    def lift(self, events: FilteredEvents) -> Entries:
        return Entries(events.row, events.time, {"hash": hashes_of(events.values)})


def hashes_of(values: Values | None) -> NDArray[np.uint64]:
    """A 48-bit hash of each value; texts are hashed once each."""
    if values is None:
        return np.empty(0, dtype=np.uint64)
    hashes = hash_texts(values.pool)[values.numbers] if values.pool is not None else hash_numbers(values.numbers)
    return hashes >> np.uint64(64 - HASH_BITS)


@dataclass(frozen=True)
class Frequencies(Table):
    """Per tile, the number of events with each value, of the k + 1 values with the smallest 48-bit hashes.

    A tile with k + 1 values shows that there are more than k, and its numbers are of no use. Sorted by row, then hash.
    """

    k: int = 32
    value_codec: str = "text"
    sorted_by_hash = True

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        return (ColumnSpec("hash", "hash"), ColumnSpec("count", "count"), ColumnSpec("value", self.value_codec))

    def lift(self, events: FilteredEvents) -> Entries:
        ones = np.ones(len(events.row), dtype=np.int64)
        columns = {"hash": hashes_of(events.values), "count": ones, "value": events.value()}
        return Entries(events.row, events.time, columns, events.values.pool if events.values else None)


@dataclass(frozen=True)
class Histogram(Table):
    """Per tile, the number of values in each logarithmic bucket: any quantile within ``relative_error``."""

    relative_error: float = 0.01

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        return (ColumnSpec("bucket", "code"), ColumnSpec("count", "count"))

    def lift(self, events: FilteredEvents) -> Entries:
        ones = np.ones(len(events.row), dtype=np.int64)
        return Entries(events.row, events.time, {"bucket": self.bucket(events.value()), "count": ones})

    @property
    def _log_gamma(self) -> float:
        return log((1 + self.relative_error) / (1 - self.relative_error))

    @property
    def _shift(self) -> int:
        """The number that, added, makes the bucket of the smallest magnitude 1."""
        return 1 - int(np.ceil(log(SMALLEST_MAGNITUDE) / self._log_gamma))

    def bucket(self, values: Column) -> Int64s:
        """The bucket of each value: 0 for 0, rising from 1 for positive values, their mirror for negative ones."""
        size = np.abs(values.astype(np.float64))
        index = np.ceil(np.log(np.clip(size, SMALLEST_MAGNITUDE, LARGEST_MAGNITUDE)) / self._log_gamma) + self._shift
        return np.where(size < SMALLEST_MAGNITUDE, 0, np.sign(values) * index).astype(np.int64)

    def representative(self, bucket: Int64s) -> NDArray[np.float64]:
        """The value that stands for a bucket: 2 γ^i / (γ + 1), within relative_error of everything in it."""
        gamma = np.exp(self._log_gamma)
        magnitude = 2 * np.exp((np.abs(bucket) - self._shift) * self._log_gamma) / (gamma + 1)
        return np.where(bucket == 0, 0.0, np.sign(bucket) * magnitude)
