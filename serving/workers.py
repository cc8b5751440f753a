"""The threads that answer: so many at once, a bounded number that wait, and a deadline that holds whatever they do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OverloadedError(Exception):
    """Raised when more requests wait for a thread than may."""


class Workers:
    """Threads for the work of requests.

    Args:
        threads: how many work at once.
        max_waiting: how many pieces of work may wait for one.
        deadline_ms: how long a piece of work is waited for; it goes on after that, and nobody hears of it.
    """

    def __init__(self, threads: int, max_waiting: int, deadline_ms: float) -> None:
        self._waiting = threading.BoundedSemaphore(threads + max_waiting)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="answer")
        self._deadline_s = deadline_ms / 1000
        self._threads, self._begun = threads, 0
        self._counting = threading.Lock()

    async def in_time(self, work: Callable[[], T]) -> T:
        """The result of the work in a thread. Raises TimeoutError at the deadline, OverloadedError at once."""
        if not self._waiting.acquire(blocking=False):
            raise OverloadedError
        self._count(1)
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._done())
        return await asyncio.wait_for(asyncio.wrap_future(future), self._deadline_s)

    @property
    def busy(self) -> bool:
        """True while every thread has work."""
        return self._begun >= self._threads

    def _done(self) -> None:
        self._count(-1)
        self._waiting.release()

    def _count(self, more: int) -> None:
        with self._counting:
            self._begun += more

    def stop(self) -> None:
        """No work begins any more; what is worked on ends."""
        self._pool.shutdown(wait=False, cancel_futures=True)
