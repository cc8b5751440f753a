"""Points around a batch's effects where a test kills the driver, as a power cut would: HEADRACE_CRASH_AT=PLACE:TIMES.

Without the variable, a driver has no crash points.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from features.errors import UsageError
from features.online_store import Store
from streaming.fold.observed_store import ObservedStore

VARIABLE = "HEADRACE_CRASH_AT"

POINTS = tuple(
    f"{side} {effect}"
    for effect in ("letters", "publish", "remember", "scores", "rows", "archive", "import", "delivery")
    for side in ("before", "after")
)

Reached = Callable[[str], None]


def crash_point(environ: Mapping[str, str]) -> Reached | None:
    """A function that kills this process when the environment's point is reached that often; None without a point."""
    if VARIABLE not in environ:
        return None
    point, _, times = environ[VARIABLE].partition(":")
    if point not in POINTS or not times.isdecimal():
        raise UsageError(VARIABLE, f"PLACE:TIMES with a place of {', '.join(POINTS)}", repr(environ[VARIABLE]))
    left = int(times)

    def reached(here: str) -> None:
        nonlocal left
        left -= here == point
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


EFFECT_OF_CALL = {"publish": "publish", "remember": "remember", "put_rows": "rows"}


def around_effects(store: Store, reached: Reached) -> ObservedStore:
    """The store, which calls ``reached`` with 'before publish', 'after publish' and so on around each of its writes."""

    @contextmanager
    def around(call: str) -> Iterator[None]:
        effect = EFFECT_OF_CALL.get(call)
        if effect is None:
            yield
            return
        reached(f"before {effect}")
        yield
        reached(f"after {effect}")

    return ObservedStore(store, around)
