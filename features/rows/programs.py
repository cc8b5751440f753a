"""A view's plan as the arrays that the compiled walk over its rows runs through (kernels/contract.py).

Made once a view: tables in storage order, the runs (a table in a window) that features are answered from, the
answers computed from each, and those computed from other answers: of parts first, then derived features in their order.
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
from features.rows.tables import Distinct, Frequencies, Histogram, Oldest, Recent, Table, Tiles

KINDS: dict[type[Table], int] = {
    Tiles: contract.TILES,
    Recent: contract.RECENT,
    Distinct: contract.DISTINCT,
    Histogram: contract.HISTOGRAM,
    Oldest: contract.OLDEST,
    Frequencies: contract.FREQUENCIES,
}

CODECS = {"float": contract.FLOAT, "text": contract.TEXT, "integer": contract.SIGNED, "code": contract.SIGNED}

STEPS: dict[type[agg.Aggregation], tuple[int, tuple[str, ...]]] = {
    agg.Count: (contract.COUNT, ("count",)),
    agg.Sum: (contract.SUM, ("sum",)),
    agg.Mean: (contract.MEAN, ("sum", "count")),
    agg.Min: (contract.MIN, ("min",)),
    agg.Max: (contract.MAX, ("max",)),
    agg.TimeSinceLast: (contract.SINCE, ()),
    agg.DistinctCount: (contract.UNIQUE, ("hash",)),
    agg.Quantile: (contract.QUANTILE, ("bucket", "count")),
    agg.MostFrequent: (contract.FREQUENT, ("value", "count")),
    agg.Variance: (contract.VARIANCE, ("count", "sum", "square")),
    agg.StdDev: (contract.STDDEV, ("count", "sum", "square")),
    agg.Slope: (contract.SLOPE, ("count", "sum", "time", "time square", "time product")),
    agg.Change: (contract.CHANGE, ("value",)),
}
"""The computation of an aggregation, and its columns; _Builder._step adds the others."""

OF_INTEGERS = {
    contract.MIN: contract.MIN_INTEGER,
    contract.MAX: contract.MAX_INTEGER,
    contract.CHANGE: contract.CHANGE_INTEGER,
}

FIRST, LAST = (contract.FIRST_FLOAT, contract.FIRST), (contract.LAST_FLOAT, contract.LAST)
"""The answers of floats, and of all else that is a number."""

OPERATIONS = {
    "product": contract.PRODUCT,
    "ratio": contract.RATIO,
    "difference": contract.DIFFERENCE,
    "total": contract.TOTAL,
}


@dataclass(frozen=True)
class ListFeature:
    """A feature that is a list in each row: its line of counts, and its first index in a row's lists."""

    name: str
    line: int
    base: int
    k: int
    texts: bool


@dataclass(frozen=True)
class ReadProgram:
    """The arrays of a view's program, and the features that come out of it.

    ``later`` are derived features that numpy computes, whose functions no compiled one repeats to the bit.
    """

    arrays: Program
    numbers: tuple[Feature, ...]
    lists: tuple[ListFeature, ...]
    later: tuple[Feature, ...]

    @property
    def width(self) -> int:
        """The length of all lists of a row together."""
        return sum(feature.k for feature in self.lists)


def read_program(view: FeatureView, stream_id: int) -> ReadProgram:
    """The program that reads the view's rows of a stream, made once."""
    programs: dict[int, ReadProgram] = view.cache.setdefault("programs", {})
    if stream_id not in programs:
        programs[stream_id] = _Builder(view).read_program(stream_id)
    return programs[stream_id]


@dataclass(frozen=True)
class _Step:
    """A line of Program.steps with its parameter, before it has an index."""

    what: int
    columns: tuple[int, int] = (0, 0)
    start: int = 0
    k: int = 0
    base: int = 0
    parameter: float = 0.0


