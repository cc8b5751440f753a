"""The output of every decoder, before verdicts: typed columns of a batch, and the problems of its records.

Defines which plain values (from JSON or Avro) a column accepts: types are exact, nothing is coerced. A value that does
not fit leaves a null and a problem, whose text starts with a stable code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import TEXT, Field, Origin, Steps, Stream, Time, keys_of, path_text, step_paths
from features.events.timestamps import ms_of_datetimes
from features.events.values.conversion import converted
from features.events.values.elements import Elements, rows_of_elements
from features.events.values.lookup import Envelopes, Lookup
from features.events.values.reasons import (
    ARROW,
    INT64,
    Problems,
    RefusedError,
    add_bad_times,
    reason_text,
    show,
)
from features.events.values.times import epoch_ms

KINDS: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "int64": frozenset({int}),
    "float64": frozenset({float, int}),
    "bool": frozenset({bool}),
}
"""The Python types of a column that is converted at once; bool is not an int here."""


class Nanoseconds(int):
    """A number of Avro's timestamp-nanos, which no datetime holds."""


class LocalNanoseconds(int):
    """A number of Avro's local-timestamp-nanos."""


@dataclass(frozen=True)
class Decoded:
    """A row per record: ``event_time`` (int64 ms), the stream's mapped fields, ``event_id`` if messages have one.

    A row with a problem holds nulls or the values that could be read; its verdict is DEAD_LETTER. Where every element
    of a record is an event, ``elements`` says which row is which; None: a row is a record.
    """

    columns: pa.Table
    problems: Problems
    elements: Elements | None = None


@dataclass(frozen=True)
class Column:
    """A value of a message: our name, its paths, of which the first with a value counts, and its dtype.

    ``dtype`` is one of definitions.DTYPES, or "id" (a string or an int64) or "time". ``taken``: the dtypes that the
    values of the messages may have, where it is not that one alone; "fraction" is a number with a point. ``field``: how
    they are converted; None if they are not.
    """

    name: str
    paths: tuple[Steps, ...]
    dtype: str
    taken: tuple[str, ...] = ()
    field: Field | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The first path, of keys alone: the only one of most columns, and of all in alternatives()."""
        return keys_of(self.paths[0]) or ()

    @property
    def alternatives(self) -> tuple[Column, ...]:
        """A column for each of the paths, in their order."""
        return (self,) if len(self.paths) == 1 else tuple(replace(self, paths=(path,)) for path in self.paths)


def columns_of(stream: Stream) -> list[Column]:
    """The columns to read from each message of a stream, in the order in which problems are reported."""
    columns = [] if stream.event_id is None else [_column("event_id", stream.event_id, "id", "int64", "string")]
    fractions = ("fraction",) if stream.time.takes_fractions else ()
    columns.append(_column("event_time", stream.event_time, "time", "int64", "string", *fractions))
    for name, field in stream.mapped.items():
        own = _column(name, field.path or name, field.dtype)
        columns.append(replace(own, taken=_taken(field), field=field) if field.is_converted else own)
    return columns


def _taken(field: Field) -> tuple[str, ...]:
    """The dtypes that values of the field may have in messages."""
    if isinstance(field.cast, Time):
        return ("int64", "string", *(["fraction"] if field.cast.takes_fractions else []))
    if field.mapping:
        return ("string", "int64", "fraction", "bool")
    return ("string", "int64" if field.dtype == "string" else field.dtype)


def _column(name: str, origin: Origin, dtype: str, *taken: str) -> Column:
    return Column(name, step_paths(origin), dtype, taken)


def from_objects(
    objects: Sequence[dict[str, Any] | None],
    stream: Stream,
    problems: Problems,
    only: Int64s | None = None,
    envelopes: Envelopes | None = None,
) -> Decoded:
    """The typed columns of decoded messages; None stands for a message that ``problems`` has already.

    Args:
        only: of each message the element to take, WHOLE for all; None: all of all.
        envelopes: what the messages' records have beside them.
    """
    columns, places, elements = columns_of(stream), Lookup(objects, envelopes), None
    if stream.each is not None:
        (each,) = step_paths(stream.each)
        rows = rows_of_elements(objects, places.at(each), path_text(each), problems, only)
        places, problems, elements = places.elements(rows, each), rows.problems, rows.elements
    typed = {column.name: _typed(_first(places, column), column, stream, problems) for column in columns}
    return Decoded(pa.table(typed), problems, elements)


def _first(places: Lookup, column: Column) -> list[Any]:
    """The value of the column in each message: that of its first path that has one."""
    found, *others = (places.at(path) for path in column.paths)
    for values in others:
        found = [other if value is None else value for value, other in zip(found, values, strict=True)]
    return found


def _typed(values: list[Any], column: Column, stream: Stream, problems: Problems) -> pa.Array:
    if column.dtype == "time":
        return _times(values, column.name, stream.time, problems)
    if column.field is not None and isinstance(column.field.cast, Time):
        return _times(values, column.name, column.field.cast, problems)
    if column.field is not None:
        return _converted(values, column.field, column, problems)
    if column.dtype == "id":
        return _exact(values, column, pa.string(), frozenset({str}), problems)
    return _exact(values, column, ARROW[column.dtype], KINDS[column.dtype], problems)


def _converted(values: list[Any], field: Field, column: Column, problems: Problems) -> pa.Array:
    """The column by its field's cast and map; values of types that have neither, as of any other field."""
    parts, others = [], [value if _is_other(value) else None for value in values]
    for kind in ARRAYS.keys() & set(map(type, values)):
        array = pa.array([v if type(v) is kind and not _is_other(v) else None for v in values], ARRAYS[kind])
        parts.append(converted(array, field, column.name, problems))
    if any(value is not None for value in others):
        parts.append(_of_others(others, field, column, problems))
    return pc.coalesce(*parts) if parts else pa.nulls(len(values), ARROW[column.dtype])


