"""Features that a request brings, checked by the view's definition, which override the store's. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from features.definitions import FeatureView
from features.events import arrow_type
from features.rows import FeatureMatrix, Status
from serving.recommend.attributes import FieldError


def request_columns(view: FeatureView, own_features: Mapping[str, Any]) -> dict[str, pa.Array]:
    """Feature → a column of one value in the feature's type. Raises FieldError."""
    dtypes = {feature.name: feature.dtype for feature in view.features}
    columns = {}
    for name, value in own_features.items():
        if name not in dtypes:
            raise FieldError(f"user_features.{name}", f"a feature of view '{view.name}'", value)
        columns[name] = _column(f"user_features.{name}", dtypes[name], value)
    return columns


def _column(field: str, dtype: str, value: Any) -> pa.Array:
    """A column of one value, without conversions between texts, numbers and booleans."""
    element = dtype.removeprefix("list<").removesuffix(">")
    values = value if isinstance(value, list) else [value]
    kinds = {"string": (str,), "bool": (bool,), "int64": (int,), "float64": (int, float)}[element]
    fits = all(isinstance(each, kinds) and isinstance(each, bool) == (element == "bool") for each in values)
    if value is not None and (isinstance(value, list) != dtype.startswith("list<") or not fits):
        raise FieldError(field, f"a value of type {dtype}", value)
    try:
        return pa.array([value], arrow_type(dtype))
    except (pa.ArrowInvalid, OverflowError):
        raise FieldError(field, f"a value of type {dtype}", value) from None


def overridden(
    view: FeatureView, read: FeatureMatrix | None, own_features: Mapping[str, pa.Array], now: int
) -> FeatureMatrix:
    """One row of features: the request's, else those that were read, else null.

    Args:
        read: a matrix of one row; None without one.
        now: epoch ms, the row's as_of if nothing was read.
    """
    if read is None or read.status[0] != Status.PRESENT:
        nothing = tuple(pa.nulls(1, arrow_type(feature.dtype)) for feature in view.features)
        read = FeatureMatrix(view.names, nothing, np.zeros(1, np.int8), np.array([now]), np.array([0]))
    columns = tuple(own_features.get(name, column) for name, column in zip(read.names, read.columns, strict=True))
    return replace(read, columns=columns)
