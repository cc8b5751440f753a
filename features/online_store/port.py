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

from features.errors import FenceError, LeaseError
from features.events import Decision, Prior
from features.rows import PackedRows

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


Offsets = Mapping[str, int]
"""'topic/partition' → the first offset that is not in the batch."""


@dataclass(frozen=True)
class Marker:
    """What a store says of a generation: the last batch whose offsets were published, and the last that was done."""

    batch_id: int
    start: Offsets
    end: Offsets
    done: int


@dataclass(frozen=True)
class Fence:
    """What a writer beside others verifies: that the generation still has the version which its driver left."""

    stream_id: int
    version: tuple[int, ...]


class RowStore(Protocol):
    """The stored rows of views, as a fold reads and writes them."""

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        """The stored value of each key, null where there is none."""

    def put_rows(self, view: str, rows: PackedRows) -> None:
        """Durably replace rows; a crash may leave some of them written, each whole."""


class RowLane(RowStore, Protocol):
    """A way to write rows beside other writers: its writes check the fence, and leave the generation's version.

    Each is one transaction that applies only when the version is the fence's and the lane stands where this writer
    left it, else it raises LeaseError; so a writer whose lane another has taken stops, and so does one whose store has
    lost writes and come back.
    """

    def standing(self) -> str:
        """Where the last write of this writer left the lane: a word that no other write leaves."""


class Store(RowStore, Protocol):
    """What the step needs of an online store, within one generation.

    A generation has a version. Every write is one transaction that applies only when the version is the one that this
    handle's begin() or last write left, and moves it on; else it raises LeaseError. So a driver whose lease was taken
    (taking it is a write) stops at its next effect, and so does one whose store has lost writes and come back: what a
    store may lose is its last writes, and their versions with them.
    """

    def begin(self) -> None:
        """Take the generation's version as it is now.

        Raises:
            FenceError: a part of the store has lost writes that the generation knows of.
        """

    def fence(self) -> Fence:
        """What those verify who write beside each other until the next write of this handle."""

    def lane(self, name: str) -> RowLane:
        """A lane to write rows in, behind this handle's fence; of all writers of one name, the last to begin writes."""

    def marker(self) -> Marker | None:
        """The generation's marker; None when the store does not know the generation."""

    def publish(self, marker: Marker, lanes: Mapping[str, str] | None = None) -> None:
        """Durably replace the marker, where each of the lanes stands as named: else LeaseError, as rows are lost."""

    def remembered(self, stream: str, ids: pa.Array, batch_id: int) -> Prior:
        """What was accepted for each id before this batch (a batch's own decisions do not count for itself)."""

    def remember(self, stream: str, decision: Decision, batch_id: int) -> None:
        """Keep what was accepted last for each id, and what was before it, until the stream's horizon has passed."""


REBUILD = "Run 'headrace features rebuild' to make the rows anew from the offline store."


class ReadableRows(Protocol):
    """An online store, as readers see it (SqliteRows, RedisRows)."""

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None, /) -> tuple[pa.Array, int | None]:
        """The row of each key (null where there is none), and their generation (None: the view has none).

        With a schema_hash, the generation that is current for that definition of the view, where one is kept for it.
        """

    def current(self, view: str, /) -> int | None:
        """The generation of the view, or of one definition of it (online_store.cells.of_schema)."""

    def definitions(self, view: str, schema_hash: int, /) -> str | None:
        """The stored definitions that hold this one of the view; None where it has no rows."""


@dataclass(frozen=True)
class Entry:
    """An accepted event under one entity's key.

    Args:
        place: 'topic/partition'; with ``offset``, where Kafka has it.
        known_at: when Kafka took it, epoch ms.
        value: the message's bytes.
    """

    view: str
    key: str
    place: str
    offset: int
    known_at: int
    value: bytes


class Pending(Protocol):
    """Where entries are, shared by all who read and write the same online store."""

    def put(self, entries: Sequence[Entry], ttl_ms: int) -> None:
        """Keep the entries, each for at most this long; one that is there already stays. Raises StoreError."""

    def of(self, view: str, keys: Sequence[str]) -> list[Entry]:
        """The entries under these keys, in any order. Raises StoreError."""

    def prune(self, ends: Offsets) -> None:
        """Forget the entries before these offsets, and those whose time is over; those of other places stay."""

    def add_to_session(self, session: str, items: Sequence[str], ttl_ms: int) -> None:
        """Let the session's newest items begin with these (newest first), for this long from now."""

    def session(self, session: str) -> tuple[str, ...]:
        """The session's newest items, newest first; of a few dozen the newest."""


class DescribedStore(Store, Protocol):
    """A driver's way into a generation, which can keep its definitions."""

    def describe(self, definitions: str) -> None:
        """Keep the definitions of its views with it."""


class Rows(Cells, Protocol):
    """What the pipeline needs of an online store (features/online_store)."""

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> DescribedStore:
        """A driver's way into a generation."""

    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        """Own the generation for a while, or raise LeaseError."""

    def release_lease(self, stream_id: int, owner: str) -> None:
        """Let others own it."""

    def current(self, view: str) -> int | None:
        """The generation that readers of the view read."""

    def set_current(self, view: str, stream_id: int) -> None:
        """Let readers of the view read this generation."""

    def drop_generation(self, stream_id: int) -> None:
        """Forget the generation."""

    def bytes_per_row(self) -> dict[str, float]:
        """How long a row of each view is on average."""

    def pending(self) -> Pending:
        """Where accepted events wait for the rows."""
