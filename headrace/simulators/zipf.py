"""A load of the shop's activity for measuring: users and items by Zipf's law, ids that no other event has.

What every message has beside its id and time is made once; the two stand at its beginning, in so many bytes, and are
put before the rest when it is sent. So a small part of one processor sends tens of thousands of messages a second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import Stream
from streaming.kafka import messages

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

KINDS = {
    "view": 0.55,
    "click": 0.12,
    "impression": 0.18,
    "cart": 0.07,
    "favorite": 0.02,
    "purchase": 0.03,
    "rating": 0.02,
    "return": 0.01,
}

BOUGHT = ("cart", "purchase", "return")

SESSIONS = 3

REPEATED, BROKEN = 0.01, 0.001
"""Shares of messages with the id of an earlier one, and of unreadable messages."""

TEMPLATES, AT_ONCE, MOST_WAITING = 200_000, 2_000, 60_000

STAND_IN_ID, STAND_IN_MS = "0" * 32, 1_000_000_000_000


@dataclass(frozen=True)
class ZipfLoad:
    """The distribution of users and items, by Zipf's law of exponent 1; event types are distributed by KINDS."""

    users: int = 100_000
    items: int = 10_000
    seed: int = 7

    def events(self, count: int) -> pa.Table:
        """Events with stand-ins for their ids and times."""
        rng = np.random.default_rng(self.seed)
        user, item = zipf(rng, self.users, count), zipf(rng, self.items, count)
        kind = rng.choice(len(KINDS), count, p=list(KINDS.values()))
        named = pa.array(list(KINDS)).take(pa.array(kind))
        price = np.round(5 + rng.gamma(2.0, 15.0, self.items), 2)[item]
        bought = np.asarray(pc.is_in(named, pa.array(BOUGHT)))
        times = np.full(count, STAND_IN_MS)
        columns: dict[str, Any] = {"event_id": [STAND_IN_ID] * count, "event_time": times, "known_at": times}
        columns |= {"event_type": named, "user_id": _named("u", user), "item_id": _named("i", item)}
        columns |= {"session_id": _named("s", SESSIONS * user + rng.integers(0, SESSIONS, count))}
        columns |= {"category": _named("category ", item % 24), "price": price}
        columns["quantity"] = pa.array(np.where(_is(named, "return"), -1, 1), mask=~bought)
        columns["rating"] = pa.array(rng.integers(1, 6, count).astype(float), mask=~_is(named, "rating"))
        columns["position"] = pa.array(rng.integers(0, 20, count), mask=~_is(named, "impression"))
        return pa.table(columns)


def zipf(rng: np.random.Generator, size: int, count: int) -> Int64s:
    """Random numbers below ``size``; number r has a frequency proportional to 1 / (r + 1)."""
    mass = np.cumsum(1.0 / np.arange(1, size + 1))
    return np.asarray(np.searchsorted(mass, rng.random(count) * mass[-1]), dtype=np.int64)


def _named(letter: str, numbers: Int64s) -> pa.Array:
    return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")


def _is(kinds: pa.Array, kind: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(kinds, kind))


class Templates:
    """Messages made of prepared tails and of heads with their own ids and times."""

    def __init__(self, load: ZipfLoad, stream: Stream, count: int = TEMPLATES) -> None:
        made = list(messages(load.events(count), stream, None))
        self.keys = [key for key, _, _ in made]
        self._head = made[0][1].partition(str(STAND_IN_MS).encode())[0]
        cut = len(self._head) + len(str(STAND_IN_MS))
        self._tails = [value[cut:] for _, value, _ in made]
        self._rng = np.random.default_rng(load.seed)
        self._repeated = self._rng.bytes(16).hex().encode()

    def batch(self, first: int, count: int, now_ms: int) -> list[dict[str, bytes]]:
        """Messages ``first`` … as produce_batch() takes them, of this time; the templates go round."""
        indexes = [number % len(self._tails) for number in range(first, first + count)]
        heads = self._heads(count, now_ms)
        return [
            {"key": self.keys[index], "value": head + self._tails[index]}
            for head, index in zip(heads, indexes, strict=True)
        ]

    def _heads(self, count: int, now_ms: int) -> list[bytes]:
        ids = self._rng.bytes(16 * count).hex().encode()
        before, after = self._head.split(STAND_IN_ID.encode())
        time = after + str(now_ms).encode()
        heads = [before + ids[32 * row : 32 * row + 32] + time for row in range(count)]
        for row in np.flatnonzero(self._rng.random(count) < REPEATED).tolist():
            heads[row] = before + self._repeated + time
        for row in np.flatnonzero(self._rng.random(count) < BROKEN).tolist():
            heads[row] = b"broken" + heads[row]
        self._repeated = ids[:32]
        return heads


def send_as_allowed(
    bootstrap: str,
    client: Mapping[str, Any],
    streams: Sequence[Stream],
    allowed: Synchronized[int],
    sent: Synchronized[int],
) -> None:
    """Sends messages of the one stream, never more than ``allowed``, until that is negative; the body of a process."""
    from confluent_kafka import Producer

    from streaming.kafka import PRODUCER_OPTIONS

    (stream,) = streams
    templates = Templates(ZipfLoad(), stream)
    queue = {"queue.buffering.max.messages": 2 * MOST_WAITING, "linger.ms": 20, "batch.size": 500_000}
    producer = Producer({**PRODUCER_OPTIONS, **queue, **client, "bootstrap.servers": bootstrap})
    while allowed.value >= 0:
        count = min(allowed.value - sent.value, AT_ONCE)
        if count <= 0 or len(producer) > MOST_WAITING:
            producer.poll(0.005)
            continue
        now_ms = time.time_ns() // 1_000_000
        producer.produce_batch(stream.topic, templates.batch(sent.value, count, now_ms))
        producer.poll(0)
        sent.value += count
    producer.flush(30)
