"""Cells of text → typed columns: one rule for CSV, text columns of Parquet, and text that a Field casts.

A cell is a value as it stands, or it is refused: nothing is guessed, rounded or taken for null.

* ``string``: any UTF-8, unchanged.
* ``int64``: digits, with a sign in front or none. ``2.0`` is no integer, as in a JSON message.
* ``float64``: decimal digits with a point and an exponent or without; finite. No ``inf``, ``nan`` or ``0x10``.
* ``bool``: ``true``, ``True``, ``TRUE``, ``false``, ``False`` or ``FALSE``.

Spaces and tabs around a number or a bool do not count.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, content_of, single_array
from features.events.values.reasons import ARROW, Problems, reason_text, show

SPACES = " \t"
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
PLAIN = {"int64": r"\A[+-]?[0-9]{1,18}\z", "float64": r"\A[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\z"}
"""What Arrow converts exactly; another cell is looked at alone."""
FIRST_BEYOND_ASCII = 0x80
DIGITS = 10
MOST_DIGITS = 4_000
"""Python reads no integer of many more."""
OTHERS = {"int64": b"", "float64": b".eE"}
"""A column of digits, signs and these bytes alone is a column of numbers if Arrow converts it."""
WHOLE = re.compile(r"[+-]?[0-9]+")
_OF_NUMBERS = {dtype: np.isin(np.arange(256), list(b"0123456789-" + others)) for dtype, others in OTHERS.items()}


def typed(cells: pa.Array | pa.ChunkedArray, dtype: str, name: str, problems: Problems) -> pa.Array:
    """The cells (bytes or text) in our dtype; one that is refused is null, with its reason in ``problems``."""
    texts = _texts(single_array(cells), name, problems)
    if dtype == "string":
        return texts
    if dtype == "bool":
        return _bools(texts, name, problems)
    values = all_numbers(texts, dtype)
    return _numbers(texts, dtype, name, problems) if values is None else values


def _texts(cells: pa.Array, name: str, problems: Problems) -> pa.Array:
    """The cells as UTF-8."""
    binary = (cells.cast(pa.string()) if cells.type == pa.string_view() else cells).cast(pa.binary())
    if len(binary) and content_of(binary).max(initial=0) < FIRST_BEYOND_ASCII:
        return binary.view(pa.string())
    try:
        return binary.cast(pa.string())
    except pa.ArrowInvalid:
        pass
    suspects = ~np.asarray(pc.string_is_ascii(binary.view(pa.string())).fill_null(fill_value=True))
    invalid = np.zeros(len(cells), dtype=bool)
    for row in np.flatnonzero(suspects).tolist():
        cell = binary[row].as_py()
        try:
            cell.decode()
        except UnicodeDecodeError as error:
            invalid[row] = True
            got = f"byte 0x{cell[error.start]:02x} at {error.start} of {show(cell.decode('latin-1'))}"
            problems.setdefault(row, reason_text("bad_utf8", name, "UTF-8", got))
    return pc.if_else(pa.array(invalid), None, binary).cast(pa.string())


def _bools(texts: pa.Array, name: str, problems: Problems) -> pa.Array:
    known = pc.index_in(texts, value_set=pa.array(list(BOOLS)))
    unknown = pc.and_(known.is_null(), texts.is_valid())
    if pc.any(unknown).as_py():
        known = pc.index_in(pc.utf8_trim(texts, characters=SPACES), value_set=pa.array(list(BOOLS)))
        for row in _rows(pc.and_(known.is_null(), texts.is_valid())):
            problems.setdefault(row, _refused(texts, row, "bool", name))
    return pa.array(list(BOOLS.values())).take(known)


def all_numbers(texts: pa.Array, dtype: str) -> pa.Array | None:
    """The column as numbers, where a look at its bytes and one conversion prove all of it."""
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), ARROW[dtype])
    data = content_of(texts)
    if not ((data - np.uint8(ord("0"))) < DIGITS).all() and not _OF_NUMBERS[dtype].take(data).all():
        return None
    try:
        values = pc.cast(texts, ARROW[dtype])
    except pa.ArrowInvalid:
        return None
    return values if dtype == "int64" or pc.all(pc.is_finite(values)).as_py() is not False else None


def _numbers(texts: pa.Array, dtype: str, name: str, problems: Problems) -> pa.Array:
    trimmed = pc.utf8_trim(texts, characters=SPACES)
    plain = pc.match_substring_regex(trimmed, PLAIN[dtype]).fill_null(fill_value=False)
    bare = pc.replace_substring_regex(pc.if_else(plain, trimmed, None), r"\A\+", "")
    values = pc.cast(bare, ARROW[dtype])
    if dtype == "float64":
        for row in _rows(pc.invert(pc.is_finite(values)).fill_null(fill_value=False)):
            problems.setdefault(row, reason_text("not_finite", name, "a finite float64", show(texts[row].as_py())))
        values = pc.if_else(pc.is_finite(values), values, None)
    rest = _rows(pc.and_(pc.invert(plain), texts.is_valid()))
    large: dict[int, int] = {}
    for row in rest:
        text = trimmed[row].as_py()
        if dtype != "int64" or not WHOLE.fullmatch(text):
            problems.setdefault(row, _refused(texts, row, dtype, name))
        elif len(text) < MOST_DIGITS and -(2**63) <= int(text) < 2**63:
            large[row] = int(text)
        else:
            problems.setdefault(row, reason_text("out_of_range", name, "int64", show(text)))
    return _with(values, large)


def _with(values: pa.Array, exact: dict[int, int]) -> pa.Array:
    """The values with these in their rows."""
    if not exact:
        return values
    mask: Bools = np.zeros(len(values), dtype=bool)
    mask[list(exact)] = True
    return pc.replace_with_mask(values, pa.array(mask), pa.array([exact[row] for row in sorted(exact)], pa.int64()))


def _rows(mask: pa.Array) -> list[int]:
    return [int(row) for row in np.flatnonzero(np.asarray(mask))]


def _refused(texts: pa.Array, row: int, dtype: str, name: str) -> str:
    return reason_text("wrong_type", name, dtype, show(texts[row].as_py()))
