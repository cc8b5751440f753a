"""Conditions and arithmetic as data, evaluated on whole columns: filters, computed event fields, derived features.

Neither numpy nor pyarrow is imported before something is evaluated: they are half of a short command's time.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from features.definitions.windows import UNITS_MS
from features.errors import DefinitionError

if TYPE_CHECKING:
    import pyarrow as pa

    from features.arrays import Bools, Floats

V = TypeVar("V")

Scalar = str | int | float | bool

NUMERIC = ("int64", "float64")


class FrozenMap(Mapping[str, V]):
    """An immutable, hashable mapping; its order counts in comparisons, as names follow it."""

    def __init__(self, items: Mapping[str, V] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrozenMap) and tuple(self._items.items()) == tuple(other._items.items())

    def __hash__(self) -> int:
        return hash(tuple(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True)
class Compare:
    """True where a number is in this relation to ``value``; made by above(), at_most() and such."""

    relation: str
    value: float

    KERNELS: ClassVar[dict[str, str]] = {
        "above": "greater",
        "at_least": "greater_equal",
        "below": "less",
        "at_most": "less_equal",
        "other_than": "not_equal",
    }


@dataclass(frozen=True)
class OneOf:
    """True where the column holds one of ``values``; a plain list in a where means the same."""

    values: tuple[Scalar, ...]


Condition = Scalar | Compare | OneOf


def above(value: float) -> Compare:
    """True where the column is greater than ``value``."""
    return Compare("above", value)


def at_least(value: float) -> Compare:
    """True where the column is ``value`` or greater."""
    return Compare("at_least", value)


def below(value: float) -> Compare:
    """True where the column is less than ``value``."""
    return Compare("below", value)


def at_most(value: float) -> Compare:
    """True where the column is ``value`` or less."""
    return Compare("at_most", value)


def other_than(value: float) -> Compare:
    """True where the column is a number, and not ``value``."""
    return Compare("other_than", value)


def freeze_where(where: Mapping[str, Any] | None, location: str) -> FrozenMap[Condition]:
    """A checked, hashable copy of a filter as users write it: {column: value | [values] | above(x)}."""
    if where is None:
        return FrozenMap()
    if not isinstance(where, Mapping):
        raise DefinitionError(location, "where to be a mapping of column to condition", repr(where))
    return FrozenMap({column: _condition(value, f"{location}: where {column!r}") for column, value in where.items()})


def _condition(value: object, location: str) -> Condition:
    if isinstance(value, list | tuple | set | frozenset):
        members = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        if members and all(isinstance(member, Scalar) for member in members):
            return OneOf(tuple(members))
    elif isinstance(value, OneOf):
        return _condition(value.values, location)
    elif isinstance(value, Scalar) or (isinstance(value, Compare) and value.relation in Compare.KERNELS):
        return value
    raise DefinitionError(
        location, "a value, a list of values, or above/at_least/below/at_most/other_than(number)", repr(value)
    )


def check_where(where: Mapping[str, Condition], dtypes: Mapping[str, str], location: str) -> None:
    """Raises DefinitionError unless every column exists and has a dtype that its condition can be compared with."""
    for column, condition in where.items():
        if column not in dtypes:
            raise DefinitionError(location, "a where on known columns", repr(column), f"Known: {', '.join(dtypes)}.")
        values: tuple[Scalar | Compare, ...] = condition.values if isinstance(condition, OneOf) else (condition,)
        where_column = f"{location}: where {column!r}"
        if not all(_comparable(value, dtypes[column]) for value in values):
            raise DefinitionError(where_column, f"a condition on {dtypes[column]}", repr(condition))
        if dtypes[column] == "float64" and not all(map(_is_float64, values)):
            required = "whole numbers that a float64 can be, as all up to 2^53 are"
            raise DefinitionError(where_column, required, repr(condition), "A field of int64 takes any.")


def _comparable(value: Scalar | Compare, dtype: str) -> bool:
    if isinstance(value, Compare):
        return dtype in ("int64", "float64") and _comparable(value.value, "float64")
    if isinstance(value, bool):
        return dtype == "bool"
    if isinstance(value, int):
        return dtype in ("int64", "float64") and abs(value) < 2**63
    if isinstance(value, float):
        return dtype == "float64" and math.isfinite(value)
    return dtype == "string" and isinstance(value, str)


def _is_float64(value: Scalar | Compare) -> bool:
    """False for a whole number between two float64s: no value of the column equals it."""
    number = value.value if isinstance(value, Compare) else value
    return not isinstance(number, int) or int(float(number)) == number


def largest_number(condition: Condition) -> float:
    """The largest magnitude of the condition's numbers; 0 without any."""
    values = condition.values if isinstance(condition, OneOf) else (condition,)
    numbers = [value.value if isinstance(value, Compare) else value for value in values]
    return max((abs(number) for number in numbers if isinstance(number, int | float)), default=0)


