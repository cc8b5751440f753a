"""Requests in flight, answered together: a thread takes all that wait, and never waits for more."""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.metrics import Metrics
from serving.workers import OverloadedError

W = TypeVar("W")
A = TypeVar("A")

WORKING_SHARE = 0.9
"""The share of the deadline for the work; the rest is for a fallback instead of it."""

WAITING_SHARE = 0.7
"""The share of the deadline that a request may wait; with a longer wait ahead it is refused."""

SLOW_SHARE = 0.4
"""The share of the deadline after which a request no longer holds up those behind it."""

LEAST_WATCH_S = 0.001

MOST_TOGETHER = 64
"""Requests of one batch."""

MEASURED = 15
"""Batches whose median says how long a request takes, so that a single slow one does not."""

Answers = Callable[[Sequence[W]], Iterator[A | Exception]]
"""The answer to each, in their order and as soon as it is there; an exception where there is none."""


@dataclass(eq=False)
class WaitingRequest(Generic[W, A]):
    """A request that waits for its answer."""

    key: Hashable
    work: W
    answers: Answers[W, A]
    future: asyncio.Future[A]
    entered: float
    alone: bool = False
    given_up: bool = False

    def settle(self, answer: A | Exception) -> None:
        """Hands the answer to the request's own loop, from any thread."""
        with suppress(RuntimeError):  # the loop has been closed
            self.future.get_loop().call_soon_threadsafe(_settle, self.future, answer)

    def by_itself(self) -> A | Exception:
        """The answer, made for this request alone."""
        try:
            return next(self.answers([self.work]))
        except Exception as error:  # noqa: BLE001  (it is the answer)
            return error


@dataclass(eq=False)
class RequestBatch(Generic[W, A]):
    """Requests that a thread answers, by their keys; ``left`` are not answered yet, the first of them is worked on."""

    left: deque[WaitingRequest[W, A]]
    moved_on: float
    relieved: bool = False


