"""A naive oracle of every feature, and the comparison of any path's answers with it.

The oracle favours clarity. It loops over plain dicts, shares no code with the kernels, and defines which values are
right. An entity's events, and those of each feature set, are selected once, as that does not depend on as_of.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.checks.naive_aggregations import Event, Expected, aggregate, passes
from features.definitions import Feature, FeatureView, Stream, Window, duration_ms, evaluate
from features.rows import FeatureMatrix, Status


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
