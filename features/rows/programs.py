"""A view's plan as the arrays that the compiled walk over its rows runs through (kernels/contract.py).

Made once a view: tables in storage order, the runs (a table in a window) that features are answered from, what is asked
of each, and what follows from the answers: ratios first, then derived features in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import Expression, Feature, FeatureView, Window
from features.definitions import aggregations as agg
from features.rows.kernels import Program, contract
from features.rows.plan import Plan, plan_of
from features.rows.tables import Distinct, Histogram, Recent, Table, Tiles

KINDS: dict[type[Table], int] = {
    Tiles: contract.TILES,
    Recent: contract.RECENT,
    Distinct: contract.DISTINCT,
    Histogram: contract.HISTOGRAM,
}

CODECS = {"float": contract.FLOAT, "text": contract.TEXT, "integer": contract.SIGNED, "code": contract.SIGNED}

ASKS: dict[type[agg.Aggregation], tuple[int, tuple[str, ...]]] = {
    agg.Count: (contract.COUNT, ("count",)),
    agg.Sum: (contract.SUM, ("sum",)),
    agg.Mean: (contract.MEAN, ("sum", "count")),
    agg.Min: (contract.MIN, ("min",)),
    agg.Max: (contract.MAX, ("max",)),
    agg.TimeSinceLast: (contract.SINCE, ()),
    agg.DistinctCount: (contract.UNIQUE, ("hash",)),
    agg.Quantile: (contract.QUANTILE, ("bucket", "count")),
}
"""What is asked for an aggregation, and of which columns; those that need more are in _Asks.of."""

OPERATIONS = {
    "product": contract.PRODUCT,
    "ratio": contract.RATIO,
    "difference": contract.DIFFERENCE,
    "total": contract.TOTAL,
}


@dataclass(frozen=True)
class Listed:
    """A feature that comes out as a list in each row: its line of counts, and where it begins in a row's lists."""

    name: str
    line: int
    base: int
    k: int
    texts: bool


@dataclass(frozen=True)
class Reading:
    """A view's program, and where its features come out.

    ``later`` are derived features that numpy computes, whose functions no compiled one repeats to the bit.
    """

    program: Program
    numbers: tuple[Feature, ...]
    lists: tuple[Listed, ...]
    later: tuple[Feature, ...]

    @property
    def width(self) -> int:
        """How long all lists of a row are together."""
        return sum(one.k for one in self.lists)


def reading_of(view: FeatureView, stream_id: int) -> Reading:
    """The view's reading of the rows of a stream, made once."""
    readings: dict[int, Reading] = view.kept.setdefault("readings", {})
    if stream_id not in readings:
        readings[stream_id] = _Builder(view).reading(stream_id)
    return readings[stream_id]


@dataclass(frozen=True)
class _Ask:
    """One line of Program.asks with its parameter, before it has a place."""

    what: int
    columns: tuple[int, int] = (0, 0)
    start: int = 0
    k: int = 0
    base: int = 0
    parameter: float = 0.0


