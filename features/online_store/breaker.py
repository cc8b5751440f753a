"""A circuit breaker: a store that does not answer costs a few readers their deadline, and the others nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from features.errors import StoreError
from features.online_store.port import ForwardedStore, Offsets, Pending, PendingEvent, ReadableStore

T = TypeVar("T")
FAILURES = 3
"""Failures in a row that open the breaker."""
WAIT_S = 1.0
"""Seconds that it stays open before a single caller may try."""


class Breaker:
    """Lets calls through until ``failures`` in a row have failed; then one at a time, ``wait_s`` after the last try.

    May be shared by threads.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self, failures: int = FAILURES, wait_s: float = WAIT_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures, self._wait_s, self._clock = failures, wait_s, clock
        self._lock = threading.Lock()
        self._failed = 0
        self._next_try = 0.0
        self._last: StoreError | None = None

    def call(self, work: Callable[[], T]) -> T:
        """The result of the work.

        Raises:
            StoreError: the work's, or at once while the breaker is open.
        """
        self._admit()
        try:
            result = work()
        except StoreError as error:
            self._failed_with(error)
            raise
        self._failed = 0
        return result

    def _admit(self) -> None:
        if self._failed < self._failures:
            return
        with self._lock:
            now = self._clock()
            if now >= self._next_try:
                self._next_try = now + self._wait_s
                return
            left_s, failed, last = self._next_try - now, self._failed, self._last
        where, got = (last.where, last.got) if last is not None else ("the online store", "nothing yet")
        required = f"a store that answers (asked again in {left_s:.1f} s)"
        raise StoreError(where, required, f"{failed} failures in a row, the last: {got}")

    def _failed_with(self, error: StoreError) -> None:
        with self._lock:
            self._failed += 1
            self._next_try = self._clock() + self._wait_s
            self._last = error


class GuardedPending(Pending):
    """Pending events behind a breaker."""

    def __init__(self, pending: Pending, breaker: Breaker) -> None:
        self._pending, self._breaker = pending, breaker

    def put(self, entries: Sequence[PendingEvent], ttl_ms: int) -> int:
        return self._breaker.call(lambda: self._pending.put(entries, ttl_ms))

    def size(self) -> tuple[int, int]:
        return self._breaker.call(self._pending.size)

    def of(self, view: str, keys: Sequence[str]) -> list[PendingEvent]:
        return self._breaker.call(lambda: self._pending.of(view, keys))

    def prune(self, ends: Offsets) -> None:
        self._breaker.call(lambda: self._pending.prune(ends))

    def add_to_session(self, session: str, items: Sequence[str], ttl_ms: int) -> None:
        self._breaker.call(lambda: self._pending.add_to_session(session, items, ttl_ms))

    def session(self, session: str) -> tuple[str, ...]:
        return self._breaker.call(lambda: self._pending.session(session))


class GuardedRows(ForwardedStore):
    """A store for readers, behind a breaker of its own; a generation's markers and ids are read without it."""

    def __init__(self, rows: ReadableStore, breaker: Breaker | None = None) -> None:
        super().__init__(rows)
        self._breaker = breaker or Breaker()

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        return self._breaker.call(lambda: self._rows.read(view, keys, schema_hash))

    def definitions(self, view: str, schema_hash: int) -> str | None:
        return self._breaker.call(lambda: self._rows.definitions(view, schema_hash))

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        return self._breaker.call(lambda: self._rows.get(stream_id, table, keys))

    def current(self, view: str) -> int | None:
        return self._breaker.call(lambda: self._rows.current(view))

    def keys(self, view: str) -> pa.Array:
        return self._breaker.call(lambda: self._rows.keys(view))

    def pending(self) -> Pending:
        """The pending events, behind the same breaker."""
        return GuardedPending(self._rows.pending(), self._breaker)
