"""Values that were taken → a column of a Field with a cast or a map: one rule for messages and files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from features.arrays import Bools
from features.definitions import TEXT, Base64Decimal, Field, NumberText, Time
from features.events.values.numbers import base64_decimals, plain_numbers
from features.events.values.reasons import ARROW, Problems, bad_time, reason_text, show
from features.events.values.texts import typed
from features.events.values.times import epoch_ms

UINT64_MOST = 2**63 - 1


def converted(values: pa.Array, field: Field, name: str, problems: Problems, *, cells: bool = False) -> pa.Array:
    """The values in the field's dtype; one that is refused is null, with its reason in ``problems``.

    Args:
        values: texts, numbers, truths, or (for times) timestamps and dates.
        cells: texts are cells of a file, which has no types: they are cast where the field declares nothing else.
    """
    if not field.mapping:
        return _cast(values, field, name, problems, cells)
    texts = _as_texts(values)
    place = pc.index_in(texts, value_set=pa.array(list(field.mapping), pa.string()))
    mapped = pa.array(list(field.mapping.values()), ARROW[field.dtype]).take(place)
    rest = pc.and_(place.is_null(), values.is_valid())
    if field.others == "keep":
        return pc.coalesce(mapped, _cast(pc.if_else(rest, values, None), field, name, problems, cells))
    if field.others != "null":
        required = f"one of {', '.join(field.mapping)}"
        _report(np.asarray(rest), values, "unknown_value", name, required, problems)
    return mapped


def _as_texts(values: pa.Array) -> pa.Array:
    """The texts by which a map is looked up: whole numbers are their digits; null for numbers with a fraction."""
    if kinds.is_string(values.type):
        return values
    if kinds.is_integer(values.type) or kinds.is_boolean(values.type):
        return values.cast(pa.string())
    return pa.nulls(len(values), pa.string())


def _cast(values: pa.Array, field: Field, name: str, problems: Problems, cells: bool) -> pa.Array:
    if kinds.is_null(values.type):
        return pa.nulls(len(values), ARROW[field.dtype])
    if isinstance(field.cast, Time):
        times = epoch_ms(values, field.cast, digits=cells)
        for row in np.flatnonzero(np.asarray(pc.and_(times.is_null(), values.is_valid()))).tolist():
            problems.setdefault(row, bad_time(name, values[row].as_py(), field.cast.required))
        return times
    if kinds.is_string(values.type):
        return _of_texts(values, field, name, problems, cells)
    return _plain(values, field, name, problems, cells)


def _of_texts(texts: pa.Array, field: Field, name: str, problems: Problems, cells: bool) -> pa.Array:
    if isinstance(field.cast, NumberText):
        return _people_s_numbers(texts, field.cast, field.dtype, name, problems)
    if isinstance(field.cast, Base64Decimal):
        numbers = base64_decimals(texts, field.cast)
        lost = np.asarray(pc.and_(numbers.is_null(), texts.is_valid()))
        _report(lost, texts, "wrong_type", name, "a decimal in base64", problems)
        return numbers
    if cells or field.cast == TEXT or field.dtype == "string":
        return typed(texts, field.dtype, name, problems)
    return _refused(texts, field.dtype, name, problems)


def _people_s_numbers(texts: pa.Array, form: NumberText, dtype: str, name: str, problems: Problems) -> pa.Array:
    of_plain: Problems = {}
    plain = plain_numbers(texts, form)
    numbers = typed(plain, dtype, name, of_plain)
    for row, reason in of_plain.items():
        problems.setdefault(row, reason)
    lost = np.asarray(pc.and_(plain.is_null(), texts.is_valid()))
    _report(lost, texts, "wrong_type", name, f"{dtype} with decimal '{form.decimal}'", problems)
    return numbers


def _plain(values: pa.Array, field: Field, name: str, problems: Problems, cells: bool) -> pa.Array:
    """Of values that are no texts: those of the dtype, whole numbers for a float64, and their digits where declared."""
    dtype, kind = field.dtype, values.type
    if dtype == "bool" and kinds.is_boolean(kind):
        return values
    if dtype == "string" and kinds.is_integer(kind) and (cells or field.cast == TEXT):
        return values.cast(pa.string())
    if dtype == "int64" and kinds.is_integer(kind):
        return _integers(values, name, problems)
    if dtype == "float64" and (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)):
        numbers = values.cast(pa.float64(), safe=False)
        infinite = pc.invert(pc.is_finite(numbers)).fill_null(fill_value=False)
        _report(np.asarray(infinite), values, "not_finite", name, "a finite float64", problems)
        return pc.if_else(infinite, None, numbers)
    return _refused(values, dtype, name, problems)


def _integers(values: pa.Array, name: str, problems: Problems) -> pa.Array:
    if not kinds.is_uint64(values.type):
        return values.cast(pa.int64())
    beyond = pc.greater(values, pa.scalar(UINT64_MOST, pa.uint64())).fill_null(fill_value=False)
    _report(np.asarray(beyond), values, "out_of_range", name, "int64", problems)
    return pc.if_else(beyond, None, values).cast(pa.int64())


def _refused(values: pa.Array, dtype: str, name: str, problems: Problems) -> pa.Array:
    _report(np.asarray(values.is_valid()), values, "wrong_type", name, dtype, problems)
    return pa.nulls(len(values), ARROW[dtype])


def _report(rows: Bools, values: pa.Array, code: str, name: str, required: str, problems: Problems) -> None:
    for row in np.flatnonzero(rows).tolist():
        problems.setdefault(row, reason_text(code, name, required, show(values[row].as_py())))
