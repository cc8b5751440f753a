"""From definitions to kernels: the tables that a view keeps, and how each feature is answered from them.

A Plan is made once per view. Its tables hold what the stream folds (tables.py); ``finalized`` answers every feature of a
history from its lifted events. State rows are answered by compiled kernels (kernels/), which give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.aggregates import (
    Aggregation,
    Count,
    DecayedCount,
    DistinctCount,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Sum,
    TimeSinceLast,
)
from features.definitions import Feature, FeatureSet, FeatureView
from features.entries import Column, concatenated, run_starts
from features.expressions import Condition, evaluate
from features.ranges import Ranges
from features.tables import HASH_BITS, Distinct, Histogram, Lane, Recent, Table, Tiles
from features.windows import Bounds, Int64s, Tiling, Window

TILE_SLOTS: dict[type[Aggregation], tuple[str, ...]] = {
    Count: ("count",),
    Sum: ("sum",),
    Mean: ("count", "sum"),
    Min: ("min",),
    Max: ("max",),
}
VALUE_CODECS = {"string": "text", "float64": "float", "int64": "integer", "bool": "integer"}


@dataclass(frozen=True)
class Answer:
    """One feature of n rows: values and which of them are null (None: none is)."""

    values: Column
    valid: NDArray[np.bool_] | None = None


class Source(Protocol):
    """Where a finalizer finds its entries: a history's lifted events (see point_in_time.py)."""

    as_of: Int64s

    def ranges(self, table: Table, window: Window) -> Ranges:
        """For each row, the table's entries inside the window at as_of."""

    def distinct(self, table: Distinct, window: Window) -> tuple[Int64s, NDArray[np.uint64]]:
        """(row, hash) of each different value inside the window, sorted by row."""


@dataclass(frozen=True)
class Kept:
    """A table with the windows that read it: its own horizon may be shorter than the view's."""

    table: Table
    tiling: Tiling


class Plan:
    """What a view keeps and how it answers: its tables in storage order, one finalizer per feature."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self.bounds: dict[Window, Bounds] = {window: view.tiling.bounds(window) for window in view.tiling.windows}
        uses = [(table, window) for feature in view.aggregated for _, table, window in _parts_of(feature)]
        merged: dict[Table, list[Window]] = {}
        for table, window in uses:
            merged.setdefault(_same_kind(table), []).append(window)
        widest = {key: _widest([table for table, _ in uses if _same_kind(table) == key]) for key in merged}
        self.kept = tuple(Kept(widest[key], view.tiling.subset(windows)) for key, windows in merged.items())
        by_kind = dict(zip(merged, (kept.table for kept in self.kept), strict=True))
        self.asked = tuple(
            (feature, tuple((part, by_kind[_same_kind(table)], window) for part, table, window in _parts_of(feature)))
            for feature in view.aggregated
        )


@lru_cache(maxsize=64)
def plan_of(view: FeatureView) -> Plan:
    """The view's plan, made once."""
    return Plan(view)


def lane_of(one: FeatureSet, aggregation: Aggregation, column: str | None) -> Lane:
    """The lane of an aggregation: both filters, in one order, so that equal lanes are shared."""
    conditions = {*one.filter.items(), *aggregation.filter.items()}
    return Lane(one.source.name, tuple(sorted(conditions, key=_condition_order)), column)


def _condition_order(item: tuple[str, Condition]) -> tuple[str, str]:
    return item[0], repr(item[1])


def _parts_of(feature: Feature) -> list[tuple[Aggregation, Table, Window]]:
    """What is computed for a feature: each part with the table that it needs; nothing for a derived feature."""
    one, aggregation, window = feature.feature_set, feature.aggregation, feature.window
    if one is None or aggregation is None or window is None:
        return []
    return [(part, _table_of(one, part), window) for part in aggregation.parts]


def _answer(part: Aggregation, table: Table, window: Window, source: Source) -> Answer:
    if isinstance(table, Distinct):
        rows, hashes = source.distinct(table, window)
        return Answer(distinct_count(rows, hashes, len(source.as_of), table.k))
    return FINALIZERS[type(part)](part, source.ranges(table, window), source.as_of)