def where_label(where: Mapping[str, Condition]) -> str:
    """The part of a feature's name that stands for a filter: {"event_type": "view"} is 'view'; empty for no filter."""
    return "_".join(_condition_label(column, condition) for column, condition in where.items())


def _condition_label(column: str, condition: Condition) -> str:
    match condition:
        case Compare(relation, value):
            text = f"{column}_{relation}_{_number_label(value)}"
        case OneOf(values):
            text = "_or_".join(str(value) for value in values)
        case bool():
            text = column if condition else f"not_{column}"
        case str():
            text = condition
        case _:
            text = f"{column}_{_number_label(condition)}"
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _number_label(value: float) -> str:
    return f"{value:.15g}".replace("-", "minus").replace("+", "")


def matches(events: pa.Table, where: Mapping[str, Condition]) -> Bools:
    """True for each row that meets every condition; a null meets none."""
    import numpy as np

    masks = [_matches(events[column], condition) for column, condition in where.items()]
    if not masks:
        return np.ones(events.num_rows, dtype=bool)
    return reduce(np.logical_and, masks)


def _matches(column: pa.ChunkedArray, condition: Condition) -> Bools:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    is_float = pa.types.is_floating(column.type)
    if isinstance(condition, Compare):
        result = _compared(column, condition)
    elif isinstance(condition, OneOf):
        # is_in takes 0.0 and -0.0 for different values; adding 0.0 makes both 0.0.
        values = [float(value) + 0.0 for value in condition.values] if is_float else condition.values
        column = pc.add(column, 0.0) if is_float else column
        result = pc.is_in(column, value_set=pa.array(values, type=column.type))
    else:
        result = pc.equal(column, pa.scalar(float(condition) if is_float else condition, type=column.type))
    return np.asarray(pc.fill_null(result, fill_value=False).to_numpy(zero_copy_only=False), dtype=bool)


def _compared(column: pa.ChunkedArray, compare: Compare) -> pa.ChunkedArray:
    """Whether each number is in the relation, by Arrow's comparison of equal types, which rounds none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        compare = Compare(compare.relation, float(compare.value))  # check_where found them equal
    else:
        compare = _with_integer(compare)
        if not -(2**63) <= compare.value < 2**63:
            by_sign = ("below", "at_most") if compare.value > 0 else ("above", "at_least")
            holds = compare.relation in (*by_sign, "other_than")
            return pc.and_(column.is_valid(), pa.scalar(holds))
    return pc.call_function(Compare.KERNELS[compare.relation], [column, pa.scalar(compare.value, column.type)])


def _with_integer(condition: Compare) -> Compare:
    """The condition that the same integers meet, with a whole number: no integer is rounded to compare it.

    Above 0.5 is at least 1. Of a number that is not whole, every integer is other: above the least int64 or equal.
    """
    if condition.value == math.floor(condition.value):
        return Compare(condition.relation, int(condition.value))
    match condition.relation:
        case "above" | "at_least":
            return Compare("at_least", math.ceil(condition.value))
        case "below" | "at_most":
            return Compare("at_most", math.floor(condition.value))
        case _:
            return Compare("at_least", -(2**63))


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


def hour_within(time: str, first: int, last: int) -> Within:
    """1.0 where the hour of the day, 0 to 23 in UTC, is in [first, last]: 0 to 6 is the night."""
    return Within("hour", (time,), first, last)


def weekday_within(time: str, first: int, last: int) -> Within:
    """1.0 where the day of the week in UTC, 0 for Monday, is in [first, last]: 5 to 6 is the weekend."""
    return Within("weekday", (time,), first, last)


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
    required, dtypes = ("times", ("time",)) if expression.operation in TIME_OPERATIONS else ("numeric columns", NUMERIC)
    for operand in expression.operands:
        if not isinstance(operand, str) or known.get(operand) not in dtypes:
            got = f"{operand!r} ({known.get(str(operand), 'unknown')})"
            usable = sorted(name for name, dtype in known.items() if dtype in dtypes)
            raise DefinitionError(
                location, f"operands that are {required}", got, f"Known: {', '.join(usable) or 'none'}."
            )


def evaluate(expression: Expression, values: Mapping[str, Floats]) -> Floats:
    """The value of the expression for each row: float64, NaN where it has none."""
    import numpy as np

    _, _, kernel = OPERATIONS[expression.operation]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        result = kernel([values[operand] for operand in expression.operands])
    if isinstance(expression, Within):
        result = np.where(np.isnan(result), result, (result >= expression.first) & (result <= expression.last))
    return np.where(np.isfinite(result), result, np.nan)
