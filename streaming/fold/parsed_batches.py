"""Batches that the fold has parsed, kept for the archive, which would else fetch and parse the records again.

The archive has its own offsets and commits, and does not depend on the fold: a batch that is not here, or does not come
because no fold progresses, is read from Kafka.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.events import integers, record_offsets
from features.online_store import Offsets
from streaming.spark import records_between

LOOK_S = 0.1

WAIT_S = 30.0
"""The longest wait for a batch of the fold."""

MOST_BYTES = 256 << 20

Events = Mapping[str, pa.Table]
"""Stream name → its valid and late events, in the columns of event_schema()."""


@dataclass(frozen=True)
class ParsedBatch:
    """The events of a batch of the fold, of the offsets [start, end)."""

    start: Offsets
    end: Offsets
    events: Events

    @cached_property
    def nbytes(self) -> int:
        """The bytes of its events."""
        return sum(int(table.nbytes) for table in self.events.values())


class ParsedBatches:
    """The newest consecutive parsed batches, handed from thread to thread.

    Args:
        streams: of the events, by name.
        most_records, most_bytes: with more, the oldest batches are dropped.
    """

    def __init__(self, streams: Mapping[str, Stream], most_records: int, most_bytes: int = MOST_BYTES) -> None:
        self._streams = streams
        self._most, self._most_bytes = most_records, most_bytes
        self._batches: deque[ParsedBatch] = deque()
        self._start: Offsets | None = None
        self._end: Offsets = {}
        self._changed = threading.Condition()

    def begin(self, at: Offsets) -> None:
        """Expect batches from these offsets on; without effect where another fold has begun."""
        with self._changed:
            if self._start is None:
                self._start_at(at)

    def add(self, start: Offsets, end: Offsets, events: Events) -> None:
        """Add the events of a batch; without effect for a batch at or before the last."""
        with self._changed:
            if self._start is not None and _reaches(self._end, end):
                return
            if dict(start) != dict(self._end):
                self._start_at(start)
            self._batches.append(ParsedBatch(start, end, events))
            self._end = end
            while self._are_too_many():
                self._start = self._batches.popleft().end
            self._changed.notify_all()

    def skip(self, end: Offsets) -> None:
        """Note that no batch up to ``end`` will be added."""
        with self._changed:
            if not _reaches(self._end, end):
                self._start_at(end)
                self._changed.notify_all()

    def take(self, start: Offsets, end: Offsets, is_parsing: Callable[[], bool]) -> Events | None:
        """Wait for the events of [start, end), and drop what is before ``end``; None where they do not come.

        Args:
            is_parsing: False where no fold progresses.
        """
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while self._can_come(start) and not _reaches(self._end, end):
                if time.monotonic() > deadline or not is_parsing():
                    return None
                self._changed.wait(LOOK_S)
            if not self._can_come(start):
                return None
            events = self._events(start, end)
            while self._batches and _reaches(end, self._batches[0].end):
                self._start = self._batches.popleft().end
            return events

    def _are_too_many(self) -> bool:
        records = sum(records_between(batch.start, batch.end) for batch in self._batches)
        return records > self._most or sum(batch.nbytes for batch in self._batches) > self._most_bytes

    def _start_at(self, at: Offsets) -> None:
        self._batches.clear()
        self._start = self._end = at

    def _can_come(self, start: Offsets) -> bool:
        return self._start is not None and _reaches(start, self._start)

    def _events(self, start: Offsets, end: Offsets) -> Events:
        names = dict.fromkeys(name for batch in self._batches for name in batch.events)
        parts = {name: [batch.events[name] for batch in self._batches if name in batch.events] for name in names}
        return {
            name: pa.concat_tables([_between(table, self._streams[name], start, end) for table in tables])
            for name, tables in parts.items()
        }


def _reaches(at: Offsets, end: Offsets) -> bool:
    """True if ``at`` is at or behind ``end`` in each of its partitions."""
    return all(at.get(name, 0) >= offset for name, offset in end.items())


def _between(events: pa.Table, stream: Stream, start: Offsets, end: Offsets) -> pa.Table:
    """The events whose offsets are in [start, end)."""
    partition, offset = integers(events["partition"]), record_offsets(events, stream)
    inside = np.zeros(len(offset), dtype=bool)
    for number in np.unique(partition).tolist():
        topic = stream.topics[number // PARTITIONS_OF_A_TOPIC]
        name, rows = f"{topic}/{number % PARTITIONS_OF_A_TOPIC}", partition == number
        inside[rows] = (offset[rows] >= start.get(name, 0)) & (offset[rows] < end.get(name, 0))
    return events if inside.all() else events.filter(pa.array(inside))
