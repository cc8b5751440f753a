"""Shapes: a pattern learned from a few good messages, which proves of another that the fast reader gets it right.

Fast JSON readers coerce in silence (5 → "5"), keep the first or the last of two equal keys, take two objects on a line
for two messages, and fail a whole block for one value. A message that matches a shape offers no occasion: it is one
object on one line; its keys come in a fixed order, and so only once; each mapped key has a value of just its type,
within digits that every reader converts alike; each text is well formed. A message that does not match is not wrong,
only not proven. So what a shape was learned from decides about speed, never about values.
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
"""Characters: some 45 keys. From 60 on, varied texts overflow the regex engine's cache of states: 200 µs a message."""

_ESCAPE = (
    r'\\["\\/bfnrt]|\\u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    r"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)

_STRING = rf'"(?:[^"\\\x00-\x1f]|{_ESCAPE})*"'

_INTEGER = r"-?(?:0|[1-9][0-9]{0,17}|[1-8][0-9]{18})"

_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?"

_SCALAR = rf"{_STRING}|{_NUMBER}|true|false|null"

_FLAT = rf"{_SCALAR}|\[ *(?:(?:{_SCALAR})(?: *, *(?:{_SCALAR}))*)? *\]"

_PATTERNS = {"string": _STRING, "int64": _INTEGER, "float64": _NUMBER, "bool": "true|false"}

Path = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """A pattern (Rust's regex dialect) for whole messages, and what the mapped paths hold in those that match."""

    pattern: str
    dtypes: dict[Path, str]


def learn(samples: Sequence[dict[str, Any]], columns: Sequence[Column]) -> Shape | None:
    """The shape of most samples; None where nothing could be proven of such messages."""
    dtypes = _dtypes(samples, columns)
    if not samples or dtypes is None:
        return None
    try:
        pattern = rf"\A{_object(samples, (), dtypes)}\z"
    except ValueError:
        return None
    return Shape(pattern, dtypes) if len(pattern) <= MAX_PATTERN else None


def _dtypes(samples: Sequence[dict[str, Any]], columns: Sequence[Column]) -> dict[Path, str] | None:
    """What each mapped path holds; None where two columns want it differently, or one where another has its object."""
    dtypes: dict[Path, str] = {}
    for column in columns:
        dtype = _seen(samples, column) if column.dtype in ("id", "time") else column.dtype
        if dtypes.setdefault(column.path, dtype) != dtype:
            return None
    paths = list(dtypes)
    return None if any(a != b and b[: len(a)] == a for a in paths for b in paths) else dtypes


def _seen(samples: Sequence[dict[str, Any]], column: Column) -> str:
    """Whether an id or a time is a number or a text, as the first sample that has it says."""
    for sample in samples:
        value: Any = sample
        for key in column.path:
            value = value.get(key) if type(value) is dict else None
        if value is not None:
            return "int64" if type(value) is int else "string"
    return "string"


def _object(samples: Sequence[dict[str, Any]], path: Path, dtypes: dict[Path, str]) -> str:
    """The pattern of an object whose members come in one order, each at most once; all but the first may be missing."""
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
    """The keys of the samples in one order that most of them keep; those with another first key have no say."""
    order = list(samples[0]) if samples else []
    for sample in samples[1:]:
        merged = list(_merged(order, list(sample)))
        order = merged if len(set(merged)) == len(merged) and merged[:1] == order[:1] else order
    return order


def _merged(order: list[str], keys: list[str]) -> Iterator[str]:
    """Both lists' keys, the new ones behind their predecessor; some come twice where the lists disagree."""
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
    """The key as it stands in messages. Raises ValueError if it can stand there in more ways than one."""
    if json.dumps(key, ensure_ascii=False) != f'"{key}"' or not key.isprintable():
        raise ValueError(key)
    return re.escape(key)
