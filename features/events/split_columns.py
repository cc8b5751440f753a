"""Columns of files and HTTP batches → typed columns and problems, by the rules that hold for messages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds
from numpy.typing import NDArray

from features.arrays import Bools, Int64s, plain_array, single_array
from features.definitions import Stream
from features.errors import FormatError
from features.events.decoded import Decoded
from features.events.timestamps import ms_of_text, ms_of_timestamps
from features.events.values.reasons import ARROW, Problems, add_bad_times, reason_text, show

Positions = tuple[Int64s, NDArray[np.int32], Int64s]


def decode(table: pa.Table, stream: Stream, known: Problems | None = None) -> Decoded:
    """The typed columns of the table; a missing column is all null, except event_id, which is left out.

    Args:
        known: problems of rows that were found before.

    Raises:
        FormatError: there is no column event_time.
    """
    if "event_time" not in table.column_names:
        where, got = f"events of stream '{stream.name}'", f"columns {', '.join(table.column_names) or 'none'}"
        raise FormatError(where, "a column 'event_time'", got, "Rename the one that has it.")
    problems: Problems = dict(known or {})
    typed: dict[str, pa.Array] = {}
    if "event_id" in table.column_names:
        typed["event_id"] = _ids(plain_array(table["event_id"]), problems)
    typed["event_time"] = _times(plain_array(table["event_time"]), "event_time", problems)
    for name, field in stream.mapped.items():
        present = name in table.column_names
        column = plain_array(table[name]) if present else pa.nulls(table.num_rows, ARROW[field.dtype])
        typed[name] = _typed(column, name, field.dtype, problems)
    return Decoded(pa.table(typed), problems)


def positions(table: pa.Table, decoded: Decoded, stream: Stream) -> Positions:
    """known_at in ms, partition and offset of each row. Raises FormatError for a column of a wrong type."""
    event_time = single_array(decoded.columns["event_time"]).fill_null(0)
    defaults = {
        "known_at": event_time,
        "partition": pa.array(np.zeros(table.num_rows, np.int32)),
        "offset": pa.array(np.arange(table.num_rows)),
    }
    known_at, partition, offset = (_position(table, name, default, stream) for name, default in defaults.items())
    return known_at.astype(np.int64), partition.astype(np.int32), offset.astype(np.int64)


def _position(table: pa.Table, name: str, default: pa.Array, stream: Stream) -> NDArray[np.generic]:
    if name not in table.column_names:
        return np.asarray(default)
    column = plain_array(table[name])
    numbers = ms_of_timestamps(column) if kinds.is_timestamp(column.type) and name == "known_at" else column
    try:
        if kinds.is_integer(numbers.type):
            return np.asarray(pc.coalesce(numbers.cast(default.type), default))
        got = str(column.type)
    except pa.ArrowInvalid as error:
        got = str(error)
    raise FormatError(f"events of stream '{stream.name}'", f"a column '{name}' of {default.type}", got)


def _typed(array: pa.Array, name: str, dtype: str, problems: Problems) -> pa.Array:
    readers: dict[str, Callable[[pa.Array, str, Problems], pa.Array | None]] = {
        "string": lambda array, *_: array if kinds.is_string(array.type) else None,
        "bool": lambda array, *_: array if kinds.is_boolean(array.type) else None,
        "int64": _integers,
        "float64": _numbers,
    }
    if kinds.is_null(array.type):
        return array.cast(ARROW[dtype])
    typed = readers[dtype](array, name, problems)
    return _refused(array, name, dtype, ARROW[dtype], problems) if typed is None else typed


def _refused(array: pa.Array, name: str, required: str, dtype: pa.DataType, problems: Problems) -> pa.Array:
    """All null, and a problem for each value: the column has another type."""
    reason = reason_text("wrong_type", name, required, f"a column of {array.type}")
    _report(np.asarray(array.is_valid()), lambda _: reason, problems)
    return pa.nulls(len(array), dtype)


def _report(mask: Bools, reason: Callable[[int], str], problems: Problems) -> None:
    for row in np.flatnonzero(mask).tolist():
        problems.setdefault(row, reason(row))


def _integers(array: pa.Array, name: str, problems: Problems) -> pa.Array | None:
    if kinds.is_timestamp(array.type):
        return ms_of_timestamps(array)
    if not kinds.is_integer(array.type):
        return None
    if not kinds.is_uint64(array.type):
        return array.cast(pa.int64())
    beyond = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())).fill_null(fill_value=False)
    _report(
        np.asarray(beyond), lambda row: reason_text("out_of_range", name, "int64", show(array[row].as_py())), problems
    )
    return pc.if_else(beyond, None, array).cast(pa.int64())


def _numbers(array: pa.Array, name: str, problems: Problems) -> pa.Array | None:
    if not (kinds.is_floating(array.type) or kinds.is_integer(array.type) or kinds.is_decimal(array.type)):
        return None
    numbers = array.cast(pa.float64(), safe=False)
    infinite = pc.invert(pc.is_finite(numbers)).fill_null(fill_value=False)
    required = "a finite float64"
    _report(
        np.asarray(infinite),
        lambda row: reason_text("not_finite", name, required, show(numbers[row].as_py())),
        problems,
    )
    return pc.if_else(infinite, None, numbers)


def _ids(array: pa.Array, problems: Problems) -> pa.Array:
    if kinds.is_string(array.type):
        return array
    if kinds.is_integer(array.type):
        return _typed(array, "event_id", "int64", problems).cast(pa.string())
    return _refused(array, "event_id", "string or int64", pa.string(), problems)


def _times(array: pa.Array, name: str, problems: Problems) -> pa.Array:
    if kinds.is_integer(array.type) or kinds.is_timestamp(array.type):
        return _typed(array, name, "int64", problems)
    if not kinds.is_string(array.type):
        return _refused(array, name, "int64 ms, a timestamp or RFC 3339 text", pa.int64(), problems)
    times = ms_of_text(array)
    add_bad_times(times, array, name, problems)
    return times
