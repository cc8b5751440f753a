"""The port of an online store: cells of bytes in named tables of generations, written under a version.

    a generation (stream_id)   its version, its lease, and tables:
    rows/<view>                entity key → state row
    seen/<stream>/<number>     blocks of event ids and what was accepted for each (memory_of_ids.py)
    state                      'marker', 'definitions', 'memory/<stream>' and 'lane/<name>'

A store may keep a generation in parts (redis_parts.py), each with a version of its own. A write then moves the
generation's version on first, with STATE in the same transaction, and each part after it: of a write that a crash ends,
whole parts are missing. The batch that it was of runs again, and writes them.

Beside the generations, each view has a current one, and so has each definition of a view (``of_schema``): a reader
reads the one of its own definition, and goes on reading it when a changed definition has become current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.batch import REBUILD
from features.errors import FenceError, LeaseError

STATE = "state"
MOST_BYTES = 2**31 - 1
"""In a column of binary."""
Version = tuple[int, ...]
"""How often a generation was written to, and in a store of parts, each of them."""
DEFINITIONS = "definitions"


def rows_table(view: str) -> str:
    """The table of a view's rows."""
    return f"rows/{view}"


def of_schema(view: str, schema_hash: int) -> str:
    """The name under which the current generation of one definition of a view is kept, beside the view's own."""
    return f"{view}@{schema_hash:016x}"


@dataclass(frozen=True)
class Put:
    """Cells to replace in one table: a key and a value each."""

    keys: Sequence[str]
    values: Sequence[bytes]


@dataclass(frozen=True)
class Sweep:
    """What may go of a table: cells with a number below ``below`` at octet ``place`` (int64, little-endian).

    Args:
        cells: how many to look at, about.
    """

    place: int
    below: int
    cells: int = 1_000


Cursor = tuple[int, int]
"""Where the next page of a sweep begins; (0, 0) at first, and when all of the table was looked at."""


@dataclass(frozen=True)
class Beside:
    """What a write has to do with writers beside it.

    Args:
        lanes: cells of STATE and the value that each must have; empty for a cell that is not there.
        moves: whether the write moves the generation's version on: a writer in a lane leaves it to the driver.
    """

    lanes: Mapping[str, bytes]
    moves: bool = True


ALONE = Beside({})


def lane_cell(name: str) -> str:
    """The cell of STATE that says where a lane stands."""
    return f"lane/{name}"


class Cells(Protocol):
    """What a generation needs of a database; every call is one transaction, or one round trip that reads."""

    @property
    def takes_lanes(self) -> bool:
        """Whether writers may write beside each other: only where a write is one transaction, and not one a part."""

    def version(self, stream_id: int, *, whole: bool = True) -> Version:
        """The generation's version; zeros when nothing was ever written to it.

        Raises:
            FenceError: ``whole``, and a part has lost writes that the generation knows of.
        """

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, None where there is none."""

    def write(
        self,
        stream_id: int,
        version: Version,
        puts: Mapping[str, Put],
        drop: Sequence[str] = (),
        beside: Beside = ALONE,
    ) -> Version:
        """Replace cells, drop tables and move the version on (or not: Beside), all or nothing (of each part).

        Returns:
            The version then.

        Raises:
            LeaseError: the generation's version is not ``version``, or a lane stands elsewhere.
        """

    def sweep(
        self, stream_id: int, version: Version, table: str, sweep: Sweep, cursor: Cursor
    ) -> tuple[Version, Cursor, int]:
        """Delete what may go of one page of the table: the version then, the next page, how many went.

        Raises:
            LeaseError: as write().
        """


def overtaken(stream_id: int, expected: int, found: int) -> LeaseError:
    """The error of a driver whose generation has moved on without it."""
    return LeaseError(
        f"a write to generation {stream_id}",
        f"version {expected}, which this driver left",
        f"version {found}: another driver wrote, or the store lost writes",
        "Run the batch again; one driver at a time may own a generation.",
    )


def held(stream_id: int, owner: str, left_ms: int) -> LeaseError:
    """The error of a driver that wants a lease which another holds."""
    return LeaseError(
        f"the lease of generation {stream_id}",
        "nobody else to hold it",
        f"'{owner}', for {left_ms / 1000:.1f} s more",
        "Stop the other driver, or wait until its lease has ended.",
    )


def lost(stream_id: int, known: int, found: int) -> FenceError:
    """The error of a store that came back without what was written to it."""
    return FenceError(
        f"generation {stream_id}",
        f"a store that has the {known} writes of each of its parts",
        f"one that has {found} in a part: it lost writes",
        REBUILD,
    )


def binaries(values: Sequence[bytes | None]) -> pa.Array:
    """The values as an Arrow column, by one copy of their bytes: a builder's growing buffers are ever new pages."""
    there = [value for value in values if value is not None]
    bounds = np.zeros(len(there) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, there), np.int64, len(there)), out=bounds[1:])
    if len(there) < len(values) or bounds[-1] > MOST_BYTES:
        return pa.array(values, type=pa.binary())
    buffers = [None, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(b"".join(there))]
    return pa.Array.from_buffers(pa.binary(), len(there), buffers)
