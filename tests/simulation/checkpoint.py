"""The checkpoint of a simulated driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from features.online_store.port import Offsets


@dataclass
class Checkpoint:
    """Spark's checkpoint: the offsets planned for each batch, and the last batch that was committed."""

    start: Offsets
    committed: int = -1
    plans: dict[int, Offsets] = field(default_factory=dict)

    def end(self) -> Offsets:
        """End offsets of the committed batches."""
        return self.plans.get(self.committed, self.start)

    def next_plan(self, rng: Random, ends: Offsets) -> tuple[int, Offsets, Offsets]:
        """(number, start, end) of the next batch: the plan from before a crash, or a new one."""
        number, start = self.committed + 1, self.end()
        if number not in self.plans:
            self.plans[number] = {p: min(ends[p], start[p] + rng.randint(0, 12)) for p in ends}
        return number, start, self.plans[number]
