"""The output of every decoder, before verdicts: typed columns of a batch, and the problems of its records.

Defines which plain values (from JSON or Avro) a column accepts: types are exact, nothing is coerced. A value that does
not fit leaves a null and a problem, whose text starts with a stable code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import Origin, Stream, key_paths
from features.events.timestamps import ms_of_datetimes, ms_of_numbers, ms_of_text
from features.events.values.reasons import (
    ARROW,
    INT64,
    NotAnObject,
    Problems,
    RefusedError,
    add_bad_times,
    reason_text,
    show,
)

KINDS: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "int64": frozenset({int}),
    "float64": frozenset({float, int}),
    "bool": frozenset({bool}),
}
"""The Python types of a column that is converted at once; bool is not an int here."""


@dataclass(frozen=True)
class Decoded:
    """A row per record: ``event_time`` (int64 ms), the stream's mapped fields, ``event_id`` if messages have one.

    A row with a problem holds nulls or the values that could be read; its verdict is DEAD_LETTER.
    """

    columns: pa.Table
    problems: Problems


@dataclass(frozen=True)
class Column:
    """A value of a message: our name, its paths of keys, of which the first with a value counts, and its dtype.

    ``dtype`` is one of definitions.DTYPES, or "id" (a string or an int64) or "time" (an int64 or a text).
    """

    name: str
    paths: tuple[tuple[str, ...], ...]
    dtype: str

    @property
    def path(self) -> tuple[str, ...]:
        """The first path: the only one of most columns, and of all in alternatives()."""
        return self.paths[0]

    @property
    def alternatives(self) -> tuple[Column, ...]:
        """A column for each of the paths, in their order."""
        return (self,) if len(self.paths) == 1 else tuple(replace(self, paths=(path,)) for path in self.paths)


def columns_of(stream: Stream) -> list[Column]:
    """The columns to read from each message of a stream, in the order in which problems are reported."""
    columns = [] if stream.event_id is None else [_column("event_id", stream.event_id, "id")]
    columns.append(_column("event_time", stream.event_time, "time"))
    return columns + [_column(name, field.path or name, field.dtype) for name, field in stream.mapped.items()]


def _column(name: str, origin: Origin, dtype: str) -> Column:
    return Column(name, key_paths(origin), dtype)


def from_objects(objects: Sequence[dict[str, Any] | None], stream: Stream, problems: Problems) -> Decoded:
    """The typed columns of decoded messages; None stands for a message that ``problems`` has already."""
    columns = columns_of(stream)
    typed = {column.name: _typed(_first(objects, column), column, stream, problems) for column in columns}
    return Decoded(pa.table(typed), problems)


def _first(objects: Sequence[dict[str, Any] | None], column: Column) -> list[Any]:
    """The value of the column in each object: that of its first path that has one."""
    values = _values(objects, column.path)
    for path in column.paths[1:]:
        others = _values(objects, path)
        values = [other if value is None else value for value, other in zip(values, others, strict=True)]
    return values


def _values(objects: Sequence[dict[str, Any] | None], path: tuple[str, ...]) -> list[Any]:
    values: list[Any] = list(objects)
    for key in path:
        values = [value.get(key) if type(value) is dict else _beyond(value) for value in values]
    return values


def _beyond(value: object) -> NotAnObject | None:
    if value is None or isinstance(value, NotAnObject):
        return value
    return NotAnObject(value)


def _typed(values: list[Any], column: Column, stream: Stream, problems: Problems) -> pa.Array:
    if column.dtype == "time":
        return _times(values, column.name, stream.time_unit, problems)
    if column.dtype == "id":
        return _exact(values, column, pa.string(), frozenset({str}), problems)
    return _exact(values, column, ARROW[column.dtype], KINDS[column.dtype], problems)


def _exact(
    values: list[Any], column: Column, arrow: pa.DataType, kinds: frozenset[type], problems: Problems
) -> pa.Array:
    """The column, converted at once if its Python types allow it, else value by value."""
    if set(map(type, values)) <= kinds | {type(None)}:
        try:
            array = pa.array(values, type=arrow)
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass
        else:
            if arrow != pa.float64() or pc.all(pc.is_finite(array)).as_py() is not False:
                return array
    return pa.array([_cell(value, column, row, problems) for row, value in enumerate(values)], type=arrow)


def _cell(value: Any, column: Column, row: int, problems: Problems) -> Any:
    try:
        return None if value is None else CELLS[column.dtype](value, column.name)
    except RefusedError as refused:
        problems.setdefault(row, str(refused))
        return None


def _string(value: Any, name: str) -> str:
    if isinstance(value, UUID):
        return str(value)
    if type(value) is not str:
        raise RefusedError(reason_text("wrong_type", name, "string", show(value)))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RefusedError(
            reason_text("bad_text", name, "whole characters", f"a lone surrogate in {show(value)}")
        ) from None
    return value


def _integer(value: Any, name: str) -> int:
    if isinstance(value, datetime):
        return int(ms_of_datetimes([value])[0].as_py())
    if type(value) is not int:
        raise RefusedError(reason_text("wrong_type", name, "int64", show(value)))
    if value not in INT64:
        raise RefusedError(reason_text("out_of_range", name, "int64", show(value)))
    return value


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float, Decimal):
        raise RefusedError(reason_text("wrong_type", name, "float64", show(value)))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RefusedError(reason_text("not_finite", name, "a finite float64", show(value)))
    return number


def _boolean(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise RefusedError(reason_text("wrong_type", name, "bool", show(value)))
    return value


def _identifier(value: Any, name: str) -> str:
    if type(value) is int:
        return str(_integer(value, name))
    if type(value) is not str and not isinstance(value, UUID):
        raise RefusedError(reason_text("wrong_type", name, "string or int64", show(value)))
    return _string(value, name)


CELLS = {"string": _string, "int64": _integer, "float64": _number, "bool": _boolean, "id": _identifier}


def _times(values: list[Any], name: str, unit: str, problems: Problems) -> pa.Array:
    """Epoch ms of numbers in ``unit``, RFC 3339 texts and (from Avro) datetimes; null for anything else."""
    kinds = set(map(type, values))
    if kinds <= {int, str, datetime, type(None)} and all(value in INT64 for value in values if type(value) is int):
        checked = values
    else:
        checked = [_time_cell(value, name, row, problems) for row, value in enumerate(values)]
    result = ms_of_numbers(pa.array([v if type(v) is int else None for v in checked], type=pa.int64()), unit)
    if str in kinds:
        texts = pa.array([v if type(v) is str and v.isascii() else None for v in checked], type=pa.string())
        result = pc.coalesce(result, ms_of_text(texts))
    if datetime in kinds:
        zoned = [v if type(v) is datetime and v.tzinfo else None for v in checked]
        result = pc.coalesce(result, ms_of_datetimes(zoned))
    add_bad_times(result, checked, name, problems)
    return result


def _time_cell(value: Any, name: str, row: int, problems: Problems) -> Any:
    if type(value) in (str, datetime, type(None)):
        return value
    if type(value) is int and value in INT64:
        return value
    code = "out_of_range" if type(value) is int else "wrong_type"
    problems.setdefault(row, reason_text(code, name, "an int64 number or RFC 3339 text", show(value)))
    return None
