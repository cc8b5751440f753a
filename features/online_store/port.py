"""The port of an online store: cells of bytes in named tables of generations, written under a version.

    a generation (stream_id)   its version, its lease, and tables:
    rows/<view>                entity key → state row
    seen/<stream>/<number>     blocks of event ids and what was accepted for each (seen_ids)
    state                      'marker', 'definitions', 'memory/<stream>' and 'lane/<shard>' (its last write's token)

A store may keep a generation in parts (redis/slots.py), each with a version of its own. A write then moves the
generation's version on first, with STATE in the same transaction, and each part after it: of a write that a crash ends,
whole parts are missing. The batch that it was of runs again, and writes them.

Beside the generations, each view has a current one, and so has each definition of a view (``of_schema``): a reader
reads the one of its own definition, and goes on reading it when a changed definition has become current.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.errors import MOST_ROW_BYTES, RowsTooLargeError
from features.events import Decision, Prior
from features.rows import PackedRows

STATE, DEFINITIONS = "state", "definitions"

PROJECT = "headrace"
"""The project of a store where none is named; the feature_store.yaml that Headrace brings has the same."""

BYTES_A_WRITE = 8 << 20
"""Bytes of values in a write, unless one value alone has more: a Redis answers nobody while it takes a write."""

Version = tuple[int, ...]
"""The number of writes to a generation, and in a store of parts, to each of them."""


def rows_table(view: str) -> str:
    """The table of a view's rows."""
    return f"rows/{view}"


def of_schema(view: str, schema_hash: int) -> str:
    """Name under which the current generation of a definition of the view is stored, beside the view's own name."""
    return f"{view}@{schema_hash:016x}"


@dataclass(frozen=True)
class Put:
    """Cells to replace in a table: a key and a value each."""

    keys: Sequence[str]
    values: Sequence[bytes]


@dataclass(frozen=True)
class Sweep:
    """The cells that may go, of about ``cells`` of a table: with an int64 below ``below`` at byte ``offset``."""

    offset: int
    below: int
    cells: int = 1_000


ViewKeys = Mapping[str, Sequence[str] | None]
"""View → keys of its rows; None for keys that nobody knows."""

Cursor = tuple[int, int]
"""The start of the next page of a sweep; (0, 0) at first, and after the last page."""


@dataclass(frozen=True)
class WriteConditions:
    """Preconditions on other writers' shards that a write checks in the same transaction.

    Args:
        shards: cells of STATE and the value that each must have; empty for a cell that is not there.
        moves_version: whether the write moves the generation's version on: a shard writer leaves it to the driver.
    """

    shards: Mapping[str, bytes]
    moves_version: bool = True


NO_CONDITIONS = WriteConditions({})


def shard_cell(name: str) -> str:
    """The cell of STATE with the token of a shard's last write."""
    return f"lane/{name}"


