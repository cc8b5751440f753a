"""The features of a history: a finalizer for each aggregation, over the entries of each row's window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Column, Entries, Int64s, concatenated, run_starts
from features.definitions import (
    Aggregation,
    Change,
    Count,
    DecayedCount,
    ExponentialMean,
    FeatureView,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    MostFrequent,
    Quantile,
    Slope,
    StdDev,
    Sum,
    TimeSinceLast,
    Variance,
    Window,
    evaluate,
)
from features.double_double import INTEGER_NOISE, NOISE, centred
from features.events import arrow_type
from features.history.ranges import Ranges
from features.rows import HASH_BITS, Distinct, FeatureMatrix, FilteredStream, Histogram, Plan, Status, Table

OPERATIONS: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]] = {
    "ratio": np.divide,
    "difference": np.subtract,
}


@dataclass(frozen=True)
class FeatureValues:
    """A feature of n rows: values, and False in ``valid`` where they are null (None: no value is null)."""

    values: Column
    valid: NDArray[np.bool_] | None = None


class EntrySource(Protocol):
    """The entries of a history's lifted events (see point_in_time_join.py), as finalizers read them."""

    as_of: Int64s

    def ranges(self, table: Table, window: Window) -> Ranges:
        """For each row, the table's entries inside the window at as_of."""

    def distinct(self, table: Distinct, window: Window) -> tuple[Int64s, NDArray[np.uint64]]:
        """(row, hash) of each different value inside the window, sorted by row."""


def _answer(part: Aggregation, table: Table, window: Window, source: EntrySource) -> FeatureValues:
    if isinstance(table, Distinct):
        rows, hashes = source.distinct(table, window)
        return FeatureValues(distinct_count(rows, hashes, len(source.as_of), table.k))
    return FINALIZERS[type(part)](part, source.ranges(table, window), source.as_of)


def finalized(plan: Plan, source: EntrySource) -> dict[str, FeatureValues]:
    """Every feature of the plan's view by name, in order."""
    answers = {
        feature.name: _combined(feature.aggregation, [_answer(*part, source) for part in parts])
        for feature, parts in plan.features
    }
    numbers = {f.name: answers[f.name] for f in plan.view.aggregated if f.dtype in ("int64", "float64")}
    floats = {name: _as_float(answer) for name, answer in numbers.items()}
    for feature in plan.view.features:
        if feature.expression is not None:
            values = evaluate(feature.expression, floats)
            floats[feature.name] = values
            answers[feature.name] = FeatureValues(np.nan_to_num(values), ~np.isnan(values))
    return answers


def _combined(aggregation: Aggregation | None, parts: list[FeatureValues]) -> FeatureValues:
    """The answer of a single part; of several, what the aggregation's operations make of them."""
    answer = parts[0]
    operations = aggregation.operations if aggregation is not None else ()
    for operation, part in zip(operations, parts[1:], strict=True):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            answer = _finite(OPERATIONS[operation](_as_float(answer), _as_float(part)))
    return answer


def _as_float(answer: FeatureValues) -> NDArray[np.float64]:
    values = answer.values.astype(np.float64)
    return values if answer.valid is None else np.where(answer.valid, values, np.nan)


def _finite(values: NDArray[np.float64], valid: Bools | None = None) -> FeatureValues:
    """The values, without those that left float64: a sum that did depends on the order of its summands."""
    finite = np.isfinite(values)
    if finite.all():
        return FeatureValues(values, valid)
    return FeatureValues(np.where(finite, values, 0.0), finite if valid is None else finite & valid)


def _sum(ranges: Ranges) -> NDArray[np.float64]:
    return ranges.reduced(np.add, "sum")


