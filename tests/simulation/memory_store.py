"""A store in a dictionary behind the port of the batch step; it can tear a write, lose the last writes, and evict.

As in a Redis, a table has a cell that stands for it, by which the loss of all its cells is noticed; and as in every
store, a home has the claim and a driver the lease of each generation, which end only when the simulator says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from features.errors import FenceError, LeaseError
from features.events.dedupe import NEVER, Decision, Prior
from features.online_store.conflicts import claimed, evicted, for_reader, held
from features.online_store.port import Fence, Idle, Marker, ShardStore, Store, ViewKeys
from features.rows.matrix import PackedRows

Action = Callable[[], None]

TABLES = ("row", "seen")

STANDS = 0
"""In the place of a view or stream: the cell that stands for a table."""

CLAIM, CURRENT, HELD_MS = ("claim",), ("current",), 3_600_000


class Crash(Exception):  # noqa: N818  (not an error of the program: its process ends)
    """The driver process ends here."""


@dataclass
class MemoryStore:
    """A store in a dictionary with an undo log, so that a crash can lose its last writes."""

    values: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    evicts: bool = True
    _undo: list[list[tuple[tuple[Any, ...], Any]]] = field(default_factory=list)

    def write(self, values: Mapping[tuple[Any, ...], Any]) -> None:
        """Writes all values in one transaction."""
        self._undo.append([(key, self.values.get(key)) for key in values])
        self.values.update(values)

    def lose(self, writes: int) -> None:
        """Crashes and restarts without the last writes."""
        for _ in range(min(writes, len(self._undo))):
            for key, value in self._undo.pop():
                if value is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = value

    def evict(self, generation: int, table: str) -> None:
        """Drops the table's cells and leaves all else, as a Redis does that makes room."""
        gone = [key for key in self.values if key[:2] == (generation, table)]
        self._undo.append([(key, self.values.pop(key)) for key in gone])

    def check_tables(self, generation: int, tables: Collection[str] = TABLES) -> None:
        """Raises FenceError if one of the tables was written to and is lost."""
        for table in self.values.get((generation, "tables")) or ():
            if table in tables and (generation, table, STANDS) not in self.values:
                raise evicted(generation, table)

    def check_readable(self, generation: int, table: str) -> None:
        """Raises StoreError for readers of a table that is lost."""
        try:
            self.check_tables(generation, [table])
        except FenceError as error:
            raise for_reader(error) from None

    # --- claims and leases; a claim is (home, owner, whether the owner's time lasts) ---

    def end_leases(self) -> None:
        """The time of the claim's owner and of every lease is over."""
        home, owner, _ = self.values.get(CLAIM) or ("", "", False)
        leases = [key for key in self.values if key[1:] == ("lease",)]
        self.write({**dict.fromkeys(leases), CLAIM: (home, owner, False)})

    def claim(self, home: str, owner: str, *, take_over: bool = False) -> None:
        """As OnlineStore.claim()."""
        known, driver, lasts = self.values.get(CLAIM) or (home, owner, False)
        leases = [value for key, value in self.values.items() if key[1:] == ("lease",)]
        if (known not in (home, "") and (lasts or not take_over)) or (driver != owner and lasts):
            raise claimed("the store", driver, HELD_MS if lasts else -1)
        if any(holder not in (owner, None) for holder in leases):
            raise claimed("the store", "who has a lease", HELD_MS)
        self.write({CLAIM: (home, owner, True)})

    def take_lease(self, generation: int, owner: str) -> None:
        """As OnlineStore.take_lease(): increments the version, so that the next write of another driver fails."""
        self._check_lease(generation, owner)
        renewed = self.values.get((generation, "lease")) == owner
        version = (self.values.get((generation, "version")) or 0) + (not renewed)
        self.write({(generation, "lease"): owner, (generation, "version"): version})

    def set_current(self, generation: int, owner: str) -> None:
        """As OnlineStore.set_current()."""
        before = self.values.get(CURRENT)
        if before not in (None, generation):
            self._check_lease(before, owner)
        self.write({CURRENT: generation})

    def drop(self, generation: int, owner: str) -> None:
        """As OnlineStore.drop_generation()."""
        self._check_lease(generation, owner)
        self.write(dict.fromkeys(key for key in self.values if key[0] == generation))

    def _check_lease(self, generation: int, owner: str) -> None:
        holder = self.values.get((generation, "lease"))
        if holder not in (None, owner):
            raise held(generation, holder, HELD_MS)

    def handle(
        self, generation: int, before_effect: Action = lambda: None, tear: Callable[[int], int] = lambda rows: rows
    ) -> MemoryHandle:
        """A driver's handle of the generation."""
        return MemoryHandle(self, generation, before_effect, tear)


