"""Keys of entities as callers have them (text, whole numbers, floats of pandas, nulls) → the column of a key.

One rule for every path: a key is the same whether it comes as an integer, as its digits or as a float of the same
value, and null or NaN is nobody. What may have lost a digit, or is no key at all, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from features.arrays import plain_array
from features.errors import UsageError
from features.events.values.reasons import ARROW, INT64, show

REQUIRED = {
    "string": "string (text, or a whole number)",
    "int64": "int64 (a whole number of 64 bits, or its digits)",
}
NO_KEYS = (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError)
"""What Arrow raises for an integer of more than 64 bits, other objects, and half a pair of surrogates."""
PYTHON: dict[str, type] = {"string": str, "int64": int}
"""The type of a key's values that are taken as they are."""
MOST_DIGITS = 19
DIGITS = r"\A[ \t]*[+-]?[0-9]{1,18}[ \t]*\z"
EXACT = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}
"""The first whole number of each type that may be another one, rounded."""


def key_column(values: Any, dtype: str, where: str) -> pa.Array:
    """The keys in the entity's dtype; null for null and NaN.

    Args:
        values: an Arrow array, a pandas series or a sequence of Python values.
        where: what to call them in an error.

    Raises:
        UsageError: a value is no key of the dtype, or may have lost a digit: 1.5, 1e300, True, '1.0' for an int64.
    """
    if isinstance(values, list | tuple) and set(map(type, values)) == {PYTHON[dtype]}:
        with suppress(*NO_KEYS):  # which is refused below, with its row
            return pa.array(values, ARROW[dtype])
    array = _array(values)
    if array is None:
        return pa.array([_value(value, dtype, where, row) for row, value in enumerate(values)], ARROW[dtype])
    if array.type == ARROW[dtype]:
        return array
    keys = _converted(array, dtype)
    lost = np.asarray(pc.and_(array.is_valid(), keys.is_null()))
    if kinds.is_floating(array.type):
        lost &= ~np.asarray(pc.is_nan(array.cast(pa.float64())).fill_null(fill_value=False))
    if lost.any():
        row = int(np.argmax(lost))
        others = f" in {lost.sum():,} of {len(array):,} rows" if len(array) > 1 else ""
        raise UsageError(where, REQUIRED[dtype], f"{shown(array[row].as_py())}{others}")
    return keys


def shown(value: object) -> str:
    """The value as errors show it."""
    return show(value) if isinstance(value, str | bool | int | float) else f"{type(value).__name__} {str(value)[:60]}"


def _array(values: Any) -> pa.Array | None:
    """The values in one of Arrow's simple layouts; None if they are of several types."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return plain_array(values)
    try:
        return plain_array(pa.array(values, from_pandas=True))
    except NO_KEYS:
        return None


def _value(value: Any, dtype: str, where: str, row: int) -> Any:
    """A key among values of several types."""
    try:
        alone = pa.array([value], from_pandas=True)
    except NO_KEYS:
        raise UsageError(where, REQUIRED[dtype], f"{shown(value)} in row {row + 1:,}") from None
    return key_column(alone, dtype, where)[0].as_py()


def _converted(array: pa.Array, dtype: str) -> pa.Array:
    """The keys; null where there is none, or no such key."""
    if kinds.is_string(array.type):
        return _of_digits(array)
    numbers = _whole(array)
    return numbers if numbers.type == ARROW[dtype] else numbers.cast(ARROW[dtype])


def _whole(array: pa.Array) -> pa.Array:
    """The whole numbers; null for anything else."""
    kind = array.type
    if kinds.is_uint64(kind):
        within = pc.less_equal(array, pa.scalar(2**63 - 1, pa.uint64()))
        return pc.if_else(within, array, None).cast(pa.int64())
    if kinds.is_integer(kind):
        return array.cast(pa.int64())
    if kinds.is_floating(kind):
        numbers = np.asarray(array.cast(pa.float64()).fill_null(np.nan))
        exact = (np.abs(numbers) < EXACT[kind]) & (numbers == np.trunc(numbers))
        return pa.array(np.where(exact, numbers, 0.0).astype(np.int64), mask=~exact)
    if kinds.is_decimal(kind):
        return _exactly(array.to_pylist())
    return pa.nulls(len(array), pa.int64())


def _of_digits(texts: pa.Array) -> pa.Array:
    """The integers that the texts are the digits of."""
    plain = pc.match_substring_regex(texts, DIGITS).fill_null(fill_value=False)
    bare = pc.utf8_trim(pc.if_else(plain, texts, None), characters=" \t+")
    numbers = bare.cast(pa.int64())
    rest = np.flatnonzero(np.asarray(pc.and_(pc.invert(plain), texts.is_valid())))
    if not len(rest):
        return numbers
    longest = _exactly([_integer(text) for text in texts.take(pa.array(rest)).to_pylist()])
    return pc.replace_with_mask(numbers, pc.and_(pc.invert(plain), texts.is_valid()), longest)


def _integer(text: str) -> int | None:
    """The integer of the digits of an int64, which Arrow's pattern of safe ones leaves out; None for any other text."""
    bare = text.strip(" \t")
    digits = bare[1:] if bare[:1] in {"+", "-"} else bare
    return int(bare) if digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS else None


def _exactly(values: Iterable[Any]) -> pa.Array:
    """The numbers that are int64; null for others."""
    return pa.array(
        [int(value) if value is not None and value == int(value) and int(value) in INT64 else None for value in values],
        pa.int64(),
    )
