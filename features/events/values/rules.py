"""The rules that make a record a dead letter, on whole columns: each with the reason for the rows that break it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Int64s, single_array
from features.definitions import FUTURE_TOLERANCE_MS, Stream
from features.events.ids import IDENTIFIER, unusable
from features.events.timestamps import implausible
from features.events.values.elements import Elements
from features.events.values.reasons import implausible_reason, reason_text, show

Rules = Iterator[tuple[Bools, Callable[[int], str]]]
"""(mask of the records that break it, row → reason) of each rule, in order of precedence."""


def of_values(columns: pa.Table, ids: pa.Array, stream: Stream, keys: Collection[str]) -> Rules:
    """Of ids and of the stream's fields, that are required, one of a list, or identifiers."""
    absent = pc.fill_null(pc.equal(ids, ""), fill_value=True)
    yield np.asarray(absent), lambda _: reason_text("missing_field", "event_id", "a string or int64", "nothing")
    if "event_id" in columns.column_names:
        yield unusable(ids), _unusable("event_id", ids)
    timeless = np.asarray(single_array(columns["event_time"]).is_null())
    yield timeless, lambda _: reason_text("missing_field", "event_time", "a time", "nothing")
    for name, field in stream.mapped.items():
        column = single_array(columns[name])
        if field.required:
            yield np.asarray(column.is_null()), _missing(name, field.dtype)
        if field.enum is not None:
            known = pc.or_(pc.is_in(column, value_set=pa.array(field.enum, pa.string())), column.is_null())
            yield ~np.asarray(known), _outside(name, field.enum, column)
        if name in keys and field.dtype == "string":
            yield unusable(column), _unusable(name, column)


def of_times(times: Mapping[str, Int64s], units: Mapping[str, str], clock_ms: int | None) -> Rules:
    """Of times, which are from 1990 to 2099, and not after what they became known at, nor after ``clock_ms``."""
    for name, column in times.items():
        yield implausible(column), _implausible(name, column, units[name])
    event_time, known_at = times["event_time"], times["known_at"]
    yield event_time - FUTURE_TOLERANCE_MS > known_at, _ahead(event_time, known_at)
    if clock_ms is not None:
        yield event_time - FUTURE_TOLERANCE_MS > clock_ms, _after_now(event_time)


def _implausible(name: str, times: Int64s, unit: str) -> Callable[[int], str]:
    return lambda row: implausible_reason(name, int(times[row]), unit)


def _ahead(times: Int64s, known_at: Int64s) -> Callable[[int], str]:
    return lambda row: reason_text("future_time", "event_time", _bound(int(known_at[row])), f"{times[row]} ms")


def _after_now(times: Int64s) -> Callable[[int], str]:
    required = f"a time at most {FUTURE_TOLERANCE_MS} ms after now"
    return lambda row: reason_text("future_time", "event_time", required, f"{times[row]} ms")


def _missing(name: str, dtype: str) -> Callable[[int], str]:
    return lambda _: reason_text("missing_field", name, dtype, "nothing")


def _outside(name: str, allowed: Sequence[str], column: pa.Array) -> Callable[[int], str]:
    return lambda row: reason_text("unknown_value", name, f"one of {', '.join(allowed)}", show(column[row].as_py()))


def _unusable(name: str, column: pa.Array) -> Callable[[int], str]:
    return lambda row: reason_text("bad_id", name, IDENTIFIER, show(column[row].as_py()))


def _bound(known_at: int) -> str:
    return f"a time at most {FUTURE_TOLERANCE_MS} ms after its known_at ({known_at} ms)"


def of_elements(ids: pa.Array, elements: Elements) -> Rules:
    """Elements with the id of one before them in the same record, of which nothing could tell them apart."""
    codes = np.asarray(ids.dictionary_encode().indices.fill_null(-1)).astype(np.int64)
    _, first = np.unique(np.stack([elements.records, codes]), axis=1, return_index=True)
    again = codes >= 0
    again[first] = False
    yield (
        again,
        lambda row: reason_text("repeated_id", "event_id", "another id than those before", show(ids[row].as_py())),
    )
