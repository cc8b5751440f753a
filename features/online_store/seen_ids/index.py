"""The blocks of a stream's memory of ids, held in the memory of the driver and of readers.

The index follows the memory by the trail of its last writes and reads only new blocks. Where the trail is lost, it
reads the large blocks that it does not have, and all small ones. The newest block stays apart, so that the memory
before it can be read as well.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from features.errors import StoreError
from features.events import Prior
from features.hashing import Uint64s
from features.online_store.port import Cells
from features.online_store.seen_ids.blocks import Block, SeenIds, merged, prior_of
from features.online_store.seen_ids.memory import IdTable, Memory, MemoryChange, Read, blocks, large_cell, larges

LARGE_AT_ONCE = 4
"""Large blocks of one read: up to 32 MB, which a store sends within a reader's deadline."""

FEW_LARGE = 4
"""Large blocks that a read reads itself, beside the small ones; a thread reads more of them."""

PATIENCE_S, AGAIN_S = 0.02, 1.0
"""The longest wait of a read for another one that reads blocks; the rest after a failure of the thread."""

GENERATIONS = 3
"""Generations whose indexes are kept: readers switch from one to the next."""


@dataclass(frozen=True)
class Newest:
    """The block that made the memory what it is at ``mark``, the part that it is in, and its large cells, if any."""

    mark: str
    number: int
    block: Block
    large: Mapping[str, bytes]


@dataclass
class TableIds:
    """The ids of one table: those of its first ``count`` large blocks, and those of its small ones.

    ``last`` is the digest of the last large block: a store that lost writes may have others under the same names.
    """

    large: SeenIds = field(default_factory=SeenIds)
    count: int = 0
    last: bytes = b""
    small: SeenIds = field(default_factory=SeenIds)

    def take(self, block: Block, large: Mapping[str, bytes]) -> None:
        """Takes up what a write added; large cells hold the small blocks before them too."""
        if not large:
            self.small.add(block)
            return
        self.large.add(merged([*self.small.blocks, block]))
        self.small = SeenIds()
        self.count += len(large)
        self.last = _digest(list(large.values())[-1])

    def read_new(self, memory: Memory, part: IdTable, read: Read) -> None:
        """Reads the large blocks that it does not have, and all small ones; what an error leaves is read on."""
        table = memory.table(part.number)
        if not self._is_of(part, table, read):
            self.large, self.count = SeenIds(), 0
        self.small = SeenIds()
        while self.count < part.large:
            cells = [large_cell(number) for number in range(self.count, min(part.large, self.count + LARGE_AT_ONCE))]
            contents = read(table, cells)
            for content in contents:
                self.large.add(Block.read(content or b""))
            self.count, self.last = self.count + len(cells), _digest(contents[-1])
        for block in blocks(read, table, part.small_cells):
            self.small.add(block)

    def _is_of(self, part: IdTable, table: str, read: Read) -> bool:
        """True if the table still has the large blocks that this has."""
        if not self.count:
            return True
        return self.count <= part.large and _digest(read(table, [large_cell(self.count - 1)])[0]) == self.last


def _digest(content: bytes | None) -> bytes:
    return hashlib.sha256(content or b"").digest()


