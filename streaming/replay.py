"""Sends the events of a file to the topics of their streams, in order, at a chosen speed.

``max`` sends in the file's order, however large the file. A number plays events by when they became known, that many
times faster than they did, all streams of the file by one clock; for that it holds the file's events in memory.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.arrays import Int64s
from features.definitions import Stream
from features.errors import HeadraceError, UsageError
from features.events import Parsed, Verdict
from features.events.avro import SchemaRegistry
from streaming.kafka import Headers, Message, OnAck, messages

Events = Iterable[tuple[str, Parsed]]

Tables = Iterator[tuple[str, pa.Table]]

SLICE = 1_000
"""Messages between two checks for a stop."""

MERGED_ROWS = 8_192

LONGEST_WAIT_S = 0.1

FLUSH_S = 60.0


class Sender(Protocol):
    """The part of a producer that a replay uses."""

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers, on_ack: OnAck) -> None:
        """Queue the message, and call ``on_ack(error or None, message)`` once the broker has answered or timed out."""

    def poll(self, timeout_s: float) -> int:
        """Wait at most ``timeout_s`` for answers, and hand them to their ``on_ack``."""

    def flush(self, timeout_s: float) -> int:
        """Wait at most ``timeout_s`` for all answers; returns the number of missing ones."""


@dataclass
class Tally:
    """Running counts of the messages by their end."""

    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    failed: int = 0
    unknown: int = 0
    first_error: str = ""

    def ack(self, error: object, _message: object) -> None:
        """Count an answer of the broker."""
        if error is None:
            self.acknowledged += 1
            return
        self.failed += 1
        self.first_error = self.first_error or str(error)

    def check(self, where: str) -> None:
        """Raise HeadraceError unless the broker has acknowledged every message."""
        if self.failed or self.unknown:
            got = f"{self.acknowledged:,} acknowledged, {self.failed:,} refused, {self.unknown:,} without an answer"
            reason = f" ({self.first_error})" if self.first_error else ""
            next_step = "Send it again: event ids ensure that none counts twice."
            raise HeadraceError(where, f"all {self.sent.total():,} messages acknowledged", got + reason, next_step)


Report = Callable[[Tally], None]


class Stop:
    """A request to stop, which a signal handler may set: unlike threading.Event, setting it takes no lock."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, *_: object) -> None:
        """Stop at the next check; a second request stops at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Pace:
    """The stream's clock while it plays: ``origin_ms`` when made, and then ``speed`` times as fast as the wall's."""

    def __init__(self, origin_ms: int, speed: float) -> None:
        self.origin_ms, self.speed = origin_ms, speed
        self._started_s = time.monotonic()

    def now_ms(self) -> int:
        """The stream's time."""
        return self.origin_ms + int((time.monotonic() - self._started_s) * 1_000 * self.speed)

    def left_s(self, due_ms: int) -> float:
        """Wall-clock time until the stream's clock reaches ``due_ms``."""
        return (due_ms - self.now_ms()) / 1_000 / self.speed


@dataclass(frozen=True)
class TimedMessages:
    """Messages in order, each with its topic, and their due times by the stream's clock."""

    due_ms: Int64s
    messages: Iterator[tuple[str, Message]]


def limited(read: Events, limit: int | None, refused: Counter[str]) -> Tables:
    """(stream, its events), ``limit`` events at most; dead letters are counted by the code of their reason."""
    left = limit
    for name, parsed in read:
        dead = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
        refused.update(str(parsed.reasons[row].as_py()).partition(":")[0] for row in dead.tolist())
        events = parsed.events if left is None else parsed.events.slice(0, left)
        left = None if left is None else left - events.num_rows
        if events.num_rows:
            yield name, events
        if left == 0:
            return


def newest_ms(tables: Tables) -> int | None:
    """The latest known_at of the events; None without events."""
    return max((int(_known_at(events).max()) for _, events in tables), default=None)


def in_file_order(
    tables: Tables, streams: Mapping[str, Stream], shift_ms: int | None, registry: SchemaRegistry | None = None
) -> Iterator[TimedMessages]:
    """The events as they come; each table is a batch."""
    for name, events in tables:
        written = messages(events, streams[name], shift_ms, registry)
        yield TimedMessages(_known_at(events) + (shift_ms or 0), zip(repeat(streams[name].topic), written))


