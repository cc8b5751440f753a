"""Records with an array of events: each of its elements becomes a row of its own beside the record that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.arrays import Int64s
from features.events.columns import MOST_ELEMENTS
from features.events.values.reasons import Problems, reason_text, show

WHOLE = -1
"""In place of the number of an element: the record as a whole, which has no elements to tell apart."""


@dataclass(frozen=True)
class Elements:
    """For each row the index of its record, and the number of its element in the record's array (or WHOLE)."""

    records: Int64s
    numbers: Int64s

    def take(self, rows: Int64s) -> Elements:
        """Those of these rows."""
        return Elements(self.records[rows], self.numbers[rows])


@dataclass(frozen=True)
class Rows:
    """A row for each element: the message around it, the element itself, and the problem of a whole message."""

    messages: list[Any]
    items: list[Any]
    problems: Problems
    elements: Elements


def rows_of_elements(
    messages: Sequence[Any], arrays: Sequence[Any], name: str, problems: Problems, only: Int64s | None = None
) -> Rows:
    """A row for each element of each message's array.

    A message without an array has no row; one that is no message, and one whose array is none or too long, has a row
    with its problem.

    Args:
        arrays: the value of each message where its array should be.
        name: the array's path, for reasons.
        problems: message → its problem.
        only: of each message the element to take, WHOLE for all.
    """
    rows: tuple[list[Any], list[Any], list[int], list[int]] = ([], [], [], [])
    found: Problems = {}
    for index, (message, array) in enumerate(zip(messages, arrays, strict=True)):
        problem = problems.get(index) or (None if message is None else _problem(array, name))
        if message is None or problem:
            numbers, items = [WHOLE], [None]
            if problem:
                found[len(rows[0])] = problem
        else:
            numbers, items = _chosen(array or [], WHOLE if only is None else int(only[index]))
        rows[0].extend([message if WHOLE not in numbers else None] * len(numbers))
        rows[1].extend(items)
        rows[2].extend([index] * len(numbers))
        rows[3].extend(numbers)
    return Rows(rows[0], rows[1], found, Elements(np.array(rows[2], np.int64), np.array(rows[3], np.int64)))


def _problem(array: Any, name: str) -> str | None:
    if array is None:
        return None
    if type(array) is not list:
        return reason_text("wrong_type", name, "an array", show(array))
    if len(array) > MOST_ELEMENTS:
        return reason_text("too_many_elements", name, f"at most {MOST_ELEMENTS:,} elements", f"{len(array):,}")
    return None


def _chosen(array: Sequence[Any], number: int) -> tuple[list[int], list[Any]]:
    if number == WHOLE:
        return list(range(len(array))), list(array)
    return ([number], [array[number]]) if number < len(array) else ([], [])
