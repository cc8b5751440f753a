"""`headrace bench alerts`: the age of an event when its alert can be read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.report import bench_report, write_report
from headrace.console import JSON, say
from headrace.loop import Loop, LoopError

if TYPE_CHECKING:
    from features.definitions import Stream
    from streaming.kafka import Record

MODEL, SEED, CUSTOMERS, TERMINALS = "cards", 7, 500, 400

HISTORY_DAYS = 60

WARM_UP_S, LEAST = 15, 50

STARTED_WITHIN_S, TRAINED_WITHIN_S, SEEN_WITHIN_S = 180.0, 120.0, 30.0

RecordId = tuple[str, int, int]
"""Topic, partition and offset."""


@click.command("alerts")
@click.option("--rate", default=200, show_default=True, type=click.IntRange(10, 2_000), help="Payments a second.")
@click.option(
    "--seconds", default=60, show_default=True, type=click.IntRange(20, 300), help="How long, after the warm-up."
)
@JSON
def alerts_bench(rate: int, seconds: int, as_json: bool) -> None:
    """Time from Kafka's acknowledgement of a payment until its alert can be read; exit 1 where one does not come.

    A broker, a registry and a stream of its own run in a folder of their own, with the project's settings and
    definitions, and end with it. The model is trained on two simulated months, as `headrace train cards` does; a
    consumer of the topic of alerts says when each came.

    \b
    Examples:
      headrace bench alerts
      headrace bench alerts --rate 500 --seconds 120 --json
    """
    from headrace.bench.loop.running import own_loop

    with own_loop("bench alerts") as loop:
        figures = AlertAges(loop).measure(rate, seconds)
    write_report(bench_report("alerts", figures), as_json, details)


class AlertAges:
    """Simulated payments through a loop, and the ages of their alerts when a consumer reads them."""

    def __init__(self, loop: Loop) -> None:
        from features.definitions import load_repo
        from headrace.simulators import CardSimulator, streams_of

        repo = load_repo(loop.repo)
        self.loop, self.streams = loop, streams_of(repo)
        self.stream = repo.models[MODEL].stream
        self.cards = CardSimulator(SEED, CUSTOMERS, TERMINALS)
        self.acknowledged: dict[RecordId, float] = {}
        self.read: dict[str, tuple[RecordId, float]] = {}

    def measure(self, rate: int, seconds: int) -> dict[str, Any]:
        """The figures of so many seconds, once the loop is warm and has a champion.

        Raises:
            LoopError: a part of the loop ends; the model is no champion; an alert does not come.
        """
        say("starting a broker and the stream")
        self.loop.start_broker()
        self.loop.start("stream", "stream")
        self._train()
        say(f"warming up for {WARM_UP_S} s")
        self._send(rate, WARM_UP_S)
        self.acknowledged.clear()
        say(f"measuring {seconds} s at {rate} payments/s")
        stop = threading.Event()
        with ThreadPoolExecutor(1, "alerts") as threads:
            reader = threads.submit(self._follow, stop)
            try:
                sent, took_s = self._send(rate, seconds)
                self._drained()
            finally:
                stop.set()
            reader.result()
        return self._figures(sent, took_s)

    def _train(self) -> None:
        """The champion is trained on two months of payments, which the stream has folded and archived."""
        from headrace.simulators import cards_traffic

        now = time.time_ns() // 1_000_000
        past = cards_traffic.Past(self.cards, self.streams, HISTORY_DAYS, now)
        say(f"{HISTORY_DAYS} days of payments before, and a model of them")
        sent, _ = self._sent(past.batches(), None, None)
        self.loop.wait("the stream", lambda: self.loop.has_counted(sent), STARTED_WITHIN_S)
        self.loop.wait("the archive", self._archived, STARTED_WITHIN_S)
        report = json.loads(self.loop.run("train", "train", MODEL, "--json"))
        if not report["promoted"]:
            raise LoopError(f"model '{MODEL}'", "to be the champion", report["reason"])

    def _archived(self) -> bool:
        queries = self.loop.status().get("queries", {})
        return bool(queries) and queries["archive"]["end"] == queries["fold"]["end"]

    def _drained(self) -> None:
        """The stream has folded, and so has sent the alerts of, everything that was acknowledged."""
        ends: dict[str, int] = {}
        for topic, partition, offset in self.acknowledged:
            key = f"{topic}/{partition}"
            ends[key] = max(ends.get(key, 0), offset + 1)

        def done() -> bool:
            at = self.loop.status().get("queries", {}).get("fold", {}).get("end", {})
            return all(at.get(key, 0) >= end for key, end in ends.items())

        self.loop.wait("all payments", done, SEEN_WITHIN_S)
        time.sleep(1.0)  # what the consumer has not fetched yet

    def _send(self, rate: int, seconds: int) -> tuple[int, float]:
        from headrace.simulators import cards_traffic

        now = time.time_ns() // 1_000_000
        start = now + 1_000 + rate * seconds // 50  # made beforehand: acknowledgements are read at once
        blocks = list(self.cards.live(start, float(rate), start + 1_000 * seconds))
        time.sleep(max(start - time.time_ns() // 1_000_000, 0) / 1_000)
        return self._sent(cards_traffic.live(blocks, self.streams), 1.0, time.time_ns() // 1_000_000)

    def _sent(self, batches: Any, speed: float | None, origin_ms: int | None) -> tuple[int, float]:
        from streaming.kafka import EventProducer
        from streaming.replay import Stop, Tally, send_all

        producer = EventProducer(self.loop.bootstrap, self.loop.settings.kafka.client)
        tally, began = Tally(), time.monotonic()
        sender = _Watched(producer, self.acknowledged)
        send_all(batches, sender, Stop(), tally, speed, origin_ms, lambda _: self.loop.check())
        tally.check("bench alerts")
        return tally.acknowledged, time.monotonic() - began

    def _follow(self, stop: threading.Event) -> None:
        from streaming.kafka import follow_topic

        settings = self.loop.settings
        topic, client = settings.stream.alerts_topic, settings.kafka.client
        for record in follow_topic(self.loop.bootstrap, topic, float("inf"), client, going=lambda: not stop.is_set()):
            self._note(record)

    def _note(self, record: Record) -> None:
        now, alert = time.monotonic(), json.loads(record.value or b"{}")
        self.read.setdefault(alert["alert_id"], (record_of(alert["event"], self.stream), now))

    def _figures(self, sent: int, took_s: float) -> dict[str, Any]:
        from streaming.fold import ages_of

        known = [(record, at) for record, at in self.read.values() if record in self.acknowledged]
        if len(known) < LEAST:
            raise LoopError("bench alerts", f"{LEAST} alerts to measure", str(len(known)), "Let --seconds be more.")
        ages = [1e3 * (at - self.acknowledged[record]) for record, at in known]
        by_model = sum(1 for name in self.read if name.rpartition("/")[2].startswith("model:"))
        traffic = {"sent": sent, "rate": round(sent / took_s, 1), "seconds": round(took_s, 1)}
        return {**ages_of(ages), "alerts": len(known), "by_model": by_model, **traffic}


def record_of(event: Mapping[str, Any], stream: Stream) -> RecordId:
    """The record of an alert's event."""
    from features.definitions import PARTITIONS_OF_A_TOPIC

    topic, partition = divmod(event["partition"], PARTITIONS_OF_A_TOPIC)
    return stream.topics[topic], partition, event["offset"]


class _Watched:
    """A producer that notes the time of each message's acknowledgement as it arrives."""

    def __init__(self, producer: Any, acknowledged: dict[RecordId, float]) -> None:
        self._producer, self._acknowledged = producer, acknowledged
        self.poll, self.flush = producer.poll, producer.flush

    def send(self, topic: str, key: bytes, value: bytes, headers: Any, on_ack: Any) -> None:
        """Send it."""

        def acknowledge(error: Any, message: Any) -> None:
            if error is None:
                self._acknowledged[message.topic(), message.partition(), message.offset()] = time.monotonic()
            on_ack(error, message)

        self._producer.send(topic, key, value, headers, acknowledge)


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    ours = report["ours"]
    return [
        ("alerts", f"p50 {ours['p50_ms']:,.0f} ms, p99 {ours['p99_ms']:,.0f} ms, largest {ours['max_ms']:,.0f} ms"),
        ("", f"from acknowledgement to reading it, {ours['alerts']:,} alerts ({ours['by_model']:,} by the model)"),
        ("traffic", f"{ours['rate']:,.0f} payments/s for {ours['seconds']:.0f} s, {ours['sent']:,} in all"),
    ]
