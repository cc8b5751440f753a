"""What a value of each dtype may be, and the reasons for which a record is refused: each starts with a stable code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.definitions import Time
from features.events.timestamps import PLAUSIBLE, with_unit_hint

ZONED = Time().required

INT64 = range(-(2**63), 2**63)
SHOWN_CHARACTERS = 60
ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
Problems = dict[int, str]
"""Row → the reason why the record is a dead letter: the first problem found."""


class RefusedError(Exception):
    """A record, or a value of it, is refused; the text starts with a stable code."""


def reason_text(code: str, name: str, required: str, got: str) -> str:
    """The reason for a value that does not fit its field."""
    return f"{code}: field '{name}' requires {required}; got {got}"


def show(value: object) -> str:
    """A value as reasons show it: its type and its beginning, in ASCII."""
    if isinstance(value, NotAnObject):
        return f"{show(value.value)} where {value.required} should be"
    text = json.dumps(value, default=repr)
    return f"{_type_name(value)} {text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + '...'}"


def _type_name(value: object) -> str:
    names = {str: "string", bool: "bool", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), type(value).__name__)


@dataclass(frozen=True)
class NotAnObject:
    """The value of a path that ends early, at something other than the object (or the ``required``) that leads on."""

    value: object
    required: str = "an object"


def add_bad_times(
    times: pa.Array, values: Sequence[Any] | pa.Array, name: str, problems: Problems, required: str = ZONED
) -> None:
    """Adds a problem for each value that is not null and was not read as a time."""
    for row in np.flatnonzero(np.asarray(times.is_null())).tolist():
        value = values[row].as_py() if isinstance(values, pa.Array) else values[row]
        if value is not None:
            problems.setdefault(row, bad_time(name, value, required))


def bad_time(name: str, value: object, required: str = ZONED) -> str:
    """The reason for a time that cannot be read."""
    return reason_text("bad_time", name, required, show(value))


def implausible_reason(name: str, ms: int, unit: str) -> str:
    """The reason for a time before 1990 or after 2099, which was read as a number in ``unit``."""
    return reason_text("implausible_time", name, PLAUSIBLE, with_unit_hint(ms, unit))
