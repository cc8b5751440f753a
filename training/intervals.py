"""How sure a mean is: the percentile bootstrap over what it is a mean of (Efron and Tibshirani, 1993, chapter 13)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS, LEVEL = 1_000, 0.95
CELLS = 4_000_000
"""How many weights are drawn at once."""


@dataclass(frozen=True)
class Interval:
    """A mean, and between what it lies with the probability LEVEL; NaN of no values."""

    mean: float
    low: float
    high: float


def bootstrap(values: Floats, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The interval of the values' mean; values that are NaN are left out.

    Of paired differences, it is the interval of the difference of two means over the same lists.
    """
    there = values[~np.isnan(values)]
    if not len(there):
        return Interval(float("nan"), float("nan"), float("nan"))
    rng, chunk = np.random.default_rng(seed), max(1, CELLS // len(there))
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    means = np.concatenate([_means(there, size, rng) for size in sizes])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(there.mean()), float(low), float(high))


def _means(values: Floats, draws: int, rng: np.random.Generator) -> Floats:
    drawn = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=draws)
    means: Floats = drawn @ values / len(values)
    return means