@dataclass
class MemoryHandle(Store):
    """One driver's handle of the store; ``before_effect`` is called before and after every write."""

    store: MemoryStore
    stream_id: int
    before_effect: Action = lambda: None
    tear: Callable[[int], int] = lambda rows: rows
    version: int = 0

    def _write(self, values: Mapping[tuple[Any, ...], Any], shards: Mapping[str, str] = MappingProxyType({})) -> None:
        self.before_effect()
        self.check(self.version, shards)
        self.version += 1
        self.put({("version",): self.version, **values})

    def check(self, version: int, shards: Mapping[str, str]) -> None:
        """Raises LeaseError unless the generation has this version and its shards these tokens."""
        standing = {name: self._read("shard", name) or "" for name in shards}
        if self._version() != version or standing != shards:
            raise LeaseError(
                "a write", f"version {version} of the generation, {shards}", f"{self._version()}, {standing}"
            )

    def put(self, values: Mapping[tuple[Any, ...], Any]) -> None:
        """Writes in one transaction, none into a table that is lost, and calls ``before_effect`` after it."""
        tables = {key[0] for key in values} & {*TABLES}
        self.store.check_tables(self.stream_id, tables)
        known = self._read("tables") or frozenset()
        standing = {(table, STANDS): b"" for table in tables} | (
            {("tables",): known | tables} if tables - known else {}
        )
        self.store.write({(self.stream_id, *key): value for key, value in {**standing, **values}.items()})
        self.before_effect()

    def _version(self) -> int:
        version: int = self._read("version") or 0
        return version

    def begin(self) -> None:
        self.store.check_tables(self.stream_id)
        self.version = self._version()

    def fence(self) -> Fence:
        return Fence(self.stream_id, (self.version,))

    def shard(self, name: str) -> MemoryShard:
        return MemoryShard(self, self.version, name, self._read("shard", name) or "")

    def _read(self, *key: Any) -> Any:
        return self.store.values.get((self.stream_id, *key))

    def marker(self) -> Marker | None:
        marker: Marker | None = self._read("marker")
        return marker

    def publish(self, marker: Marker, shards: Mapping[str, str] | None = None, changed: ViewKeys | None = None) -> None:
        self._write({("marker",): marker}, shards or {})

    def remembered(self, stream: str, ids: pa.Array, batch_id: int, *, wait: bool = True) -> Prior:
        if not wait:
            self.store.check_readable(self.stream_id, "seen")
        priors = [self._prior(stream, event_id, batch_id) for event_id in ids.to_pylist()]
        return Prior(np.array([p[0] for p in priors], dtype=np.int64), np.array([p[1] for p in priors], dtype=np.int64))

    def _prior(self, stream: str, event_id: str, batch_id: int) -> tuple[int, int]:
        written_by, last, before = self._read("seen", stream, event_id) or (-1, (NEVER, NEVER), (NEVER, NEVER))
        prior: tuple[int, int] = before if written_by >= batch_id else last
        return prior

    def remembered_ids(self) -> int:
        return sum(key[:2] == (self.stream_id, "seen") and key[2] != STANDS for key in self.store.values)

    def remember(self, stream: str, decision: Decision, batch_id: int, idle: Idle | None = None) -> None:
        lasts = zip(decision.last.seq.tolist(), decision.last.known_at.tolist(), strict=True)
        decided = dict(zip(decision.ids.to_pylist(), lasts, strict=True))
        priors = {
            event_id: self._prior(stream, event_id, batch_id)
            for event_id in (*self._before(stream, batch_id), *decided)
        }
        self._write(
            {
                ("seen", stream, event_id): (batch_id, decided.get(event_id, prior), prior)
                for event_id, prior in priors.items()
            }
        )

    def _before(self, stream: str, batch_id: int) -> list[str]:
        """The ids that the same batch remembered when it ran before, maybe with other verdicts: they are replaced."""
        seen = (self.stream_id, "seen", stream)
        return [key[3] for key, value in self.store.values.items() if key[:3] == seen and value[0] == batch_id]

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        return pa.array([self._read("row", view, key) for key in keys.to_pylist()], type=pa.binary())

    def put_rows(self, view: str, rows: PackedRows) -> None:
        values, torn = self.torn(view, rows)
        self._write(values)
        if torn:
            raise Crash  # a torn write: the remaining rows and the driver's next effects are missing

    def torn(self, view: str, rows: PackedRows) -> tuple[dict[tuple[Any, ...], Any], bool]:
        """The rows as cells, cut as ``tear`` says, and True if some were cut."""
        pairs = list(zip(rows.keys.to_pylist(), rows.values.to_pylist(), strict=True))
        written = self.tear(len(pairs))
        return {("row", view, key): value for key, value in pairs[:written]}, written < len(pairs)

    def all_rows(self, view: str) -> PackedRows:
        """All rows of the view in this generation."""
        values = {key[3]: value for key, value in self.store.values.items() if key[:3] == (self.stream_id, "row", view)}
        return PackedRows(pa.array(list(values), type=pa.string()), pa.array(list(values.values()), type=pa.binary()))


@dataclass
class MemoryShard(ShardStore):
    """The writer of one shard."""

    handle: MemoryHandle
    version: int
    name: str
    at: str

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        return self.handle.rows(view, keys)

    def put_rows(self, view: str, rows: PackedRows) -> None:
        self.handle.before_effect()
        self.handle.check(self.version, {self.name: self.at})
        values, torn = self.handle.torn(view, rows)
        self.at = secrets.token_hex(8)
        self.handle.put({**values, ("shard", self.name): self.at})
        if torn:
            raise Crash

    def token(self) -> str:
        return self.at
