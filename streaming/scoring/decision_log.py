"""What was decided about events, on the disk: a file a batch, with how far the decisions reach in each partition.

    checkpoints/scores/<model>/<number>.arrow    the decisions of a batch; in its metadata the offsets that they reach

A file is the decisions and the reach at once, so that no crash parts them. It is for all generations of rows: what one
of them has decided about, no other decides anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.arrays import Bools, Int64s
from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.events import integers
from features.machine import replaced
from features.online_store import Offsets

REACH = b"reach"

KEPT = 2


class DecisionLog:
    """The decisions about the events of one model's stream, and how far they reach.

    ``reach`` has for each partition ('topic/number') the first offset that nothing was decided about; a partition
    that it lacks was never met. ``untold`` are decisions that nobody may have been told of yet.
    """

    def __init__(self, folder: Path, stream: Stream) -> None:
        self._folder, self._topics = folder, list(stream.topics)
        self._number = max((int(path.stem) for path in folder.glob("[0-9]*.arrow")), default=-1)
        last = None if self._number < 0 else _read_arrow(self._path(self._number))
        self.reach: Offsets = {} if last is None else _reach_of(last)
        self.untold = last if last is not None and last.num_rows else None

    def is_beyond(self, end: Offsets) -> bool:
        """Whether these offsets are further in a partition of the stream than the decisions."""
        return any(offset > self.reach.get(place, -1) for place, offset in self._own(end).items())

    def _own(self, end: Offsets) -> Offsets:
        return {place: offset for place, offset in end.items() if place.rpartition("/")[0] in self._topics}

    def lacks(self, standing: Offsets) -> bool:
        """Whether rows that stand at these offsets have events that nothing was decided about."""
        return any(standing.get(place, 0) > offset for place, offset in self.reach.items())

    def undecided(self, events: pa.Table) -> Bools:
        """Which of the events nothing was decided about."""
        return integers(events["offset"]) >= self._reached(integers(events["partition"]))

    def _reached(self, partition: Int64s) -> Int64s:
        numbers, which = np.unique(partition, return_inverse=True)
        return np.array([self.reach.get(self._place(one), 0) for one in numbers.tolist()], dtype=np.int64)[which]

    def _place(self, partition: int) -> str:
        topic, number = divmod(partition, PARTITIONS_OF_A_TOPIC)
        return f"{self._topics[topic]}/{number}"

    def keep(self, decided: pa.Table, end: Offsets) -> None:
        """The decisions stand on the disk, whole, and reach to these offsets at least; they are untold."""
        reach = furthest(self.reach, self._own(end))
        kept = decided.replace_schema_metadata({REACH: json.dumps(reach)})
        _write_arrow(self._path(self._number + 1), kept)
        self._number, self.reach = self._number + 1, reach
        self.untold = kept if kept.num_rows else None
        self._path(self._number - KEPT).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.arrow"


def furthest(one: Offsets, other: Offsets) -> dict[str, int]:
    """By partition the larger offset."""
    return {**one, **{place: max(offset, one.get(place, 0)) for place, offset in other.items()}}


def _reach_of(decided: pa.Table) -> Mapping[str, int]:
    reach: Mapping[str, int] = json.loads(decided.schema.metadata[REACH])
    return reach


def _write_arrow(path: Path, table: pa.Table) -> None:
    """The table stands in the file, whole and on the disk."""
    with replaced(path, durable=True) as fresh, pa.ipc.new_file(str(fresh), table.schema) as writer:
        writer.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return pa.ipc.open_file(file).read_all()
