"""Confidence intervals of means: the percentile bootstrap (Efron and Tibshirani, 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from features.arrays import Floats

DRAWS, LEVEL = 1_000, 0.95

SAME = 1e-12
"""Floats of means that differ by at most this are the same."""

CELLS = 4_000_000
"""Weights that are drawn at once."""


@dataclass(frozen=True)
class Interval:
    """A mean, and its interval of the probability LEVEL; NaN of no values."""

    mean: float
    low: float
    high: float

    @property
    def is_point(self) -> bool:
        """True for an interval of no width, as of one value or of equal ones, and for one of no values."""
        return not self.high - self.low > SAME


def bootstrap(values: Floats, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The interval of the values' mean; values that are NaN are left out.

    Of paired differences, it is the interval of the difference of two means over the same lists.
    """
    there = values[~np.isnan(values)]
    if not len(there):
        return Interval(float("nan"), float("nan"), float("nan"))
    means = [drawn @ there / len(there) for drawn in drawn_weights(len(there), seed, draws)]
    return interval_of(float(there.mean()), np.concatenate(means))


def drawn_weights(count: int, seed: int, draws: int = DRAWS, width: int = 0) -> Iterator[Floats]:
    """The times that each of ``count`` things is drawn, (draws, count) in chunks; the same for the same seed.

    Args:
        width: the size of what a draw is made into, where that is more than count: it bounds the chunks.
    """
    chunk = max(1, CELLS // max(count, width))
    if draws <= chunk:
        yield _few_weights(count, seed, draws)
        return
    rng = np.random.default_rng(seed)
    for start in range(0, draws, chunk):
        yield _drawn(count, min(chunk, draws - start), rng)


@lru_cache(maxsize=2)
def _few_weights(count: int, seed: int, draws: int) -> Floats:
    """Cached, as a report has the intervals of many metrics of the same lists."""
    return _drawn(count, draws, np.random.default_rng(seed))


def _drawn(count: int, draws: int, rng: np.random.Generator) -> Floats:
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def interval_of(value: float, drawn: Floats) -> Interval:
    """The interval of a statistic of this value, from its values in draws; NaN among them are left out."""
    there = drawn[~np.isnan(drawn)]
    if not len(there):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(there, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
