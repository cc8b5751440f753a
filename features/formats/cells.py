"""Columns of files as from_columns takes them: cells of text by their rule, other types as they are."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import plain_array, single_array
from features.definitions import Field, Time
from features.events import Problems, all_numbers, converted, epoch_ms, reason_text, typed
from features.formats.files import Columns

TEXTS = {pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()}
SAFE_DIGITS = 18
"""Of a number that is an int64 whatever they are."""


def csv_ms(column: Columns, time: Time) -> pa.Array:
    """Epoch ms of cells of text: as messages have them, and whole numbers as text; null for anything else."""
    texts = single_array(column)
    if not time.patterns and (pc.max(pc.binary_length(texts)).as_py() or 0) <= SAFE_DIGITS:
        numbers = all_numbers(texts, "int64")
        if numbers is not None:
            return epoch_ms(numbers, time)
    return epoch_ms(texts, time, digits=True)


def fitted(column: Columns, dtype: str, name: str, problems: Problems) -> pa.Array:
    """A file's column as from_columns takes one of our dtype: text cells are typed, whole decimals are integers."""
    array = plain_array(column)
    kind = array.type
    if is_text(kind):
        return typed(array, dtype, name, problems)
    if pa.types.is_decimal(kind) and kind.scale == 0 and dtype != "float64":
        array = _whole_decimals(array, name, problems)
        kind = array.type
    return array.cast(pa.string()) if dtype == "string" and pa.types.is_integer(kind) else array


def _whole_decimals(array: pa.Array, name: str, problems: Problems) -> pa.Array:
    try:
        return array.cast(pa.int64())
    except pa.ArrowInvalid:
        values = array.to_pylist()
    for row, value in enumerate(values):
        if value is not None and not -(2**63) <= value < 2**63:
            problems.setdefault(row, reason_text("out_of_range", name, "int64", str(value)))
            values[row] = None
    return pa.array([None if value is None else int(value) for value in values], pa.int64())


def converted_cells(column: Columns, field: Field, name: str, problems: Problems) -> pa.Array:
    """A file's column of a field with a cast or a map, in its dtype."""
    array = plain_array(column)
    values = typed(array, "string", name, problems) if is_text(array.type) else array
    return converted(values, field, name, problems, cells=True)


def is_text(kind: pa.DataType) -> bool:
    """True for columns of text and of bytes, which are read as text."""
    return kind in TEXTS
