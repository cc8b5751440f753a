"""Work on many rows of a view in portions of bounded bytes, as a column of rows holds 2 GiB at most.

How many bytes a row has is known only when it is read, so a portion is as many keys as the rows before let expect; one
whose rows are too large all the same is done again in halves.
"""

from __future__ import annotations

from collections.abc import Callable

from features.definitions import FeatureView
from features.errors import RowsTooLargeError
from features.rows.folding import ROWS_AT_ONCE

BYTES_AT_ONCE = 1 << 28
"""Bytes of rows that a portion has, about."""

FIRST_ROWS = 2_048
"""Rows of a process's first portion of a view."""

GROWTH = 8
"""How many times the rows of the one before a portion has at most."""

BYTES_A_ROW = "bytes a row"


def in_portions(view: FeatureView, count: int, work: Callable[[int, int], int]) -> None:
    """Calls ``work`` with the start and the length of each portion of ``count`` keys, in their order.

    Args:
        work: returns the bytes of the portion's rows, or raises RowsTooLargeError, which a single row ends with.
    """
    start = 0
    while start < count:
        a_row: int = view.cache.get(BYTES_A_ROW, BYTES_AT_ONCE // FIRST_ROWS)
        length = max(1, min(BYTES_AT_ONCE // a_row, ROWS_AT_ONCE, count - start))
        try:
            size = work(start, length)
        except RowsTooLargeError:
            if length == 1:
                raise
            view.cache[BYTES_A_ROW] = 2 * BYTES_AT_ONCE // length
            continue
        view.cache[BYTES_A_ROW] = max(size // length, a_row // GROWTH, 1)
        start += length
