"""A month of messages of a simulated shop or of cards; some are repeated, late, early or malformed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from kafka_headers import known_at_header

from features.definitions import Stream
from features.definitions.repo import FeatureRepo
from headrace.simulators.cards import CardSimulator
from headrace.simulators.cards_traffic import streams_of
from headrace.simulators.shop import ShopSimulator
from streaming.kafka.encoding import messages
from streaming.kafka.producer import EventProducer
from streaming.replay import in_time_order

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
DAYS = 33
LONG_AGO_MS = 400 * DAY_MS
"""An age beyond the horizon of every view."""
BROKEN = (b"", b"{", b"[]", b'{"event_time": "yesterday"}', b"\xff\x00")
FOLDED, DUPLICATE, LATE, DEAD_LETTER = "folded", "duplicate", "late", "dead_letter"
SHARES = {DUPLICATE: 0.04, "repeated later": 0.02, LATE: 0.02, DEAD_LETTER: 0.03, "too early": 0.01}


@dataclass(frozen=True)
class Sent:
    """A message, and the verdict that it must get (``end``)."""

    topic: str
    key: bytes | None
    value: bytes
    known_at: int
    end: str = FOLDED


@dataclass(frozen=True)
class _Event:
    """A valid event that can be sent again: its stream, or the part of it with its topic, and its row."""

    stream: Stream
    row: pa.Table

    def resent(self, known_at: int, ago_ms: int, name: str) -> Sent:
        """The event with another id and other times."""
        times = {"event_time": known_at - ago_ms, "known_at": known_at, "event_id": name}
        row = self.row
        for column, value in times.items():
            index = row.schema.get_field_index(column)
            row = row.set_column(index, column, pa.array([value], row.schema.field(index).type))
        ((key, value, _),) = messages(row, self.stream, 0)
        return Sent(self.stream.topic, key, value, known_at)


def traffic(domain: str, repo: FeatureRepo, until_ms: int, seed: int) -> list[Sent]:
    """All messages in the order in which they are sent; each is known before ``until_ms``."""
    streams, tables = SIMULATED[domain](repo, until_ms, seed)
    rng = np.random.default_rng(seed)
    (batch,) = _whole(in_time_order(iter(tables), streams, 0))
    return list(_mixed(rng, batch, dict(_events(streams, tables)), until_ms))


def _shop(repo: FeatureRepo, until_ms: int, seed: int) -> tuple[Mapping[str, Stream], list[tuple[str, pa.Table]]]:
    """Ordinary days, and a busy last day."""
    shop = ShopSimulator(seed % 1_000, users=120, items=60)
    last = until_ms - DAY_MS
    catalogue = ("catalogue", shop.catalogue(until_ms - DAYS * DAY_MS))
    days = [shop.history(DAYS - 1, last, 0.6), shop.history(0.9, until_ms - 2 * HOUR_MS, 22)]
    return repo.streams, [catalogue, *(("activity", table) for table in days)]


def _cards(repo: FeatureRepo, until_ms: int, seed: int) -> tuple[Mapping[str, Stream], list[tuple[str, pa.Table]]]:
    cards = CardSimulator(seed % 1_000, customers=120, terminals=60)
    blocks = [*cards.history(DAYS + 7, until_ms - DAY_MS, 0.6), *cards.history(0.9, until_ms - 2 * HOUR_MS, 22)]
    return streams_of(repo), [(name, table) for block in blocks for name, table in block.items() if table.num_rows]


SIMULATED = {"shop": _shop, "cards": _cards}


def _whole(batches: Iterable[Any]) -> Iterator[list[Sent]]:
    """All valid messages, with the times of their headers."""
    yield [
        Sent(topic, key, value, int(headers[0][1]))
        for batch in batches
        for topic, (key, value, headers) in batch.messages
    ]


def _events(
    streams: Mapping[str, Stream], tables: Iterable[tuple[str, pa.Table]]
) -> Iterator[tuple[tuple[str, bytes], _Event]]:
    """Pairs of (topic, message) and the event of the message."""
    for name, table in tables:
        for row, (_, value, _) in enumerate(messages(table, streams[name], 0)):
            yield (streams[name].topic, value), _Event(streams[name], table.slice(row, 1))


def _mixed(
    rng: np.random.Generator, good: Sequence[Sent], events: Mapping[tuple[str, bytes], _Event], until_ms: int
) -> Iterator[Sent]:
    """The valid messages, each followed by the variant that was drawn for it, if any."""
    variants = rng.choice(["", *SHARES], len(good), p=[1 - sum(SHARES.values()), *SHARES.values()])
    for number, (message, variant) in enumerate(zip(good, variants.tolist(), strict=True)):
        yield message
        event = events[message.topic, message.value]
        if variant == DUPLICATE:
            yield replace(message, known_at=message.known_at + int(rng.integers(0, HOUR_MS + 1)), end=DUPLICATE)
        elif variant == "repeated later" and message.known_at + HOUR_MS < until_ms:
            yield replace(message, known_at=message.known_at + HOUR_MS + 1)
        elif variant == LATE:
            yield replace(event.resent(message.known_at, LONG_AGO_MS, f"late-{number}"), end=LATE)
        elif variant == "too early":
            yield replace(event.resent(message.known_at, -HOUR_MS, f"early-{number}"), end=DEAD_LETTER)
        elif variant == DEAD_LETTER:
            yield replace(message, value=BROKEN[number % len(BROKEN)], end=DEAD_LETTER)


class Sending:
    """Sends messages from a thread, at most as many as were released, at most ``per_s`` a second."""

    def __init__(self, bootstrap: str, sent: Sequence[Sent], per_s: float) -> None:
        self.sent, self._answered, self.errors = sent, list[tuple[str, bytes]](), list[str]()
        self._producer = EventProducer(bootstrap)
        self._pause_s, self._hurry = 1 / per_s, threading.Event()
        self._released, self._changed = 0, threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def release(self, count: int) -> None:
        """Allows ``count`` more messages to be sent."""
        with self._changed:
            self._released += count
            self._changed.notify()

    def _run(self) -> None:
        for number, message in enumerate(self.sent):
            with self._changed:
                self._changed.wait_for(lambda number=number: self._released > number)
            headers = [known_at_header(message.known_at)]
            self._producer.send(message.topic, message.key, message.value, headers, self._on_ack)
            self._hurry.wait(self._pause_s)

    def _on_ack(self, error: Any, message: Any) -> None:
        if error is None:
            self._answered.append((message.topic(), message.value() or b""))
        else:
            self.errors.append(str(error))

    def is_answered(self) -> bool:
        """True if every released message has been acknowledged or refused."""
        self._producer.poll(0)
        return len(self._answered) + len(self.errors) >= min(self._released, len(self.sent))

    def acknowledged(self) -> Counter[tuple[str, bytes]]:
        """(topic, bytes) of each message → the number of its acknowledgements."""
        return Counter(self._answered)

    def finish(self) -> None:
        """Sends all remaining messages and waits for their acknowledgements."""
        self._hurry.set()
        self.release(len(self.sent))
        self._thread.join(120)
        assert self._producer.flush(120) == 0
