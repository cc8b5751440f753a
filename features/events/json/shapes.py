"""Shapes: patterns learned from sample messages; the fast reader is correct for every message that matches a shape.

Fast JSON readers coerce silently (5 → "5"), take the first or the last of two equal keys, read two objects on a line as
two messages, and fail a whole block for one value. None of this can happen to a message that matches a shape: it is one
object on one line; its keys come in a fixed order, and so only once; each mapped key has a value of exactly its type,
within digits that every reader converts alike; each text is well formed. A message that does not match is not wrong,
only unproven. So the samples of a shape affect speed, never values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from features.events.decoded import Column

MAX_LEVELS = 6
"""Objects nested deeper than this are left to the exact reader."""

MAX_PATTERN = 12_000
"""Characters: about 45 keys. From 60 on, varied texts overflow the regex engine's state cache: 200 µs a message."""

_ESCAPE = (
    r'\\["\\/bfnrt]|\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)

_STRING = rf'"(?:[^"\\\x00-\x1f]|{_ESCAPE})*"'

_INTEGER = r"-?(?:0|[1-9][0-9]{0,17}|[1-8][0-9]{18})"

_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"

_FRACTION = r"-?(?:0|[1-9][0-9]{0,17})\.[0-9]+(?:[eE][+-]?[0-9]{1,2})?"

_SCALAR = rf"{_STRING}|{_NUMBER}|true|false|null"

_FLAT = rf"{_SCALAR}|\[ *(?:(?:{_SCALAR})(?: *, *(?:{_SCALAR}))*)? *\]"

_PATTERNS = {"string": _STRING, "int64": _INTEGER, "float64": _NUMBER, "bool": "true|false", "fraction": _FRACTION}

JSON_DTYPES: dict[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("bool",),
    int: ("int64", "float64"),
    float: ("fraction", "float64"),
}
"""Python's type of a sample → the dtypes that prove such values, the narrowest first."""

Path = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """A pattern (Rust's regex dialect) for whole messages, and the dtypes of the mapped paths in those that match."""

    pattern: str
    dtypes: dict[Path, str]


def learn(samples: Sequence[dict[str, Any]], columns: Sequence[Column]) -> Shape | None:
    """The shape of most samples; None if no pattern can prove such messages."""
    dtypes = _dtypes(samples, columns)
    if not samples or dtypes is None:
        return None
    try:
        pattern = rf"\A{_object(samples, (), dtypes)}\z"
    except ValueError:
        return None
    return Shape(pattern, dtypes) if len(pattern) <= MAX_PATTERN else None


def _dtypes(samples: Sequence[dict[str, Any]], columns: Sequence[Column]) -> dict[Path, str] | None:
    """The dtype of each mapped path; None if two columns disagree on it, or if a path leads through another."""
    dtypes: dict[Path, str] = {}
    for column in columns:
        dtype = _sampled_dtype(samples, column) if column.taken else column.dtype
        if dtypes.setdefault(column.path, dtype) != dtype:
            return None
    paths = list(dtypes)
    return None if any(a != b and b[: len(a)] == a for a in paths for b in paths) else dtypes


def _sampled_dtype(samples: Sequence[dict[str, Any]], column: Column) -> str:
    """The dtype of values that may be of several, by the first sample that has one."""
    for sample in samples:
        value: Any = sample
        for key in column.path:
            value = value.get(key) if type(value) is dict else None
        if value is not None:
            return next((dtype for dtype in JSON_DTYPES.get(type(value), ()) if dtype in column.taken), "string")
    return "string"


def _object(samples: Sequence[dict[str, Any]], path: Path, dtypes: dict[Path, str]) -> str:
    """The pattern of an object whose members come in one order, each at most once; all but the first are optional."""
    members = [
        rf'"{_literal(key)}" *: *(?:{_value([s[key] for s in samples if key in s], (*path, key), dtypes)})'
        for key in _order(samples)
    ]
    first, rest = "".join(members[:1]), "".join(rf"(?: *, *{member})?" for member in members[1:])
    return rf"\{{ *(?:{first}{rest})? *\}}"


def _value(values: Sequence[Any], path: Path, dtypes: dict[Path, str]) -> str:
    if path in dtypes:
        return f"{_PATTERNS[dtypes[path]]}|null"
    if len(path) > MAX_LEVELS:
        return _SCALAR
    objects = [value for value in values if type(value) is dict]
    if any(mapped[: len(path)] == path for mapped in dtypes):
        return f"{_object(objects, path, dtypes)}|null"
    simple = _FLAT if any(type(value) is list for value in values) else _SCALAR
    return f"{_object(objects, path, dtypes)}|{simple}" if objects else simple


def _order(samples: Sequence[dict[str, Any]]) -> list[str]:
    """An order of the samples' keys that most samples follow; those with another first key are ignored."""
    order = list(samples[0]) if samples else []
    for sample in samples[1:]:
        merged = list(_merged(order, list(sample)))
        order = merged if len(set(merged)) == len(merged) and merged[:1] == order[:1] else order
    return order


def _merged(order: list[str], keys: list[str]) -> Iterator[str]:
    """The keys of both lists, new ones behind their predecessor; some come twice if the lists disagree."""
    known, position = set(order), 0
    for key in keys:
        if key in known and key in order[position:]:
            end = order.index(key, position) + 1
            yield from order[position:end]
            position = end
        else:
            yield key
    yield from order[position:]


def _literal(key: str) -> str:
    """The pattern of the key in messages. Raises ValueError if JSON can write the key in more than one way."""
    if json.dumps(key, ensure_ascii=False) != f'"{key}"' or not key.isprintable():
        raise ValueError(key)
    return re.escape(key)