def _finalize_count(_: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    return FeatureValues(ranges.count("count"))


def _finalize_sum(_: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    return _finite(_sum(ranges))


def _finalize_mean(_: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    return _finite(_sum(ranges) / np.maximum(ranges.count("count"), 1), ranges.filled)


def _finalize_min(_: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    return FeatureValues(ranges.reduced(np.minimum, "min"), ranges.filled)


def _finalize_max(_: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    return FeatureValues(ranges.reduced(np.maximum, "max"), ranges.filled)


def _finalize_variance(aggregation: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    n = ranges.count("count").astype(np.float64)
    total, square = ranges.paired("sum"), ranges.paired("square")
    with np.errstate(over="ignore", invalid="ignore"):
        values = centred(n, *square, *total, *total, NOISE) / np.maximum(n * (n - 1), 1)
    return _finite(np.sqrt(values) if isinstance(aggregation, StdDev) else values, n > 1)


def _finalize_slope(aggregation: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    per_ms = aggregation.per_ms if isinstance(aggregation, Slope) else 1
    n = ranges.count("count").astype(np.float64)
    total, time, square, product = (ranges.paired(name) for name in ("sum", "time", "time square", "time product"))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        spread = centred(n, *square, *time, *time, INTEGER_NOISE)
        values = centred(n, *product, *time, *total, NOISE) / spread * per_ms
    return _finite(values, spread > 0)


def _finalize_exponential_mean(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    half_life_ms = aggregation.half_life_ms if isinstance(aggregation, ExponentialMean) else 1
    # Weights relative to the newest value: those of as_of may all be 0.
    newest = ranges.entries.time[_newest(ranges)] if len(ranges.entries) else as_of
    total, weight = (
        ranges.decayed(f"{what} {half_life_ms}", newest, half_life_ms) for what in ("decayed sum", "decay")
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return _finite(total / np.where(ranges.filled, weight, 1.0), ranges.filled)


def _finalize_change(_: Aggregation, ranges: Ranges, __: Int64s) -> FeatureValues:
    several = ranges.length > 1
    newest = ranges.hi[several] - 1
    change, values = np.zeros(len(several)), ranges.entries.columns["value"]
    with np.errstate(over="ignore"):
        change[several] = values[newest].astype(np.float64) - values[newest - 1].astype(np.float64)
    return _finite(change, several)


def _finalize_decayed(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    half_life_ms = aggregation.half_life_ms if isinstance(aggregation, DecayedCount) else 1
    return FeatureValues(ranges.decayed(f"decay {half_life_ms}", as_of, half_life_ms))


def _newest(ranges: Ranges) -> Int64s:
    """The index of each row's newest entry in the window; 0 where there is none."""
    return np.where(ranges.filled, ranges.hi - 1, 0)


def _finalize_since(_: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    if not len(ranges.entries):
        return FeatureValues(np.zeros(len(as_of), dtype=np.int64), ranges.filled)
    age = as_of - ranges.entries.time[_newest(ranges)]
    return FeatureValues(np.where(ranges.filled, np.maximum(age, 0), 0), ranges.filled)


def _finalize_last(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    """The value of the newest entry, or of the oldest for First."""
    entry = np.where(ranges.filled, ranges.lo, 0) if isinstance(aggregation, First) else _newest(ranges)
    if not len(ranges.entries):
        return FeatureValues(
            pa.nulls(len(as_of), pa.string()) if ranges.entries.pool is not None else np.zeros(len(as_of)),
            ranges.filled,
        )
    values = ranges.entries.columns["value"][entry]
    if ranges.entries.pool is None:
        return FeatureValues(values, ranges.filled)
    return FeatureValues(ranges.entries.pool.take(pa.array(values, mask=~ranges.filled)), None)


def _finalize_last_k(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    k = aggregation.k if isinstance(aggregation, LastK) else 1
    length = np.minimum(ranges.length, k)
    forward = concatenated(np.zeros(len(length), dtype=np.int64), length)
    index = np.repeat(ranges.hi - 1, length) - forward
    values = ranges.entries.columns["value"][index]
    flat = pa.array(values) if ranges.entries.pool is None else ranges.entries.pool.take(pa.array(values))
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
    return FeatureValues(pa.ListArray.from_arrays(pa.array(offsets), flat))


def _finalize_quantile(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    """The bucket that holds rank floor(q (n - 1)) of each window."""
    q, error = (aggregation.q, aggregation.relative_error) if isinstance(aggregation, Quantile) else (0.5, 0.01)
    histogram = Histogram(FilteredStream("", ()), error)
    total = ranges.count("count")
    bucket, count = (ranges.entries.columns[name][ranges.index] for name in ("bucket", "count"))
    order = np.lexsort((bucket, ranges.owner))
    running = np.cumsum(count[order])
    before = np.concatenate([[0], np.cumsum(total)[:-1]]).astype(np.int64)
    rank = np.floor(q * np.maximum(total - 1, 0)).astype(np.int64)
    if not len(order):
        return FeatureValues(np.zeros(len(as_of)), ranges.filled)
    index = np.minimum(np.searchsorted(running, before + rank, side="right"), len(order) - 1)
    values = histogram.representative(bucket[order][index])
    return FeatureValues(np.where(ranges.filled, values, 0.0), ranges.filled)


def _finalize_most_frequent(aggregation: Aggregation, ranges: Ranges, as_of: Int64s) -> FeatureValues:
    """Of each window's values, in their order, the first that no other outnumbers."""
    k = aggregation.k if isinstance(aggregation, MostFrequent) else 0
    n, (ordered, rank) = len(as_of), ranked_values(ranges.entries)
    owner, rank = ranges.owner, rank[ranges.index]
    order = np.lexsort((rank, owner))
    owner, rank = owner[order], rank[order]
    starts = run_starts(owner, rank)
    counts = np.diff(np.append(starts, len(owner)))
    owner, rank = owner[starts], rank[starts]
    best = np.lexsort((-counts, owner))  # stable: of equal counts, the smallest value stays first
    firsts = best[run_starts(owner[best])]
    chosen = firsts[np.bincount(owner, minlength=n)[owner[firsts]] <= k]
    valid, index = np.zeros(n, dtype=bool), np.zeros(n, dtype=np.int64)
    valid[owner[chosen]], index[owner[chosen]] = True, rank[chosen]
    if isinstance(ordered, pa.Array):
        return FeatureValues(ordered.take(pa.array(index, mask=~valid)))
    return FeatureValues(ordered[index] if len(ordered) else np.zeros(n), valid)


def ranked_values(entries: Entries) -> tuple[Column | pa.Array, Int64s]:
    """The different values in their order, texts by their bytes, and the place of each entry's among them."""
    if "ranked" not in entries.cache:
        values = entries.columns["value"]
        if entries.pool is None:
            entries.cache["ranked"] = np.unique(values, return_inverse=True)
        else:
            by_bytes = pc.array_sort_indices(entries.pool)
            rank = np.empty(len(by_bytes), dtype=np.int64)
            rank[by_bytes.to_numpy()] = np.arange(len(by_bytes))
            entries.cache["ranked"] = entries.pool.take(by_bytes), rank[values]
    ordered, rank = entries.cache["ranked"]
    return ordered, rank


FINALIZERS: dict[type[Aggregation], Callable[[Aggregation, Ranges, Int64s], FeatureValues]] = {
    Count: _finalize_count,
    Sum: _finalize_sum,
    Mean: _finalize_mean,
    Min: _finalize_min,
    Max: _finalize_max,
    Variance: _finalize_variance,
    StdDev: _finalize_variance,
    Slope: _finalize_slope,
    ExponentialMean: _finalize_exponential_mean,
    Change: _finalize_change,
    DecayedCount: _finalize_decayed,
    TimeSinceLast: _finalize_since,
    Last: _finalize_last,
    First: _finalize_last,
    LastK: _finalize_last_k,
    Quantile: _finalize_quantile,
    MostFrequent: _finalize_most_frequent,
}


def distinct_count(rows: Int64s, hashes: NDArray[np.uint64], n: int, k: int) -> NDArray[np.float64]:
    """The number of hashes of each of n rows; beyond k, the k-minimum-values estimate from the k smallest."""
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


def assembled(
    view: FeatureView, answers: Mapping[str, FeatureValues], status: NDArray[np.int8], as_of: Int64s, newest: Int64s
) -> FeatureMatrix:
    """The answers as Arrow columns, null for every entity that is not PRESENT."""
    absent = status != Status.PRESENT
    columns = tuple(_column(answers[f.name], arrow_type(f.dtype), absent) for f in view.features)
    return FeatureMatrix(view.names, columns, status, as_of, newest)


def _column(answer: FeatureValues, dtype: pa.DataType, absent: NDArray[np.bool_]) -> pa.Array:
    if isinstance(answer.values, pa.Array):
        values = answer.values if answer.values.type == dtype else answer.values.cast(dtype)
        return pc.if_else(pa.array(absent), pa.scalar(None, type=dtype), values) if absent.any() else values
    null = absent if answer.valid is None else absent | ~answer.valid
    return pa.array(answer.values, mask=null).cast(dtype)
