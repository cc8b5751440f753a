"""Test kit: a naive oracle of every feature, and the comparison of any path's answers with it.

The oracle is meant to be read. It loops over plain dicts, shares no code with the kernels, and is the definition of right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features import aggregates as agg
from features.definitions import FeatureView, Stream
from features.expressions import Compare, Condition, OneOf, evaluate
from features.state import FeatureMatrix, Status
from features.windows import Window

Event = Mapping[str, Any]
MASK = 2**64 - 1


@dataclass(frozen=True)
class Expected:
    """What a feature must be: its value, and how far a float may be from it (absolute)."""

    value: Any
    tolerance: float = 0.0


# --- the oracle --------------------------------------------------------------------------------------------------------


def oracle(
    view: FeatureView, key: Mapping[str, Any], as_of: int, events: Mapping[str, Sequence[Event]]
) -> dict[str, Expected] | Status:
    """Every aggregated feature of one entity at as_of (ms), from all events of each stream; or why there is none."""
    mine = {stream.name: known_events(view, stream, key, as_of, events.get(stream.name, ())) for stream in view.streams}
    times = [event["event_time"] for several in mine.values() for event in several]
    if not times or as_of - max(times) > 2 * view.ttl_ms:
        return Status.NOT_FOUND
    if as_of - max(times) > view.ttl_ms:
        return Status.OUTSIDE_MAX_AGE
    answers = {}
    for feature in view.aggregated:
        one, window, aggregation = feature.feature_set, feature.window, feature.aggregation
        left, right = limits(window, view.tiling.bounds(window).tile_ms, as_of)
        inside = [e for e in mine[one.source.name] if left <= e["event_time"] < right and passes(e, one.filter)]
        answers[feature.name] = aggregate(aggregation, inside, as_of)
    return answers


def known_events(
    view: FeatureView, stream: Stream, key: Mapping[str, Any], as_of: int, events: Iterable[Event]
) -> list[Event]:
    """The entity's events that count: first of their id, known by as_of, not late; oldest first."""
    accepted: dict[str, int] = {}
    horizon = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[str(stream.dedupe_horizon)[-1]] * int(
        str(stream.dedupe_horizon)[:-1]
    )
    mine = []
    for event in sorted(events, key=lambda e: (e["known_at"], e["offset"], e["partition"])):
        before = accepted.get(event["event_id"])
        if before is not None and event["known_at"] - before <= horizon:
            continue
        accepted[event["event_id"]] = event["known_at"]
        timely = event["event_time"] >= event["known_at"] - view.horizon_ms
        if event["known_at"] <= as_of and timely and all(event[name] == value for name, value in key.items()):
            mine.append(event)
    return sorted(mine, key=lambda e: (e["event_time"], e["offset"], e["partition"]))


