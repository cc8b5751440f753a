"""Records that raise an error by themselves, found among many by halving: each becomes a verdict of its own.

Only done where work on all of them has raised, so that it costs nothing else. The result depends on each record alone.
"""

from __future__ import annotations

from collections.abc import Callable

from features.errors import HeadraceError

NOT_OF_A_RECORD = (HeadraceError, MemoryError, OSError, ImportError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""Errors of the machine, a store or a definition, which no record is to blame for."""

SHOWN_CHARACTERS = 200


def errors_alone(count: int, attempt: Callable[[int, int], object]) -> dict[int, str]:
    """Index → error of each of ``count`` records with which, alone, the attempt raises an error, in their order.

    Args:
        attempt: works on the records [start, stop), without effects.

    Raises:
        Exception: what the attempt raises without any record, and whatever is in NOT_OF_A_RECORD.
    """
    attempt(0, 0)
    found: dict[int, str] = {}
    left = [(0, count)]
    while left:
        start, stop = left.pop()
        try:
            attempt(start, stop)
        except NOT_OF_A_RECORD:
            raise
        except BaseException as error:  # noqa: BLE001  # a panic of Polars is no Exception
            middle = (start + stop) // 2
            if stop - start == 1:
                found[start] = error_text(error)
            elif stop > start:
                left += [(middle, stop), (start, middle)]
    return found


def error_text(error: BaseException) -> str:
    """The error's type and message, in a line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
