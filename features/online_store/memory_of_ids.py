"""What a generation remembers of event ids: packed entries, in tables that are forgotten whole when they are old.

An entry says what was accepted last for its id, by which batch, and what was before, so that the same batch run again
decides as it did. So does the memory of a stream: it is kept as it is after a batch and as it was before it.

A table takes the ids of one horizon of the stream's clock, and goes when its newest id is two horizons behind. The
clock is the newest known_at of the partition that is furthest behind, as its records may still repeat what another
has; one that is a day behind has stopped, and is not waited for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.columns import PARTITION_BITS
from features.duplicates import NEVER, Prior

ENTRY = np.dtype([("batch_id", "<i8"), ("seq", "<i8"), ("known_at", "<i8"), ("seq_0", "<i8"), ("known_at_0", "<i8")])
UNKNOWN = np.array([(-1, NEVER, NEVER, NEVER, NEVER)], dtype=ENTRY).tobytes()
KEPT_HORIZONS = 2
STOPPED_MS = 24 * 60 * 60 * 1000


def packed(last: Prior, before: Prior, batch_id: int) -> list[bytes]:
    """An entry for each id: what counts after the batch, and what did before it."""
    entries = np.zeros(len(last.seq), dtype=ENTRY)
    entries["batch_id"] = batch_id
    entries["seq"], entries["known_at"] = last.seq, last.known_at
    entries["seq_0"], entries["known_at_0"] = before.seq, before.known_at
    octets = entries.tobytes()
    return [octets[start : start + ENTRY.itemsize] for start in range(0, len(octets), ENTRY.itemsize)]


def prior_of(entries: Sequence[bytes | None], batch_id: int) -> Prior:
    """What was accepted before the batch, by the entries as they are now."""
    found = np.frombuffer(b"".join([entry or UNKNOWN for entry in entries]), dtype=ENTRY)
    own = found["batch_id"] >= batch_id
    seq = np.where(own, found["seq_0"], found["seq"])
    return Prior(seq, np.where(own, found["known_at_0"], found["known_at"]))


def merged(tables: Sequence[Sequence[bytes | None]], count: int) -> list[bytes | None]:
    """Each id's entry in the first table that has one."""
    entries: list[bytes | None] = list(tables[0]) if tables else [None] * count
    for table in tables[1:]:
        entries = [old if old is not None else new for old, new in zip(entries, table, strict=True)]
    return entries


@dataclass(frozen=True)
class Part:
    """One table of ids: its number, the clock at which it was begun, and the newest known_at in it (ms)."""

    number: int
    begun: int
    newest: int


@dataclass(frozen=True)
class Memory:
    """A stream's tables before a batch, oldest first, and the newest known_at of each partition (ms).

    Without a horizon there is only ever one table.
    """

    stream: str
    horizon_ms: int | None
    newest: Mapping[str, int]
    parts: tuple[Part, ...]

    @classmethod
    def before(cls, stream: str, stored: bytes | None, batch_id: int, horizon_ms: int | None) -> Memory:
        """The memory before the batch, by what is stored now, be it of this batch or of one before."""
        if stored is None:
            return cls(stream, horizon_ms, {}, ())
        state = json.loads(stored)
        newest, parts = state["before" if state["batch_id"] >= batch_id else "after"]
        return cls(stream, horizon_ms, newest, tuple(Part(*part) for part in parts))

    @cached_property
    def clock(self) -> int:
        """Up to when every partition that still comes has been read."""
        reading = max(self.newest.values(), default=NEVER) - STOPPED_MS
        return min((newest for newest in self.newest.values() if newest >= reading), default=NEVER)

    def table(self, part: Part) -> str:
        """The name of the part's table."""
        return f"seen/{self.stream}/{part.number}"

    def _is_old(self, part: Part) -> bool:
        return self.horizon_ms is not None and part.newest < self.clock - KEPT_HORIZONS * self.horizon_ms

    @property
    def live(self) -> tuple[Part, ...]:
        """The parts that can still matter to the batch."""
        return tuple(part for part in self.parts if not self._is_old(part))

    @property
    def tables(self) -> list[str]:
        """The tables to look an id up in, newest first."""
        return [self.table(part) for part in reversed(self.live)]

    @property
    def forgotten(self) -> list[str]:
        """The tables to drop."""
        return [self.table(part) for part in self.parts if self._is_old(part)]

    def _open(self) -> Part:
        """The part that takes the batch's ids: the newest, unless it has had its horizon."""
        last = self.parts[-1] if self.parts else Part(-1, NEVER, NEVER)
        full = self.horizon_ms is not None and self.clock - last.begun >= self.horizon_ms
        return Part(last.number + 1, self.clock, NEVER) if full or last not in self.live else last

    def with_batch(self, last: Prior, batch_id: int) -> tuple[str, bytes]:
        """The table for the ids of a batch that was decided so, and the memory to store with it."""
        part = self._open()
        batch = _newest(last)
        written = Part(part.number, part.begun, max([part.newest, *batch.values()]))
        # A table without ids would be the oldest of all, and go with what the next batch puts into it.
        parts = [one for one in self.live if one.number != part.number] + [written] if batch else self.live
        after = {key: max(self.newest.get(key, NEVER), batch.get(key, NEVER)) for key in {**self.newest, **batch}}
        state = {"batch_id": batch_id, "before": _plain(self.newest, self.parts), "after": _plain(after, parts)}
        return self.table(part), json.dumps(state).encode()


def _newest(last: Prior) -> dict[str, int]:
    """The newest known_at of each partition among what was accepted last."""
    partitions, place = np.unique(last.seq & ((1 << PARTITION_BITS) - 1), return_inverse=True)
    newest = np.full(len(partitions), NEVER)
    np.maximum.at(newest, place, last.known_at)
    return {str(partition): int(known) for partition, known in zip(partitions, newest, strict=True)}


def _plain(newest: Mapping[str, int], parts: Sequence[Part]) -> list[object]:
    return [dict(newest), [[part.number, part.begun, part.newest] for part in parts]]
