"""The blocks of a stream's memory of ids, held in the memory of the driver and of readers.

The index follows the memory by the trail of its last writes and reads only new blocks; if the trail is lost, it reads
all blocks. The newest block stays apart, so that the memory before it can be read as well.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from features.events import Prior
from features.hashing import Uint64s
from features.online_store.port import Cells
from features.online_store.seen_ids.blocks import Block, SeenIds, merged, prior_of
from features.online_store.seen_ids.memory import Change, IdTable, Memory, Read, blocks

CELLS_AT_ONCE = 32

GENERATIONS = 3
"""Generations whose indexes are kept: readers switch from one to the next."""


@dataclass(frozen=True)
class Newest:
    """The block that made the memory what it is at ``mark``, and the part that it is in."""

    mark: str
    number: int
    block: Block


@dataclass
class Index:
    """The blocks as of ``mark``, by part; ``newest`` came after that. For any number of threads."""

    mark: str | None = None
    parts: dict[int, SeenIds] = field(default_factory=dict)
    newest: Newest | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def prior(self, memory: Memory, prints: Uint64s, read: Read) -> Prior:
        """The last accepted event of each id, by the memory as it is."""
        with self._lock:
            if memory.mark != self.mark and (self.newest is None or memory.mark != self.newest.mark):
                self._follow(memory, read)
            oldest = min((part.number for part in memory.parts), default=0)
            self.parts = {number: seen for number, seen in self.parts.items() if number >= oldest}
            live = {part.number for part in memory.live}
            seen = [self.parts[number] for number in sorted(live & self.parts.keys())]
            own = self.newest is not None and self.newest.mark == memory.mark and self.newest.number in live
            return prior_of([*seen, SeenIds([self.newest.block])] if own and self.newest else seen, prints)

    def wrote(self, change: Change, before: str) -> None:
        """Take up a change that was written to the memory that had the mark ``before``."""
        with self._lock:
            if self._at(before):
                self._take(Newest(change.mark, change.number, change.block))

    def _at(self, mark: str) -> bool:
        """True if the index has the memory as of the mark; then it is set back to exactly that."""
        if self.newest is not None and self.newest.mark == mark:
            return True
        if self.mark == mark:
            self.newest = None
        return self.mark == mark

    def _take(self, newest: Newest) -> None:
        if self.newest is not None:
            self.parts.setdefault(self.newest.number, SeenIds()).add(self.newest.block)
            self.mark = self.newest.mark
        self.newest = newest

    def _follow(self, memory: Memory, read: Read) -> None:
        """Read the blocks that are new by the trail; all, if the trail does not begin at a known mark."""
        known = next((at for at, step in reversed(list(enumerate(memory.trail))) if self._at(step.mark)), None)
        if known is None:
            self.parts = {part.number: _seen(memory, part, read) for part in memory.live}
            self.mark, self.newest = memory.mark, None
            return
        for step in memory.trail[known + 1 :]:
            step_blocks = blocks(read, memory.table(step.number), step.cells)
            self._take(Newest(step.mark, step.number, merged(step_blocks) if step_blocks else Block.nothing()))


def _seen(memory: Memory, part: IdTable, read: Read) -> SeenIds:
    seen, cells = SeenIds(), part.cells
    for start in range(0, len(cells), CELLS_AT_ONCE):
        for block in blocks(read, memory.table(part.number), cells[start : start + CELLS_AT_ONCE]):
            seen.add(block)
    return seen


_INDEXES: WeakKeyDictionary[Cells, dict[tuple[int, str], Index]] = WeakKeyDictionary()


def index_of(cells: Cells, stream_id: int, stream: str) -> Index:
    """This process's index of the stream's ids in that generation of the store."""
    indexes = _INDEXES.setdefault(cells, {})
    generations: Sequence[int] = list(dict.fromkeys(number for number, _ in indexes))
    if stream_id not in generations and len(generations) >= GENERATIONS:
        for key in [key for key in indexes if key[0] == generations[0]]:
            indexes.pop(key, None)
    return indexes.setdefault((stream_id, stream), Index())
