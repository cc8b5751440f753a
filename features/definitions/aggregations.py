"""The aggregations of a definition, as frozen data: names, dtypes and limits (the kernels are in features.rows).

An aggregation is computed from the events of its feature set that pass its own ``where`` and whose column is not null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from features.definitions.expressions import NUMERIC, Condition, FrozenMap, check_where, freeze_where, where_label
from features.definitions.windows import duration_ms, duration_text
from features.errors import DefinitionError


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """Base of all aggregations: a filter of its own."""

    where: Mapping[str, Any] | None = None

    operations: ClassVar[tuple[str, ...]] = ()
    """What makes one value of those of ``parts``: the first with the second, that with the third."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", freeze_where(self.where, type(self).__name__))

    @property
    def filter(self) -> FrozenMap[Condition]:
        """The checked form of ``where``."""
        return self.where  # type: ignore[return-value]  # __post_init__ froze it

    @property
    def parts(self) -> tuple[Aggregation, ...]:
        """The aggregations to compute: itself, or those that it is made of, each under its own filter too."""
        return (self,)

    @property
    def label(self) -> str:
        """The part of a feature's name that stands for this aggregation."""
        return "_".join(text for text in (where_label(self.filter), self._function_label()) if text)

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        """Raises DefinitionError unless the stream has the columns that this needs."""
        check_where(self.filter, dtypes, f"{location}: {type(self).__name__}")

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        """The dtype of its features."""
        return "float64"

    def _function_label(self) -> str:
        raise NotImplementedError


def _require(column: object, allowed: tuple[str, ...], dtypes: Mapping[str, str], location: str) -> None:
    if not isinstance(column, str) or dtypes.get(column) not in allowed:
        got = f"{column!r} ({dtypes.get(str(column), 'no such field')})"
        raise DefinitionError(
            location, f"a column of {' or '.join(sorted(allowed))}", got, f"Known: {', '.join(dtypes)}."
        )


def _bounded(value: object, low: float, high: float, location: str, kind: type = float) -> None:
    allowed = int if kind is int else int | float
    if isinstance(value, bool) or not isinstance(value, allowed) or not low <= value <= high:
        number = "a whole number" if kind is int else "a number"
        raise DefinitionError(location, f"{number} from {low:g} to {high:g}", repr(value))


@dataclass(frozen=True)
class Count(Aggregation):
    """The number of events (with a column: those where it is not null). 0 when there are none. Exact."""

    column: str | None = None

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        if self.column is not None:
            _require(self.column, ("string", "int64", "float64", "bool"), dtypes, f"{location}: Count")

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return "int64"

    def _function_label(self) -> str:
        return f"{self.column}_count" if self.column else "count"


@dataclass(frozen=True)
class NumericAggregation(Aggregation):
    """An aggregation of one numeric column."""

    column: str

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _require(self.column, NUMERIC, dtypes, f"{location}: {type(self).__name__}")

    def _function_label(self) -> str:
        return f"{self.column}_{type(self).__name__.lower()}"


@dataclass(frozen=True)
class Sum(NumericAggregation):
    """The sum of a numeric column, in float64. 0.0 when there are no events; within 1e-9 of the sum of magnitudes."""


@dataclass(frozen=True)
class Mean(NumericAggregation):
    """The mean of a numeric column. Null when there are no events."""


@dataclass(frozen=True)
class Extremum(NumericAggregation):
    """The smallest or the largest value of a numeric column, of its dtype."""

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return dtypes[self.column]


@dataclass(frozen=True)
class Min(Extremum):
    """The smallest value, of the column's dtype. Null when there are no events. Exact."""


@dataclass(frozen=True)
class Max(Extremum):
    """The largest value, of the column's dtype. Null when there are no events. Exact."""


