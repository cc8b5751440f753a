"""A generation's memory of event ids: blocks of them, in tables that are dropped whole when they are old.

Every batch adds a block (blocks.py); when there are many small ones they are written again as one. The state of a
stream's memory is kept as it is after a batch and as it was before it, and the cells of the blocks before it stay: so
the same batch run again decides as it did.

A table takes the ids of one horizon of the stream's clock, and goes when its newest id is two horizons behind. The
clock is the newest known_at of the partition that is furthest behind, as its records may still repeat what another
has. A partition that has been read to its end for QUIET_MS is not waited for while the stream is live: what it gets
then becomes known then. Neither is one that is a day behind, which has stopped.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from features.events import NEVER, PARTITION_BITS
from features.online_store.port import Idle
from features.online_store.seen_ids.blocks import Block, merged

KEPT_HORIZONS = 2

FAR = 1 << 62

STOPPED_MS = 24 * 60 * 60 * 1000

QUIET_MS = 15 * 60 * 1000
"""How long a partition must be without records, and how far behind the newest record its next may be: a transaction's
longest timeout (Kafka's transaction.max.timeout.ms), within which records stay hidden that have their time already."""

RECENT, RING = 64, 128
"""Small blocks that are merged, and the cells that they rotate through: none is reused while a state names it."""

LARGE, LARGEST = 1 << 15, 1 << 18
"""Ids of a block that is not small, and of the largest (8 MB): a larger one is written in pieces."""

TRAIL = 60
"""Writes in the trail, for indexes that follow: fewer than would let a small cell be written again."""

Read = Callable[[str, Sequence[str]], list[bytes | None]]
"""(table, keys) → the values of the cells."""


def large_cell(number: int) -> str:
    """The key of a table's large block of this number."""
    return f"large {number}"


def larges(cells: Mapping[str, bytes]) -> dict[str, bytes]:
    """The cells that are large blocks."""
    return {cell: content for cell, content in cells.items() if cell.startswith("large ")}


@dataclass(frozen=True)
class IdTable:
    """A table of ids: its number, the clock at which it was begun, and the newest known_at in it (ms).

    Its cells are ``large`` blocks, then the small ones from ``first`` to before ``last``, with ``waiting`` ids in them.
    """

    number: int
    begun: int
    newest: int
    large: int = 0
    first: int = 0
    last: int = 0
    waiting: int = 0

    @property
    def small_cells(self) -> list[str]:
        """The keys of the small blocks, oldest first."""
        return [f"small {number % RING}" for number in range(self.first, self.last)]

    @property
    def cells(self) -> list[str]:
        """The keys of all its blocks, oldest first."""
        return [large_cell(number) for number in range(self.large)] + self.small_cells

    def with_block(
        self, block: Block, newest: int, read: Callable[[], Sequence[Block]]
    ) -> tuple[IdTable, dict[str, Block]]:
        """The part with the block in it, and the cells to write: the block, or all small ones (``read``) and it."""
        part, ids = replace(self, newest=max(self.newest, newest)), self.waiting + len(block)
        if ids < LARGE and self.last - self.first < RECENT - 1:
            return replace(part, last=self.last + 1, waiting=ids), {f"small {self.last % RING}": block}
        pieces = (merged([*read(), block]) if self.waiting else block).pieces(LARGEST)
        larger = replace(part, large=self.large + len(pieces), first=self.last, waiting=0)
        return larger, {large_cell(number): piece for number, piece in enumerate(pieces, self.large)}


@dataclass(frozen=True)
class Step:
    """A write to the memory: the mark that it left, and the cells of which part it wrote."""

    mark: str
    number: int
    cells: list[str]


@dataclass(frozen=True)
class Memory:
    """A stream's tables before a batch, oldest first, and the newest known_at of each partition (ms).

    ``idle_since`` has when each partition was first found read to its end, of those that still were at the last batch,
    which ran ``at`` (wall clock, ms). Without a horizon there is only ever one table. ``mark`` is different for every
    write that changed the memory, and ``trail`` has the last of them, oldest first.
    """

    stream: str
    horizon_ms: int | None
    newest: Mapping[str, int]
    parts: tuple[IdTable, ...]
    mark: str = ""
    trail: tuple[Step, ...] = ()
    idle_since: Mapping[str, int] = field(default_factory=dict)
    at: int = NEVER

    @classmethod
    def before(cls, stream: str, stored: bytes | None, batch_id: int, horizon_ms: int | None) -> Memory:
        """The memory before the batch, by what is stored now, be it of this batch or of one before."""
        if stored is None:
            return cls(stream, horizon_ms, {}, ())
        state = json.loads(stored)
        version = state["before" if state["batch_id"] >= batch_id else "after"]
        parts, trail = (
            tuple(IdTable(**part) for part in version["parts"]),
            tuple(Step(*step) for step in version["trail"]),
        )
        idle, at = version.get("idle_since", {}), version.get("at", NEVER)  # a state of before has neither
        return cls(stream, horizon_ms, version["newest"], parts, version["mark"], trail, idle, at)

    @cached_property
    def clock(self) -> int:
        """The time (ms) up to which every partition that still has records was read."""
        newest = max(self.newest.values(), default=NEVER)
        quiet = self._quiet(newest)
        awaited = [at for name, at in self.newest.items() if at >= newest - STOPPED_MS and name not in quiet]
        return min(awaited + [min(newest, self.at) - QUIET_MS] * bool(quiet), default=NEVER)

    def _quiet(self, newest: int) -> set[str]:
        """The partitions that are not waited for: none while a replay sends what is long known."""
        if newest < self.at - QUIET_MS:
            return set()
        return {name for name, since in self.idle_since.items() if self.at - since >= QUIET_MS}

    def table(self, number: int) -> str:
        """The name of a part's table."""
        return f"seen/{self.stream}/{number}"

    def _is_old(self, part: IdTable) -> bool:
        return self.horizon_ms is not None and part.newest < self.clock - KEPT_HORIZONS * self.horizon_ms

    @property
    def live(self) -> tuple[IdTable, ...]:
        """The parts that can still matter to the batch."""
        return tuple(part for part in self.parts if not self._is_old(part))

    @property
    def forgotten(self) -> list[str]:
        """The tables to drop."""
        return [self.table(part.number) for part in self.parts if self._is_old(part)]

    def _open(self) -> IdTable:
        """The part that takes the batch's ids: the newest, unless it has had its horizon."""
        last = self.parts[-1] if self.parts else IdTable(-1, NEVER, NEVER)
        full = self.horizon_ms is not None and self.clock - last.begun >= self.horizon_ms
        return IdTable(last.number + 1, self.clock, NEVER) if full or last not in self.live else last

    def with_batch(
        self, block: Block, batch_id: int, read: Read, idle: Idle | None = None, now: int = FAR
    ) -> MemoryChange:
        """The change to write for a batch with these new ids, which found these partitions idle.

        Args:
            now: of our clock, in ms. A record from after it, by a producer's clock that is wrong, moves the memory's
                clock only so far: else the ids of all others would be old.
        """
        batch = _newest(block)
        both = {**self.newest, **batch}
        after = {key: min(max(self.newest.get(key, NEVER), batch.get(key, NEVER)), now) for key in both}
        then = self._with_idle(idle)
        part = self._open()
        # A table without ids would be the oldest of all, and go with what the next batch puts into it.
        if not batch:
            return self._change(batch_id, replace(then, newest=after, parts=self.live), part, {}, block)
        table, small = self.table(part.number), part.small_cells
        part, written = part.with_block(block, max(batch.values()), lambda: blocks(read, table, small))
        parts = (*(table for table in self.live if table.number != part.number), part)
        cells = {cell: piece.to_bytes() for cell, piece in written.items()}
        return self._change(batch_id, replace(then, newest=after, parts=parts), part, cells, block)

    def _with_idle(self, idle: Idle | None) -> Memory:
        """The memory with the partitions that are idle now."""
        if idle is None:
            return replace(self, idle_since={})
        since = {str(name): self.idle_since.get(str(name), idle.at) for name in sorted(idle.partitions)}
        return replace(self, idle_since=since, at=max(self.at, idle.at))

    def _change(
        self, batch_id: int, after: Memory, part: IdTable, cells: dict[str, bytes], block: Block
    ) -> MemoryChange:
        step = Step(secrets.token_hex(8), part.number, list(cells))
        after = replace(after, mark=step.mark, trail=(*self.trail, step)[-TRAIL:])
        state = {"batch_id": batch_id, "before": self._plain(), "after": after._plain()}
        content = json.dumps(state).encode()
        return MemoryChange(
            self.table(part.number), cells, content, tuple(self.forgotten), step.mark, part.number, block
        )

    def _plain(self) -> dict[str, object]:
        parts, trail = [vars(part) for part in self.parts], [tuple(vars(step).values()) for step in self.trail]
        seen = {"newest": dict(self.newest), "idle_since": dict(self.idle_since), "at": self.at}
        return {**seen, "parts": parts, "mark": self.mark, "trail": trail}


@dataclass(frozen=True)
class MemoryChange:
    """The writes of a batch: cells of a table, the state, tables to drop; ``block`` has the new ids of ``number``."""

    table: str
    cells: Mapping[str, bytes]
    state: bytes
    drop: tuple[str, ...]
    mark: str
    number: int
    block: Block


def blocks(read: Read, table: str, cells: Sequence[str]) -> list[Block]:
    """The blocks in these cells of the table."""
    return [Block.read(content) for content in read(table, cells) if content]


def _newest(block: Block) -> dict[str, int]:
    """The newest known_at of each partition in the block."""
    partition = block.seq & ((1 << PARTITION_BITS) - 1)
    present = np.flatnonzero(np.bincount(partition)).tolist()
    return {str(number): int(block.known_at[partition == number].max()) for number in present}
