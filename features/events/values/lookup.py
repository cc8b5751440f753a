"""The values of messages, and of their records, at the paths of a definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from features.arrays import Int64s
from features.definitions import ElementWith, JsonText, RecordHeader, RecordKey, RecordTime, Step, Steps
from features.events.values.elements import Rows
from features.events.values.exact_json import read_text
from features.events.values.reasons import NotAnObject, RefusedError


@dataclass(frozen=True)
class Envelopes:
    """What records have beside their messages.

    Args:
        keys: binary.
        headers: list of struct {key: string, value: binary}.
        times: epoch ms.
    """

    keys: pa.Array
    headers: pa.Array
    times: Int64s

    def take(self, rows: Int64s) -> Envelopes:
        """Those of these records."""
        index = pa.array(rows, pa.int64())
        return replace(self, keys=self.keys.take(index), headers=self.headers.take(index), times=self.times[rows])

    def at(self, part: RecordHeader | RecordKey | RecordTime) -> list[Any]:
        """The part of each record: text, or epoch ms; None where it is missing."""
        match part:
            case RecordTime():
                return list(self.times.tolist())
            case RecordKey():
                return [_text(key) for key in self.keys.to_pylist()]
            case RecordHeader(name):
                return [_text(_last(headers, name)) for headers in self.headers.to_pylist()]


def _last(headers: Sequence[dict[str, Any]] | None, name: str) -> bytes | None:
    return next((header["value"] for header in reversed(headers or ()) if header["key"] == name), None)


def _text(value: bytes | None) -> str | NotAnObject | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return NotAnObject(value, "UTF-8")


class Lookup:
    """Looks up values in a batch of messages; what paths begin with alike is looked up once.

    Args:
        messages: as decoded; None for one that has a problem.
        envelopes: of their records; None where nobody asks for them.
    """

    def __init__(self, messages: Sequence[Any], envelopes: Envelopes | None = None) -> None:
        self._found: dict[Steps, list[Any]] = {(): list(messages)}
        self._envelopes = envelopes

    def at(self, steps: Steps) -> list[Any]:
        """The value of each message at this path; None where it is missing."""
        if steps not in self._found:
            *before, last = steps
            self._found[steps] = self._step(tuple(before), last)
        return self._found[steps]

    def _step(self, before: Steps, step: Step) -> list[Any]:
        if isinstance(step, RecordHeader | RecordKey | RecordTime):
            none = [None] * len(self._found[()])
            return none if self._envelopes is None else self._envelopes.at(step)
        if isinstance(step, str):
            return [value.get(step) if type(value) is dict else _beyond(value) for value in self.at(before)]
        lead = _lead(step)
        return [None if value is None else _led(value, lead) for value in self.at(before)]

    def elements(self, rows: Rows, each: Steps) -> Lookup:
        """The places of elements: paths that begin with ``each`` lead into them, others into their messages."""
        taken = None if self._envelopes is None else self._envelopes.take(rows.elements.records)
        found = Lookup(rows.messages, taken)
        found._found[each] = rows.items
        return found


def _lead(step: int | ElementWith | JsonText) -> Callable[[Any], Any]:
    match step:
        case int():
            return lambda value: _nth(value, step)
        case ElementWith():
            return lambda value: _first_with(value, step)
        case JsonText():
            return _of_json


def _led(value: Any, lead: Callable[[Any], Any]) -> Any:
    return value if isinstance(value, NotAnObject) else lead(value)


def _beyond(value: object) -> NotAnObject | None:
    if value is None or isinstance(value, NotAnObject):
        return value
    return NotAnObject(value)


def _nth(value: Any, number: int) -> Any:
    if type(value) is not list:
        return NotAnObject(value, "an array")
    return value[number] if -len(value) <= number < len(value) else None


def _first_with(value: Any, step: ElementWith) -> Any:
    if type(value) is not list:
        return NotAnObject(value, "an array")
    for element in value:
        found = element.get(step.key) if type(element) is dict else None
        if type(found) is type(step.value) and found == step.value:
            return element
    return None


def _of_json(value: Any) -> Any:
    if type(value) is not str:
        return NotAnObject(value, "a text with JSON")
    try:
        return read_text(value)
    except RefusedError:
        return NotAnObject(value, "JSON")