class Cells(ABC):
    """The cells of a database; every call is a single transaction, or a single round trip that reads."""

    @property
    @abstractmethod
    def takes_shards(self) -> bool:
        """True if writers may write at the same time: only if a write is a single transaction for all parts."""

    @abstractmethod
    def version(self, stream_id: int, *, whole: bool = True) -> Version:
        """The generation's version; zeros when nothing was ever written to it.

        Raises:
            FenceError: ``whole``, and a part has lost writes that the generation knows of.
        """

    @abstractmethod
    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, None where there is none."""

    @abstractmethod
    def write(
        self,
        stream_id: int,
        version: Version,
        puts: Mapping[str, Put],
        drop: Sequence[str] = (),
        conditions: WriteConditions = NO_CONDITIONS,
    ) -> Version:
        """Replace cells, drop tables and move the version on (or not: conditions), all or nothing (of each part).

        Returns:
            The version then.

        Raises:
            LeaseError: the generation's version is not ``version``, or a shard has another value.
        """

    @abstractmethod
    def sweep(
        self, stream_id: int, version: Version, table: str, sweep: Sweep, cursor: Cursor
    ) -> tuple[Version, Cursor, int]:
        """Delete what may go of a page of the table; returns the version then, the next page and the number deleted.

        Raises:
            LeaseError: as write().
        """


def binaries(values: Sequence[bytes | None]) -> pa.Array:
    """The values as an Arrow column, by a single copy of their bytes: a growing builder always takes new pages.

    Raises RowsTooLargeError for more bytes than a column can have.
    """
    present = [value for value in values if value is not None]
    bounds = np.zeros(len(present) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, present), np.int64, len(present)), out=bounds[1:])
    if bounds[-1] > MOST_ROW_BYTES:
        raise RowsTooLargeError(len(present), int(bounds[-1]))
    if len(present) < len(values):
        return pa.array(values, type=pa.binary())
    buffers = [None, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(b"".join(present))]
    return pa.Array.from_buffers(pa.binary(), len(present), buffers)


Offsets = Mapping[str, int]
"""'topic/partition' → the first offset that is not in the batch."""


@dataclass(frozen=True)
class Marker:
    """The last batch of a generation whose offsets were published, and the last that was done."""

    batch_id: int
    start: Offsets
    end: Offsets
    done: int


@dataclass(frozen=True)
class Fence:
    """The version of a generation that its driver left, which a shard writer verifies."""

    stream_id: int
    version: tuple[int, ...]


class RowStore(Protocol):
    """The stored rows of views, as a fold reads and writes them."""

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        """The stored value of each key, null where there is none."""

    def put_rows(self, view: str, rows: PackedRows) -> None:
        """Durably replace rows; a crash may leave some of them written, each whole."""


class ShardStore(RowStore, Protocol):
    """The stored rows as a shard writer sees them: its writes check the fence, and leave the version.

    Each is one transaction that applies only when the version is the fence's and the shard has the token of this
    writer's last write, else it raises LeaseError; so a writer whose shard another has taken stops, and so does one
    whose store has lost writes and come back.
    """

    @abstractmethod
    def token(self) -> str:
        """The token of this writer's last write: a word that no other write leaves."""


@dataclass(frozen=True)
class Idle:
    """The partitions (by number in the stream's sequence) that a batch found read to their end, and when (ms)."""

    partitions: frozenset[int]
    at: int


class Store(RowStore, Protocol):
    """A generation as a batch step reads and writes it.

    A generation has a version. Every write is one transaction that applies only when the version is the one that this
    handle's begin() or last write left, and moves it on; else it raises LeaseError. So a driver whose lease was taken
    (taking it is a write) stops at its next effect, and so does one whose store has lost writes and come back: what a
    store may lose is its last writes, and their versions with them.
    """

    @abstractmethod
    def begin(self) -> None:
        """Take the generation's version as it is now.

        Raises:
            FenceError: a part of the store has lost writes that the generation knows of.
        """

    @abstractmethod
    def fence(self) -> Fence:
        """The fence that shard writers verify, until the next write of this handle."""

    @abstractmethod
    def shard(self, name: str) -> ShardStore:
        """A writer of a shard, behind this handle's fence; of writers of the same name, the last to begin writes."""

    @abstractmethod
    def marker(self) -> Marker | None:
        """The generation's marker; None when the store does not know the generation."""

    @abstractmethod
    def publish(self, marker: Marker, shards: Mapping[str, str] | None = None, changed: ViewKeys | None = None) -> None:
        """Durably replace the marker, and tell readers what changed, if each shard has its token: else LeaseError."""

    @abstractmethod
    def remembered(self, stream: str, ids: pa.Array, batch_id: int, *, wait: bool = True) -> Prior:
        """The last accepted event of each id before this batch (a batch's own decisions do not count for itself).

        Where reading them takes long, StoreError is raised unless ``wait``, and they are read meanwhile.
        """

    @abstractmethod
    def remember(self, stream: str, decision: Decision, batch_id: int, idle: Idle | None = None) -> None:
        """Keep the last two accepted events of each id until the horizon has passed, not waiting for what is idle.

        The same batch again replaces what it remembered: another decision, in which an id is missing, forgets the id.
        """

    @abstractmethod
    def remembered_ids(self) -> int:
        """The number of ids of all streams that this process holds, of 32 bytes each."""


