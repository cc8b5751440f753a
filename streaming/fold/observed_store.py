"""Where a batch's time goes: a stopwatch of named stages, and a store that tells it what it does."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

from features.events import Decision, Prior
from features.online_store import Fence, Marker, RowLane, Store
from features.rows import PackedRows

STAGES = ("fetch", "parse", "dead letters", "dedupe", "markers", "score", "read rows", "fold", "write rows", "scatter")
"""In the order of a batch; 'scatter' is what executors do with a batch that is too large for the driver."""


class Stopwatch:
    """Milliseconds by stage; a stage inside another one stops the outer one's time, so that they add up."""

    def __init__(self) -> None:
        self.spent_ms: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since_s = 0.0

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """What the block takes is the stage's."""
        self._lap()
        self._running.append(stage)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def _lap(self) -> None:
        now_s = time.perf_counter()
        if self._running:
            self.spent_ms[self._running[-1]] += 1e3 * (now_s - self._since_s)
        self._since_s = now_s


class TimedStore:
    """A batch.Store whose calls are stages of a stopwatch."""

    def __init__(self, store: Store, watch: Stopwatch) -> None:
        self._store = store
        self._watch = watch

    def begin(self) -> None:
        with self._watch.at("markers"):
            self._store.begin()

    def marker(self) -> Marker | None:
        with self._watch.at("markers"):
            return self._store.marker()

    def fence(self) -> Fence:
        return self._store.fence()

    def lane(self, name: str) -> RowLane:
        return self._store.lane(name)

    def publish(self, marker: Marker, lanes: Mapping[str, str] | None = None) -> None:
        with self._watch.at("markers"):
            self._store.publish(marker, lanes)

    def remembered(self, stream: str, ids: pa.Array, batch_id: int) -> Prior:
        with self._watch.at("dedupe"):
            return self._store.remembered(stream, ids, batch_id)

    def remember(self, stream: str, decision: Decision, batch_id: int) -> None:
        with self._watch.at("dedupe"):
            self._store.remember(stream, decision, batch_id)

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        with self._watch.at("read rows"):
            return self._store.rows(view, keys)

    def put_rows(self, view: str, rows: PackedRows) -> None:
        with self._watch.at("write rows"):
            self._store.put_rows(view, rows)
