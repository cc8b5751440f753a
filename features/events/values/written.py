"""Our values → what messages have for them, by a Field's map and cast: the inverse of conversion.py."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import Field, NumberText


def written(values: pa.Array, field: Field) -> pa.Array:
    """The values as a message has them: by the map, and as they are where it has no text for one."""
    if not field.mapping:
        return values
    theirs = {ours: text for text, ours in reversed(list(field.mapping.items())) if ours is not None}
    place = pc.index_in(values, value_set=pa.array(list(theirs), values.type))
    by_map = pa.array(list(theirs.values()), pa.string()).take(place)
    return pc.coalesce(by_map, pa.array([number_text(value, field) for value in values.to_pylist()], pa.string()))


def number_text(value: str | float | None, field: Field) -> str | None:
    """The value as text that the field reads."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | int) and isinstance(field.cast, NumberText):
        return f"{Decimal(repr(value)):f}".replace(".", field.cast.decimal)
    return None if value is None else str(value)
