"""How many events a training may hold in memory: what the settings say, else what the machine has room for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

EVENT_BYTES = 1_200
"""What a training takes an event, at its peak (docs/adr/0029 has the measurement)."""

MEMORY_SHARE = 0.5
"""How much of the memory a training takes: stream, store and service are on the same machine where it is a laptop."""

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""What a container may have at most, as Linux tells it."""


@dataclass(frozen=True)
class Bound:
    """So many events at most are read into memory; of more, users are drawn by this seed."""

    events: int
    seed: int = 0

    @classmethod
    def of(cls, events: int | None, seed: int) -> Bound:
        """The bound of a setting; of None what the machine has room for."""
        return cls(events_in(machine_bytes()) if events is None else events, seed)


def events_in(memory: int) -> int:
    """How many events a training may hold on a machine of so many bytes."""
    return max(int(memory * MEMORY_SHARE / EVENT_BYTES), 1)


def machine_bytes(limit: Path = CGROUP) -> int:
    """The machine's memory, or the container's where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = limit.read_text(encoding="ascii").strip() if limit.is_file() else ""
    return min(physical, int(told)) if told.isdecimal() else physical
