"""Conditions of events as data, evaluated on whole columns: filters, rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from features.errors import DefinitionError

if TYPE_CHECKING:
    import pyarrow as pa

    from features.arrays import Bools

V = TypeVar("V")

Scalar = str | int | float | bool


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


@dataclass(frozen=True)
class TextTest:
    """True where a text is in this relation to ``value``: other_than or starts_with, made by these."""

    relation: str
    value: str

    RELATIONS: ClassVar[tuple[str, ...]] = ("other_than", "starts_with")


@dataclass(frozen=True)
class Presence:
    """True where the column has a value, or has none; made by not_null() and is_null()."""

    there: bool


@dataclass(frozen=True)
class AnyOf:
    """True where the column meets one of the conditions; made by any_of()."""

    conditions: tuple[Condition, ...]


Condition = Scalar | Compare | OneOf | TextTest | Presence | AnyOf


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


def other_than(value: float | str) -> Compare | TextTest:
    """True where the column has a value, and not this one."""
    return TextTest("other_than", value) if isinstance(value, str) else Compare("other_than", value)


def starts_with(prefix: str) -> TextTest:
    """True where the column is a text that begins with ``prefix``."""
    return TextTest("starts_with", prefix)


def is_null() -> Presence:
    """True where the column has no value."""
    return Presence(there=False)


def not_null() -> Presence:
    """True where the column has a value."""
    return Presence(there=True)


def any_of(*conditions: Any) -> AnyOf:
    """True where the column meets one of these: values, lists of them, other conditions."""
    return AnyOf(conditions)


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
    elif isinstance(value, AnyOf):
        if value.conditions:
            return AnyOf(tuple(_condition(each, location) for each in value.conditions))
    elif isinstance(value, TextTest):
        if value.relation in TextTest.RELATIONS and isinstance(value.value, str):
            return value
    elif isinstance(value, Scalar | Presence) or (isinstance(value, Compare) and value.relation in Compare.KERNELS):
        return value
    required = (
        "a value, a list of values, above/at_least/below/at_most/other_than(number), "
        "other_than/starts_with(text), is_null/not_null(), or any_of(conditions)"
    )
    raise DefinitionError(location, required, repr(value))


def check_where(where: Mapping[str, Condition], dtypes: Mapping[str, str], location: str) -> None:
    """Raises DefinitionError unless every column exists and has a dtype that its condition can be compared with."""
    for column, condition in where.items():
        if column not in dtypes:
            raise DefinitionError(location, "a where on known columns", repr(column), f"Known: {', '.join(dtypes)}.")
        values = tuple(_tests(condition))
        where_column = f"{location}: where {column!r}"
        if not all(_comparable(value, dtypes[column]) for value in values):
            raise DefinitionError(where_column, f"a condition on {dtypes[column]}", repr(condition))
        if dtypes[column] == "float64" and not all(map(_is_float64, values)):
            required = "whole numbers that a float64 can be, as all up to 2^53 are"
            raise DefinitionError(where_column, required, repr(condition), "A field of int64 takes any.")


def _tests(condition: Condition) -> Iterator[Scalar | Compare | TextTest | Presence]:
    """The conditions and values of which it is made."""
    if isinstance(condition, AnyOf):
        for each in condition.conditions:
            yield from _tests(each)
    elif isinstance(condition, OneOf):
        yield from condition.values
    else:
        yield condition


def _comparable(value: Scalar | Compare | TextTest | Presence, dtype: str) -> bool:
    if isinstance(value, Presence | TextTest):
        return isinstance(value, Presence) or dtype == "string"
    if isinstance(value, Compare):
        return dtype in ("int64", "float64") and _comparable(value.value, "float64")
    if isinstance(value, bool):
        return dtype == "bool"
    if isinstance(value, int):
        return dtype in ("int64", "float64") and abs(value) < 2**63
    if isinstance(value, float):
        return dtype == "float64" and math.isfinite(value)
    return dtype == "string" and isinstance(value, str)


def _is_float64(value: Scalar | Compare | TextTest | Presence) -> bool:
    """False for a whole number between two float64s: no value of the column equals it."""
    number = value.value if isinstance(value, Compare) else value
    return not isinstance(number, int) or int(float(number)) == number


def accepts_null(condition: Condition) -> bool:
    """True for a condition that a null meets."""
    return any(isinstance(test, Presence) and not test.there for test in _tests(condition))


def largest_number(condition: Condition) -> float:
    """The largest magnitude of the condition's numbers; 0 without any."""
    numbers = [value.value if isinstance(value, Compare) else value for value in _tests(condition)]
    return max((abs(number) for number in numbers if isinstance(number, int | float)), default=0)


def where_label(where: Mapping[str, Condition]) -> str:
    """The part of a feature's name that stands for a filter: {"event_type": "view"} is 'view'; empty for no filter."""
    return "_".join(_condition_label(column, condition) for column, condition in where.items())


def _condition_label(column: str, condition: Condition) -> str:
    match condition:
        case AnyOf(conditions):
            text = "_or_".join(_condition_label(column, each) for each in conditions)
        case TextTest(relation, prefix):
            text = f"{column}_{prefix}" if relation == "starts_with" else f"not_{prefix}"
        case Presence(there):
            text = f"with_{column}" if there else f"without_{column}"
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
    """True for each row that meets every condition; a null meets none but is_null()."""
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
    if isinstance(condition, AnyOf):
        return reduce(np.logical_or, [_matches(column, each) for each in condition.conditions])
    if isinstance(condition, Presence):
        result = column.is_valid() if condition.there else column.is_null()
    elif isinstance(condition, TextTest):
        test = pc.starts_with if condition.relation == "starts_with" else pc.not_equal
        result = test(column, condition.value)
    elif isinstance(condition, Compare):
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
