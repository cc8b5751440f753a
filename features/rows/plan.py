"""From definitions to kernels: the tables of a view, and the table and window that each feature is computed from.

A Plan is made once per view. Its tables hold what the stream folds (tables.py). The features of a history are computed
from its lifted events by history/finalizers.py, those of state rows by compiled kernels (kernels/), with the same
numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import log

from features.definitions import (
    Aggregation,
    Bounds,
    Change,
    Condition,
    Count,
    DecayedCount,
    DistinctCount,
    ExponentialMean,
    Feature,
    FeatureSet,
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
    Tiling,
    TimeSinceLast,
    Variance,
    Window,
)
from features.rows.tables import REST, Distinct, FilteredStream, Frequencies, Histogram, Oldest, Recent, Table, Tiles

LARGE_ROW = 1 << 20
"""Bytes of a row from which on its definition is worth a word: every fold and read of the entity moves them."""

BYTES_A_NUMBER, BYTES_A_TEXT = 8, 32
"""Bytes of a number in a row at most, and of a text, about."""

DECADES = 4.0
"""The orders of magnitude that the values of a quantile are taken to have."""


def _with_rests(*slots: str) -> tuple[str, ...]:
    return tuple(name for slot in slots for name in (slot, slot + REST))


MOMENTS = ("count", *_with_rests("sum", "square"))
"""The slots of a variance."""

TILE_SLOTS: dict[type[Aggregation], tuple[str, ...]] = {
    Count: ("count",),
    Sum: ("sum",),
    Mean: ("count", "sum"),
    Min: ("min",),
    Max: ("max",),
    Variance: MOMENTS,
    StdDev: MOMENTS,
    Slope: ("count", *_with_rests("sum", "time", "time square", "time product")),
}

DECAYING_SLOTS: dict[type[Aggregation], tuple[str, ...]] = {
    DecayedCount: ("decay",),
    ExponentialMean: ("decay", "decayed sum"),
}
"""Slots that decay, without the half-life that ends their names."""

VALUE_CODECS = {"string": "text", "float64": "float", "int64": "integer", "bool": "integer"}


@dataclass(frozen=True)
class TableSpec:
    """A table with the windows that read it: its own horizon may be shorter than the view's."""

    table: Table
    tiling: Tiling


class Plan:
    """The tables of a view in storage order, and for each aggregated feature its parts: aggregation, table, window."""

    def __init__(self, view: FeatureView) -> None:
        self.view = view
        self.bounds: dict[Window, Bounds] = {window: view.tiling.bounds(window) for window in view.tiling.windows}
        uses = [(table, window) for feature in view.aggregated for _, table, window in _parts_of(feature)]
        merged: dict[Table, list[Window]] = {}
        for table, window in uses:
            merged.setdefault(_same_kind(table), []).append(window)
        widest = {key: _widest([table for table, _ in uses if _same_kind(table) == key]) for key in merged}
        self.tables = tuple(TableSpec(widest[key], view.tiling.subset(windows)) for key, windows in merged.items())
        by_kind = dict(zip(merged, (spec.table for spec in self.tables), strict=True))
        self.features = tuple(
            (feature, tuple((part, by_kind[_same_kind(table)], window) for part, table, window in _parts_of(feature)))
            for feature in view.aggregated
        )


@lru_cache(maxsize=64)
def plan_of(view: FeatureView) -> Plan:
    """The view's plan, made once."""
    return Plan(view)


def largest_row(view: FeatureView) -> int:
    """The bytes that a row of the view can have, about: an entity with something new in every tile of every window."""
    return sum(_entries(spec) * _entry_bytes(spec.table) for spec in plan_of(view).tables)


def large_rows(views: Iterable[FeatureView]) -> dict[str, int]:
    """View → the bytes that its rows can have, of the views that allow more than LARGE_ROW."""
    sizes = {view.name: largest_row(view) for view in views}
    return {name: size for name, size in sizes.items() if size > LARGE_ROW}


def large_row_line(view: str, size: int) -> str:
    """The line that tells of a view in large_rows."""
    advice = "a smaller k, larger tiles or shorter windows make it smaller"
    return f"{view}: a row can have {size / 1e6:,.1f} MB (more than {LARGE_ROW / 1e6:,.1f} MB); {advice}"