def finalized(plan: Plan, source: Source) -> dict[str, Answer]:
    """Every feature of the plan's view by name, in order."""
    answers = {feature.name: _combined([_answer(*part, source) for part in parts]) for feature, parts in plan.asked}
    numbers = {f.name: answers[f.name] for f in plan.view.aggregated if f.dtype in ("int64", "float64")}
    floats = {name: _as_float(answer) for name, answer in numbers.items()}
    for feature in plan.view.features:
        if feature.expression is not None:
            values = evaluate(feature.expression, floats)
            floats[feature.name] = values
            answers[feature.name] = Answer(np.nan_to_num(values), ~np.isnan(values))
    return answers


def _combined(parts: list[Answer]) -> Answer:
    """The one part's answer, or a ratio's first over its second."""
    return parts[0] if len(parts) == 1 else _divided(*parts)


def _table_of(one: FeatureSet, aggregation: Aggregation) -> Table:
    """The table that an aggregation needs, with only its own slots and size."""
    lane = lane_of(one, aggregation, getattr(aggregation, "column", None))
    if type(aggregation) in TILE_SLOTS:
        return Tiles(lane, TILE_SLOTS[type(aggregation)])
    match aggregation:
        case DecayedCount():
            return Tiles(lane, (f"decay {aggregation.half_life_ms}",))
        case Last():
            return Recent(lane, 1, VALUE_CODECS[one.source.dtypes[aggregation.column]])
        case LastK():
            return Recent(lane, aggregation.k, VALUE_CODECS[one.source.dtypes[aggregation.column]])
        case TimeSinceLast():
            return Recent(lane, 1)
        case DistinctCount():
            return Distinct(lane, aggregation.k)
        case Quantile():
            return Histogram(lane, aggregation.relative_error)
    raise TypeError(aggregation)


def _same_kind(table: Table) -> Table:
    """A key that is equal for tables that can be kept as one."""
    if isinstance(table, Tiles):
        return replace(table, slots=())
    return replace(table, k=1) if isinstance(table, Recent) else table


def _widest(tables: list[Table]) -> Table:
    """One table that serves all: every slot of tiles, the most of recent events."""
    first = tables[0]
    if isinstance(first, Tiles):
        slots = dict.fromkeys(slot for table in tables if isinstance(table, Tiles) for slot in table.slots)
        return replace(first, slots=tuple(slots))
    if isinstance(first, Recent):
        return replace(first, k=max(table.k for table in tables if isinstance(table, Recent)))
    return first


def _as_float(answer: Answer) -> NDArray[np.float64]:
    values = answer.values.astype(np.float64)
    return values if answer.valid is None else np.where(answer.valid, values, np.nan)


def _divided(top: Answer, bottom: Answer) -> Answer:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = _as_float(top) / _as_float(bottom)
    return Answer(np.where(np.isfinite(values), values, 0.0), np.isfinite(values))


def _sum(ranges: Ranges) -> NDArray[np.float64]:
    return ranges.reduced(np.add, "sum")


def _finalize_count(_: Aggregation, ranges: Ranges, __: Int64s) -> Answer:
    return Answer(ranges.count("count"))


def _finalize_sum(_: Aggregation, ranges: Ranges, __: Int64s) -> Answer:
    return Answer(_sum(ranges))


def _finalize_mean(_: Aggregation, ranges: Ranges, __: Int64s) -> Answer:
    return Answer(_sum(ranges) / np.maximum(ranges.count("count"), 1), ranges.filled)


def _finalize_min(_: Aggregation, ranges: Ranges, __: Int64s) -> Answer:
    return Answer(ranges.reduced(np.minimum, "min"), ranges.filled)


def _finalize_max(_: Aggregation, ranges: Ranges, __: Int64s) -> Answer:
    return Answer(ranges.reduced(np.maximum, "max"), ranges.filled)


