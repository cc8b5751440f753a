"""From definitions to kernels: the tables that a view keeps, and how each feature is answered from them.

A Plan is made once per view. Its tables hold what the stream folds (tables.py); ``finalized`` answers every feature
of a history from its lifted events. State rows are answered by compiled kernels (kernels/), which give the same
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from features.definitions import (
    Aggregation,
    Bounds,
    Condition,
    Count,
    DecayedCount,
    DistinctCount,
    Feature,
    FeatureSet,
    FeatureView,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Sum,
    Tiling,
    TimeSinceLast,
    Window,
)
from features.rows.tables import Distinct, Histogram, Lane, Recent, Table, Tiles

TILE_SLOTS: dict[type[Aggregation], tuple[str, ...]] = {
    Count: ("count",),
    Sum: ("sum",),
    Mean: ("count", "sum"),
    Min: ("min",),
    Max: ("max",),
}

VALUE_CODECS = {"string": "text", "float64": "float", "int64": "integer", "bool": "integer"}


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
