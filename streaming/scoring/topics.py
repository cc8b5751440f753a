"""Sends decisions about events to Kafka: scores, alerts, and dead letters of events that a model failed on."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import ExitStack
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from models.event_model import alerts_of
from streaming.dead_letters import Acknowledged, letter_headers
from streaming.kafka import EventProducer, dead_letter_topic

ALERT_COLUMNS = ["reasons", "event", "problem", "inputs"]
"""Columns of decisions that scores do not have: of events that alert, or that a model failed on."""

RULE = "rule:"


class DecisionSink(Protocol):
    """Takes decisions."""

    def __call__(self, decisions: pa.Table) -> None:
        """Send what follows from the decisions, and return when all of it is acknowledged."""


def scores_of(scored: pa.Table) -> list[dict[str, object]]:
    """The messages of the topic of scores."""
    messages: list[dict[str, object]] = scored.drop_columns(ALERT_COLUMNS).to_pylist()
    return messages


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
        """Send all of it. Raises DeadLetterError where Kafka did not acknowledge; some may be there then."""
        scored = decisions.filter(pc.is_valid(decisions["score"]))
        failed = decisions.filter(pc.is_valid(decisions["problem"]))
        with ExitStack() as stack:
            self._send(stack, self._scores, scores_of(scored))
            self._send(stack, self._alerts, alerts_of(decisions))
            for model in pc.unique(failed["model"]).to_pylist():
                self._refuse(stack, model, failed.filter(pc.equal(failed["model"], model)))

    def send_rescored(self, scored: pa.Table, scored_rules: Collection[str] = ()) -> None:
        """Send the scores and models' alerts of events that were refused before; other rules' alerts were sent then.

        Args:
            scored_rules: rules that ask for the score.
        """
        late = {f"{RULE}{name}" for name in scored_rules}
        with ExitStack() as stack:
            self._send(stack, self._scores, scores_of(scored))
            alerts = [a for a in alerts_of(scored) if a["source"] in late or not a["source"].startswith(RULE)]
            self._send(stack, self._alerts, alerts)

    def _send(self, stack: ExitStack, topic: str, messages: list[dict[str, object]]) -> None:
        send = stack.enter_context(Acknowledged(self._producer, topic))
        for message in messages:
            send(str(message["event_id"]).encode(), json.dumps(message).encode(), ())

    def _refuse(self, stack: ExitStack, model: str, failed: pa.Table) -> None:
        topic = problems_topic(self._scores, model)
        send = stack.enter_context(Acknowledged(self._producer, dead_letter_topic(topic)))
        for decision in failed.to_pylist():
            place = topic, decision["partition"], decision["offset"]
            headers = letter_headers((), place, decision["problem"], decision["event_time"])
            send(decision["event_id"].encode(), json.dumps(decision).encode(), headers)