def _finalize_decayed(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> Answer:
    half_life_ms = aggregation.half_life_ms if isinstance(aggregation, DecayedCount) else 1
    return Answer(ranges.decayed(f"decay {half_life_ms}", as_of, half_life_ms))


def _newest(ranges: Ranges) -> Int64s:
    """The place of each row's newest entry in the window; 0 where there is none."""
    return np.where(ranges.filled, ranges.hi - 1, 0)


def _finalize_since(_: Aggregation, ranges: Ranges, as_of: Int64s) -> Answer:
    if not len(ranges.entries):
        return Answer(np.zeros(len(as_of), dtype=np.int64), ranges.filled)
    age = as_of - ranges.entries.time[_newest(ranges)]
    return Answer(np.where(ranges.filled, np.maximum(age, 0), 0), ranges.filled)


def _finalize_last(_: Aggregation, ranges: Ranges, as_of: Int64s) -> Answer:
    newest = _newest(ranges)
    if not len(ranges.entries):
        return Answer(
            pa.nulls(len(as_of), pa.string()) if ranges.entries.pool is not None else np.zeros(len(as_of)),
            ranges.filled,
        )
    values = ranges.entries.columns["value"][newest]
    if ranges.entries.pool is None:
        return Answer(values, ranges.filled)
    return Answer(ranges.entries.pool.take(pa.array(values, mask=~ranges.filled)), None)


def _finalize_last_k(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> Answer:
    k = aggregation.k if isinstance(aggregation, LastK) else 1
    length = np.minimum(ranges.length, k)
    forward = concatenated(np.zeros(len(length), dtype=np.int64), length)
    places = np.repeat(ranges.hi - 1, length) - forward
    values = ranges.entries.columns["value"][places]
    flat = pa.array(values) if ranges.entries.pool is None else ranges.entries.pool.take(pa.array(values))
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
    return Answer(pa.ListArray.from_arrays(pa.array(offsets), flat))


def _finalize_quantile(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> Answer:
    """The bucket that holds rank floor(q (n - 1)) of each window."""
    q, error = (aggregation.q, aggregation.relative_error) if isinstance(aggregation, Quantile) else (0.5, 0.01)
    histogram = Histogram(Lane("", ()), error)
    total = ranges.count("count")
    bucket, count = (ranges.entries.columns[name][ranges.index] for name in ("bucket", "count"))
    order = np.lexsort((bucket, ranges.owner))
    running = np.cumsum(count[order])
    before = np.concatenate([[0], np.cumsum(total)[:-1]]).astype(np.int64)
    rank = np.floor(q * np.maximum(total - 1, 0)).astype(np.int64)
    if not len(order):
        return Answer(np.zeros(len(as_of)), ranges.filled)
    place = np.minimum(np.searchsorted(running, before + rank, side="right"), len(order) - 1)
    values = histogram.representative(bucket[order][place])
    return Answer(np.where(ranges.filled, values, 0.0), ranges.filled)


FINALIZERS: dict[type[Aggregation], Callable[[Aggregation, Ranges, Int64s], Answer]] = {
    Count: _finalize_count,
    Sum: _finalize_sum,
    Mean: _finalize_mean,
    Min: _finalize_min,
    Max: _finalize_max,
    DecayedCount: _finalize_decayed,
    TimeSinceLast: _finalize_since,
    Last: _finalize_last,
    LastK: _finalize_last_k,
    Quantile: _finalize_quantile,
}


def distinct_count(rows: Int64s, hashes: NDArray[np.uint64], n: int, k: int) -> NDArray[np.float64]:
    """How many hashes each of n rows has; beyond k, the k-minimum-values estimate from the k smallest."""
    counts = np.bincount(rows, minlength=n)
    many = counts > k
    if not many.any():
        return counts.astype(np.float64)
    # The kth smallest of c uniform hashes is near k / c of their range: what is far above it need not be sorted.
    far = 2.0**HASH_BITS * np.minimum(1.0, (k + 8 * np.sqrt(k)) / np.maximum(counts, 1))
    near = many[rows] & (hashes <= far[rows])
    enough = np.bincount(rows[near], minlength=n) >= k
    near |= (many & ~enough)[rows]
    row, value = rows[near], hashes[near]
    order = np.lexsort((value, row))
    starts = run_starts(row[order])
    kth = value[order][starts + k - 1].astype(np.float64)
    estimates = counts.astype(np.float64)
    estimates[row[order][starts]] = (k - 1) * 2.0**HASH_BITS / (kth + 1)
    return estimates