def in_time_order(
    tables: Tables, streams: Mapping[str, Stream], shift_ms: int | None, registry: SchemaRegistry | None = None
) -> Iterator[TimedMessages]:
    """All events by known_at, then in the file's order."""
    parts: dict[str, list[pa.Table]] = {}
    for name, events in tables:
        parts.setdefault(name, []).append(events)
    events_of = {name: pa.concat_tables(tables) for name, tables in parts.items()}
    if not events_of:
        return
    times = np.concatenate([_known_at(events) for events in events_of.values()])
    stream_of = np.repeat(np.arange(len(events_of)), [events.num_rows for events in events_of.values()])
    row_of = np.concatenate([np.arange(events.num_rows) for events in events_of.values()])
    order = np.argsort(times, kind="stable")
    for start in range(0, len(order), MERGED_ROWS):
        picked = order[start : start + MERGED_ROWS]
        merged: list[tuple[str, Message]] = [("", (b"", b"", []))] * len(picked)
        for number, (name, events) in enumerate(events_of.items()):
            positions = np.flatnonzero(stream_of[picked] == number)
            rows = events.take(pa.array(row_of[picked[positions]]))
            written = messages(rows, streams[name], shift_ms, registry)
            for position, message in zip(positions.tolist(), written, strict=True):
                merged[position] = (streams[name].topic, message)
        yield TimedMessages(times[picked] + (shift_ms or 0), iter(merged))


def _known_at(events: pa.Table) -> Int64s:
    return np.asarray(events["known_at"], dtype=np.int64)


def send_all(
    batches: Iterable[TimedMessages],
    sender: Sender,
    stop: Stop,
    tally: Tally,
    speed: float | None,
    origin_ms: int | None = None,
    report: Report = lambda _: None,
) -> None:
    """Send every message until a stop, and count the answers to those that were sent.

    Args:
        batches: in order.
        sender: the producer.
        stop: checked often.
        tally: counts the messages.
        speed: the stream's clock against wall-clock time; None for no waiting.
        origin_ms: the stream's time at the start; None: when the first message is due.
        report: called with the tally now and then.
    """
    pace = None if speed is None or origin_ms is None else Pace(origin_ms, speed)
    for batch in batches:
        if speed is not None and pace is None and len(batch.due_ms):
            pace = Pace(int(batch.due_ms[0]), speed)
        _send(batch, sender, stop, tally, pace, report)
        if stop.requested:
            break
    tally.unknown = _flush(sender)


def _send(batch: TimedMessages, sender: Sender, stop: Stop, tally: Tally, pace: Pace | None, report: Report) -> None:
    position, size = 0, len(batch.due_ms)
    while position < size and not stop.requested:
        ready = min(position + SLICE, size)
        if pace is not None:
            ready = min(ready, int(np.searchsorted(batch.due_ms, pace.now_ms(), side="right")))
        for topic, (key, value, headers) in islice(batch.messages, max(ready - position, 0)):
            sender.send(topic, key, value, headers, tally.ack)
            tally.sent[topic] += 1
        position = max(position, ready)
        report(tally)
        if pace is not None and position < size:
            _wait_until(int(batch.due_ms[position]), pace, sender, stop)


def _flush(sender: Sender) -> int:
    """Wait for all answers in short steps, so that a second Ctrl-C ends it; returns the number of missing ones."""
    give_up_s = time.monotonic() + FLUSH_S
    while (missing := sender.flush(LONGEST_WAIT_S)) and time.monotonic() < give_up_s:
        pass
    return missing


def _wait_until(due_ms: int, pace: Pace, sender: Sender, stop: Stop) -> None:
    """Return at ``due_ms`` by the stream's clock, or soon after a stop; answers are taken meanwhile."""
    while not stop.requested and (left_s := pace.left_s(due_ms)) > 0:
        sender.poll(min(left_s, LONGEST_WAIT_S))


def speed_of(text: str) -> float | None:
    """'max' → None, a number above 0 → itself. Raises UsageError for anything else."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UsageError("--speed", "'max' or a number above 0, such as 1 or 60", repr(text))
    return speed
