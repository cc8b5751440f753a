"""The served log: a sample of the answers, sent to a topic without delaying them.

An answer is offered to a bounded queue; a thread makes its event and hands it to Kafka. If either is full, the event is
dropped and counted. The rows of ranker inputs are recomputed here from the immutable arrays of the answer, so that they
are the same to the bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats
from features.definitions import Stream
from features.events import inputs_hash, items_text
from features.times import now_ms
from models.recommender import PAIR_FEATURES, Artefact, Candidates, RankingRequest, ranker_inputs
from serving.events import Message, message_of
from serving.recommend.convert import ModelAnswer
from serving.recommend.recommender import ItemQuery, UserRead, as_of
from serving.recommend.snapshot import ItemSnapshot
from serving.workers import DroppingQueue

logger = logging.getLogger(__name__)

MOST_WAITING = 256
"""The size of the queue of answers."""

SAMPLE_DIGITS = 8


class Outlet(Protocol):
    """Takes messages without waiting for them."""

    def offer(self, message: Message, on_delivery: Callable[[bool], None]) -> None:
        """Queues the message; ``on_delivery`` is called once with whether Kafka has it (False at once if full)."""


@dataclass(frozen=True)
class ShadowOverlap:
    """Marks the answer of a challenger, which no user sees: its overlap with the champion's answer."""

    overlap: float


@dataclass(frozen=True)
class ServedAnswer:
    """An answer, its query, and the snapshot of items that it was made from."""

    answer: ModelAnswer
    query: ItemQuery
    items: ItemSnapshot
    shadow: ShadowOverlap | None = None


def is_sampled(recommendation_id: str, share: float) -> bool:
    """True for a share of the ids, the same in every process; a larger share includes a smaller one."""
    most: int = 16**SAMPLE_DIGITS
    return int(recommendation_id[:SAMPLE_DIGITS], 16) < share * most


class ServedLog:
    """Logs a share of the answers; ``start`` and ``stop`` are the life of its thread.

    Args:
        stream: the log's definition.
        outlet: takes the log's messages.
        share: of the answers, 0 to 1.
        count: called with the fate of each sampled answer: sent, dropped or failed.
        recommender: the name of the recommender that answers.
    """

    def __init__(
        self, stream: Stream, outlet: Outlet, share: float, count: Callable[[str], None], recommender: str | None = None
    ) -> None:
        self._recommender = recommender
        self._stream, self._outlet, self._share, self._count = stream, outlet, share, count
        self._queue: DroppingQueue[ServedAnswer] = DroppingQueue(
            "served-log", MOST_WAITING, self._send, lambda _: count("dropped"), self._failed
        )

    def start(self) -> None:
        """Starts the thread that logs offered answers."""
        self._queue.start()

    def stop(self) -> None:
        """Hands over the answers in the queue and ends the thread."""
        self._queue.stop()

    def offer(self, answer: ServedAnswer) -> None:
        """Queues the answer if it is sampled (a shadow's has been) and the queue has room; returns at once."""
        if answer.shadow is not None or is_sampled(answer.answer.id, self._share):
            self._queue.offer(answer)

    def _send(self, answer: ServedAnswer) -> None:
        self._outlet.offer(self._message(answer), self._delivered)

    def _delivered(self, delivered: bool) -> None:
        self._count("sent" if delivered else "dropped")

    def _failed(self, answer: ServedAnswer, error: Exception) -> None:
        logger.error("served_log_failed id=%s", answer.answer.id, exc_info=error)
        self._count("failed")

    def _message(self, answer: ServedAnswer) -> Message:
        event = event_of(answer, now_ms(), self._recommender)
        key = answer.query.user or answer.query.session
        value = msgspec.json.encode(message_of(event, self._stream))
        return Message(self._stream.topic, None if key is None else key.encode(), value)


def event_of(logged: ServedAnswer, now: int, recommender: str | None = None) -> dict[str, object]:
    """The answer as an event of the log (SERVED_FIELDS), without null fields."""
    answer, query = logged.answer, logged.query
    made = answer.recommendation
    manifest = None if answer.served is None else answer.served.model.manifest
    listed = [(item.item_id, None if math.isnan(item.score) else item.score, item.source) for item in made.items]
    names = () if manifest is None else (*PAIR_FEATURES, *manifest.user.names, *manifest.item.names)
    status = answer.user.status
    shadow = logged.shadow
    event = {
        "event_id": answer.id if shadow is None else f"{answer.id}-shadow",
        "event_time": now,
        "recommendation_id": answer.id,
        "request_id": answer.request_id,
        "recommender": recommender,
        "user_id": query.user,
        "session_id": query.session,
        "placement": query.placement,
        "model": None if manifest is None else manifest.name,
        "model_version": None if answer.served is None else answer.served.version,
        "inputs": None if manifest is None else inputs_hash(names),
        "user_schema": None if manifest is None else manifest.user.schema_hash,
        "item_schema": None if manifest is None else manifest.item.schema_hash,
        "as_of": as_of(answer.user, logged.items),
        "features_status": None if status is None else status.name,
        "user_newest": newest_of(answer.user),
        "fallback": None if made.reason is None else made.reason.value,
        "items": items_text(listed, _rows(answer, len(names))),
        "shadow": shadow is not None,
        "overlap": None if shadow is None else shadow.overlap,
        "took_ms": round(1000 * answer.took_s, 3),
    }
    return {name: value for name, value in event.items() if value is not None}


def newest_of(user: UserRead) -> int | None:
    """Time of the newest event in the stored features; None without any and if the request brought its own."""
    return None if user.own_features or user.present is None else int(user.present.newest_event[0])


def _rows(answer: ModelAnswer, width: int) -> Floats:
    """(items, width) the ranker's inputs of each item; NaN for an item that it did not rank."""
    rows = np.full((len(answer.recommendation.items), width), np.nan)
    ranking, artefact = answer.recommendation.ranking, answer.recommendation.artefact
    if artefact is None or ranking is None:
        return rows
    candidates = artefact.retrieve(ranking.query, ranking.among, ranking.allowed)
    row_of = {index: row for row, index in enumerate(candidates.indices.tolist())}
    indices = (artefact.tables.index.get(item.item_id, -1) for item in answer.recommendation.items)
    position = np.array([row_of.get(index, -1) for index in indices], dtype=np.int64)
    ranked = position >= 0
    chosen = position[ranked]
    listed = Candidates(candidates.indices[chosen], candidates.pairs[chosen], candidates.sources[chosen])
    rows[ranked] = ranker_inputs(listed, *_view_rows(artefact, ranking, listed.indices))
    return rows


def _view_rows(artefact: Artefact, ranking: RankingRequest, indices: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """The user's row, and those of the items of these indices; NaN without features."""
    user, item = len(artefact.manifest.user.names), len(artefact.manifest.item.names)
    user_row = np.full(user, np.nan) if ranking.user_row is None else ranking.user_row
    unknown = np.full((len(indices), item), np.nan)
    return user_row, unknown if ranking.item_matrix is None else ranking.item_matrix[indices]