def _tiles(tiling: Tiling) -> int:
    """The tiles of a row at most: fine ones up to the first level's age, then coarser ones up to the horizon."""
    steps = [(0, tiling.finest_ms), *tiling.levels, (tiling.horizon_ms, 1)]
    return sum((end - age) // tile + 1 for (age, tile), (end, _) in pairwise(steps) if end > age)


def _entries(spec: TableSpec) -> int:
    table, tiles = spec.table, _tiles(spec.tiling)
    match table:
        case Recent():
            return table.k * (1 + sum(bounds.delay_ms > 0 for bounds in spec.tiling.all_bounds()))
        case Distinct() | Frequencies():
            return tiles * (table.k + 1)
        case Histogram():
            return tiles * int(1 + DECADES / (2 * table.relative_error / log(10)))
    return tiles


def _entry_bytes(table: Table) -> int:
    columns = [BYTES_A_TEXT if column.codec == "text" else BYTES_A_NUMBER for column in table.columns]
    return BYTES_A_NUMBER // 2 + sum(columns)


def filtered_stream(feature_set: FeatureSet, aggregation: Aggregation, column: str | None) -> FilteredStream:
    """The source of an aggregation's events: both filters, in a canonical order, so that equal sources are shared."""
    conditions = {*feature_set.filter.items(), *aggregation.filter.items()}
    return FilteredStream(feature_set.source.name, tuple(sorted(conditions, key=_condition_order)), column)


def _condition_order(item: tuple[str, Condition]) -> tuple[str, str]:
    return item[0], repr(item[1])


def _parts_of(feature: Feature) -> list[tuple[Aggregation, Table, Window]]:
    """The parts of a feature, each with the table that it needs; none for a derived feature."""
    feature_set, aggregation, window = feature.feature_set, feature.aggregation, feature.window
    if feature_set is None or aggregation is None or window is None:
        return []
    return [(part, _table_of(feature_set, part), window) for part in aggregation.parts]


def _table_of(feature_set: FeatureSet, aggregation: Aggregation) -> Table:
    """The table that an aggregation needs, with only its own slots and size."""
    column = getattr(aggregation, "column", None)
    source = filtered_stream(feature_set, aggregation, column)
    if type(aggregation) in TILE_SLOTS:
        integers = column is not None and feature_set.source.dtypes[column] == "int64"
        return Tiles(source, TILE_SLOTS[type(aggregation)], integers)
    codec = VALUE_CODECS[feature_set.source.dtypes[column]] if column is not None else None
    match aggregation:
        case DecayedCount() | ExponentialMean():
            decaying = DECAYING_SLOTS[type(aggregation)]
            return Tiles(source, tuple(f"{slot} {aggregation.half_life_ms}" for slot in decaying))
        case Last() | TimeSinceLast():
            return Recent(source, 1, codec)
        case Change():
            return Recent(source, 2, codec)
        case LastK():
            return Recent(source, aggregation.k, codec)
        case First() if codec is not None:
            return Oldest(source, codec)
        case MostFrequent() if codec is not None:
            return Frequencies(source, aggregation.k, codec)
        case DistinctCount():
            return Distinct(source, aggregation.k)
        case Quantile():
            return Histogram(source, aggregation.relative_error)
    raise TypeError(aggregation)


def _same_kind(table: Table) -> Table:
    """A key that is equal for tables that can be merged."""
    if isinstance(table, Tiles):
        return replace(table, slots=())
    return replace(table, k=1) if isinstance(table, Recent) else table


def _rests_behind(slots: Collection[str]) -> Iterator[str]:
    """The slots in their order, but each low half of a pair right behind the high one."""
    for slot in slots:
        if not slot.endswith(REST):
            yield slot
            if slot + REST in slots:
                yield slot + REST


def _widest(tables: list[Table]) -> Table:
    """A table that serves all of them: every slot of tiles, the most recent events of any."""
    first = tables[0]
    if isinstance(first, Tiles):
        slots = dict.fromkeys(slot for table in tables if isinstance(table, Tiles) for slot in table.slots)
        return replace(first, slots=tuple(_rests_behind(slots)))
    if isinstance(first, Recent):
        return replace(first, k=max(table.k for table in tables if isinstance(table, Recent)))
    return first
