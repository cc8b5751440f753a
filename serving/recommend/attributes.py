"""Attributes of items, for filters and variety: the newest value of each, from the views of items. Pure functions.

An attribute is the column of a ``Last`` in a view of the item's entity; the catalogue's values come before those of
events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from features.definitions import FeatureView, attributes_of
from features.rows import FeatureMatrix

RANGE = ("min", "max")


class FieldError(Exception):
    """Raised for a field of a request with an impossible value: its name, the required and the given value."""

    def __init__(self, field: str, required: str, got: object) -> None:
        super().__init__(f"field '{field}' requires {required}")
        self.field, self.required, self.got = field, required, got


@dataclass(frozen=True)
class Attributes:
    """The attributes of items, one Arrow column each in the items' order."""

    columns: Mapping[str, pa.Array]

    @classmethod
    def of(cls, views: Iterable[tuple[FeatureView, FeatureMatrix]]) -> Attributes:
        """The attributes of the items in these views; the first view with a value wins."""
        columns: dict[str, pa.Array] = {}
        for view, matrix in views:
            for name, feature in attributes_of(view).items():
                column = matrix.columns[matrix.names.index(feature.name)]
                known = columns.get(name)
                if known is None or known.type == column.type:
                    columns[name] = column if known is None else pc.coalesce(known, column)
        return cls(columns)

    def meeting(self, wanted: Mapping[str, Any], at: Int64s | None = None) -> Bools | None:
        """The items, or those at these positions, that meet every condition; None without a condition.

        A condition is a value, a list of values, or {"min", "max"} (inclusive); an item with an unknown attribute meets
        none on it. Raises FieldError.
        """
        found = [self._meeting(name, condition, at) for name, condition in wanted.items()]
        return np.logical_and.reduce(found) if found else None

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Passes for conditions that can be asked. Raises FieldError."""
        self.meeting(wanted, np.empty(0, dtype=np.int64))

    def _meeting(self, name: str, condition: Any, at: Int64s | None) -> Bools:
        field = f"filter.{name}"
        if name not in self.columns:
            known = ", ".join(sorted(self.columns)) or "none: no view of items keeps a last value"
            raise FieldError("filter", f"an attribute of items ({known})", name)
        column = self.columns[name] if at is None else self.columns[name].take(pa.array(at))
        met = (
            _in_range(column, condition, field) if isinstance(condition, Mapping) else _one_of(column, condition, field)
        )
        return np.asarray(pc.fill_null(met, fill_value=False))

    def alike(self, positions: Int64s, name: str | None) -> NDArray[np.float64]:
        """(i, i) 1 where both items have the same value of this attribute, NaN where either value is unknown.

        Args:
            positions: (i,) of the items; -1 for one of unknown values.
        """
        if name is None or name not in self.columns:
            return np.full((len(positions), len(positions)), np.nan)
        indices = pa.array(positions, mask=positions < 0)
        encoded = self.columns[name].take(indices).dictionary_encode()
        codes = np.asarray(pc.fill_null(encoded.indices, -1))
        same: NDArray[np.float64] = (codes[:, None] == codes[None, :]).astype(np.float64)
        unknown = codes < 0
        same[unknown[:, None] | unknown[None, :]] = np.nan
        return same


NO_ATTRIBUTES = Attributes({})


def _one_of(column: pa.Array, condition: Any, field: str) -> pa.Array:
    values = condition if isinstance(condition, list) else [condition]
    if not values or any(isinstance(value, list | dict) or value is None for value in values):
        raise FieldError(field, 'a value, a list of values or {"min": …, "max": …}', condition)
    return pc.is_in(column, value_set=_typed(values, column.type, field))


def _in_range(column: pa.Array, condition: Mapping[str, Any], field: str) -> pa.Array:
    unknown = [name for name in condition if name not in RANGE]
    if unknown or not condition:
        raise FieldError(field, "min, max or both", unknown[0] if unknown else condition)
    met = pa.array(np.ones(len(column), dtype=bool))
    for name, compare in (("min", pc.greater_equal), ("max", pc.less_equal)):
        if name in condition:
            (bound,) = _typed([condition[name]], column.type, f"{field}.{name}")
            met = pc.and_(met, compare(column, bound))
    return met


def _typed(values: Sequence[Any], dtype: pa.DataType, field: str) -> pa.Array:
    """The values in the column's type; a whole number is also a float64."""
    kinds: dict[bool, tuple[type, ...]] = {True: (bool,), False: (int, float)}
    right = (str,) if pa.types.is_string(dtype) else kinds[pa.types.is_boolean(dtype)]
    is_bool = pa.types.is_boolean(dtype)
    wrong = [value for value in values if not isinstance(value, right) or isinstance(value, bool) != is_bool]
    if wrong:
        raise FieldError(field, f"values of type {dtype}", wrong[0])
    whole = pa.types.is_integer(dtype) and any(isinstance(value, float) and not value.is_integer() for value in values)
    if whole:
        raise FieldError(field, "whole numbers", values[0])
    try:
        return pa.array([int(value) for value in values] if pa.types.is_integer(dtype) else values, dtype)
    except (pa.ArrowInvalid, OverflowError):
        raise FieldError(field, f"values that are {dtype} to the digit", values[0]) from None
