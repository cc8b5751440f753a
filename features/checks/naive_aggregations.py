"""The right value of each aggregation, from the plain values of a window's events.

It favours clarity, shares no code with the kernels, and says with each float how far another may be from it.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from features.definitions import AnyOf, Compare, Condition, Feature, OneOf, Presence, TextTest
from features.definitions import aggregations as agg

Event = Mapping[str, Any]

MASK = 2**64 - 1

LARGEST_SQUARES, LARGEST_SUMMAND, LARGEST_WEIGHTED = 2.0**990, 1e290, 1e150
"""Sums of larger numbers may leave float64 on some path."""

EXACT_AGGREGATIONS = (
    *(agg.Count, agg.Min, agg.Max, agg.Last, agg.LastK, agg.DistinctCount, agg.TimeSinceLast),
    *(agg.Change, agg.First, agg.MostFrequent),
)
"""Aggregations whose features are the same to the bit on every path: no float is rounded in any order of events."""


@dataclass(frozen=True)
class Expected:
    """The right value of a feature, and the absolute tolerance of a float."""

    value: Any
    tolerance: float = 0.0


def is_exact(feature: Feature) -> bool:
    """True if every path gives the same bits of the feature."""
    return isinstance(feature.aggregation, (*EXACT_AGGREGATIONS, agg.Quantile))


RELATIONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
    "other_than": operator.ne,
    "starts_with": str.startswith,
}


def passes(event: Event, where: Mapping[str, Condition]) -> bool:
    """True if the event meets every condition."""
    return all(meets(event[column], condition) for column, condition in where.items())


def meets(value: Any, condition: Condition) -> bool:
    """True if the value meets the condition; None is null."""
    if isinstance(condition, AnyOf):
        return any(meets(value, each) for each in condition.conditions)
    if isinstance(condition, Presence):
        return (value is not None) == condition.there
    if value is None:
        return False
    if isinstance(condition, OneOf):
        return value in condition.values
    if isinstance(condition, Compare | TextTest):
        return bool(RELATIONS[condition.relation](value, condition.value))
    return bool(value == condition)


def aggregate(aggregation: agg.Aggregation, events: Sequence[Event], as_of: int) -> Expected:
    """The aggregation of the events of a window, oldest first."""
    events = [event for event in events if passes(event, aggregation.filter)] if aggregation.filter else events
    column = getattr(aggregation, "column", None)
    values = [event[column] for event in events if event[column] is not None] if column else [1] * len(events)
    return ANSWERS[type(aggregation)](aggregation, events, values, as_of)


def _sum(values: Sequence[float]) -> Expected:
    """The sum, rounded once. Where sums can leave float64, any value is right: it depends on the order."""
    try:
        return Expected(math.fsum(values), 1e-9 * math.fsum(map(abs, values)))
    except OverflowError:
        return Expected(None, math.inf)


def _mean(values: Sequence[float]) -> Expected:
    total = _sum(values)
    if not values or total.value is None:
        return Expected(None, total.tolerance)
    return Expected(total.value / len(values), total.tolerance / len(values))


def _variance(values: Sequence[float]) -> Expected:
    """The sample variance by two passes. Where squares can leave float64, it may have no value."""
    n, numbers = len(values), [float(value) for value in values]
    if n <= 1:
        return Expected(None)
    try:
        squares = math.fsum(number * number for number in numbers)
        mean = math.fsum(numbers) / n
        deviations = [number - mean for number in numbers]
        moment = math.fsum(d * d for d in deviations) - math.fsum(deviations) ** 2 / n
    except OverflowError:
        return Expected(None, math.inf)
    if n * squares > LARGEST_SQUARES:
        return Expected(None, math.inf)
    value = max(moment, 0.0) / (n - 1)
    return Expected(value, 1e-9 * value + 2e-24 * squares / (n - 1) + 1e-300)


def _stddev(values: Sequence[float]) -> Expected:
    variance = _variance(values)
    if variance.value is None:
        return variance
    value = math.sqrt(variance.value)
    low, high = (math.sqrt(max(variance.value + sign * variance.tolerance, 0.0)) for sign in (-1, 1))
    return Expected(value, max(high - value, value - low))


def _slope(aggregation: agg.Slope, events: Sequence[Event], values: Sequence[float]) -> Expected:
    """The rise of the least-squares line, by two passes. Its numbers are rounded as products of values and ms."""
    times = [event["event_time"] for event in events if event[aggregation.column] is not None]
    n = len(values)
    if len(set(times)) <= 1:
        return Expected(None)
    if n * n * max(map(abs, values)) > LARGEST_SUMMAND:
        return Expected(None, math.inf)
    mean, middle = math.fsum(values) / n, math.fsum(time - times[0] for time in times) / n
    steps = [(time - times[0] - middle, value - mean) for time, value in zip(times, values, strict=True)]
    spread = math.fsum(t * t for t, _ in steps)
    value = math.fsum(t * x for t, x in steps) / spread * aggregation.per_ms
    rounding = 1e-12 * math.fsum(abs(t * x) for t, x in steps)
    rounding += 2e-24 * math.fsum(abs((time - 1_577_836_800_000) * x) for time, x in zip(times, values, strict=True))
    return Expected(value, 1e-9 * abs(value) + rounding / spread * aggregation.per_ms + 1e-300)


def _exponential_mean(aggregation: agg.ExponentialMean, events: Sequence[Event], values: Sequence[float]) -> Expected:
    times = [event["event_time"] for event in events if event[aggregation.column] is not None]
    if not values:
        return Expected(None)
    if max(map(abs, values)) > LARGEST_WEIGHTED:
        return Expected(None, math.inf)
    weights = [2.0 ** (-(times[-1] - time) / aggregation.half_life_ms) for time in times]
    total = math.fsum(weights)
    value = math.fsum(w * x for w, x in zip(weights, values, strict=True)) / total
    size = math.fsum(w * abs(x) for w, x in zip(weights, values, strict=True)) / total
    return Expected(value, 1e-9 * size + 1e-300)


def _change(values: Sequence[float]) -> Expected:
    change = float(values[-1]) - float(values[-2]) if len(values) > 1 else math.nan
    return Expected(change if math.isfinite(change) else None)


def _zscore(values: Sequence[float]) -> Expected:
    mean, stddev = _mean(values), _stddev(values)
    if mean.value is None:
        return mean
    return quotient(Expected(values[-1] - mean.value, mean.tolerance), stddev)


def _quantile(aggregation: agg.Quantile, values: Sequence[float]) -> Expected:
    if not values:
        return Expected(None)
    item = sorted(values)[math.floor(aggregation.q * (len(values) - 1))]
    return Expected(item, aggregation.relative_error * abs(item) * (1 + 1e-9) + 1e-9)


def _most_frequent(aggregation: agg.MostFrequent, values: Sequence[Any]) -> Expected:
    counts = Counter(values)
    if not values or len(counts) > aggregation.k:
        return Expected(None)
    most = max(counts.values())
    return Expected(min(value for value, count in counts.items() if count == most))


def _decayed(aggregation: agg.DecayedCount, events: Sequence[Event], as_of: int) -> Expected:
    total = math.fsum(2.0 ** (-(as_of - event["event_time"]) / aggregation.half_life_ms) for event in events)
    return Expected(total, 1e-9 * total + 1e-300)


def _since(events: Sequence[Event], as_of: int) -> Expected:
    return Expected(max(0, as_of - events[-1]["event_time"]) if events else None)


def _ratio(aggregation: agg.Ratio, events: Sequence[Event], as_of: int) -> Expected:
    return quotient(aggregate(aggregation.numerator, events, as_of), aggregate(aggregation.denominator, events, as_of))


ANSWERS: dict[type[agg.Aggregation], Callable[[Any, Sequence[Event], list[Any], int], Expected]] = {
    agg.Count: lambda spec, events, values, as_of: Expected(len(values)),
    agg.Sum: lambda spec, events, values, as_of: _sum(values),
    agg.Mean: lambda spec, events, values, as_of: _mean(values),
    agg.Min: lambda spec, events, values, as_of: Expected(min(values, default=None)),
    agg.Max: lambda spec, events, values, as_of: Expected(max(values, default=None)),
    agg.Variance: lambda spec, events, values, as_of: _variance(values),
    agg.StdDev: lambda spec, events, values, as_of: _stddev(values),
    agg.ZScore: lambda spec, events, values, as_of: _zscore(values),
    agg.Slope: lambda spec, events, values, as_of: _slope(spec, events, values),
    agg.ExponentialMean: lambda spec, events, values, as_of: _exponential_mean(spec, events, values),
    agg.Change: lambda spec, events, values, as_of: _change(values),
    agg.Last: lambda spec, events, values, as_of: Expected(values[-1] if values else None),
    agg.First: lambda spec, events, values, as_of: Expected(values[0] if values else None),
    agg.LastK: lambda spec, events, values, as_of: Expected(values[::-1][: spec.k]),
    agg.DistinctCount: lambda spec, events, values, as_of: Expected(distinct(values, spec.k)),
    agg.MostFrequent: lambda spec, events, values, as_of: _most_frequent(spec, values),
    agg.TimeSinceLast: lambda spec, events, values, as_of: _since(events, as_of),
    agg.DecayedCount: lambda spec, events, values, as_of: _decayed(spec, events, as_of),
    agg.Quantile: lambda spec, events, values, as_of: _quantile(spec, values),
    agg.Ratio: lambda spec, events, values, as_of: _ratio(spec, events, as_of),
}


def quotient(top: Expected, bottom: Expected) -> Expected:
    """The quotient, with the tolerance that follows from both; a denominator that may be 0 tolerates anything."""
    if math.isinf(max(top.tolerance, bottom.tolerance)):
        return Expected(None, math.inf)
    if top.value is None or bottom.value is None or (bottom.value == 0 and bottom.tolerance == 0):
        return Expected(None)
    if abs(bottom.value) <= bottom.tolerance:
        return Expected(None, math.inf)
    value = top.value / bottom.value
    error = top.tolerance / abs(bottom.value) + abs(value) * bottom.tolerance / abs(bottom.value)
    return Expected(value, 2 * error + 1e-12 * abs(value))


def distinct(values: Iterable[Any], k: int) -> float:
    """The number of different values; beyond k the k-minimum-values estimate over the documented 48-bit hash."""
    hashes = sorted({hash_48(value) for value in values})
    return float(len(hashes)) if len(hashes) <= k else (k - 1) * 2.0**48 / (hashes[k - 1] + 1)


@lru_cache(maxsize=1 << 18, typed=True)  # typed: 1, 1.0 and True are equal, and their hashes are not
def hash_48(value: Any) -> int:
    """The top 48 bits of the hash that features/hashing.py documents."""
    if isinstance(value, str):
        encoded = value.encode()
        return splitmix(sum((b + 1) * weight(i) for i, b in enumerate(encoded)) & MASK ^ len(encoded)) >> 16
    bits = int(np.float64(value + 0.0).view(np.uint64)) if isinstance(value, float) else int(value) & MASK
    return splitmix(bits) >> 16


@lru_cache(maxsize=1 << 12)
def weight(position: int) -> int:
    """The factor of the byte at a position of a text."""
    return splitmix(position) | 1


def splitmix(z: int) -> int:
    """SplitMix64's next output for a state."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
