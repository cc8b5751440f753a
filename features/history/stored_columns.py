"""Columns of a stream's table: a field whose dtype has changed has one for each of its dtypes.

A column of a Delta table keeps its type, and what is appended is cast to it. So the values that a field has in another
dtype than the column of its name are in a column beside it, such as 'price@float64'; an event has its value in one of
them. Readers get every field in the dtype of today's definitions: a value of another dtype as the same value in this
one, null where there is no such value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import single_array
from features.events import ARROW

BESIDE = "@"
"""Between a field's name and a dtype; no name of a field has it."""

DIGITS = r"^(0|-?[1-9][0-9]{0,18})$"
"""The text of an integer of at most 19 digits, as it is written."""

INT64_END = 2.0**63
"""The first float64 above all int64."""


@dataclass(frozen=True)
class StoredColumns:
    """The columns that a table has, by name."""

    types: Mapping[str, pa.DataType]

    @classmethod
    def of(cls, schema: pa.Schema) -> StoredColumns:
        """The columns of a table's schema."""
        return cls({field.name: field.type for field in schema})

    def fields(self) -> list[str]:
        """The names of the fields that the table has."""
        return list(dict.fromkeys(name.partition(BESIDE)[0] for name in self.types))

    def dtypes(self, field: str) -> list[str]:
        """The dtypes in which the table has values of the field."""
        kinds = {kind: dtype for dtype, kind in ARROW.items()}
        return [kinds.get(self.types[name], str(self.types[name])) for name in self.of_field(field)]

    def of_field(self, field: str) -> list[str]:
        """The names of the columns that hold values of the field; none where the table lacks it."""
        beside = (f"{field}{BESIDE}{dtype}" for dtype in ARROW)
        return [name for name in (field, *beside) if name in self.types]

    def schema(self, fields: Iterable[str]) -> pa.Schema:
        """The columns that hold values of the fields."""
        return pa.schema([(name, self.types[name]) for field in fields for name in self.of_field(field)])

    def stored(self, events: pa.Table) -> pa.Table:
        """Events under the names of the columns that take their types."""
        kinds = {kind: dtype for dtype, kind in ARROW.items()}
        columns = {}
        for field in events.schema:
            kind = kinds.get(field.type)
            same = self.types.get(field.name, field.type) == field.type
            name = field.name if same or kind is None else f"{field.name}{BESIDE}{kind}"
            columns[name] = events[field.name]
        return pa.table(columns)

    def read(self, table: pa.Table, fields: Iterable[str], schema: pa.Schema) -> pa.Table:
        """The fields in the types of ``schema``, from a table with their columns; all null where it has none."""
        return pa.table({field: self._values(table, field, schema.field(field).type) for field in fields})

    def _values(self, table: pa.Table, field: str, wanted: pa.DataType) -> pa.ChunkedArray | pa.Array:
        columns = [same_values(table[name], wanted) for name in self.of_field(field) if name in table.column_names]
        if not columns:
            return pa.nulls(table.num_rows, wanted)
        return columns[0] if len(columns) == 1 else pc.coalesce(*columns)


def same_values(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray | pa.Array:
    """The values in another dtype: the equal number, the integer as its digits and back; null for anything else.

    A type that no dtype has, in a table of another writer, is cast.

    Raises:
        pa.ArrowInvalid: such a cast loses something.
    """
    if values.type == wanted:
        return values
    array = single_array(values)
    integer, floating = pa.types.is_integer(array.type), pa.types.is_floating(array.type)
    if floating and wanted == pa.int64():
        return _equal_integers(array)
    if integer and wanted == pa.float64():
        return _equal_floats(array)
    if array.type == pa.string() and wanted == pa.int64():
        return _spelled(array)
    if array.type not in ARROW.values() or (integer and (wanted == pa.string() or pa.types.is_integer(wanted))):
        return array.cast(wanted)
    return pa.nulls(len(array), wanted)


def _equal_floats(integers: pa.Array) -> pa.Array:
    numbers = np.asarray(pc.fill_null(integers.cast(pa.int64()), 0))
    floats = numbers.astype(np.float64)
    below = floats < INT64_END
    equal = below & (np.where(below, floats, 0).astype(np.int64) == numbers)
    return pc.if_else(pc.and_(integers.is_valid(), pa.array(equal)), pa.array(floats), None)


def _equal_integers(floats: pa.Array) -> pa.Array:
    numbers = np.asarray(pc.fill_null(floats.cast(pa.float64()), 0.0))
    equal = (numbers >= -INT64_END) & (numbers < INT64_END) & (numbers == np.trunc(numbers))
    whole = np.where(equal, numbers, 0).astype(np.int64)
    return pc.if_else(pc.and_(floats.is_valid(), pa.array(equal)), pa.array(whole), None)


def _spelled(texts: pa.Array) -> pa.Array:
    """The integers that the texts are the digits of; null for other texts."""
    digits = pc.if_else(pc.match_substring_regex(texts, DIGITS), texts, None)
    numbers = digits.cast(pa.decimal128(20, 0))
    least, most = (pa.scalar(bound).cast(pa.decimal128(20, 0)) for bound in (-(2**63), 2**63 - 1))
    within = pc.and_(pc.greater_equal(numbers, least), pc.less_equal(numbers, most))
    return pc.if_else(within, numbers, None).cast(pa.int64())
