"""Events of a file → the topics of their streams, in order, at the speed that is asked for.

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
"""So many messages are sent between two looks at whether to stop."""

MERGED_ROWS = 8_192

LONGEST_NAP_S = 0.1

FLUSH_S = 60.0


class Sender(Protocol):
    """What a replay needs of a producer."""

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers, on_ack: OnAck) -> None:
        """Take the message, and call ``on_ack(error or None, message)`` once it is known what became of it."""

    def poll(self, timeout_s: float) -> int:
        """Wait up to so long for answers, and hand them to their ``on_ack``."""

    def flush(self, timeout_s: float) -> int:
        """Wait up to so long for all answers; how many are missing then."""


@dataclass
class Tally:
    """What became of the messages so far; counts as it goes."""

    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    failed: int = 0
    unknown: int = 0
    first_error: str = ""

    def ack(self, error: object, _message: object) -> None:
        """Count one answer of the broker."""
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
            next_step = "Send it again: event ids make sure that none counts twice."
            raise HeadraceError(where, f"all {self.sent.total():,} messages acknowledged", got + reason, next_step)


Report = Callable[[Tally], None]


class Stop:
    """A wish to stop, which a signal handler may set: unlike threading.Event, setting it takes no lock."""

    def __init__(self) -> None:
        self.wished = False

    def wish(self, *_: object) -> None:
        """Stop at the next look; a second wish does not wait for one."""
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True


class Pace:
    """The stream's clock while it plays: ``origin_ms`` when made, and then ``speed`` times as fast as the wall's."""

    def __init__(self, origin_ms: int, speed: float) -> None:
        self.origin_ms, self.speed = origin_ms, speed
        self._started_s = time.monotonic()

    def now_ms(self) -> int:
        """What the stream's clock says."""
        return self.origin_ms + int((time.monotonic() - self._started_s) * 1_000 * self.speed)

    def left_s(self, due_ms: int) -> float:
        """How long, by the wall, until the stream's clock says so."""
        return (due_ms - self.now_ms()) / 1_000 / self.speed


@dataclass(frozen=True)
class Batch:
    """Messages in order, each with its topic, and when each is due by the stream's clock."""

    due_ms: Int64s
    messages: Iterator[tuple[str, Message]]


def taken(read: Events, limit: int | None, refused: Counter[str]) -> Tables:
    """(stream, its events) until there are ``limit``; records that are no events are counted by their reason's code."""
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
    """When the last of the events became known; None without events."""
    return max((int(_known_at(events).max()) for _, events in tables), default=None)


def in_file_order(
    tables: Tables, streams: Mapping[str, Stream], shift_ms: int | None, registry: SchemaRegistry | None = None
) -> Iterator[Batch]:
    """The events as they come; each table is one batch."""
    for name, events in tables:
        written = messages(events, streams[name], shift_ms, registry)
        yield Batch(_known_at(events) + (shift_ms or 0), zip(repeat(streams[name].topic), written))


def in_time_order(
    tables: Tables, streams: Mapping[str, Stream], shift_ms: int | None, registry: SchemaRegistry | None = None
) -> Iterator[Batch]:
    """All the events by when they became known, those of one instant in the file's order."""
    parts: dict[str, list[pa.Table]] = {}
    for name, events in tables:
        parts.setdefault(name, []).append(events)
    whole = {name: pa.concat_tables(several) for name, several in parts.items()}
    if not whole:
        return
    times = np.concatenate([_known_at(events) for events in whole.values()])
    stream_of = np.repeat(np.arange(len(whole)), [events.num_rows for events in whole.values()])
    row_of = np.concatenate([np.arange(events.num_rows) for events in whole.values()])
    order = np.argsort(times, kind="stable")
    for start in range(0, len(order), MERGED_ROWS):
        picked = order[start : start + MERGED_ROWS]
        merged: list[tuple[str, Message]] = [("", (b"", b"", []))] * len(picked)
        for number, (name, events) in enumerate(whole.items()):
            places = np.flatnonzero(stream_of[picked] == number)
            some = events.take(pa.array(row_of[picked[places]]))
            written = messages(some, streams[name], shift_ms, registry)
            for place, message in zip(places.tolist(), written, strict=True):
                merged[place] = (streams[name].topic, message)
        yield Batch(times[picked] + (shift_ms or 0), iter(merged))


def _known_at(events: pa.Table) -> Int64s:
    return np.asarray(events["known_at"], dtype=np.int64)


def send_all(
    batches: Iterable[Batch],
    sender: Sender,
    stop: Stop,
    tally: Tally,
    speed: float | None,
    origin_ms: int | None = None,
    report: Report = lambda _: None,
) -> None:
    """Every message is sent and its fate counted, or a stop was wished and those sent until then are.

    Args:
        batches: in order.
        sender: takes the messages.
        stop: looked at often.
        tally: counts.
        speed: the stream's clock against the wall's; None for no waiting.
        origin_ms: what the stream's clock says at first; None: when the first message is due.
        report: is shown the tally now and then.
    """
    pace = None if speed is None or origin_ms is None else Pace(origin_ms, speed)
    for batch in batches:
        if speed is not None and pace is None and len(batch.due_ms):
            pace = Pace(int(batch.due_ms[0]), speed)
        _send(batch, sender, stop, tally, pace, report)
        if stop.wished:
            break
    tally.unknown = _flush(sender)


def _send(batch: Batch, sender: Sender, stop: Stop, tally: Tally, pace: Pace | None, report: Report) -> None:
    place, size = 0, len(batch.due_ms)
    while place < size and not stop.wished:
        ready = min(place + SLICE, size)
        if pace is not None:
            ready = min(ready, int(np.searchsorted(batch.due_ms, pace.now_ms(), side="right")))
        for topic, (key, value, headers) in islice(batch.messages, max(ready - place, 0)):
            sender.send(topic, key, value, headers, tally.ack)
            tally.sent[topic] += 1
        place = max(place, ready)
        report(tally)
        if pace is not None and place < size:
            _wait_until(int(batch.due_ms[place]), pace, sender, stop)


def _flush(sender: Sender) -> int:
    """Wait for all answers in short turns, so that a second Ctrl-C is heard; how many are missing at the end."""
    give_up_s = time.monotonic() + FLUSH_S
    while (missing := sender.flush(LONGEST_NAP_S)) and time.monotonic() < give_up_s:
        pass
    return missing


def _wait_until(due_ms: int, pace: Pace, sender: Sender, stop: Stop) -> None:
    """Return when the stream's clock says so, or soon after a wish to stop; answers are taken meanwhile."""
    while not stop.wished and (left_s := pace.left_s(due_ms)) > 0:
        sender.poll(min(left_s, LONGEST_NAP_S))


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