class Batches(Generic[W, A]):
    """Answers requests in batches, one batch at a time; may be asked from several event loops.

    A request is refused if those before it leave it too little of its deadline. One that takes long stays with its
    thread, and another thread answers those behind it, each by itself.

    Args:
        threads: the most requests that may take long at once.
        most_waiting: the most requests that may wait, however short the wait.
        deadline_ms: the time within which a request is answered or given up.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        threads: int,
        most_waiting: int,
        deadline_ms: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._threads, self._most_waiting, self._deadline_s = threads, most_waiting, deadline_ms / 1000
        self._metrics, self._clock = metrics, clock
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        self._queue: deque[WaitingRequest[W, A]] = deque()
        self._batch: RequestBatch[W, A] | None = None
        self._started, self._idle, self._stopping = 0, 0, False
        self._took: deque[float] = deque(maxlen=MEASURED)
        self._answer_s = 0.0
        self._watching: set[asyncio.AbstractEventLoop] = set()

    async def in_time(self, key: Hashable, work: W, answers: Answers[W, A]) -> A:
        """The answer to the request, made together with those of the same key that wait too.

        Raises:
            OverloadedError: it would wait too long; raised at once.
            TimeoutError: there was no answer in time; the work may go on, and its answer is dropped.
        """
        loop = asyncio.get_running_loop()
        waiting: WaitingRequest[W, A] = WaitingRequest(key, work, answers, loop.create_future(), self._clock())
        with self._lock:
            self._admit()
            self._queue.append(waiting)
            self._call_a_thread()
        if loop not in self._watching:
            self._watch(loop)
        try:
            async with asyncio.timeout(WORKING_SHARE * self._deadline_s):
                return await waiting.future
        finally:
            waiting.given_up = True

    @property
    def busy(self) -> bool:
        """True while requests wait or are answered."""
        return self._batch is not None or bool(self._queue)

    def stop(self) -> None:
        """Ends the threads; requests that wait are given up by their deadline."""
        with self._lock:
            self._stopping = True
            self._turn.notify_all()

    def relieve(self) -> None:
        """If the request that is worked on takes long, those behind it are left to another thread."""
        with self._lock:
            batch = self._batch
            if batch is None or self._clock() - batch.moved_on <= SLOW_SHARE * self._deadline_s:
                return
            batch.relieved, self._batch = True, None
            while len(batch.left) > 1:
                waiting = batch.left.pop()
                waiting.alone = True  # any of them may be slow
                self._queue.appendleft(waiting)
            self._call_a_thread()

    # --- with the lock ---

    def _admit(self) -> None:
        before = len(self._queue) + (0 if self._batch is None else len(self._batch.left))
        wait_s = before * self._answer_s
        if before and (before >= self._most_waiting or wait_s > WAITING_SHARE * self._deadline_s):
            raise OverloadedError(max(1, math.ceil(wait_s)))

    def _call_a_thread(self) -> None:
        """A thread takes what waits, unless one is at work; where all take long, the first that is ready does."""
        if not self._queue or self._batch is not None:
            return
        if self._idle:
            self._turn.notify()
        elif self._started < self._threads:
            self._started += 1
            threading.Thread(target=self._run, name="answer", daemon=True).start()

    def _taken(self) -> RequestBatch[W, A]:
        """What waits, but for requests that were given up; those of one key stand together."""
        by_key: dict[Hashable, list[WaitingRequest[W, A]]] = {}
        taken = 0
        while self._queue and taken < MOST_TOGETHER:
            if self._queue[0].alone and taken:
                break
            waiting = self._queue.popleft()
            if not waiting.given_up:
                by_key.setdefault(waiting.key, []).append(waiting)
                taken += 1
                if waiting.alone:
                    break
        return RequestBatch(deque(one for group in by_key.values() for one in group), self._clock())

    # --- in a thread ---

    def _run(self) -> None:
        while True:
            with self._lock:
                while self._batch is not None or not self._queue:
                    if self._stopping:
                        return
                    self._idle += 1
                    self._turn.wait()
                    self._idle -= 1
                self._batch = batch = self._taken()
            self._answer(batch)
            with self._lock:
                if self._batch is batch:
                    self._batch = None

    def _answer(self, batch: RequestBatch[W, A]) -> None:
        began, many = self._clock(), len(batch.left)
        if not many:
            return
        self._metrics.batch_requests.observe(many)
        for waiting in batch.left:
            self._metrics.queue_seconds.observe(began - waiting.entered)
        while batch.left and not batch.relieved:
            self._answer_group(batch)
        self._took.append((self._clock() - began) / many)
        self._answer_s = statistics.median(self._took)

    def _answer_group(self, batch: RequestBatch[W, A]) -> None:
        """The requests with the key of the first are answered; those that failed together have a turn each."""
        first = batch.left[0]
        group = [waiting for waiting in batch.left if waiting.key == first.key]
        try:
            for waiting, answer in zip(group, first.answers([one.work for one in group]), strict=True):
                if not self._settled(batch, waiting, answer):
                    return
        except Exception as error:  # noqa: BLE001  (it is the answer of each)
            for waiting in [one for one in group if one in batch.left]:
                alone = waiting.by_itself() if len(group) > 1 else error
                if not self._settled(batch, waiting, alone):
                    return

    def _settled(self, batch: RequestBatch[W, A], waiting: WaitingRequest[W, A], answer: A | Exception) -> bool:
        """The request has its answer, and the next one is worked on; False if it has been left to another thread."""
        with self._lock:
            if not batch.left or batch.left[0] is not waiting:
                return False
            batch.left.popleft()
            batch.moved_on = self._clock()
        waiting.settle(answer)
        return True

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Relieves a batch now and again while there is work; by the loop's clock."""
        self.relieve()
        if not self.busy:
            self._watching.discard(loop)
            return
        self._watching.add(loop)
        loop.call_later(max(SLOW_SHARE * self._deadline_s, LEAST_WATCH_S), self._watch, loop)


def _settle(future: asyncio.Future[A], answer: A | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
