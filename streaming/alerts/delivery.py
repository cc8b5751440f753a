"""Delivers alerts from their topic to sinks, each at its own pace, so that a sink that is down delays no other.

A delivery commits its offsets when its sink has the alerts before them. What was read and not committed is read again,
and a sink has each alert_id once: together, effectively once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.errors import HeadraceError
from features.redaction import redacted
from streaming.alerts.sinks import Alert, Sink, SinkError, read_alert
from streaming.alerts.topic import AlertTopic
from streaming.dead_letters import Acknowledged, letter_headers
from streaming.kafka import EventProducer, Record, dead_letter_topic
from streaming.supervisor import FIRST_WAIT_S, Backoff

logger = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0

END_WITHIN_S = 15.0

Log = Callable[[str], None]

Reached = Callable[[str], None]

DeliveryStatus = dict[str, Any]

Report = Callable[[Mapping[str, DeliveryStatus]], None]
"""Takes the status of each sink's delivery."""


@dataclass
class DeliveryBatch:
    """Records on their way to a sink."""

    records: list[Record]
    refused: Mapping[int, str] | None = None
    """Index → reason of the refused ones, once the sink has the others."""


class Letters:
    """Keeps alerts that a sink refuses among the dead letters of their topic, as they came.

    Args:
        producer: of the cluster that has the topic.
    """

    def __init__(self, producer: EventProducer) -> None:
        self._producer = producer

    def __call__(self, records: Sequence[Record], refused: Mapping[int, str]) -> None:
        """Send the refused ones to Kafka. Raises DeadLetterError where it did not acknowledge them all."""
        for index, reason in refused.items():
            record = records[index]
            place = record.topic, record.partition, record.offset
            headers = letter_headers(record.headers, place, reason, record.timestamp_ms)
            with Acknowledged(self._producer, dead_letter_topic(record.topic)) as send:
                send(record.key, record.value, headers)


@dataclass
class Delivery:
    """The delivery to a sink; runs in a thread, and others read its status.

    Args:
        source: the topic as the sink's group reads it.
        letters: takes the alerts that the sink refuses.
        reached: called before and after a delivery (fold/crash_points.py).
    """

    sink: Sink
    source: AlertTopic
    letters: Callable[[Sequence[Record], Mapping[int, str]], None]
    log: Log = lambda text: None
    reached: Reached = lambda effect: None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.last_delivered_ms: int | None = None
        self.last_error: DeliveryStatus | None = None
        self.state = "starting"
        self._counts: dict[str, int | None] = {"delivered": 0, "refused": 0, "expired": 0, "waiting": None}
        self._batch: DeliveryBatch | None = None
        self._backoff = Backoff()

    def run(self, stop: threading.Event) -> None:
        """Deliver until ``stop`` is set; after any failure try again, later each time."""
        while not stop.is_set():
            try:
                self.step(stop)
            except HeadraceError as error:
                stop.wait(self._failed(str(error), error))
            except Exception as error:
                logger.exception("delivery_failed sink=%s", self.sink.name)
                stop.wait(self._failed(redacted(f"{type(error).__name__}: {error}")))
            else:
                self._backoff.succeeded()
                self.state = "delivering"
        self.sink.close()
        self.source.close()
        self.state = "stopped"

    def step(self, stop: threading.Event) -> None:
        """Deliver and commit a batch, if there is one. Raises the sink's or the topic's error."""
        self._batch = self._batch or self._next_batch(stop)
        self._count()
        if self._batch is None:
            return
        batch = self._batch
        if batch.refused is None:
            self.reached("before delivery")
            batch.refused = self._delivered(batch.records)
            self.reached("after delivery")
        self.letters(batch.records, batch.refused)
        self.source.commit(batch.records, batch.refused)
        self._batch, self.last_delivered_ms = None, int(1_000 * self.clock())
        self._count()

    def _next_batch(self, stop: threading.Event) -> DeliveryBatch | None:
        records = self.source.take(self.sink.most, self.sink.linger_s, stop)
        return DeliveryBatch(records) if records else None

    def _delivered(self, records: Sequence[Record]) -> dict[int, str]:
        """Index → reason of the records that are no alerts or that the sink refused."""
        results = [read_alert(record) for record in records]
        malformed = {index: reason for index, reason in enumerate(results) if isinstance(reason, str)}
        alerts = {index: alert for index, alert in enumerate(results) if isinstance(alert, Alert)}
        indices, refused = list(alerts), self.sink.deliver(list(alerts.values())) if alerts else {}
        return malformed | {indices[number]: reason for number, reason in refused.items()}

    def _count(self) -> None:
        before, counts = self._counts["expired"] or 0, self.source.counts()
        if counts["expired"] > before:
            self.log(
                f"ALARM: {counts['expired'] - before:,} alerts to '{self.sink.name}' expired before they were delivered"
            )
        self._counts = {**counts, "waiting": self.source.waiting()}

    def _failed(self, text: str, error: HeadraceError | None = None) -> float:
        """The wait before the next attempt; the same error in a row is logged once."""
        requested_s = error.after_s if isinstance(error, SinkError) else None
        wait_s = self._backoff.next_s() if requested_s is None else max(requested_s, FIRST_WAIT_S)
        if self.state != "retrying" or self.last_error is None or self.last_error["text"] != text:
            self.log(f"alerts to '{self.sink.name}' wait: {text}")
        self.state, self.last_error = "retrying", {"text": text, "at_ms": int(1_000 * self.clock())}
        return wait_s

    def to_dict(self) -> DeliveryStatus:
        """The delivery's status as JSON values."""
        last = {"last_delivered_ms": self.last_delivered_ms, "last_error": self.last_error}
        return {"state": self.state, **self._counts, **last}


def deliver_all(deliveries: Sequence[Delivery], report: Report, stop: threading.Event) -> None:
    """Run every delivery in a thread of its own until ``stop`` is set, and report their status every second.

    A delivery that does not end in time is abandoned: the next process delivers the same again.
    """
    threads = [threading.Thread(target=each.run, args=[stop], name=each.sink.name, daemon=True) for each in deliveries]
    for thread in threads:
        thread.start()
    while not stop.wait(REPORT_EVERY_S):
        report({each.sink.name: each.to_dict() for each in deliveries})
    until = time.monotonic() + END_WITHIN_S
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
    report({each.sink.name: each.to_dict() for each in deliveries})
