"""What the fold has parsed, kept for the archive, which would else fetch and parse the same records a second time.

The archive owns its offsets and its commits, and owes the fold nothing: what is not here, or does not come because no
fold gets on, it reads from Kafka itself.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.events import integers
from features.online_store import Offsets
from streaming.spark import records_between

LOOK_S = 0.1

WAIT_S = 30.0
"""A fold that takes longer for a batch is not waited for."""

Events = Mapping[str, pa.Table]
"""Stream name → its valid and late events, in the columns of event_schema()."""


@dataclass(frozen=True)
class Piece:
    """The events of one batch of the fold, of the offsets [start, end)."""

    start: Offsets
    end: Offsets
    events: Events


class Handover:
    """Parsed batches in a row, from one thread to another: at most so many records, the newest.

    Args:
        streams: by name, those that the events are of.
        most_records: older batches than these are forgotten.
    """

    def __init__(self, streams: Mapping[str, Stream], most_records: int) -> None:
        self._streams = streams
        self._most = most_records
        self._pieces: deque[Piece] = deque()
        self._start: Offsets | None = None
        self._end: Offsets = {}
        self._changed = threading.Condition()

    def begin(self, at: Offsets) -> None:
        """A fold will give what comes from here on; where another one gives already, it goes on."""
        with self._changed:
            if self._start is None:
                self._start_at(at)

    def give(self, start: Offsets, end: Offsets, events: Events) -> None:
        """The events of a batch can be taken. One that was given before, or is behind those, changes nothing."""
        with self._changed:
            if self._start is not None and _reaches(self._end, end):
                return
            if dict(start) != dict(self._end):
                self._start_at(start)
            self._pieces.append(Piece(start, end, events))
            self._end = end
            while sum(records_between(one.start, one.end) for one in self._pieces) > self._most:
                self._start = self._pieces.popleft().end
            self._changed.notify_all()

    def skip(self, end: Offsets) -> None:
        """A batch up to here is not given."""
        with self._changed:
            if not _reaches(self._end, end):
                self._start_at(end)
                self._changed.notify_all()

    def take(self, start: Offsets, end: Offsets, going: Callable[[], bool]) -> Events | None:
        """The events of [start, end), once they are here, and what was before them is forgotten; None: read them.

        Args:
            going: whether somebody still gets on with giving.
        """
        deadline = time.monotonic() + WAIT_S
        with self._changed:
            while self._can_come(start) and not _reaches(self._end, end):
                if time.monotonic() > deadline or not going():
                    return None
                self._changed.wait(LOOK_S)
            if not self._can_come(start):
                return None
            found = self._events(start, end)
            while self._pieces and _reaches(end, self._pieces[0].end):
                self._start = self._pieces.popleft().end
            return found

    def _start_at(self, at: Offsets) -> None:
        self._pieces.clear()
        self._start = self._end = at

    def _can_come(self, start: Offsets) -> bool:
        return self._start is not None and _reaches(start, self._start)

    def _events(self, start: Offsets, end: Offsets) -> Events:
        names = dict.fromkeys(name for one in self._pieces for name in one.events)
        parts = {name: [one.events[name] for one in self._pieces if name in one.events] for name in names}
        return {
            name: pa.concat_tables([_between(one, self._streams[name], start, end) for one in several])
            for name, several in parts.items()
        }


def _reaches(at: Offsets, end: Offsets) -> bool:
    """Whether all before ``end`` is before ``at``."""
    return all(at.get(place, 0) >= offset for place, offset in end.items())


def _between(events: pa.Table, stream: Stream, start: Offsets, end: Offsets) -> pa.Table:
    """The events whose offsets are in [start, end)."""
    partition, offset = integers(events["partition"]), integers(events["offset"])
    inside = np.zeros(len(offset), dtype=bool)
    for number in np.unique(partition).tolist():
        topic = stream.topics[number // PARTITIONS_OF_A_TOPIC]
        place, mine = f"{topic}/{number % PARTITIONS_OF_A_TOPIC}", partition == number
        inside[mine] = (offset[mine] >= start.get(place, 0)) & (offset[mine] < end.get(place, 0))
    return events if inside.all() else events.filter(pa.array(inside))
