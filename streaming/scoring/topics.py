"""Decisions about events, told to Kafka: what every event's score is, what alerts, and what has to be asked again."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from models.event_model import alerts_of
from streaming.dead_letters import Acknowledged, letter_headers
from streaming.kafka import EventProducer, dead_letter_topic

OF_FEW = ["reasons", "event", "problem", "inputs"]
"""Columns of decisions that a score does not have: of events that alert, or that a model failed on."""

RULE = "rule:"


class Telling(Protocol):
    """Where decisions go."""

    def __call__(self, decisions: pa.Table) -> None:
        """Everything that follows from the decisions has been acknowledged."""


def scores_of(scored: pa.Table) -> list[dict[str, object]]:
    """What the topic of scores says of events that have one."""
    said: list[dict[str, object]] = scored.drop_columns(OF_FEW).to_pylist()
    return said


def problems_topic(scores: str, model: str) -> str:
    """The topic whose dead letters are the events that a model failed on."""
    return f"{scores}.{model}"


class DecisionTopics:
    """Sends scores and alerts, keyed by event; events that a model failed on are dead letters of their own.

    Args:
        producer: of the cluster that has the topics.
        scores, alerts: their names.
    """

    def __init__(self, producer: EventProducer, scores: str, alerts: str) -> None:
        self._producer, self._scores, self._alerts = producer, scores, alerts

    def __call__(self, decisions: pa.Table) -> None:
        """Kafka has all of it. Raises DeadLetterError where it did not acknowledge; some may be there then."""
        scored = decisions.filter(pc.is_valid(decisions["score"]))
        failed = decisions.filter(pc.is_valid(decisions["problem"]))
        with ExitStack() as all_of_it:
            self._send(all_of_it, self._scores, scores_of(scored))
            self._send(all_of_it, self._alerts, alerts_of(decisions))
            for model in pc.unique(failed["model"]).to_pylist():
                self._refuse(all_of_it, model, failed.filter(pc.equal(failed["model"], model)))

    def tell_again(self, scored: pa.Table) -> None:
        """Kafka has the scores, and the models' alerts, of events that were refused before: rules were told then."""
        with ExitStack() as all_of_it:
            self._send(all_of_it, self._scores, scores_of(scored))
            by_model = [one for one in alerts_of(scored) if not one["source"].startswith(RULE)]
            self._send(all_of_it, self._alerts, by_model)

    def _send(self, all_of_it: ExitStack, topic: str, several: list[dict[str, object]]) -> None:
        send = all_of_it.enter_context(Acknowledged(self._producer, topic))
        for one in several:
            send(str(one["event_id"]).encode(), json.dumps(one).encode(), ())

    def _refuse(self, all_of_it: ExitStack, model: str, failed: pa.Table) -> None:
        topic = problems_topic(self._scores, model)
        send = all_of_it.enter_context(Acknowledged(self._producer, dead_letter_topic(topic)))
        for one in failed.to_pylist():
            place = topic, one["partition"], one["offset"]
            headers = letter_headers((), place, one["problem"], one["event_time"])
            send(one["event_id"].encode(), json.dumps(one).encode(), headers)
