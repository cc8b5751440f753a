"""The challenger of an event model: asked what the champion was asked, after it has answered; it never answers.

A thread of its own takes questions from a short queue. What does not fit is dropped and counted: no answer waits for
it. What is seen is how far the two are apart, and which of them would have flagged the event.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from features.arrays import Floats
from models.event_champion import EventAlias
from models.event_model import LoadedEventModel
from serving.metrics import Metrics

logger = logging.getLogger(__name__)

WAITING = 64
"""Questions that may wait for a challenger."""


@dataclass(frozen=True)
class Scored:
    """A question, (1, inputs), and what the champion said."""

    champion: LoadedEventModel
    inputs: Floats
    score: float


class ScoreShadow:
    """Asks the challengers about a share of the questions; ``start`` and ``stop`` are the life of its thread.

    Args:
        share: of the questions, drawn.
        challengers: by the name of the model, whoever follows its alias.
    """

    def __init__(self, share: float, challengers: Mapping[str, EventAlias], metrics: Metrics) -> None:
        self._share, self._challengers, self._metrics = share, challengers, metrics
        self._drawn = random.Random()
        self._queue: queue.Queue[tuple[str, Scored] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="score shadow", daemon=True)

    def start(self) -> None:
        """Offered questions are asked from now on."""
        if self._share and self._challengers:
            self._thread.start()

    def stop(self) -> None:
        """What is in the queue is asked, and nothing more."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def offer(self, model: str, scored: Scored) -> None:
        """Take the question where it is drawn and there is room; returns at once."""
        if not self._share or self._drawn.random() >= self._share:
            return
        try:
            self._queue.put_nowait((model, scored))
        except queue.Full:
            self._metrics.score_shadow.labels(model, "dropped").inc()

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            model, scored = taken
            try:
                self._ask(model, scored)
            except Exception:  # whatever a challenger or the registry does, the next question is asked
                logger.exception("score_shadow_failed model=%s", model)
                self._metrics.score_shadow.labels(model, "failed").inc()

    def _ask(self, model: str, scored: Scored) -> None:
        challenger = self._challengers[model].latest()
        if challenger is None or challenger.version == scored.champion.version:
            return
        score = float(challenger.model.scores(scored.inputs)[0])
        flags = (scored.score >= _threshold(scored.champion), score >= _threshold(challenger))
        self._metrics.score_shadow_difference.labels(model).observe(abs(score - scored.score))
        self._metrics.score_shadow_flagged.labels(model, *(str(one).lower() for one in flags)).inc()
        self._metrics.score_shadow.labels(model, "scored").inc()


def _threshold(loaded: LoadedEventModel) -> float:
    return loaded.model.manifest.threshold
