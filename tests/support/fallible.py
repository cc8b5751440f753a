"""Real stores for the simulator's stories: they can crash, tear a write, and return to an earlier state."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Any

from memory_store import Crash
from redis import Redis

from features.online_store.generation import GenerationStore, ShardWriter
from features.online_store.port import Cells, Store, Version
from features.online_store.redis.rows import RedisRows
from features.online_store.sqlite.rows import SqliteRows

KEPT_WRITES = 6

HELD_S = 3_600.0


class StoryCells(Cells):
    """The cells of a real store; each write takes a snapshot first, and calls ``before_effect`` before and after."""

    def __init__(self, store: FallibleRows, before_effect: Callable[[], None]) -> None:
        self._store, self._before_effect = store, before_effect

    @property
    def takes_shards(self) -> bool:
        return self._store.rows.takes_shards

    def version(self, stream_id: int, *, whole: bool = True) -> Version:
        return self._store.rows.version(stream_id, whole=whole)

    def get(self, *cells: Any) -> list[bytes | None]:
        return self._store.rows.get(*cells)

    def sweep(self, *sweep: Any) -> Any:
        return self._store.rows.sweep(*sweep)

    def write(self, *write: Any) -> Version:
        self._before_effect()
        snapshot = self._store.snapshot()
        version = self._store.rows.write(*write)
        self._store.snapshots.append(snapshot)
        self._before_effect()
        return version


class Torn:
    """Mix-in whose ``put_rows`` writes only the first rows and crashes if ``tear`` says so."""

    tear: Callable[[int], int]

    def put_rows(self, view, rows):
        written = self.tear(len(rows))
        super().put_rows(view, rows.slice(0, written))
        if written < len(rows):
            raise Crash


class StoryShard(Torn, ShardWriter):
    """A shard writer whose writes can be torn."""


class StoryGeneration(Torn, GenerationStore):
    """A generation whose writes can be torn."""

    def shard(self, name):
        made = StoryShard(self._cells, self.fence(), name)
        made.tear = self.tear
        return made


class FallibleRows:
    """The simulator's port of a store, on SqliteRows or RedisRows."""

    def __init__(self, rows: Any, horizons_ms: dict[str, int] | None = None) -> None:
        self.rows, self._horizons_ms = rows, horizons_ms
        self.snapshots: deque[Any] = deque(maxlen=KEPT_WRITES)

    def _kept(self, change: Callable[[], None]) -> None:
        snapshot = self.snapshot()
        change()
        self.snapshots.append(snapshot)

    def claim(self, home: str, owner: str, *, take_over: bool = False) -> None:
        self._kept(lambda: self.rows.claim(home, owner, HELD_S, take_over=take_over))

    def take_lease(self, generation: int, owner: str) -> None:
        self._kept(lambda: self.rows.take_lease(generation, owner, HELD_S))

    def set_current(self, generation: int, owner: str) -> None:
        self._kept(lambda: self.rows.set_current("v", generation, owner))

    def drop(self, generation: int, owner: str) -> None:
        self._kept(lambda: self.rows.drop_generation(generation, owner))

    def end_leases(self) -> None:
        self._kept(self.let_time_pass)

    def lose(self, writes: int) -> None:
        snapshot = None
        for _ in range(min(writes, len(self.snapshots))):
            snapshot = self.snapshots.pop()
        if snapshot is not None:
            self.restore(snapshot)

    def handle(self, generation: int, before_effect: Callable[[], None], tear: Callable[[int], int]) -> Store:
        made = StoryGeneration(StoryCells(self, before_effect), generation, self._horizons_ms)
        made.tear = tear
        return made


class FallibleSqlite(FallibleRows):
    evicts = False

    def __init__(self, path, horizons_ms=None):
        super().__init__(SqliteRows(path), horizons_ms)
        self._beside = sqlite3.connect(path)
        self.rows.generations()

    def let_time_pass(self) -> None:
        for table in ("claim", "generations"):
            self._beside.execute(f"UPDATE {table} SET expires_ms = 0")
        self._beside.commit()

    def snapshot(self) -> bytes:
        return self._beside.serialize()

    def restore(self, snapshot: bytes) -> None:
        in_no_wal = snapshot[:18] + b"\x01\x01" + snapshot[20:]  # a database in memory cannot be in WAL mode
        with closing(sqlite3.connect(":memory:")) as memory:
            memory.deserialize(in_no_wal)
            memory.backup(self._beside)

    def close(self) -> None:
        self._beside.close()
        self.rows.close()


class FallibleRedis(FallibleRows):
    """The rows of one Redis server, or of several servers that form a cluster."""

    def __init__(self, urls, horizons_ms=None):
        super().__init__(RedisRows(urls[0], mode="cluster" if len(urls) > 1 else "server"), horizons_ms)
        self._beside = [Redis.from_url(url) for url in urls]
        # In a cluster, whether a write meets a lost part depends on its keys: test_eviction.py.
        self.evicts = len(urls) == 1

    def let_time_pass(self) -> None:
        for beside in self._beside:
            for key in beside.scan_iter(_type="hash"):
                if beside.hexists(key, "expires_ms"):
                    beside.hset(key, "expires_ms", 0)

    def evict(self, generation: int, table: str) -> None:
        name = {"row": "rows", "seen": "seen"}[table]
        tables = list(self._beside[0].scan_iter(f"*{{{generation}}}:{name}/*"))
        self._kept(lambda: [self._beside[0].delete(key) for key in tables])

    def snapshot(self) -> list[dict[bytes, bytes]]:
        return [{key: beside.dump(key) for key in beside.scan_iter()} for beside in self._beside]

    def restore(self, snapshot: list[dict[bytes, bytes]]) -> None:
        for beside, keys in zip(self._beside, snapshot, strict=True):
            beside.flushdb()
            for key, value in keys.items():
                beside.restore(key, 0, value)

    def close(self) -> None:
        for beside in self._beside:
            beside.close()
        self.rows.close()