def _is_other(value: Any) -> bool:
    """True for what no Arrow array of JSON's types holds: integers beyond int64, torn texts, Avro's own types."""
    return value is not None and (
        type(value) not in SIMPLE or (type(value) is int and value not in INT64) or _is_torn(value)
    )


def _of_others(values: list[Any], field: Field, column: Column, problems: Problems) -> pa.Array:
    if field.dtype == "string" and field.cast == TEXT:
        values = [str(value) if type(value) is int else value for value in values]
    if field.mapping and field.others != "keep":
        required = f"one of {', '.join(field.mapping)}"
        for row, value in enumerate(values):
            if value is not None and field.others != "null":
                problems.setdefault(row, reason_text("unknown_value", column.name, required, show(value)))
        return pa.nulls(len(values), ARROW[field.dtype])
    return _exact(values, replace(column, field=None), ARROW[field.dtype], frozenset(), problems)


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
    if type(value) not in (int, Nanoseconds, LocalNanoseconds):
        raise RefusedError(reason_text("wrong_type", name, "int64", show(value)))
    if value not in INT64:
        raise RefusedError(reason_text("out_of_range", name, "int64", show(value)))
    return int(value)


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


def _times(values: list[Any], name: str, time: Time, problems: Problems) -> pa.Array:
    """Epoch ms of numbers, texts and (from Avro) datetimes and dates; null for whatever is no time of the stream."""
    kinds = set(map(type, values))
    takes = {int, str, datetime, type(None), Nanoseconds, LocalNanoseconds}
    takes |= {float} if time.takes_fractions else set()
    takes |= {date} if time.zone else set()
    checked = values
    if not kinds <= takes or any(type(value) is int and value not in INT64 for value in values):
        checked = [_time_cell(value, takes, name, row, problems) for row, value in enumerate(values)]
    parts = [epoch_ms(_of_kind(checked, kind), time) for kind in (int, float, str, date) if kind in kinds & takes]
    if kinds & {datetime, Nanoseconds, LocalNanoseconds}:
        parts.append(ms_of_datetimes([v if type(v) is datetime and v.tzinfo else None for v in checked]))
        parts.append(epoch_ms(_timestamps(checked, Nanoseconds, "ns", "UTC"), time))
    if kinds & {datetime, LocalNanoseconds} and time.zone:
        local = pa.array([v if type(v) is datetime and not v.tzinfo else None for v in checked], pa.timestamp("us"))
        parts += [epoch_ms(one, time) for one in (local, _timestamps(checked, LocalNanoseconds, "ns"))]
    result = pc.coalesce(*parts) if parts else pa.nulls(len(values), pa.int64())
    add_bad_times(result, checked, name, problems, time.required)
    return result


ARRAYS: dict[type, pa.DataType] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bool: pa.bool_(),
    date: pa.date32(),
}
SIMPLE = (int, float, str, bool)


def _of_kind(values: list[Any], kind: type) -> pa.Array:
    """The values of this Python type; null for others, and for texts with half a pair of surrogates."""
    return pa.array([v if type(v) is kind and not _is_torn(v) else None for v in values], ARRAYS[kind])


def _timestamps(values: list[Any], kind: type, unit: str, zone: str | None = None) -> pa.Array:
    """The values of this type of whole numbers, as timestamps."""
    numbers = pa.array([v if type(v) is kind else None for v in values], pa.int64())
    return numbers.cast(pa.timestamp(unit, zone))


def _is_torn(value: object) -> bool:
    is_plain = not isinstance(value, str) or value.isascii()
    return not is_plain and any("\ud800" <= character <= "\udfff" for character in str(value))


def _time_cell(value: Any, takes: set[type], name: str, row: int, problems: Problems) -> Any:
    if type(value) in takes and (type(value) is not int or value in INT64):
        return value
    code = "out_of_range" if type(value) is int else "wrong_type"
    problems.setdefault(row, reason_text(code, name, "an int64 number or RFC 3339 text", show(value)))
    return None
