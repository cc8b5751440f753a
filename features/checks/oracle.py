"""A naive oracle of every feature, and the comparison of any path's answers with it.

The oracle favours clarity. It loops over plain dicts, shares no code with the kernels, and defines which values are
right. An entity's events, and those of each feature set, are selected once, as that does not depend on as_of.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from features.definitions import Compare, Condition, Feature, FeatureView, OneOf, Stream, Window, duration_ms, evaluate
from features.definitions import aggregations as agg
from features.rows import FeatureMatrix, Status

Event = Mapping[str, Any]

MASK = 2**64 - 1

EXACT_AGGREGATIONS = (
    *(agg.Count, agg.Min, agg.Max, agg.Last, agg.LastK, agg.DistinctCount, agg.TimeSinceLast),
    *(agg.Change,),
)
"""Aggregations whose features are the same to the bit on every path: no float is rounded in any order of events."""


@dataclass(frozen=True)
class Expected:
    """The right value of a feature, and the absolute tolerance of a float."""

    value: Any
    tolerance: float = 0.0


def oracle(
    view: FeatureView, key: Mapping[str, Any], as_of: int, events: Mapping[str, Iterable[Event]]
) -> dict[str, Expected] | Status:
    """Every aggregated feature of an entity at as_of (ms), from all events of each stream; else its status."""
    (history,) = histories(view, [key], events)
    return answers(view, history, as_of)


@dataclass(frozen=True)
class FeatureGroup:
    """The features of a feature set (its index in the view) and a window of it."""

    set_index: int
    window: Window
    tile_ms: int
    features: Sequence[Feature]


@dataclass(frozen=True)
class EntityHistory:
    """The counted events of an entity, oldest first: all, and those that pass the filter of each feature set."""

    events: Sequence[Event]
    passing: Sequence[Sequence[Event]]
    groups: Sequence[FeatureGroup]


def histories(
    view: FeatureView, keys: Sequence[Mapping[str, Any]], events: Mapping[str, Iterable[Event]]
) -> list[EntityHistory]:
    """The history of each key, from all events of each stream."""
    counted = {stream.name: counted_events(view, stream, events.get(stream.name, ())) for stream in view.streams}
    groups = feature_groups(view)
    entity_histories = []
    for key in keys:
        values = tuple(key[name] for name in view.entity.keys)
        own = {stream: by_key.get(values, []) for stream, by_key in counted.items()}
        passing = [[e for e in own[fs.source.name] if passes(e, fs.filter)] for fs in view.sets]
        entity_histories.append(EntityHistory([event for each in own.values() for event in each], passing, groups))
    return entity_histories


def counted_events(view: FeatureView, stream: Stream, events: Iterable[Event]) -> dict[tuple[Any, ...], list[Event]]:
    """Each entity's events that count: the first of their id within the stream's horizon, not late; oldest first."""
    remembered, horizon = duration_ms(stream.dedupe_horizon), view.horizon_ms
    accepted: dict[str, int] = {}
    counted: dict[tuple[Any, ...], list[Event]] = {}
    for event in sorted(events, key=lambda e: (e["known_at"], e["offset"], e["partition"])):
        before = accepted.get(event["event_id"])
        if before is not None and event["known_at"] - before <= remembered:
            continue
        accepted[event["event_id"]] = event["known_at"]
        if event["event_time"] >= event["known_at"] - horizon:
            counted.setdefault(tuple(event[name] for name in view.entity.keys), []).append(event)
    for entity_events in counted.values():
        entity_events.sort(key=lambda e: (e["event_time"], e["offset"], e["partition"]))
    return counted


def feature_groups(view: FeatureView) -> list[FeatureGroup]:
    """The view's aggregated features, grouped by feature set and window."""
    grouped: dict[tuple[int, Window], list[Feature]] = {}
    for feature in view.aggregated:
        if feature.window is not None:
            index = next(index for index, fs in enumerate(view.sets) if fs is feature.feature_set)
            grouped.setdefault((index, feature.window), []).append(feature)
    return [
        FeatureGroup(index, window, view.tiling.bounds(window).tile_ms, features)
        for (index, window), features in grouped.items()
    ]


def answers(view: FeatureView, history: EntityHistory, as_of: int) -> dict[str, Expected] | Status:
    """The oracle's answer from an entity's history: every aggregated feature at as_of (ms), or the status."""
    times = [event["event_time"] for event in history.events if event["known_at"] <= as_of]
    if not times or as_of - max(times) > 2 * view.ttl_ms:
        return Status.NOT_FOUND
    if as_of - max(times) > view.ttl_ms:
        return Status.OUTSIDE_MAX_AGE
    expected: dict[str, Expected] = {}
    for group in history.groups:
        passing = history.passing[group.set_index]
        edges = limits(group.window, group.tile_ms, as_of)
        start, stop = (bisect_left(passing, edge, key=lambda e: e["event_time"]) for edge in edges)
        inside = [event for event in passing[start:stop] if event["known_at"] <= as_of]
        aggregated = ((f.name, f.aggregation) for f in group.features if f.aggregation is not None)
        expected |= {name: aggregate(aggregation, inside, as_of) for name, aggregation in aggregated}
    return expected


