"""Decisions about events on disk: a file a batch, with the offsets up to which decisions were made.

    checkpoints/scores/<model>/<number>.arrow    the decisions of a batch; its metadata has the offsets

A file has both the decisions and the offsets, so that no crash separates them. The log is shared by all generations of
rows: each event is decided about once, whichever generation reads it first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Int64s
from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.epochs import topic_of
from features.events import integers, record_offsets
from features.machine import replaced
from features.online_store import Offsets
from models.event_model import DECISIONS

REACH = b"reach"

KEPT = 2


class DecisionLog:
    """The decisions about the events of a model's stream, and the offsets up to which they were made.

    ``reach`` has for each partition ('topic/number') the first offset without a decision; a partition that it lacks has
    had no events. ``unsent`` are decisions that may not have been sent yet.
    """

    def __init__(self, folder: Path, stream: Stream) -> None:
        self._folder, self._stream, self._topics = folder, stream, list(stream.topics)
        self._number = max((int(path.stem) for path in folder.glob("[0-9]*.arrow")), default=-1)
        last = None if self._number < 0 else _read_arrow(self._path(self._number))
        self.reach: Offsets = {} if last is None else _reach_of(last)
        self.unsent = last if last is not None and last.num_rows else None

    def is_beyond(self, end: Offsets) -> bool:
        """True if these offsets are behind the decisions in a partition of the stream."""
        return any(offset > self.reach.get(name, -1) for name, offset in self._own(end).items())

    def _own(self, end: Offsets) -> Offsets:
        return {name: offset for name, offset in end.items() if topic_of(name) in self._topics}

    def lacks(self, standing: Offsets) -> bool:
        """True if rows at these offsets have events without a decision."""
        return any(standing.get(name, 0) > offset for name, offset in self.reach.items())

    def undecided(self, events: pa.Table) -> Bools:
        """True for events without a decision."""
        return record_offsets(events, self._stream) >= self._reached(integers(events["partition"]))

    def _reached(self, partition: Int64s) -> Int64s:
        numbers, inverse = np.unique(partition, return_inverse=True)
        reached = [self.reach.get(self._name(number), 0) for number in numbers.tolist()]
        return np.array(reached, dtype=np.int64)[inverse]

    def _name(self, partition: int) -> str:
        topic, number = divmod(partition, PARTITIONS_OF_A_TOPIC)
        return f"{self._topics[topic]}/{number}"

    def keep(self, decided: pa.Table, end: Offsets) -> None:
        """Write the decisions durably; they reach to these offsets at least, and are unsent."""
        reach = furthest(self.reach, self._own(end))
        stored = decided.replace_schema_metadata({REACH: json.dumps(reach)})
        _write_arrow(self._path(self._number + 1), stored)
        self._number, self.reach = self._number + 1, reach
        self.unsent = stored if stored.num_rows else None
        self._path(self._number - KEPT).unlink(missing_ok=True)

    def skip(self, reach: Offsets) -> None:
        """Go on at these offsets: nobody will decide about what is before them. What is unsent stays unsent."""
        further = {name: offset for name, offset in reach.items() if offset > self.reach.get(name, offset)}
        if further:
            self.keep(DECISIONS.empty_table() if self.unsent is None else self.unsent, further)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.arrow"


def furthest(first: Offsets, other: Offsets) -> dict[str, int]:
    """By partition the larger offset."""
    return {**first, **{name: max(offset, first.get(name, 0)) for name, offset in other.items()}}


def _reach_of(decided: pa.Table) -> Mapping[str, int]:
    reach: Mapping[str, int] = json.loads(decided.schema.metadata[REACH])
    return reach


def _write_arrow(path: Path, table: pa.Table) -> None:
    """Write the table to the file, atomically and durably."""
    with replaced(path, durable=True) as fresh, pa.ipc.new_file(str(fresh), table.schema) as writer:
        writer.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return pa.ipc.open_file(file).read_all()
