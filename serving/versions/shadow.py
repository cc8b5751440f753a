"""The shadow: a challenger is asked what the champion was asked, once that has answered, and what it says is logged.

A thread of its own takes questions from a short queue. What does not fit, and what comes while requests wait for a
thread, is dropped and counted: an answer waits for nothing here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from models.recommender import LoadedRecommender, Ranked
from serving.metrics import Metrics
from serving.recommend import Answer, ItemSnapshot, Question, ServedAnswer, Shadowed, is_sampled

logger = logging.getLogger(__name__)

WAITING = 16
"""Questions that may wait for the challenger."""


@dataclass(frozen=True)
class Asked:
    """A question, what the champion said, and how the challenger is asked the same."""

    answer: Answer
    question: Question
    items: ItemSnapshot
    ask: Callable[[LoadedRecommender], Answer]


def overlap(one: list[Ranked], other: list[Ranked]) -> float:
    """The share of the longer list's items that are in both; 1 for two that are empty."""
    first, second = ({item.item_id for item in items} for items in (one, other))
    most = max(len(first), len(second))
    return len(first & second) / most if most else 1.0


class Shadow:
    """Asks the challenger about a share of the questions; ``start`` and ``stop`` are the life of its thread.

    Args:
        share: of the answers, by their ids: those of the served log first.
        challenger: the version that is asked; None for none.
        busy: true while requests wait for a thread.
        log: takes what the challenger said.
    """

    def __init__(
        self,
        share: float,
        challenger: Callable[[], LoadedRecommender | None],
        busy: Callable[[], bool],
        metrics: Metrics,
        log: Callable[[ServedAnswer], None],
    ) -> None:
        self._share, self._challenger, self._busy = share, challenger, busy
        self._metrics, self._log = metrics, log
        self._queue: queue.Queue[Asked | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Offered questions are asked from now on."""
        if self._share:
            self._thread.start()

    def stop(self) -> None:
        """What is in the queue is asked, and nothing more."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def offer(self, asked: Asked) -> None:
        """Take the question where it is sampled and there is room; returns at once."""
        if self._challenger() is None or not is_sampled(asked.answer.id, self._share):
            return
        try:
            self._queue.put_nowait(asked)
        except queue.Full:
            self._count("dropped")

    def _run(self) -> None:
        while (asked := self._queue.get()) is not None:
            challenger = self._challenger()
            if challenger is None or self._busy():
                self._count("dropped")
                continue
            try:
                self._scored(asked, challenger)
            except Exception:
                logger.exception("shadow_failed version=%s", challenger.version)
                self._count("failed")

    def _scored(self, asked: Asked, challenger: LoadedRecommender) -> None:
        started = time.perf_counter()
        said = asked.ask(challenger)
        took_s = time.perf_counter() - started
        shared = overlap(said.recommendation.items, asked.answer.recommendation.items)
        self._metrics.shadow_overlap.observe(shared)
        said = replace(said, id=asked.answer.id, took_s=took_s)
        self._log(ServedAnswer(said, asked.question, asked.items, Shadowed(shared)))
        self._count("scored")

    def _count(self, status: str) -> None:
        self._metrics.shadow.labels(status).inc()
