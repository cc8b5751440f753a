"""Double-double arithmetic: a number as the unevaluated sum of two float64, of 106 bits together.

Sums of squares and of products are kept this way (Dekker, "A floating-point technique for extending the available
precision", Numerische Mathematik 1971), so that a variance survives the subtraction of two numbers that are nearly
equal. Each function is plain arithmetic, for arrays of numpy and for the kernels that numba compiles alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from features.arrays import Column, Int64s

SPLIT = 2.0**27 + 1.0
"""Times this, a float64 falls into two halves whose products are exact."""

NOISE = 2.0**-80
"""A difference below this share of its terms is taken to be rounding."""

INTEGER_NOISE = 2.0**-98
"""The same of sums of integers, whose squares are exact as pairs."""


def added(high: Any, low: Any, other_high: Any, other_low: Any) -> tuple[Any, Any]:
    """The sum of two pairs, within 2^-104 of the sum of their magnitudes."""
    total = high + other_high
    part = total - high
    rest = ((high - (total - part)) + (other_high - part)) + (low + other_low)
    result = total + rest
    return result, rest - (result - total)


def multiplied(first: Any, second: Any) -> tuple[Any, Any]:
    """The product of two float64 as a pair, exact inside the range of float64."""
    product = first * second
    first_high = SPLIT * first - (SPLIT * first - first)
    second_high = SPLIT * second - (SPLIT * second - second)
    first_low, second_low = first - first_high, second - second_high
    rest = first_low * second_low - (
        ((product - first_high * second_high) - first_low * second_high) - first_high * second_low
    )
    return product, rest


def centred(
    count: Any,
    products_high: Any,
    products_low: Any,
    first_high: Any,
    first_low: Any,
    second_high: Any,
    second_low: Any,
    noise: float,
) -> Any:
    """count · Σxy − Σx · Σy, which is count² times the covariance of x and y.

    Args:
        count: of the summands, as float64.
        products_high, products_low: Σxy; the other pairs are Σx and Σy.
        noise: a difference of less than this share of its terms is 0.
    """
    left = count * products_high
    count_high = SPLIT * count - (SPLIT * count - count)
    high = SPLIT * products_high - (SPLIT * products_high - products_high)
    count_low, low = count - count_high, products_high - high
    left_rest = count_low * low - (((left - count_high * high) - count_low * high) - count_high * low)
    right = first_high * second_high
    high = SPLIT * first_high - (SPLIT * first_high - first_high)
    other = SPLIT * second_high - (SPLIT * second_high - second_high)
    low, other_low = first_high - high, second_high - other
    right_rest = low * other_low - (((right - high * other) - low * other) - high * other_low)
    rest = (left_rest + count * products_low) - (right_rest + (first_high * second_low + first_low * second_high))
    total = left - right
    part = total - left
    result = total + (((left - (total - part)) - (right + part)) + rest)
    return result * (abs(result) > noise * abs(left))


def sums_of_runs(high: Column, low: Column, starts: Int64s) -> tuple[Column, Column]:
    """The sum of the pairs of each run [start, next start): neighbours are added until each run is a single pair.

    Args:
        starts: rising from 0; no run is empty.
    """
    import numpy as np

    starts = np.asarray(starts)
    while len(starts) < len(high):
        lengths = np.diff(np.append(starts, len(high)))
        left = np.flatnonzero((np.arange(len(high)) - np.repeat(starts, lengths)) % 2 == 0)
        alone = np.append(np.diff(left), len(high) - left[-1]) == 1
        right = left + ~alone
        other_high, other_low = np.where(alone, 0.0, high[right]), np.where(alone, 0.0, low[right])
        high, low = added(high[left], low[left], other_high, other_low)
        starts = np.concatenate([[0], np.cumsum((lengths + 1) // 2)[:-1]])
    return high, low
