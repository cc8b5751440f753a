"""Whether one way to answer surely does worse than another, by what both did lately: pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 500
"""How many of the newest answers of each are compared."""

LEAST = 20
"""With fewer of either, nothing is said."""

CHANCE = 0.001
"""How probable it may be, at a look, that two which are alike are told apart."""


@dataclass(frozen=True)
class Answered:
    """Whether an attempt to answer failed, and how long it took."""

    failed: bool
    took_s: float


class Lately:
    """The newest WINDOW attempts; one thread at a time."""

    def __init__(self) -> None:
        self._newest: deque[Answered] = deque(maxlen=WINDOW)

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, one: Answered) -> None:
        """The newest is this one."""
        self._newest.append(one)

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(one.failed for one in self._newest)

    @property
    def took_s(self) -> NDArray[np.float64]:
        """(n,) how long each took."""
        return np.array([one.took_s for one in self._newest], dtype=np.float64)


def worse(one: Lately, other: Lately, slower: float) -> str | None:
    """What the first surely does worse than the second, in words; None where nothing can be said.

    It fails more often by Fisher's exact test, or takes longer by the test of Mann and Whitney and its median is more
    than ``slower`` times the other's; both one-sided, at CHANCE.
    """
    if min(len(one), len(other)) < LEAST:
        return None
    if fisher(one.failed, len(one), other.failed, len(other)) < CHANCE:
        return f"{one.failed} of its last {len(one)} answers failed, and {other.failed} of {len(other)} beside them"
    first, second = one.took_s, other.took_s
    medians = 1000 * float(np.median(first)), 1000 * float(np.median(second))
    if medians[0] > slower * medians[1] and longer(first, second) < CHANCE:
        return f"it takes {medians[0]:.1f} ms at the median, and {medians[1]:.1f} ms are usual beside it"
    return None


def fisher(failed: int, of: int, other_failed: int, other_of: int) -> float:
    """The chance of so many failures or more in the first, were all failures spread over both by chance."""
    failures, whole = failed + other_failed, of + other_of
    ways = sum(
        math.comb(of, here) * math.comb(other_of, failures - here) for here in range(failed, min(of, failures) + 1)
    )
    return ways / math.comb(whole, failures)


def longer(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The chance that times of one kind are so much longer in the first: Mann and Whitney's U, normal, with ties."""
    n, m = len(first), len(second)
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, side="left") + np.searchsorted(ordered, first, side="right")
    u = float(below.sum()) / 2
    counts = np.unique(np.concatenate([first, second]), return_counts=True)[1].astype(np.float64)
    ties = float((counts**3 - counts).sum()) / ((n + m) * (n + m - 1))
    spread = math.sqrt(max(n * m / 12 * (n + m + 1 - ties), 0.0))
    return 1.0 if spread == 0 else 0.5 * math.erfc((u - n * m / 2) / spread / math.sqrt(2))