@dataclass(frozen=True)
class Variance(NumericAggregation):
    """The sample variance of a numeric column (divided by n - 1). Null with fewer than two values.

    Within 1e-9 of itself plus 1e-24 of the mean square, so that large values of a small spread keep it; 0 where all
    values are the same, or their spread is below 1e-12 of their size. Null where squares leave float64 (|x| > 1e145).
    """


@dataclass(frozen=True)
class StdDev(NumericAggregation):
    """The sample standard deviation of a numeric column: the square root of Variance."""


@dataclass(frozen=True)
class ZScore(NumericAggregation):
    """The standard deviations between the newest value and the mean, over the window that holds it.

    Null where StdDev is null or 0.
    """

    operations = ("difference", "ratio")

    @property
    def parts(self) -> tuple[Aggregation, ...]:
        kinds: tuple[type[Last | NumericAggregation], ...] = (Last, Mean, StdDev)
        return tuple(kind(self.column, where=self.filter) for kind in kinds)


@dataclass(frozen=True)
class Slope(NumericAggregation):
    """The trend of a numeric column: by how much its least-squares line over event time rises in ``per``.

    Null where there are no two different times. Within 1e-9 of itself; 0 where the values move by less than the
    resolution of float64.
    """

    per: str | int = "1h"

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.per_ms, 1, 10**12, f"{location}: Slope's per in ms")

    @property
    def per_ms(self) -> int:
        """The time in which it rises by the value."""
        return duration_ms(self.per, "Slope's per")

    def _function_label(self) -> str:
        return f"{self.column}_slope_per_{duration_text(self.per_ms)}"


@dataclass(frozen=True)
class ExponentialMean(NumericAggregation):
    """The mean of a numeric column, each value weighted by 2 ** -(age / half_life). Null when there are none.

    As pandas' ``ewm(halflife=half_life, times=event_time).mean()``; kept as DecayedCount is.
    """

    half_life: str | int

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.half_life_ms, 1_000, 10**12, f"{location}: ExponentialMean's half_life in ms")

    @property
    def half_life_ms(self) -> int:
        """The age at which a value counts half."""
        return duration_ms(self.half_life, "ExponentialMean's half_life")

    def _function_label(self) -> str:
        return f"{self.column}_exponential_mean_{duration_text(self.half_life_ms)}"


@dataclass(frozen=True)
class Change(NumericAggregation):
    """The newest value less the one before it, ordered as for Last, in float64. Null with fewer than two values."""


@dataclass(frozen=True)
class ColumnAggregation(Aggregation):
    """An aggregation of one column of any dtype."""

    column: str

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _require(self.column, ("string", "int64", "float64", "bool"), dtypes, f"{location}: {type(self).__name__}")


@dataclass(frozen=True)
class Last(ColumnAggregation):
    """The newest value by event_time; of two at the same millisecond, the later offset. Null when there are none."""

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return dtypes[self.column]

    def _function_label(self) -> str:
        return f"{self.column}_last"


@dataclass(frozen=True)
class First(ColumnAggregation):
    """The window's oldest value by event_time; of two at the same millisecond, the earlier offset. Null without one."""

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return dtypes[self.column]

    def _function_label(self) -> str:
        return f"{self.column}_first"


@dataclass(frozen=True)
class LastK(ColumnAggregation):
    """The newest k values, newest first, ordered as for Last. An empty list when there are none."""

    k: int

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.k, 1, 1_000, f"{location}: LastK's k", int)

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return f"list<{dtypes[self.column]}>"

    def _function_label(self) -> str:
        return f"{self.column}_last_{self.k}"


@dataclass(frozen=True)
class DistinctCount(ColumnAggregation):
    """The number of different values: exact up to ``k``, beyond it a k-minimum-values estimate.

    The sketch has the k smallest 48-bit hashes; the estimate (k - 1) / (kth smallest as a share of the hash range) is
    unbiased with relative standard error 1 / sqrt(k - 2): 6.3 % for k = 256 (Bar-Yossef et al., "Counting distinct
    elements in a data stream", RANDOM 2002; Beyer et al., SIGMOD 2007).
    """

    k: int = 256

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.k, 16, 4_096, f"{location}: DistinctCount's k", int)

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return "float64"

    def _function_label(self) -> str:
        return f"{self.column}_distinct_count"


