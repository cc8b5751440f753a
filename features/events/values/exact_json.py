"""Exact parser of a single JSON message: the reference that the fast reader must agree with.

Stricter than Python's own reader: no NaN, no key twice in any object, at most MAX_DEPTH levels. Any other message
raises RefusedError with the reason, and no message, whatever its bytes, raises anything else.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from typing import Any

from features.events.values.reasons import RefusedError, show

MAX_DEPTH = 100
"""Well inside Python's recursion limit, so that the result does not depend on the depth of the caller's stack."""

MAX_DIGITS = 310
"""No integer with more digits fits a float64, and Python refuses to read those past 4,300."""

TOO_LARGE = int("9" * MAX_DIGITS)
"""Replaces every longer integer: beyond int64 and float64 alike."""

BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def read(message: bytes) -> dict[str, Any]:
    """The message's object. Raises RefusedError with the reason."""
    if not message:
        raise RefusedError("empty_value: a JSON object is required; got no bytes")
    try:
        text = message.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(
            f"bad_utf8: UTF-8 is required; got byte 0x{message[error.start]:02x} at {error.start}"
        ) from None
    value = read_text(text)
    if type(value) is not dict:
        raise RefusedError(f"not_an_object: a JSON object is required; got {show(value)}")
    return value


def read_text(text: str) -> Any:
    """The value that the text is in JSON. Raises RefusedError with the reason."""
    _check_depth(text)
    try:
        return _decoder().decode(text)
    except json.JSONDecodeError as error:
        raise RefusedError(f"not_json: JSON is required; {error.msg} at character {error.pos} of {len(text)}") from None


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise RefusedError(f"duplicate_key: keys that differ are required; got {show(repeated)} twice")
    return result


def _no_constant(name: str) -> None:
    raise RefusedError(f"not_finite: JSON numbers are required; got {name}")


def _integer(digits: str) -> int:
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    return -TOO_LARGE if digits.startswith("-") else TOO_LARGE


def _check_depth(text: str) -> None:
    """Raises RefusedError for more than MAX_DEPTH levels, counted without recursion."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in BRACKETS.finditer(text):
        first = match[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > MAX_DEPTH:
            raise RefusedError(f"too_deep: at most {MAX_DEPTH} levels are allowed; got more")
