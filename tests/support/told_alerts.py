"""Alerts as the stream tells them, of decisions made up by hand, and the topic that they stand in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from models.event_model.decisions import DECISIONS, alerts_of
from streaming.alerts.sinks.port import Alert, read_alert
from streaming.kafka.consumer import Record
from streaming.kafka.producer import EventProducer

NOON_MS = 1_750_000_000_123


def told(count: int, first: int = 0) -> list[dict[str, Any]]:
    """So many alerts: in turn a model's, and a rule's."""
    reasons = json.dumps([{"feature": "amount", "value": 250.5, "usual": None, "effect": 0.25}])
    decisions = [
        {
            "event_id": f"t-{number}",
            "event_time": NOON_MS + 1_000 * number,
            "partition": 0,
            "offset": number,
            "model": "cards",
            "version": "3",
            "score": 0.1 if number % 2 else 0.9,
            "threshold": 0.5,
            "rules": ["velocity"] if number % 2 else [],
            "reasons": None if number % 2 else reasons,
            "event": json.dumps({"event_id": f"t-{number}", "amount": 250.5, "place": "Käse 'n' \"Brot\" \\ 日本"}),
            "problem": None,
        }
        for number in range(first, first + count)
    ]
    return alerts_of(pa.Table.from_pylist(decisions, DECISIONS))


def ids(alerts: Iterable[dict[str, Any]]) -> list[str]:
    return [one["alert_id"] for one in alerts]


def as_read(alerts: Sequence[dict[str, Any]], topic: str = "alerts") -> list[Alert]:
    """The alerts as a sink is given them."""
    records = (Record(topic, 0, place, NOON_MS, b"", json.dumps(one).encode(), ()) for place, one in enumerate(alerts))
    read = [read_alert(one) for one in records]
    assert all(isinstance(one, Alert) for one in read), read
    return [one for one in read if isinstance(one, Alert)]


def send(producer: EventProducer, topic: str, alerts: Iterable[dict[str, Any] | bytes]) -> None:
    """The topic has them, keyed by event as the stream keys them."""
    for one in alerts:
        if isinstance(one, bytes):
            producer.send(topic, None, one)
        else:
            producer.send(topic, one["event_id"].encode(), json.dumps(one).encode())
    assert producer.flush() == 0
