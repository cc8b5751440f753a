"""Shadows: challengers that repeat a champion's requests once it has answered; users never see their answers.

A thread takes requests from a short queue. What does not fit is dropped and counted: an answer waits for nothing here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from features.arrays import Floats
from models.event_champion import EventAlias
from models.event_model import LoadedEventModel
from models.recommender import LoadedRecommender, Ranked
from serving.metrics import Metrics
from serving.recommend import (
    ItemQuery,
    ItemSnapshot,
    ModelAnswer,
    ServedAnswer,
    Shadowed,
    is_sampled,
)
from serving.workers import DroppingQueue

logger = logging.getLogger(__name__)

MOST_WAITING = 16
"""Recommendations that may wait for the challenger."""

MOST_SCORES_WAITING = 64
"""Scored events that may wait for a challenger."""


@dataclass(frozen=True)
class ShadowRequest:
    """The champion's answer, what it was made of, and the call that repeats it with another version."""

    answer: ModelAnswer
    query: ItemQuery
    items: ItemSnapshot
    ask: Callable[[LoadedRecommender], ModelAnswer]


class Shadow:
    """Asks the recommender's challenger about a share of the answers; its answers are logged, with their overlap.

    Requests that come while those of users wait for a thread are dropped and counted.

    Args:
        share: of the answers, by their ids: those of the served log first.
        challenger: the version beside the champion; None for none.
        busy: true while requests wait for a thread.
        log: takes what the challenger answered.
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
        self._queue: DroppingQueue[ShadowRequest] = DroppingQueue(
            "shadow", MOST_WAITING, self._answer, lambda _: self._count("dropped"), self._failed
        )

    def start(self) -> None:
        """Offered requests are worked on from now on."""
        if self._share:
            self._queue.start()

    def stop(self) -> None:
        """The requests in the queue are worked on, and no others."""
        self._queue.stop()

    def offer(self, request: ShadowRequest) -> None:
        """Take the request where it is sampled and there is room; returns at once."""
        if self._challenger() is not None and is_sampled(request.answer.id, self._share):
            self._queue.offer(request)

    def _answer(self, request: ShadowRequest) -> None:
        challenger = self._challenger()
        if challenger is None or self._busy():
            self._count("dropped")
            return
        started = time.perf_counter()
        answer = request.ask(challenger)
        took_s = time.perf_counter() - started
        shared = overlap(answer.recommendation.items, request.answer.recommendation.items)
        self._metrics.shadow_overlap.observe(shared)
        answer = replace(answer, id=request.answer.id, took_s=took_s)
        self._log(ServedAnswer(answer, request.query, request.items, Shadowed(shared)))
        self._count("scored")

    def _failed(self, request: ShadowRequest, error: Exception) -> None:
        logger.error("shadow_failed id=%s", request.answer.id, exc_info=error)
        self._count("failed")

    def _count(self, status: str) -> None:
        self._metrics.shadow.labels(status).inc()


def overlap(first: list[Ranked], second: list[Ranked]) -> float:
    """The share of the longer list's items that are in both; 1 for two that are empty."""
    one, other = ({item.item_id for item in items} for items in (first, second))
    most = max(len(one), len(other))
    return len(one & other) / most if most else 1.0


@dataclass(frozen=True)
class ScoredEvent:
    """An event's inputs, (1, inputs), with the score of the champion of an event model."""

    model: str
    champion: LoadedEventModel
    inputs: Floats
    score: float


class ScoreShadow:
    """Scores a share of the events by the challengers too; how far the two are apart, and which flags, is counted.

    Args:
        share: of the events, drawn.
        challengers: by the name of the model.
    """

    def __init__(self, share: float, challengers: Mapping[str, EventAlias], metrics: Metrics) -> None:
        self._share, self._challengers, self._metrics = share, challengers, metrics
        self._random = random.Random()
        self._queue: DroppingQueue[ScoredEvent] = DroppingQueue(
            "score shadow", MOST_SCORES_WAITING, self._score, lambda event: self._count(event, "dropped"), self._failed
        )

    def start(self) -> None:
        """Offered events are scored from now on."""
        if self._share and self._challengers:
            self._queue.start()

    def stop(self) -> None:
        """The events in the queue are scored, and no others."""
        self._queue.stop()

    def offer(self, event: ScoredEvent) -> None:
        """Take the event where it is drawn and there is room; returns at once."""
        if self._share and self._random.random() < self._share:
            self._queue.offer(event)

    def _score(self, event: ScoredEvent) -> None:
        challenger = self._challengers[event.model].latest()
        if challenger is None or challenger.version == event.champion.version:
            return
        score = float(challenger.model.scores(event.inputs)[0])
        flags = (event.score >= _threshold(event.champion), score >= _threshold(challenger))
        self._metrics.score_shadow_difference.labels(event.model).observe(abs(score - event.score))
        self._metrics.score_shadow_flagged.labels(event.model, *(str(flag).lower() for flag in flags)).inc()
        self._count(event, "scored")

    def _failed(self, event: ScoredEvent, error: Exception) -> None:
        logger.error("score_shadow_failed model=%s", event.model, exc_info=error)
        self._count(event, "failed")

    def _count(self, event: ScoredEvent, status: str) -> None:
        self._metrics.score_shadow.labels(event.model, status).inc()


def _threshold(loaded: LoadedEventModel) -> float:
    return loaded.model.manifest.threshold
