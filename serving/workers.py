"""Threads of the service: workers of requests, periodic work, and consumers of bounded queues."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from features.errors import HeadraceError

logger = logging.getLogger(__name__)

T = TypeVar("T")

JOIN_S = 5.0
IDLE_SHARE = 4.0
"""Periodic work rests at least this many times as long as it takes, so that it uses at most a fifth of a core."""


class OverloadedError(Exception):
    """Raised when too many requests wait; the next may be sent after ``retry_after_s``."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__(f"ask again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Workers:
    """Threads for the work of requests, with a bound on waiting work and a deadline.

    Args:
        threads: the number of threads.
        max_waiting: the number of requests that may wait for a thread.
        deadline_ms: the longest wait for a result; the work then goes on and its result is dropped.
    """

    def __init__(self, threads: int, max_waiting: int, deadline_ms: float) -> None:
        self._waiting = threading.BoundedSemaphore(threads + max_waiting)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="answer")
        self._deadline_s = deadline_ms / 1000

    async def in_time(self, work: Callable[[], T]) -> T:
        """The result of the work, done in a thread. Raises TimeoutError at the deadline, OverloadedError at once."""
        if not self._waiting.acquire(blocking=False):
            raise OverloadedError
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._waiting.release())
        return await asyncio.wait_for(asyncio.wrap_future(future), self._deadline_s)

    def stop(self) -> None:
        """Begins no more work; work in progress ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Repeated:
    """Calls ``work`` at once and then every ``every_s`` seconds; an error is logged, and the next call comes.

    Args:
        name: of the thread, and of the work in the log.
        failed: called without arguments at each error.
        idle_share: the shortest rest, as a multiple of the time of the work.
    """

    def __init__(
        self,
        name: str,
        every_s: float,
        work: Callable[[], None],
        failed: Callable[[], None],
        idle_share: float = IDLE_SHARE,
    ) -> None:
        self._name, self._every_s, self._work, self._failed = name, every_s, work, failed
        self._idle_share = idle_share
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._last_error: str | None = None

    def start(self) -> None:
        """Starts the thread, which calls at once."""
        self._thread.start()

    def stop(self) -> None:
        """Begins no more calls, and waits JOIN_S for one in progress."""
        self._stopping.set()
        self._thread.join(timeout=JOIN_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            self._call()
            self._stopping.wait(max(self._every_s, self._idle_share * (time.monotonic() - began)))

    def _call(self) -> None:
        try:
            self._work()
            self._last_error = None
        except HeadraceError as error:
            self._report(str(error))
        except Exception as error:  # noqa: BLE001  (the service goes on answering without this work)
            self._report(f"{type(error).__name__}: {error}")

    def _report(self, error: str) -> None:
        """Counts the error, and logs it unless it was the last one logged."""
        self._failed()
        if error != self._last_error:
            logger.warning("background_work_failed work=%s error=%r", self._name, error)
            self._last_error = error


class DroppingQueue(Generic[T]):
    """A bounded queue that a thread consumes; an entry that does not fit is dropped, and no caller waits.

    Args:
        name: of the thread.
        size: the number of entries that may wait.
        work: called with each entry.
        dropped: called with an entry that did not fit.
        failed: called with an entry whose work raised, and the error.
    """

    def __init__(
        self,
        name: str,
        size: int,
        work: Callable[[T], None],
        dropped: Callable[[T], None],
        failed: Callable[[T, Exception], None],
    ) -> None:
        self._work, self._dropped, self._failed = work, dropped, failed
        self._queue: queue.Queue[T | None] = queue.Queue(size)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Works off the queue and ends the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def offer(self, entry: T) -> None:
        """Queues the entry, or drops it; returns at once."""
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            self._dropped(entry)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                self._work(entry)
            except Exception as error:  # noqa: BLE001  (the next entry is worked on after any error)
                self._failed(entry, error)