@dataclass(frozen=True)
class PendingEvent:
    """An accepted event under an entity's key.

    Args:
        topic_partition: 'topic/partition', in which it is at ``offset``.
        known_at: Kafka's append time, epoch ms.
        value: the message's bytes.
    """

    view: str
    key: str
    topic_partition: str
    offset: int
    known_at: int
    value: bytes


class Pending(ABC):
    """Pending entries, shared by all who read and write the same online store."""

    @abstractmethod
    def put(self, entries: Sequence[PendingEvent], ttl_ms: int) -> int:
        """Keep the entries, each for this long, existing ones as they are; how many had no room. Raises StoreError."""

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """The number of entries, with expired ones until a put or a prune, and their bytes. Raises StoreError."""

    @abstractmethod
    def of(self, view: str, keys: Sequence[str]) -> list[PendingEvent]:
        """The entries under these keys, in any order. Raises StoreError."""

    @abstractmethod
    def prune(self, ends: Offsets) -> None:
        """Forget the entries before these offsets, and expired ones; those of other partitions stay."""

    @abstractmethod
    def add_to_session(self, session: str, items: Sequence[str], ttl_ms: int) -> None:
        """Let the session's newest items begin with these (newest first), for this long from now."""

    @abstractmethod
    def session(self, session: str) -> tuple[str, ...]:
        """The session's newest items, newest first; of a few dozen the newest."""


@dataclass(frozen=True)
class ReadRows:
    """The row of each key, null where there is none, and the generation they are of; None where the view has none."""

    values: pa.Array
    stream_id: int | None
    without_pending: bool = False
    """Pending events, or what tells whether they count, could not be read in time."""


class ReadableStore(ABC):
    """An online store as readers see it."""

    def read_rows(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> ReadRows:
        """As read(), with whether pending events are missing in the rows."""
        return ReadRows(*self.read(view, keys, schema_hash))

    @abstractmethod
    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        """The row of each key (null where there is none), and the generation they are of (None: the view has none).

        With a schema_hash, of the generation that is current for that definition of the view, where one is kept for it.
        """

    @abstractmethod
    def current(self, view: str) -> int | None:
        """The generation that readers of the view, or of a definition (of_schema), read; None before the first."""

    def current_of(self, view: str, schema_hash: int) -> int | None:
        """The generation of this definition of the view; where it has none, that of the view."""
        own = self.current(of_schema(view, schema_hash))
        return self.current(view) if own is None else own

    @abstractmethod
    def definitions(self, view: str, schema_hash: int) -> str | None:
        """The stored definitions that hold this one of the view (definitions/serialized.py); None if it has no rows."""

    @abstractmethod
    def keys(self, view: str) -> pa.Array:
        """The key of every row of the view that readers can read, as text, in no stated order."""

    @abstractmethod
    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, None where there is none."""

    @abstractmethod
    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> Store:
        """A generation's markers and memory of ids; see Generation for ``horizons_ms``."""

    @abstractmethod
    def pending(self) -> Pending:
        """The accepted events that are not folded yet."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections (of this thread, for SQLite); the next call opens others."""


class ForwardedStore(ReadableStore):
    """Reads of another store; a subclass overrides those that it changes."""

    def __init__(self, rows: ReadableStore) -> None:
        self._rows = rows

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        return self._rows.read(view, keys, schema_hash)

    def current(self, view: str) -> int | None:
        return self._rows.current(view)

    def definitions(self, view: str, schema_hash: int) -> str | None:
        return self._rows.definitions(view, schema_hash)

    def keys(self, view: str) -> pa.Array:
        return self._rows.keys(view)

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        return self._rows.get(stream_id, table, keys)

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> Store:
        return self._rows.generation(stream_id, horizons_ms)

    def pending(self) -> Pending:
        return self._rows.pending()

    def close(self) -> None:
        self._rows.close()
