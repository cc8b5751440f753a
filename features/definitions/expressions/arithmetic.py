"""Arithmetic as data, evaluated on whole columns: computed event fields, derived features."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from features.definitions.checks import check_zone, later
from features.definitions.windows import UNITS_MS
from features.errors import DefinitionError

if TYPE_CHECKING:
    from features.arrays import Floats

NUMERIC = ("int64", "float64")


@dataclass(frozen=True)
class Expression:
    """Arithmetic on named columns, row by row, in float64; a null operand or an impossible result gives null."""

    operation: str
    operands: tuple[str, ...]


def product(*columns: str) -> Expression:
    """The columns multiplied."""
    return Expression("product", columns)


def ratio(numerator: str, denominator: str) -> Expression:
    """A column divided by another; null where the denominator is 0."""
    return Expression("ratio", (numerator, denominator))


def difference(minuend: str, subtrahend: str) -> Expression:
    """A column minus another."""
    return Expression("difference", (minuend, subtrahend))


def total(*columns: str) -> Expression:
    """The columns added."""
    return Expression("total", columns)


def log1p(column: str) -> Expression:
    """The natural logarithm of 1 + the column; null below -1."""
    return Expression("log1p", (column,))


@dataclass(frozen=True)
class Within(Expression):
    """1.0 where the operation's result is from ``first`` to ``last``, both included, 0.0 otherwise."""

    first: float
    last: float
    zone: str | None = later()


@dataclass(frozen=True)
class ByClock(Expression):
    """The operation on what the clock of an IANA time zone shows at a time."""

    zone: str


def hour_within(time: str, first: int, last: int, zone: str | None = None) -> Within:
    """1.0 where the hour of the day, 0 to 23, is in [first, last]: 0 to 6 is the night; in UTC without a zone."""
    return Within("hour", (time,), first, last, zone=zone)


def weekday_within(time: str, first: int, last: int, zone: str | None = None) -> Within:
    """1.0 where the day of the week, 0 for Monday, is in [first, last]: 5 to 6 is the weekend. ``zone``: as above."""
    return Within("weekday", (time,), first, last, zone=zone)


def local_hour(time: str, zone: str) -> ByClock:
    """The hour of the day in the zone, 0 to 23."""
    return ByClock("hour", (time,), zone)


def local_weekday(time: str, zone: str) -> ByClock:
    """The day of the week in the zone, 0 for Monday."""
    return ByClock("weekday", (time,), zone)


def _log1p(values: list[Floats]) -> Floats:
    import numpy as np

    return np.log1p(values[0])


OPERATIONS: dict[str, tuple[int, int, Callable[[list[Floats]], Floats]]] = {
    "product": (1, 8, lambda values: reduce(operator.mul, values)),
    "ratio": (2, 2, lambda values: values[0] / values[1]),
    "difference": (2, 2, lambda values: values[0] - values[1]),
    "total": (1, 8, lambda values: reduce(operator.add, values)),
    "log1p": (1, 1, _log1p),
    "hour": (1, 1, lambda values: values[0] // UNITS_MS["h"] % 24),
    # The epoch began on a Thursday.
    "weekday": (1, 1, lambda values: (values[0] // UNITS_MS["d"] + 3) % 7),
}
"""Name → (fewest operands, most operands, kernel). Kernels get nulls as NaN, and times as epoch ms."""

TIME_OPERATIONS = ("hour", "weekday")
"""Operations on times; all others are on numbers."""


def check_expression(expression: Expression, known: Mapping[str, str], location: str) -> None:
    """Raises DefinitionError unless the operation exists and every operand is a known column that it can take."""
    if not isinstance(expression, Expression) or expression.operation not in OPERATIONS:
        raise DefinitionError(location, f"an operation of {', '.join(OPERATIONS)}", repr(expression))
    fewest, most, _ = OPERATIONS[expression.operation]
    if not fewest <= len(expression.operands) <= most:
        raise DefinitionError(
            location, f"{fewest} to {most} operands for {expression.operation}", repr(expression.operands)
        )
    zone = zone_of(expression)
    if zone is not None:
        check_zone(zone, location)
        if expression.operation not in TIME_OPERATIONS:
            raise DefinitionError(location, f"no zone for {expression.operation}", repr(zone))
    required, dtypes = ("times", ("time",)) if expression.operation in TIME_OPERATIONS else ("numeric columns", NUMERIC)
    for operand in expression.operands:
        if not isinstance(operand, str) or known.get(operand) not in dtypes:
            got = f"{operand!r} ({known.get(str(operand), 'unknown')})"
            usable = sorted(name for name, dtype in known.items() if dtype in dtypes)
            raise DefinitionError(
                location, f"operands that are {required}", got, f"Known: {', '.join(usable) or 'none'}."
            )


def zone_of(expression: Expression) -> str | None:
    """The zone whose clock the expression reads; None for UTC."""
    return expression.zone if isinstance(expression, Within | ByClock) else None


def _shown(times: Floats, zone: str) -> Floats:
    """What the zone's clock shows at times in epoch ms; NaN stays NaN."""
    import numpy as np

    from features.zones import local_ms

    there = np.isfinite(times)
    return np.where(there, local_ms(np.where(there, times, 0.0).astype(np.int64), zone), np.nan)


def evaluate(expression: Expression, values: Mapping[str, Floats]) -> Floats:
    """The value of the expression for each row: float64, NaN where it has none."""
    import numpy as np

    _, _, kernel = OPERATIONS[expression.operation]
    zone = zone_of(expression)
    operands = [values[operand] for operand in expression.operands]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        result = kernel(operands if zone is None else [_shown(times, zone) for times in operands])
    if isinstance(expression, Within):
        result = np.where(np.isnan(result), result, (result >= expression.first) & (result <= expression.last))
    return np.where(np.isfinite(result), result, np.nan)
