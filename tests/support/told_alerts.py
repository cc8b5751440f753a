"""Alerts of made-up decisions, in the form in which the stream sends them, and their topic."""

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
    """``count`` alerts, alternately of a model and of a rule."""
    reasons = json.dumps([{"feature": "amount", "value": 250.5, "usual": None, "effect": 0.25}])
    decisions = [
        {
            "stream": "transactions",
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
            "event": json.dumps(
                {"event_id": f"t-{number}", "known_at": NOON_MS, "amount": 250.5, "place": "Käse 'n' \"Brot\" \\ 日本"}
            ),
            "problem": None,
        }
        for number in range(first, first + count)
    ]
    return alerts_of(pa.Table.from_pylist(decisions, DECISIONS))


def ids(alerts: Iterable[dict[str, Any]]) -> list[str]:
    return [alert["alert_id"] for alert in alerts]


def as_read(alerts: Sequence[dict[str, Any]], topic: str = "alerts") -> list[Alert]:
    """The alerts in the form in which a sink receives them."""
    messages = [json.dumps(alert).encode() for alert in alerts]
    records = [Record(topic, 0, offset, NOON_MS, b"", message, ()) for offset, message in enumerate(messages)]
    read = [read_alert(record) for record in records]
    assert all(isinstance(alert, Alert) for alert in read), read
    return [alert for alert in read if isinstance(alert, Alert)]


def send(producer: EventProducer, topic: str, alerts: Iterable[dict[str, Any] | bytes]) -> None:
    """Sends the alerts to the topic, keyed by event as the stream does, and waits for their acknowledgement."""
    for alert in alerts:
        if isinstance(alert, bytes):
            producer.send(topic, None, alert)
        else:
            producer.send(topic, alert["event_id"].encode(), json.dumps(alert).encode())
    assert producer.flush() == 0
