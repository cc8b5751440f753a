"""Answers from a run of entries [lo, hi), and from other answers."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# Types are numba's to find; what goes in and comes out is in contract.py.

from __future__ import annotations

import numpy as np

from features import double_double
from features.rows.kernels.contract import DIFFERENCE, PRODUCT, TOTAL
from features.rows.kernels.inner import inner, inner_sum
from features.rows.tables import HASH_BITS

HASHES = 2.0**HASH_BITS

I64 = np.int64

NOISE, INTEGER_NOISE = double_double.NOISE, double_double.INTEGER_NOISE

added, centred = inner(double_double.added), inner(double_double.centred)


@inner
def first_at(times, count, bound):
    """The index of the first time at or after the bound, by steps that no branch has to be guessed for."""
    low, left = 0, count
    while left > 1:
        half = left >> 1
        low += half if times[low + half - 1] < bound else 0
        left -= half
    return low + 1 if left and times[low] < bound else low


@inner
def counted(values, lo, hi):
    """The sum of whole numbers."""
    total = I64(0)
    for index in range(lo, hi):
        total += values[index]
    return total


@inner_sum
def summed(values, lo, hi):
    """The sum of floats."""
    total = 0.0
    for index in range(lo, hi):
        total += values[index]
    return total


@inner
def paired(floats, line, lo, hi):
    """The sum of the pairs in a line and the next."""
    high, low = 0.0, 0.0
    for index in range(lo, hi):
        high, low = added(high, low, floats[line, index], floats[line + 1, index])
    return high, low


@inner
def variance(count, floats, sums, squares, lo, hi):
    """The sample variance of so many values, from the lines of their sums and squares; NaN for fewer than two."""
    if count <= 1:
        return np.nan
    total, total_rest = paired(floats, sums, lo, hi)
    square, square_rest = paired(floats, squares, lo, hi)
    n = float(count)
    return centred(n, square, square_rest, total, total_rest, total, total_rest, NOISE) / (n * (n - 1.0))


@inner
def slope(count, floats, sums, times, squares, products, lo, hi):
    """The rise of so many values in a ms, from the lines of such sums; NaN where all have the same time."""
    total, total_rest = paired(floats, sums, lo, hi)
    time, time_rest = paired(floats, times, lo, hi)
    square, square_rest = paired(floats, squares, lo, hi)
    product, product_rest = paired(floats, products, lo, hi)
    n = float(count)
    spread = centred(n, square, square_rest, time, time_rest, time, time_rest, INTEGER_NOISE)
    rise = centred(n, product, product_rest, time, time_rest, total, total_rest, NOISE)
    return rise / spread if spread > 0.0 else np.nan


@inner
def smallest(values, lo, hi):
    """The smallest of a run that is not empty."""
    best = values[lo]
    for index in range(lo + 1, hi):
        best = min(best, values[index])
    return best


@inner
def largest(values, lo, hi):
    """The largest of a run that is not empty."""
    best = values[lo]
    for index in range(lo + 1, hi):
        best = max(best, values[index])
    return best


@inner
def decayed(weights, times, lo, hi, as_of, half_life):
    """The sum of weight · 2^((time - as_of) / half_life)."""
    total = 0.0
    for index in range(lo, hi):
        total += weights[index] * np.exp2(-(as_of - times[index]) / half_life)
    return total


@inner
def unique(times, hashes, count, left, right, k):
    """The number of hashes in [left, right), estimated beyond k; the hashes are in order."""
    distinct, last, kth = 0, I64(-1), I64(0)
    for index in range(count):
        if left <= times[index] < right and hashes[index] != last:
            last = hashes[index]
            distinct += 1
            if distinct == k:
                kth = last
    return float(distinct) if distinct <= k else (k - 1) * HASHES / (float(kth) + 1)


@inner
def is_less_text(data, start, length, other_start, other_length):
    """True if a text comes before another in the order of bytes, which is that of code points."""
    for byte in range(min(length, other_length)):
        if data[start + byte] != data[other_start + byte]:
            return data[start + byte] < data[other_start + byte]
    return length < other_length


@inner
def bucket_at(buckets, counts, lo, hi, q):
    """The bucket that holds rank floor(q (n - 1)): the first with more than that many in it and below it."""
    rank = I64(np.floor(q * float(max(counted(counts, lo, hi) - 1, 0))))
    low, high = smallest(buckets, lo, hi), largest(buckets, lo, hi)
    while low < high:
        middle = (low + high) >> 1
        below = I64(0)
        for index in range(lo, hi):
            below += counts[index] if buckets[index] <= middle else 0
        if below > rank:
            high = middle
        else:
            low = middle + 1
    return low


@inner
def arithmetic(kind, values, operands):
    """NaN where an operand is null or the result is not finite (see expressions.evaluate)."""
    result = values[operands[0]]
    for operand in operands[1:]:
        other = values[operand]
        if kind == PRODUCT:
            result = result * other
        elif kind == TOTAL:
            result = result + other
        elif kind == DIFFERENCE:
            result = result - other
        else:
            result = result / other if other != 0.0 else np.nan
    return result if np.isfinite(result) else np.nan