@dataclass
class Index:
    """The blocks as of ``mark``, by part; ``newest`` came after that. For any number of threads."""

    mark: str | None = None
    parts: dict[int, TableIds] = field(default_factory=dict)
    newest: Newest | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reading: threading.Thread | None = None
    _not_before: float = 0.0

    def prior(self, memory: Memory, prints: Uint64s, read: Read, *, wait: bool = True) -> Prior:
        """The last accepted event of each id, by the memory as it is.

        Args:
            wait: until it is read, however long that takes; else StoreError is raised if there is much to read, and a
                thread reads it.
        """
        if not self._lock.acquire(timeout=-1 if wait else PATIENCE_S):
            raise self._unread(memory)
        try:
            if not self._has(memory):
                if not wait and self._missing(memory) > FEW_LARGE:
                    self._read_beside(memory, read)
                    raise self._unread(memory)
                self._follow(memory, read)
            return self._prior(memory, prints)
        finally:
            self._lock.release()

    def wrote(self, change: MemoryChange, before: str) -> None:
        """Take up a change that was written to the memory that had the mark ``before``."""
        with self._lock:
            if self._at(before):
                self._take(Newest(change.mark, change.number, change.block, larges(change.cells)))

    @property
    def count(self) -> int:
        """The number of ids held here, those in several blocks counted in each."""
        tables = [ids for table in list(self.parts.values()) for ids in (table.large, table.small)]
        newest = self.newest
        return sum(len(block) for ids in tables for block in ids.blocks) + (0 if newest is None else len(newest.block))

    def _has(self, memory: Memory) -> bool:
        return memory.mark == self.mark or (self.newest is not None and memory.mark == self.newest.mark)

    def _prior(self, memory: Memory, prints: Uint64s) -> Prior:
        oldest = min((part.number for part in memory.parts), default=0)
        self.parts = {number: ids for number, ids in self.parts.items() if number >= oldest}
        live = {part.number for part in memory.live}
        known = [self.parts[number] for number in sorted(live & self.parts.keys())]
        seen = [ids for table in known for ids in (table.large, table.small)]
        own = self.newest is not None and self.newest.mark == memory.mark and self.newest.number in live
        return prior_of([*seen, SeenIds([self.newest.block])] if own and self.newest else seen, prints)

    def _at(self, mark: str) -> bool:
        """True if the index has the memory as of the mark; then it is set back to exactly that."""
        if self.newest is not None and self.newest.mark == mark:
            return True
        if self.mark == mark:
            self.newest = None
        return self.mark == mark

    def _take(self, newest: Newest) -> None:
        if self.newest is not None:
            self.parts.setdefault(self.newest.number, TableIds()).take(self.newest.block, self.newest.large)
            self.mark = self.newest.mark
        self.newest = newest

    def _follow(self, memory: Memory, read: Read) -> None:
        """Read the blocks that are new by the trail; if it does not begin at a known mark, all that are not here."""
        known = next((at for at, step in reversed(list(enumerate(memory.trail))) if self._at(step.mark)), None)
        if known is None:
            self.mark = self.newest = None
            self.parts = {part.number: self.parts.get(part.number, TableIds()) for part in memory.live}
            for part in memory.live:
                self.parts[part.number].read_new(memory, part, read)
            self.mark = memory.mark
            return
        for step in memory.trail[known + 1 :]:
            cells = dict(zip(step.cells, read(memory.table(step.number), step.cells), strict=True))
            contents = {cell: content for cell, content in cells.items() if content}
            found = [Block.read(content) for content in contents.values()]
            block = merged(found) if found else Block.nothing()
            self._take(Newest(step.mark, step.number, block, larges(contents)))

    def _missing(self, memory: Memory) -> int:
        """The number of large blocks of the memory that are not here."""
        here = {number: ids.count for number, ids in self.parts.items()}
        if self.newest is not None and self.newest.large:
            here[self.newest.number] = here.get(self.newest.number, 0) + len(self.newest.large)
        return sum(max(part.large - here.get(part.number, 0), 0) for part in memory.live)

    def _read_beside(self, memory: Memory, read: Read) -> None:
        """A thread reads what is missing, unless one does or the last one failed just now."""
        if self._reading is not None or time.monotonic() < self._not_before:
            return
        self._reading = threading.Thread(target=self._read_all, args=(memory, read), name="ids", daemon=True)
        self._reading.start()

    def _read_all(self, memory: Memory, read: Read) -> None:
        with self._lock:
            try:
                self._follow(memory, read)
            except StoreError:  # the reads say it; what was read stays
                self._not_before = time.monotonic() + AGAIN_S
            finally:
                self._reading = None

    @staticmethod
    def _unread(memory: Memory) -> StoreError:
        got = f"a memory of ids of stream '{memory.stream}' that is still being read"
        return StoreError("the online store", "the ids of folded events within a read's deadline", got)


_INDEXES: WeakKeyDictionary[Cells, dict[tuple[int, str], Index]] = WeakKeyDictionary()


def index_of(cells: Cells, stream_id: int, stream: str) -> Index:
    """This process's index of the stream's ids in that generation of the store."""
    indexes = _INDEXES.setdefault(cells, {})
    generations: Sequence[int] = list(dict.fromkeys(number for number, _ in indexes))
    if stream_id not in generations and len(generations) >= GENERATIONS:
        for key in [key for key in indexes if key[0] == generations[0]]:
            indexes.pop(key, None)
    return indexes.setdefault((stream_id, stream), Index())