def limits(window: Window, tile: int, as_of: int) -> tuple[int, int]:
    """First event time inside and first one outside."""
    left = (as_of - window.delay_ms - window.length_ms) // tile * tile
    if window.delay_ms:
        return left, (as_of - window.delay_ms) // tile * tile
    return left, -(-as_of // tile) * tile


def passes(event: Event, where: Mapping[str, Condition]) -> bool:
    """Whether the event meets every condition."""
    return all(event[column] is not None and meets(event[column], condition) for column, condition in where.items())


def meets(value: Any, condition: Condition) -> bool:
    """Whether one value meets one condition."""
    if isinstance(condition, OneOf):
        return value in condition.values
    if isinstance(condition, Compare):
        compare = {"above": value > condition.value, "at_least": value >= condition.value}
        compare |= {"below": value < condition.value, "at_most": value <= condition.value}
        return compare[condition.relation]
    return bool(value == condition)


def aggregate(aggregation: agg.Aggregation, events: list[Event], as_of: int) -> Expected:
    """The aggregation of the events of a window, oldest first."""
    events = [event for event in events if passes(event, aggregation.filter)]
    if isinstance(aggregation, agg.Ratio):
        top, bottom = (aggregate(part, events, as_of) for part in (aggregation.numerator, aggregation.denominator))
        return quotient(top, bottom)
    column = getattr(aggregation, "column", None)
    values = [event[column] for event in events if event[column] is not None] if column else [1] * len(events)
    size = math.fsum(abs(value) for value in values) if values and not isinstance(values[0], str) else 0.0
    match aggregation:
        case agg.Count():
            return Expected(len(values))
        case agg.Sum():
            return Expected(math.fsum(values), 1e-9 * size)
        case agg.Mean():
            return Expected(math.fsum(values) / len(values), 1e-9 * size / len(values)) if values else Expected(None)
        case agg.Min():
            return Expected(min(values, default=None))
        case agg.Max():
            return Expected(max(values, default=None))
        case agg.Last():
            return Expected(values[-1] if values else None)
        case agg.LastK():
            return Expected(values[::-1][: aggregation.k])
        case agg.DistinctCount():
            return Expected(distinct(values, aggregation.k), 0.0)
        case agg.TimeSinceLast():
            return Expected(max(0, as_of - events[-1]["event_time"]) if events else None)
        case agg.DecayedCount():
            weights = [2.0 ** (-(as_of - event["event_time"]) / aggregation.half_life_ms) for event in events]
            return Expected(math.fsum(weights), 1e-9 * math.fsum(weights) + 1e-300)
        case agg.Quantile():
            if not values:
                return Expected(None)
            item = sorted(values)[math.floor(aggregation.q * (len(values) - 1))]
            return Expected(item, aggregation.relative_error * abs(item) * (1 + 1e-9) + 1e-9)
    raise TypeError(aggregation)


def quotient(top: Expected, bottom: Expected) -> Expected:
    """One over the other, with the tolerance that theirs leave; a denominator that may be 0 tolerates anything."""
    if top.value is None or bottom.value is None or (bottom.value == 0 and bottom.tolerance == 0):
        return Expected(None)
    if abs(bottom.value) <= bottom.tolerance:
        return Expected(None, math.inf)
    value = top.value / bottom.value
    error = top.tolerance / abs(bottom.value) + abs(value) * bottom.tolerance / abs(bottom.value)
    return Expected(value, 2 * error + 1e-12 * abs(value))


def distinct(values: list[Any], k: int) -> float:
    """How many different values; beyond k the k-minimum-values estimate over the documented 48-bit hash."""
    hashes = sorted({hash_48(value) for value in values})
    return float(len(hashes)) if len(hashes) <= k else (k - 1) * 2.0**48 / (hashes[k - 1] + 1)


def hash_48(value: Any) -> int:
    """The top 48 bits of the hash that hashing.py documents."""
    if isinstance(value, str):
        octets = value.encode()
        return splitmix(sum((b + 1) * (splitmix(i) | 1) for i, b in enumerate(octets)) & MASK ^ len(octets)) >> 16
    bits = int(np.float64(value + 0.0).view(np.uint64)) if isinstance(value, float) else int(value) & MASK
    return splitmix(bits) >> 16


def splitmix(z: int) -> int:
    """SplitMix64's next output for a state."""
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


# --- comparison --------------------------------------------------------------------------------------------------------


def disagreements(
    view: FeatureView, expected: Sequence[dict[str, Expected] | Status], found: FeatureMatrix
) -> list[str]:
    """One line for each value, status or derived feature that is not what the oracle expects."""
    columns = {name: column.to_pylist() for name, column in zip(found.names, found.columns, strict=True)}
    wrong = []
    for row, answer in enumerate(expected):
        status = Status(int(found.status[row]))
        if isinstance(answer, Status):
            if status != answer or any(columns[name][row] is not None for name in found.names):
                wrong.append(f"row {row}: status {status.name}, expected {answer.name}")
        elif status != Status.PRESENT:
            wrong.append(f"row {row}: status {status.name}, expected PRESENT")
        else:
            wrong += [
                f"row {row}: {name} is {columns[name][row]!r}, expected {one.value!r} within {one.tolerance:g}"
                for name, one in answer.items()
                if not agrees(columns[name][row], one)
            ]
    return wrong + derived_disagreements(view, found)


def agrees(value: Any, expected: Expected) -> bool:
    """Whether a value is what is expected."""
    if math.isinf(expected.tolerance):
        return True
    if value is None or expected.value is None or not isinstance(expected.value, float) or not expected.tolerance:
        return bool(value == expected.value)
    return abs(value - expected.value) <= expected.tolerance


def derived_disagreements(view: FeatureView, found: FeatureMatrix) -> list[str]:
    """Derived features must be their expression of the features beside them."""
    numeric = {f.name for f in view.features if f.dtype in ("int64", "float64")}
    columns = dict(zip(found.names, found.columns, strict=True))
    floats = {name: columns[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in numeric}
    wrong = []
    for feature in view.features:
        if feature.expression is not None:
            right = np.where(found.status == Status.PRESENT, evaluate(feature.expression, floats), np.nan)
            same = np.array_equal(right, floats[feature.name], equal_nan=True)
            wrong += [] if same else [f"{feature.name} is not {feature.expression} of its operands"]
    return wrong


def differences(first: FeatureMatrix, second: FeatureMatrix) -> list[str]:
    """Features in which two paths differ at all: the same bits, the same nulls, the same status."""
    wrong = [] if np.array_equal(first.status, second.status) else ["status"]
    pairs = zip(first.names, first.columns, second.columns, strict=True)
    return wrong + [name for name, one, other in pairs if not one.equals(other)]