@dataclass
class _Builder:
    """Collects the steps of each table and window, gives every answer its index, then lays out the arrays."""

    view: FeatureView
    steps: dict[tuple[Table, Window], list[tuple[object, _Step]]] = field(default_factory=dict)
    lists: list[ListFeature] = field(default_factory=list)
    buckets: list[NDArray[np.float64]] = field(default_factory=list)

    def read_program(self, stream_id: int) -> ReadProgram:
        plan = plan_of(self.view)
        for feature, parts in plan.features:
            for number, (part, table, window) in enumerate(parts):
                self.steps.setdefault((table, window), []).append(
                    ((feature.name, number), self._step(feature.name, part, table))
                )
        index, ordered, runs, ends = self._laid_out(plan)
        derived, names, later = self._derived(plan, index, len(ordered))
        outs = [
            f for f in self.view.features if f.name in names and f.name not in {feature.name for feature in self.lists}
        ]
        program = Program(
            identity=np.array([self.view.schema_hash, stream_id], dtype=np.uint64),
            ttl_ms=self.view.ttl_ms,
            tables=lines_of(
                [
                    (KINDS[type(spec.table)], spec.tiling.finest_ms, len(spec.table.columns), end)
                    for spec, end in zip(plan.tables, ends, strict=True)
                ],
                4,
            ),
            columns=np.array(
                [CODECS.get(column.codec, contract.UNSIGNED) for spec in plan.tables for column in spec.table.columns],
                dtype=np.int64,
            ),
            windows=lines_of([(b.length_ms + b.delay_ms, b.delay_ms, b.tile_ms) for b in plan.bounds.values()], 3),
            runs=lines_of(runs, 2),
            steps=lines_of([(step.what, *step.columns, step.start, step.k, step.base) for step in ordered], 6),
            parameters=np.array([step.parameter for step in ordered], dtype=np.float64),
            representatives=np.concatenate([np.empty(0), *self.buckets]),
            derived=lines_of([(what, first, last) for what, first, last, _ in derived], 3),
            operands=np.array([operand for *_, operands in derived for operand in operands], dtype=np.int64),
            outs=lines_of([(names[f.name], int(f.dtype in ("int64", "bool"))) for f in outs], 2),
        )
        return ReadProgram(program, tuple(outs), tuple(self.lists), later)

    def _step(self, name: str, part: agg.Aggregation, table: Table) -> _Step:
        names = [column.name for column in table.columns]
        what, columns = STEPS.get(type(part), (contract.LAST, ("value",)))
        if isinstance(part, agg.DecayedCount):
            index = 1 + names.index(f"decay {part.half_life_ms}")
            return _Step(contract.DECAYED, (index, 0), parameter=float(part.half_life_ms))
        if isinstance(part, agg.ExponentialMean):
            total, weight = (1 + names.index(f"{what} {part.half_life_ms}") for what in ("decayed sum", "decay"))
            return _Step(contract.EXPONENTIAL_MEAN, (total, weight), parameter=float(part.half_life_ms))
        first, second, *others = [1 + names.index(column) for column in columns] + [0] * 4
        if isinstance(part, agg.DistinctCount):
            return _Step(what, (first, 0), k=part.k)
        if isinstance(part, agg.Quantile) and isinstance(table, Histogram):
            return _Step(what, (first, second), base=self._representatives(table), parameter=part.q)
        if isinstance(part, agg.MostFrequent):
            return self._frequent(name, part, table, first)
        if isinstance(part, agg.First | agg.Last | agg.LastK):
            return self._values(name, part, table, first)
        if isinstance(part, agg.Slope):
            return _Step(what, (first, second), others[0], others[1], others[2], float(part.per_ms))
        if table.columns[first - 1].codec == "integer":
            what = OF_INTEGERS[what]
        return _Step(what, (first, second), others[0])

    def _values(self, name: str, part: agg.First | agg.Last | agg.LastK, table: Table, column: int) -> _Step:
        codec, is_first = table.columns[column - 1].codec, isinstance(part, agg.First)
        if isinstance(part, agg.First | agg.Last) and codec != "text":
            of_floats, others = FIRST if is_first else LAST
            return _Step(of_floats if codec == "float" else others, (column, 0))
        k = part.k if isinstance(part, agg.LastK) else 1
        texts = codec == "text"
        feature = ListFeature(name, len(self.lists), sum(other.k for other in self.lists), k, texts)
        self.lists.append(feature)
        what = contract.LISTED_TEXTS if texts else contract.LISTED_NUMBERS
        what = contract.FIRST_TEXT if is_first else what
        return _Step(what, (column, 1 + len(table.columns)), feature.base, k, feature.line)

    def _frequent(self, name: str, part: agg.MostFrequent, table: Table, column: int) -> _Step:
        if table.columns[column - 1].codec != "text":
            is_float = table.columns[column - 1].codec == "float"
            return _Step(contract.FREQUENT_FLOAT if is_float else contract.FREQUENT, (column, 0), k=part.k)
        feature = ListFeature(name, len(self.lists), sum(other.k for other in self.lists), 1, texts=True)
        self.lists.append(feature)
        starts = 1 + len(table.columns)
        return _Step(contract.FREQUENT_TEXT, (column, starts), feature.base, part.k, feature.line)

    def _representatives(self, table: Histogram) -> int:
        """The index of bucket 0 among the representatives; every bucket that a value can have has its own."""
        most = int(table.bucket(np.array([np.inf]))[0])
        base = sum(map(len, self.buckets)) + most
        self.buckets.append(table.representative(np.arange(-most, most + 1)))
        return base

    def _laid_out(self, plan: Plan) -> tuple[dict[object, int], list[_Step], list[tuple[int, int]], list[int]]:
        """The index of each answer; the steps in order; each run's window and end; each table's end among the runs."""
        windows = {window: number for number, window in enumerate(plan.bounds)}
        index: dict[object, int] = {}
        ordered: list[_Step] = []
        runs, ends = [], []
        for spec in plan.tables:
            for (table, window), steps in self.steps.items():
                if table == spec.table:
                    for key, step in steps:
                        index[key] = len(ordered)
                        ordered.append(step)
                    runs.append((windows[window], len(ordered)))
            ends.append(len(runs))
        return index, ordered, runs, ends

    def _derived(
        self, plan: Plan, index: dict[object, int], count: int
    ) -> tuple[list[tuple[int, int, int, list[int]]], dict[str, int], tuple[Feature, ...]]:
        """Operations on answers: of parts, then of derived features; the index of each feature; the rest, for numpy."""
        derived: list[tuple[int, int, int, list[int]]] = []
        names: dict[str, int] = {}

        def add(operation: str, operands: Sequence[int]) -> int:
            first = derived[-1][2] if derived else 0
            derived.append((OPERATIONS[operation], first, first + len(operands), list(operands)))
            return count + len(derived) - 1

        for feature, _ in plan.features:
            names[feature.name] = index[feature.name, 0]
            operations = feature.aggregation.operations if feature.aggregation is not None else ()
            for number, operation in enumerate(operations, start=1):
                names[feature.name] = add(operation, [names[feature.name], index[feature.name, number]])
        expressions = [(f, f.expression) for f in self.view.features if f.expression is not None]
        ready = _before_the_first_other(expressions)
        for feature, expression in expressions[:ready]:
            names[feature.name] = add(expression.operation, [names[operand] for operand in expression.operands])
        return derived, names, tuple(feature for feature, _ in expressions[ready:])


def _before_the_first_other(expressions: Sequence[tuple[Feature, Expression]]) -> int:
    """The number of derived features before the first that numpy must compute: later features may depend on that."""
    others = (number for number, (_, expression) in enumerate(expressions) if expression.operation not in OPERATIONS)
    return next(others, len(expressions))


def lines_of(lines: Sequence[Sequence[int]], width: int) -> Int64s:
    """The lines as an array of so many columns, also where there are none."""
    return np.array(lines, dtype=np.int64).reshape(len(lines), width)
