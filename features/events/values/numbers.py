"""Numbers that texts write otherwise than a cell of CSV does: with a decimal comma, a currency, or in base64."""

from __future__ import annotations

import base64
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Floats, Int64s, bytes_of
from features.definitions import Base64Decimal, NumberText

SPACE = "[ \t\u00a0\u202f]"
BASE64 = r"\A([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)\z"
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
MOST_CHARACTERS = 8
"""Of a number that a float64 holds exactly, with a bit to spare: six bytes."""
_SIX_BITS = np.zeros(256, dtype=np.int64)
_SIX_BITS[list(ALPHABET)] = np.arange(64)


def plain_numbers(texts: pa.Array, form: NumberText) -> pa.Array:
    """The texts as a cell of CSV would have them; null for whatever is no number of this form."""
    separator = SPACE if form.thousands == " " else re.escape(form.thousands or "")
    grouped = f"[0-9]{{1,3}}(?:{separator}[0-9]{{3}})+|" if form.thousands else ""
    decimal = re.escape(form.decimal)
    number = f"(?P<number>(?:{grouped}[0-9]+)(?:{decimal}[0-9]+)?|{decimal}[0-9]+){SPACE}*"
    sign = re.escape(form.currency or "")
    behind = f"{SPACE}*(?P<sign>[+-]?)(?P<inner>){SPACE}*{number}(?:{sign})?{SPACE}*"
    before = f"{SPACE}*(?P<sign>[+-]?){SPACE}*{sign}{SPACE}*(?P<inner>[+-]?){SPACE}*{number}"
    found = [pc.extract_regex(texts, rf"\A{way}\z") for way in ([behind, before] if form.currency else [behind])]
    return pc.coalesce(*(_joined(one, separator, form.decimal) for one in found))


def _joined(found: pa.StructArray, separator: str, decimal: str) -> pa.Array:
    sign, inner, number = (found.field(name) for name in ("sign", "inner", "number"))
    digits = pc.replace_substring_regex(number, separator, "") if separator else number
    plain = pc.binary_join_element_wise(sign, inner, pc.replace_substring(digits, decimal, "."), "")
    return pc.if_else(found.is_valid(), plain, None)


def base64_decimals(texts: pa.Array, form: Base64Decimal) -> pa.Array:
    """The nearest float64 of each decimal; null for whatever is no base64 of one."""
    valid = pc.match_substring_regex(texts, BASE64).fill_null(fill_value=False)
    kept = np.flatnonzero(np.asarray(valid))
    values: Floats = np.zeros(len(texts), dtype=np.float64)
    some = texts.take(pa.array(kept))
    lengths = np.asarray(pc.binary_length(some)).astype(np.int64)
    short = lengths <= MOST_CHARACTERS
    values[kept[short]] = _unscaled(some.filter(pa.array(short))) / 10.0**form.scale
    for row, text in zip(kept[~short].tolist(), some.filter(pa.array(~short)).to_pylist(), strict=True):
        number = int.from_bytes(base64.b64decode(text), "big", signed=True)
        values[row] = float(Decimal(f"{number}e-{form.scale}"))
    return pa.array(values, mask=~np.asarray(valid) | ~np.isfinite(values))


def _unscaled(texts: pa.Array) -> Int64s:
    """The whole numbers of at most six bytes: big-endian, in two's complement."""
    offsets, data = bytes_of(texts)
    starts, ends = offsets[:-1], offsets[1:]
    padding = np.zeros(len(texts), dtype=np.int64)
    for distance in (1, 2):
        padding += data[ends - distance] == ord("=") if len(data) else 0
    numbers = np.zeros(len(texts), dtype=np.int64)
    for position in range(MOST_CHARACTERS):
        inside = starts + position < ends
        character = data[np.where(inside, starts + position, 0)] if len(data) else np.zeros(len(texts), np.uint8)
        numbers = np.where(inside, numbers << 6 | _SIX_BITS[character], numbers)
    numbers >>= 8 * padding
    bits = 8 * ((ends - starts) // 4 * 3 - padding)
    return np.where(numbers >> (bits - 1) & 1, numbers - (1 << bits), numbers)
