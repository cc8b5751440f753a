"""A month of a simulated shop or of cards as messages, among them repeated, late, early and malformed ones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from features.definitions import Stream
from features.definitions.repo import FeatureRepo
from headrace.simulators.cards import CardSimulator
from headrace.simulators.cards_traffic import streams_of
from headrace.simulators.shop import ShopSimulator
from streaming.kafka.encoding import messages
from streaming.kafka.producer import EventProducer, known_at_header
from streaming.replay import in_time_order

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
DAYS = 33
LONG_AGO_MS = 400 * DAY_MS
"""Before the horizon of every view."""
BROKEN = (b"", b"{", b"[]", b'{"event_time": "yesterday"}', b"\xff\x00")
FOLDED, DUPLICATE, LATE, DEAD_LETTER = "folded", "duplicate", "late", "dead_letter"
SHARES = {DUPLICATE: 0.04, "repeated later": 0.02, LATE: 0.02, DEAD_LETTER: 0.03, "too early": 0.01}


@dataclass(frozen=True)
class Sent:
    """A message, and what must become of it."""

    topic: str
    key: bytes | None
    value: bytes
    known_at: int
    end: str = FOLDED


@dataclass(frozen=True)
class _Event:
    """A good event, to be told anew: the part of a stream that it is of, and its row."""

    stream: Stream
    row: pa.Table

    def told(self, known_at: int, ago_ms: int, name: str) -> Sent:
        """The event under another id and at another time."""
        times = {"event_time": known_at - ago_ms, "known_at": known_at, "event_id": name}
        row = self.row
        for column, value in times.items():
            place = row.schema.get_field_index(column)
            row = row.set_column(place, column, pa.array([value], row.schema.field(place).type))
        ((key, value, _),) = messages(row, self.stream, 0)
        return Sent(self.stream.topic, key, value, known_at)


def traffic(domain: str, repo: FeatureRepo, until_ms: int, seed: int) -> list[Sent]:
    """All of it, in the order in which it is sent; known before ``until_ms``."""
    streams, tables = SIMULATED[domain](repo, until_ms, seed)
    rng = np.random.default_rng(seed)
    (batch,) = _whole(in_time_order(iter(tables), streams, 0))
    return list(_mixed(rng, batch, dict(_events(streams, tables)), until_ms))


def _shop(repo: FeatureRepo, until_ms: int, seed: int) -> tuple[Mapping[str, Stream], list[tuple[str, pa.Table]]]:
    """Ordinary days, and a last one on which much happens."""
    shop = ShopSimulator(seed % 1_000, users=120, items=60)
    last = until_ms - DAY_MS
    catalogue = ("catalogue", shop.catalogue(until_ms - DAYS * DAY_MS))
    days = [shop.history(DAYS - 1, last, 0.6), shop.history(0.9, until_ms - 2 * HOUR_MS, 22)]
    return repo.streams, [catalogue, *(("activity", one) for one in days)]


def _cards(repo: FeatureRepo, until_ms: int, seed: int) -> tuple[Mapping[str, Stream], list[tuple[str, pa.Table]]]:
    cards = CardSimulator(seed % 1_000, customers=120, terminals=60)
    blocks = [*cards.history(DAYS + 7, until_ms - DAY_MS, 0.6), *cards.history(0.9, until_ms - 2 * HOUR_MS, 22)]
    return streams_of(repo), [(name, table) for block in blocks for name, table in block.items() if table.num_rows]


SIMULATED = {"shop": _shop, "cards": _cards}


def _whole(batches: Iterable[Any]) -> Iterator[list[Sent]]:
    """All good messages, with the times of their headers."""
    yield [
        Sent(topic, key, value, int(headers[0][1]))
        for batch in batches
        for topic, (key, value, headers) in batch.messages
    ]


def _events(
    streams: Mapping[str, Stream], tables: Iterable[tuple[str, pa.Table]]
) -> Iterator[tuple[tuple[str, bytes], _Event]]:
    """Each event by its message."""
    for name, table in tables:
        for row, (_, value, _) in enumerate(messages(table, streams[name], 0)):
            yield (streams[name].topic, value), _Event(streams[name], table.slice(row, 1))


def _mixed(
    rng: np.random.Generator, good: Sequence[Sent], events: Mapping[tuple[str, bytes], _Event], until_ms: int
) -> Iterator[Sent]:
    """The good ones, each followed by what its lot is."""
    lots = rng.choice(["", *SHARES], len(good), p=[1 - sum(SHARES.values()), *SHARES.values()])
    for number, (one, lot) in enumerate(zip(good, lots.tolist(), strict=True)):
        yield one
        event = events[one.topic, one.value]
        if lot == DUPLICATE:
            yield replace(one, known_at=one.known_at + int(rng.integers(0, HOUR_MS + 1)), end=DUPLICATE)
        elif lot == "repeated later" and one.known_at + HOUR_MS < until_ms:
            yield replace(one, known_at=one.known_at + HOUR_MS + 1)
        elif lot == LATE:
            yield replace(event.told(one.known_at, LONG_AGO_MS, f"late-{number}"), end=LATE)
        elif lot == "too early":
            yield replace(event.told(one.known_at, -HOUR_MS, f"early-{number}"), end=DEAD_LETTER)
        elif lot == DEAD_LETTER:
            yield replace(one, value=BROKEN[number % len(BROKEN)], end=DEAD_LETTER)


class Sending:
    """Sends messages from a thread of its own, never more than were released, not faster than ``per_s``."""

    def __init__(self, bootstrap: str, sent: Sequence[Sent], per_s: float) -> None:
        self.sent, self._answered, self.errors = sent, list[tuple[str, bytes]](), list[str]()
        self._producer = EventProducer(bootstrap)
        self._pause_s, self._hurry = 1 / per_s, threading.Event()
        self._released, self._turn = 0, threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def release(self, count: int) -> None:
        """So many more may be sent."""
        with self._turn:
            self._released += count
            self._turn.notify()

    def _run(self) -> None:
        for number, one in enumerate(self.sent):
            with self._turn:
                self._turn.wait_for(lambda number=number: self._released > number)
            self._producer.send(one.topic, one.key, one.value, [known_at_header(one.known_at)], self._on_ack)
            self._hurry.wait(self._pause_s)

    def _on_ack(self, error: Any, message: Any) -> None:
        if error is None:
            self._answered.append((message.topic(), message.value() or b""))
        else:
            self.errors.append(str(error))

    def is_answered(self) -> bool:
        """Whether all that was released has been acknowledged, or refused."""
        self._producer.poll(0)
        return len(self._answered) + len(self.errors) >= min(self._released, len(self.sent))

    def acknowledged(self) -> Counter[tuple[str, bytes]]:
        """Topic and bytes of each message that the broker has, and how often it said so."""
        return Counter(self._answered)

    def finish(self) -> None:
        """All are sent and answered."""
        self._hurry.set()
        self.release(len(self.sent))
        self._thread.join(120)
        assert self._producer.flush(120) == 0
