"""An observer around every call of a store, and a stopwatch of a batch's stages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa

from features.events import Decision, Prior
from features.online_store import Fence, Idle, Marker, ShardStore, Store, ViewKeys
from features.rows import PackedRows


class Stopwatch:
    """Milliseconds by stage; an inner stage stops the time of the outer, so that they add up.

    Stages in the order of a batch: fetch, parse, dead letters, dedupe, markers, score, read rows, fold, write rows,
    scatter (the work of executors on a batch that is too large for the driver). ``moved`` is called where one begins
    or ends.
    """

    def __init__(self) -> None:
        self.moved: Callable[[], None] = lambda: None
        self.spent_ms: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since_s = 0.0

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """The time that the block takes is counted for the stage."""
        self._lap()
        self._running.append(stage)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def _lap(self) -> None:
        self.moved()
        now_s = time.perf_counter()
        if self._running:
            self.spent_ms[self._running[-1]] += 1e3 * (now_s - self._since_s)
        self._since_s = now_s


STAGE_OF_CALL = {
    "begin": "markers",
    "marker": "markers",
    "publish": "markers",
    "remembered": "dedupe",
    "remember": "dedupe",
    "rows": "read rows",
    "put_rows": "write rows",
}

Around = Callable[[str], AbstractContextManager[None]]
"""Makes the block that a call runs in, from the call's name."""


class ObservedStore(Store):
    """Another store, each of whose reads and writes runs in a block of an observer's.

    Args:
        around: makes the block; it is given the name of the method.
    """

    def __init__(self, store: Store, around: Around) -> None:
        self._store = store
        self._around = around

    def begin(self) -> None:
        with self._around("begin"):
            self._store.begin()

    def marker(self) -> Marker | None:
        with self._around("marker"):
            return self._store.marker()

    def fence(self) -> Fence:
        return self._store.fence()

    def shard(self, name: str) -> ShardStore:
        return self._store.shard(name)

    def publish(self, marker: Marker, shards: Mapping[str, str] | None = None, changed: ViewKeys | None = None) -> None:
        with self._around("publish"):
            self._store.publish(marker, shards, changed)

    def remembered(self, stream: str, ids: pa.Array, batch_id: int, *, wait: bool = True) -> Prior:
        with self._around("remembered"):
            return self._store.remembered(stream, ids, batch_id, wait=wait)

    def remember(self, stream: str, decision: Decision, batch_id: int, idle: Idle | None = None) -> None:
        with self._around("remember"):
            self._store.remember(stream, decision, batch_id, idle)

    def remembered_ids(self) -> int:
        return self._store.remembered_ids()

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        with self._around("rows"):
            return self._store.rows(view, keys)

    def put_rows(self, view: str, rows: PackedRows) -> None:
        with self._around("put_rows"):
            self._store.put_rows(view, rows)


def timed(store: Store, watch: Stopwatch) -> ObservedStore:
    """The store, whose calls are stages of the stopwatch."""
    return ObservedStore(store, lambda call: watch.at(STAGE_OF_CALL[call]))
