"""Alerts taken from their topic to sinks: each sink at its own pace, so that one that is down holds up no other.

A delivery commits its place in the topic when its sink has the alerts before it. What was taken and not committed is
taken again, and a sink has each alert_id once: together, exactly once as seen.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.errors import HeadraceError
from streaming.alerts.sinks import Alert, Sink, SinkError, read_alert
from streaming.alerts.topic import AlertTopic
from streaming.dead_letters import Acknowledged, letter_headers
from streaming.kafka import EventProducer, Record, dead_letter_topic
from streaming.supervisor import FIRST_WAIT_S, Backoff

logger = logging.getLogger(__name__)

TELL_EVERY_S = 1.0

END_WITHIN_S = 15.0

Log = Callable[[str], None]

Reached = Callable[[str], None]

Told = dict[str, Any]

Tell = Callable[[Mapping[str, Told]], None]


@dataclass
class Batch:
    """Records on their way to a sink, and how far they are."""

    records: list[Record]
    refused: Mapping[int, str] | None = None
    """Place → reason, once the sink has the others."""


class Letters:
    """Keeps alerts that a sink refuses among the dead letters of their topic, as they came.

    Args:
        producer: of the cluster that has the topic.
    """

    def __init__(self, producer: EventProducer) -> None:
        self._producer = producer

    def __call__(self, records: Sequence[Record], refused: Mapping[int, str]) -> None:
        """Kafka has the refused ones. Raises DeadLetterError where it did not acknowledge them all."""
        for place, reason in refused.items():
            one = records[place]
            headers = letter_headers(one.headers, (one.topic, one.partition, one.offset), reason, one.timestamp_ms)
            with Acknowledged(self._producer, dead_letter_topic(one.topic)) as send:
                send(one.key, one.value, headers)


@dataclass
class Delivery:
    """One sink and its place in the topic; run by one thread, told of by others.

    Args:
        source: the topic as the sink's group reads it.
        letters: takes what the sink refuses.
        reached: told of the moments at which a test may end the process.
    """

    sink: Sink
    source: AlertTopic
    letters: Callable[[Sequence[Record], Mapping[int, str]], None]
    log: Log = lambda text: None
    reached: Reached = lambda place: None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.last_delivered_ms: int | None = None
        self.last_error: Told | None = None
        self.state = "starting"
        self._counts: dict[str, int | None] = {"delivered": 0, "refused": 0, "waiting": None}
        self._batch: Batch | None = None
        self._backoff = Backoff()

    def run(self, stop: threading.Event) -> None:
        """Delivers until ``stop`` is set; whatever a sink does, it is tried again, later each time."""
        while not stop.is_set():
            try:
                self.step(stop)
            except HeadraceError as error:
                stop.wait(self._failed(str(error), error))
            except Exception as error:
                logger.exception("delivery_failed sink=%s", self.sink.name)
                stop.wait(self._failed(f"{type(error).__name__}: {error}"))
            else:
                self._backoff.succeeded()
                self.state = "delivering"
        self.sink.close()
        self.source.close()
        self.state = "stopped"

    def step(self, stop: threading.Event) -> None:
        """A batch is in the sink and behind the committed place; or nothing came. Raises what stands in its way."""
        self._batch = self._batch or self._taken(stop)
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

    def _taken(self, stop: threading.Event) -> Batch | None:
        records = self.source.take(self.sink.most, self.sink.linger_s, stop)
        return Batch(records) if records else None

    def _delivered(self, records: Sequence[Record]) -> dict[int, str]:
        """Place → reason of the records that the sink has not, as they are no alerts or were refused."""
        read = [read_alert(one) for one in records]
        refused = {place: one for place, one in enumerate(read) if isinstance(one, str)}
        alerts = {place: one for place, one in enumerate(read) if isinstance(one, Alert)}
        places, found = list(alerts), self.sink.deliver(list(alerts.values())) if alerts else {}
        return refused | {places[number]: reason for number, reason in found.items()}

    def _count(self) -> None:
        self._counts = {**self.source.counts(), "waiting": self.source.waiting()}

    def _failed(self, text: str, error: HeadraceError | None = None) -> float:
        """How long to wait before it is tried again; it is said once where it is the same again."""
        asked_s = error.after_s if isinstance(error, SinkError) else None
        wait_s = self._backoff.next_s() if asked_s is None else max(asked_s, FIRST_WAIT_S)
        if self.state != "retrying" or self.last_error is None or self.last_error["text"] != text:
            self.log(f"alerts to '{self.sink.name}' wait: {text}")
        self.state, self.last_error = "retrying", {"text": text, "at_ms": int(1_000 * self.clock())}
        return wait_s

    def told(self) -> Told:
        """How it is doing."""
        last = {"last_delivered_ms": self.last_delivered_ms, "last_error": self.last_error}
        return {"state": self.state, **self._counts, **last}


def deliver_all(deliveries: Sequence[Delivery], tell: Tell, stop: threading.Event) -> None:
    """Every delivery runs in a thread of its own until ``stop`` is set; how they do is told every second.

    What does not end in time then is left behind: it is delivered again by the next process.
    """
    threads = [threading.Thread(target=one.run, args=[stop], name=one.sink.name, daemon=True) for one in deliveries]
    for thread in threads:
        thread.start()
    while not stop.wait(TELL_EVERY_S):
        tell({one.sink.name: one.told() for one in deliveries})
    until = time.monotonic() + END_WITHIN_S
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
    tell({one.sink.name: one.told() for one in deliveries})
