"""Sends decisions about events to Kafka: scores, alerts, and dead letters of events that a model failed on."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import FeatureRepo, Stream
from models.event_model import SCORED, alerts_of, scored_events
from streaming.dead_letters import Acknowledged, letter_headers
from streaming.kafka import EventProducer, dead_letter_topic, messages

ALERT_COLUMNS = ("reasons", "event", "problem", "inputs", "repeated")
"""Columns of decisions that scores do not have: of events that alert, or that a model failed on."""

RULE = "rule:"


class DecisionSink(Protocol):
    """Takes decisions."""

    def __call__(self, decisions: pa.Table) -> None:
        """Send what follows from the decisions, and return when all of it is acknowledged."""


def scores_of(scored: pa.Table) -> list[dict[str, object]]:
    """The messages of the topic of scores."""
    own = without_scored_fields(scored)
    scores: list[dict[str, object]] = own.select(
        [name for name in own.column_names if name not in ALERT_COLUMNS]
    ).to_pylist()
    return scores


def without_scored_fields(decisions: pa.Table) -> pa.Table:
    """The decisions without the columns that are for a scored stream."""
    return decisions.select([name for name in decisions.column_names if not name.startswith(SCORED)])


def problems_topic(scores: str, model: str) -> str:
    """The topic whose dead letters are the events that a model failed on."""
    return f"{scores}.{model}"


def scored_streams(repo: FeatureRepo) -> dict[str, Stream]:
    """Model → its scored stream, of the repo's models that have one."""
    return {name: model.scored for name, model in repo.models.items() if model.scored is not None}


class DecisionTopics:
    """Sends scores and alerts, keyed by event; events that a model failed on are dead letters of their own.

    Args:
        producer: of the cluster that has the topics.
        scores, alerts: their names.
        streams: model → its scored stream, of the models that have one.
    """

    def __init__(
        self, producer: EventProducer, scores: str, alerts: str, streams: Mapping[str, Stream] | None = None
    ) -> None:
        self._producer, self._scores, self._alerts = producer, scores, alerts
        self._streams = streams or {}

    def __call__(self, decisions: pa.Table) -> None:
        """Send all of it. Raises DeadLetterError where Kafka did not acknowledge; some may be there then."""
        scored = decisions.filter(pc.is_valid(decisions["score"]))
        failed = decisions.filter(pc.is_valid(decisions["problem"]))
        with ExitStack() as stack:
            self._send(stack, self._scores, scores_of(scored))
            self._send(stack, self._alerts, alerts_of(decisions))
            self._send_events(stack, scored)
            for model in pc.unique(failed["model"]).to_pylist():
                self._refuse(stack, model, failed.filter(pc.equal(failed["model"], model)))

    def send_rescored(self, scored: pa.Table, scored_rules: Collection[str] = ()) -> None:
        """Send the scores and models' alerts of events that were refused before; other rules' alerts were sent then.

        An event of a scored stream becomes known now.

        Args:
            scored_rules: rules that ask for the score.
        """
        late = {f"{RULE}{name}" for name in scored_rules}
        with ExitStack() as stack:
            self._send(stack, self._scores, scores_of(scored))
            alerts = [a for a in alerts_of(scored) if a["source"] in late or not a["source"].startswith(RULE)]
            self._send(stack, self._alerts, alerts)
            self._send_events(stack, scored, now_known=True)

    def _send_events(self, stack: ExitStack, scored: pa.Table, *, now_known: bool = False) -> None:
        """Send the events of the models' scored streams, by which they are known when they were scored."""
        if f"{SCORED}known_at" not in scored.column_names:  # of no such model, or by a version before there were any
            return
        for model in pc.unique(scored["model"]).to_pylist():
            if model in self._streams:
                stream = self._streams[model]
                send = stack.enter_context(Acknowledged(self._producer, stream.topic))
                events = scored_events(scored.filter(pc.equal(scored["model"], model)), stream)
                for key, value, headers in messages(events, stream, None if now_known else 0):
                    send(key, value, tuple(headers))

    def _send(self, stack: ExitStack, topic: str, messages: list[dict[str, object]]) -> None:
        send = stack.enter_context(Acknowledged(self._producer, topic))
        for message in messages:
            send(str(message["event_id"]).encode(), json.dumps(message).encode(), ())

    def _refuse(self, stack: ExitStack, model: str, failed: pa.Table) -> None:
        topic = problems_topic(self._scores, model)
        send = stack.enter_context(Acknowledged(self._producer, dead_letter_topic(topic)))
        for decision in without_scored_fields(failed).to_pylist():
            place = topic, decision["partition"], decision["offset"]
            headers = letter_headers((), place, decision["problem"], decision["event_time"])
            send(decision["event_id"].encode(), json.dumps(decision).encode(), headers)
