"""Shadows: challengers that repeat a champion's requests after its answers; users never see theirs.

A thread takes requests from a short queue; a request that does not fit is dropped and counted, so no answer waits.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from features.arrays import Floats
from models.event_champion import EventAlias
from models.event_model import LoadedEventModel, Texts
from models.recommender import LoadedRecommender, Ranked
from serving.metrics import Metrics
from serving.recommend import (
    ItemQuery,
    ItemSnapshot,
    ModelAnswer,
    ServedAnswer,
    ShadowOverlap,
    is_sampled,
)
from serving.workers import DroppingQueue

logger = logging.getLogger(__name__)

MOST_WAITING = 16
"""The size of the queue of recommendations."""

MOST_SCORES_WAITING = 64
"""The size of the queue of scored events."""


@dataclass(frozen=True)
class ShadowRequest:
    """The champion's answer, its query and items, and the call that repeats it with another version."""

    answer: ModelAnswer
    query: ItemQuery
    items: ItemSnapshot
    repeat: Callable[[LoadedRecommender], ModelAnswer]


class Shadow:
    """Repeats a share of the requests with the recommender's challenger; its answers are logged with their overlap.

    Requests that come while users' requests wait for a thread are dropped and counted.

    Args:
        share: of the answers, by their ids; the same ids as the served log's, as far as both shares go.
        challenger: the challenger; None without one.
        busy: true while requests wait for a thread.
        log: takes the challenger's answers.
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
        """Starts the thread that repeats offered requests."""
        if self._share:
            self._queue.start()

    def stop(self) -> None:
        """Repeats the requests in the queue and ends the thread."""
        self._queue.stop()

    def offer(self, request: ShadowRequest) -> None:
        """Queues the request if it is sampled and the queue has room; returns at once."""
        if self._challenger() is not None and is_sampled(request.answer.id, self._share):
            self._queue.offer(request)

    def _answer(self, request: ShadowRequest) -> None:
        challenger = self._challenger()
        if challenger is None or self._busy():
            self._count("dropped")
            return
        started = time.perf_counter()
        answer = request.repeat(challenger)
        took_s = time.perf_counter() - started
        shared = overlap(answer.recommendation.items, request.answer.recommendation.items)
        self._metrics.shadow_overlap.observe(shared)
        answer = replace(answer, id=request.answer.id, took_s=took_s)
        self._log(ServedAnswer(answer, request.query, request.items, ShadowOverlap(shared)))
        self._count("scored")

    def _failed(self, request: ShadowRequest, error: Exception) -> None:
        logger.error("shadow_failed id=%s", request.answer.id, exc_info=error)
        self._count("failed")

    def _count(self, status: str) -> None:
        self._metrics.shadow.labels(status).inc()


def overlap(first: list[Ranked], second: list[Ranked]) -> float:
    """The share of the longer list's items that are in both lists; 1 for two empty lists."""
    first_ids, second_ids = ({item.item_id for item in items} for items in (first, second))
    longest = max(len(first_ids), len(second_ids))
    return len(first_ids & second_ids) / longest if longest else 1.0


@dataclass(frozen=True)
class ScoredEvent:
    """An event's inputs, (1, inputs), with the score of an event model's champion."""

    model: str
    champion: LoadedEventModel
    inputs: Floats
    score: float
    texts: Texts | None = None


class ScoreShadow:
    """Scores a share of the events by the challengers too, and observes the difference of scores and of flags.

    Args:
        share: of the events, drawn at random.
        challengers: by the name of the event model.
    """

    def __init__(self, share: float, challengers: Mapping[str, EventAlias], metrics: Metrics) -> None:
        self._share, self._challengers, self._metrics = share, challengers, metrics
        self._random = random.Random()
        self._queue: DroppingQueue[ScoredEvent] = DroppingQueue(
            "score shadow", MOST_SCORES_WAITING, self._score, lambda event: self._count(event, "dropped"), self._failed
        )

    def start(self) -> None:
        """Starts the thread that scores offered events."""
        if self._share and self._challengers:
            self._queue.start()

    def stop(self) -> None:
        """Scores the events in the queue and ends the thread."""
        self._queue.stop()

    def offer(self, event: ScoredEvent) -> None:
        """Queues the event if it is drawn and the queue has room; returns at once."""
        if self._share and self._random.random() < self._share:
            self._queue.offer(event)

    def _score(self, event: ScoredEvent) -> None:
        challenger = self._challengers[event.model].latest()
        if challenger is None or challenger.version == event.champion.version:
            return
        score = float(challenger.model.scores(event.inputs, event.texts)[0])
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
    return loaded.model.manifest.alerts_from