def limits(window: Window, tile: int, as_of: int) -> tuple[int, int]:
    """The window as [first event time inside, first event time outside)."""
    left = (as_of - window.delay_ms - window.length_ms) // tile * tile
    if window.delay_ms:
        return left, (as_of - window.delay_ms) // tile * tile
    return left, as_of // tile * tile + tile


def passes(event: Event, where: Mapping[str, Condition]) -> bool:
    """True if the event meets every condition."""
    return all(event[column] is not None and meets(event[column], condition) for column, condition in where.items())


def meets(value: Any, condition: Condition) -> bool:
    """True if the value meets the condition."""
    if isinstance(condition, OneOf):
        return value in condition.values
    if isinstance(condition, Compare):
        compare = {"above": value > condition.value, "at_least": value >= condition.value}
        compare |= {"below": value < condition.value, "at_most": value <= condition.value}
        compare |= {"other_than": value != condition.value}
        return bool(compare[condition.relation])
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
    if n * squares > 2.0**990:
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
    agg.Change: lambda spec, events, values, as_of: _change(values),
    agg.Last: lambda spec, events, values, as_of: Expected(values[-1] if values else None),
    agg.LastK: lambda spec, events, values, as_of: Expected(values[::-1][: spec.k]),
    agg.DistinctCount: lambda spec, events, values, as_of: Expected(distinct(values, spec.k)),
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


@dataclass(frozen=True)
class Disagreement:
    """A wrong value: its row, feature, and distance in tolerances."""

    row: int
    feature: str
    actual: str
    expected: str
    excess: float = math.inf

    def __str__(self) -> str:
        return f"row {self.row}: {self.feature} is {self.actual}, expected {self.expected}"


def disagreements(
    view: FeatureView, expected: Sequence[dict[str, Expected] | Status], actual: FeatureMatrix
) -> list[str]:
    """One line for each value, status or derived feature that is not what the oracle expects."""
    return [str(wrong) for wrong in compared(view, expected, actual)] + derived_disagreements(view, actual)


def compared(
    view: FeatureView, expected: Sequence[dict[str, Expected] | Status], actual: FeatureMatrix
) -> list[Disagreement]:
    """Each status and aggregated feature that is not what the oracle expects, row by row."""
    columns = {name: column.to_pylist() for name, column in zip(actual.names, actual.columns, strict=True)}
    wrong = []
    for row, answer in enumerate(expected):
        status, right = Status(int(actual.status[row])), answer if isinstance(answer, Status) else Status.PRESENT
        if status != right:
            wrong.append(Disagreement(row, "status", status.name, right.name))
        elif isinstance(answer, Status):
            values = {name: columns[name][row] for name in actual.names}
            wrong += [
                Disagreement(row, name, repr(v), f"null: {right.name}") for name, v in values.items() if v is not None
            ]
        else:
            wrong += [
                Disagreement(row, name, repr(columns[name][row]), f"{value.value!r} within {value.tolerance:g}", excess)
                for name, value in answer.items()
                if (excess := excess_of(columns[name][row], value)) > 1
            ]
    return wrong


def excess_of(value: Any, expected: Expected) -> float:
    """The distance of a value from the expected one, in tolerances: 0 for the same value, inf if none is allowed."""
    if value == expected.value or math.isinf(expected.tolerance):
        return 0.0
    if value is None or expected.value is None or not expected.tolerance:
        return math.inf
    excess = float(abs(value - expected.value) / expected.tolerance)
    return math.inf if math.isnan(excess) else excess


def derived_disagreements(view: FeatureView, actual: FeatureMatrix) -> list[str]:
    """One line for each derived feature that differs from its expression of the row's other features."""
    numeric = {f.name for f in view.features if f.dtype in ("int64", "float64")}
    columns = dict(zip(actual.names, actual.columns, strict=True))
    floats = {name: columns[name].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for name in numeric}
    wrong = []
    for feature in view.features:
        if feature.expression is not None:
            right = np.where(actual.status == Status.PRESENT, evaluate(feature.expression, floats), np.nan)
            same = np.array_equal(right, floats[feature.name], equal_nan=True)
            wrong += [] if same else [f"{feature.name} is not {feature.expression} of its operands"]
    return wrong


def differences(first: FeatureMatrix, second: FeatureMatrix) -> list[str]:
    """Names of features in which two paths differ in any bit or null, and 'status' if the statuses differ."""
    wrong = [] if np.array_equal(first.status, second.status) else ["status"]
    pairs = zip(first.names, first.columns, second.columns, strict=True)
    return wrong + [name for name, left, right in pairs if not left.equals(right)]


def is_exact(feature: Feature) -> bool:
    """True if every path gives the same bits of the feature."""
    return isinstance(feature.aggregation, (*EXACT_AGGREGATIONS, agg.Quantile))