@dataclass(frozen=True)
class MostFrequent(ColumnAggregation):
    """The value that most events of the window have; of equally many, the smallest. Exact, or null.

    Null when there are no values, and when there are more than ``k`` different ones: no more are counted, so that a row
    has at most k + 1 a tile. Texts are ordered by their code points, False before True.
    """

    k: int = 32

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.k, 1, 1_000, f"{location}: MostFrequent's k", int)

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return dtypes[self.column]

    def _function_label(self) -> str:
        return f"{self.column}_most_frequent"


@dataclass(frozen=True)
class TimeSinceLast(Aggregation):
    """Milliseconds from the newest event to as_of; 0 for an event stamped after it, null when there are none. Exact."""

    def dtype(self, dtypes: Mapping[str, str]) -> str:
        return "int64"

    def _function_label(self) -> str:
        return "ms_since_last"


@dataclass(frozen=True)
class DecayedCount(Aggregation):
    """Events weighted by 2 ** -(age / half_life), age being as_of - event_time. 0.0 when there are none.

    Stored relative to each tile's newest event, as in forward decay (Cormode et al., "Forward decay", ICDE 2009).
    """

    half_life: str | int

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.half_life_ms, 1_000, 10**12, f"{location}: DecayedCount's half_life in ms")

    @property
    def half_life_ms(self) -> int:
        """The age at which an event counts half."""
        return duration_ms(self.half_life, "DecayedCount's half_life")

    def _function_label(self) -> str:
        return f"decayed_count_{duration_text(self.half_life_ms)}"


@dataclass(frozen=True)
class Quantile(NumericAggregation):
    """The q-quantile of a numeric column, within ``relative_error`` of a value of that rank. Null when there are none.

    A log-bucket histogram with an exact zero bucket, as in DDSketch (Masson, Rim, Lee, VLDB 2019): the answer is
    within relative_error of the item of rank floor(q (n - 1)). Magnitudes are held between 1e-9 and 1e15: smaller
    ones count as 0, larger ones as 1e15.
    """

    q: float
    relative_error: float = 0.01

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        _bounded(self.q, 0, 1, f"{location}: Quantile's q")
        _bounded(self.relative_error, 0.001, 0.2, f"{location}: Quantile's relative_error")

    def _function_label(self) -> str:
        return f"{self.column}_p{re.sub('[^0-9]+', '_', f'{100 * self.q:.10g}')}"


@dataclass(frozen=True)
class Ratio(Aggregation):
    """An aggregation divided by another, in the same window; null where the denominator is 0 or null."""

    numerator: Aggregation
    denominator: Aggregation

    operations = ("ratio",)

    @property
    def parts(self) -> tuple[Aggregation, ...]:
        halves = (self.numerator, self.denominator)
        return tuple(replace(half, where={**self.filter, **half.filter}) for half in halves)

    def check(self, dtypes: Mapping[str, str], location: str) -> None:
        super().check(dtypes, location)
        for part in (self.numerator, self.denominator):
            required = "two numeric aggregations that are not ratios"
            if not isinstance(part, Aggregation) or part.operations:
                raise DefinitionError(f"{location}: Ratio", required, repr(part))
            part.check(dtypes, f"{location}: Ratio")
            repeated = sorted(set(self.filter) & set(part.filter))
            if repeated:
                raise DefinitionError(
                    f"{location}: Ratio", "each column in one where, its own or its part's", repr(repeated)
                )
            if part.dtype(dtypes) not in NUMERIC:
                raise DefinitionError(f"{location}: Ratio", required, repr(part))

    def _function_label(self) -> str:
        return f"{self.numerator.label}_per_{self.denominator.label}"