@dataclass
class _Builder:
    """Collects what is asked of each table and window, gives every answer its place, then lays out the arrays."""

    view: FeatureView
    asks: dict[tuple[Table, Window], list[tuple[object, _Ask]]] = field(default_factory=dict)
    lists: list[Listed] = field(default_factory=list)
    buckets: list[NDArray[np.float64]] = field(default_factory=list)

    def reading(self, stream_id: int) -> Reading:
        plan = plan_of(self.view)
        for feature, parts in plan.asked:
            for number, (part, table, window) in enumerate(parts):
                self.asks.setdefault((table, window), []).append(
                    ((feature.name, number), self._ask(feature.name, part, table))
                )
        places, ordered, runs, ends = self._laid_out(plan)
        derived, names, later = self._derived(plan, places, len(ordered))
        outs = [f for f in self.view.features if f.name in names and f.name not in {one.name for one in self.lists}]
        program = Program(
            identity=np.array([self.view.schema_hash, stream_id], dtype=np.uint64),
            ttl_ms=self.view.ttl_ms,
            tables=lines_of(
                [
                    (KINDS[type(kept.table)], kept.tiling.finest_ms, len(kept.table.columns), end)
                    for kept, end in zip(plan.kept, ends, strict=True)
                ],
                4,
            ),
            columns=np.array(
                [CODECS.get(spec.codec, contract.UNSIGNED) for kept in plan.kept for spec in kept.table.columns],
                dtype=np.int64,
            ),
            windows=lines_of([(b.length_ms + b.delay_ms, b.delay_ms, b.tile_ms) for b in plan.bounds.values()], 3),
            runs=lines_of(runs, 2),
            asks=lines_of([(one.what, *one.columns, one.start, one.k, one.base) for one in ordered], 6),
            parameters=np.array([one.parameter for one in ordered], dtype=np.float64),
            representatives=np.concatenate([np.empty(0), *self.buckets]),
            derived=lines_of([(what, first, last) for what, first, last, _ in derived], 3),
            operands=np.array([place for *_, operands in derived for place in operands], dtype=np.int64),
            outs=lines_of([(names[f.name], int(f.dtype in ("int64", "bool"))) for f in outs], 2),
        )
        return Reading(program, tuple(outs), tuple(self.lists), later)

    def _ask(self, name: str, part: agg.Aggregation, table: Table) -> _Ask:
        names = [spec.name for spec in table.columns]
        what, columns = ASKS.get(type(part), (contract.LAST, ("value",)))
        if isinstance(part, agg.DecayedCount):
            place = 1 + names.index(f"decay {part.half_life_ms}")
            return _Ask(contract.DECAYED, (place, 0), parameter=float(part.half_life_ms))
        places = [1 + names.index(column) for column in columns] + [0, 0]
        first, second = places[0], places[1]
        if isinstance(part, agg.DistinctCount):
            return _Ask(what, (first, 0), k=part.k)
        if isinstance(part, agg.Quantile) and isinstance(table, Histogram):
            return _Ask(what, (first, second), base=self._representatives(table), parameter=part.q)
        if isinstance(part, agg.Last | agg.LastK):
            return self._newest(name, part, table, first)
        return _Ask(what, (first, second))

    def _newest(self, name: str, part: agg.Last | agg.LastK, table: Table, column: int) -> _Ask:
        codec = table.columns[column - 1].codec
        if isinstance(part, agg.Last) and codec != "text":
            return _Ask(contract.LAST_FLOAT if codec == "float" else contract.LAST, (column, 0))
        k = part.k if isinstance(part, agg.LastK) else 1
        texts = codec == "text"
        one = Listed(name, len(self.lists), sum(other.k for other in self.lists), k, texts)
        self.lists.append(one)
        what = contract.LISTED_TEXTS if texts else contract.LISTED_NUMBERS
        return _Ask(what, (column, 1 + len(table.columns)), one.base, k, one.line)

    def _representatives(self, table: Histogram) -> int:
        """Where bucket 0 stands among the representatives; every bucket that a value can have has its own."""
        most = int(table.bucket(np.array([np.inf]))[0])
        base = sum(map(len, self.buckets)) + most
        self.buckets.append(table.representative(np.arange(-most, most + 1)))
        return base

    def _laid_out(self, plan: Plan) -> tuple[dict[object, int], list[_Ask], list[tuple[int, int]], list[int]]:
        """The place of each answer; the asks in order; each run's window and end; each table's end among the runs."""
        windows = {window: number for number, window in enumerate(plan.bounds)}
        places: dict[object, int] = {}
        ordered: list[_Ask] = []
        runs, ends = [], []
        for kept in plan.kept:
            for (table, window), several in self.asks.items():
                if table == kept.table:
                    for key, ask in several:
                        places[key] = len(ordered)
                        ordered.append(ask)
                    runs.append((windows[window], len(ordered)))
            ends.append(len(runs))
        return places, ordered, runs, ends

    def _derived(
        self, plan: Plan, places: dict[object, int], count: int
    ) -> tuple[list[tuple[int, int, int, list[int]]], dict[str, int], tuple[Feature, ...]]:
        """Ratios and derived features as operations on places; each feature's place; those left to numpy."""
        derived: list[tuple[int, int, int, list[int]]] = []
        names: dict[str, int] = {}

        def add(name: str, operation: str, operands: Sequence[int]) -> None:
            first = derived[-1][2] if derived else 0
            names[name] = count + len(derived)
            derived.append((OPERATIONS[operation], first, first + len(operands), list(operands)))

        for feature, parts in plan.asked:
            if len(parts) > 1:
                add(feature.name, "ratio", [places[feature.name, number] for number in range(len(parts))])
            else:
                names[feature.name] = places[feature.name, 0]
        expressions = [(f, f.expression) for f in self.view.features if f.expression is not None]
        ready = _before_the_first_other(expressions)
        for feature, expression in expressions[:ready]:
            add(feature.name, expression.operation, [names[operand] for operand in expression.operands])
        return derived, names, tuple(feature for feature, _ in expressions[ready:])


def _before_the_first_other(expressions: Sequence[tuple[Feature, Expression]]) -> int:
    """How many derived features come before one that numpy must compute: a later one may be made of it."""
    others = (number for number, (_, one) in enumerate(expressions) if one.operation not in OPERATIONS)
    return next(others, len(expressions))


def lines_of(lines: Sequence[Sequence[int]], width: int) -> Int64s:
    """The lines as an array of so many columns, also where there are none."""
    return np.array(lines, dtype=np.int64).reshape(len(lines), width)
