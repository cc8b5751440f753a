"""Places between two effects where a test lets the driver die, as if the power had gone: HEADRACE_CRASH_AT=PLACE:TIMES.

Nothing of this is in the way of a driver that was started without the variable.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

import pyarrow as pa

from features.errors import UsageError
from features.events import Decision, Prior
from features.online_store import Fence, Marker, RowLane, Store
from features.rows import PackedRows

VARIABLE = "HEADRACE_CRASH_AT"

PLACES = tuple(
    f"{side} {effect}"
    for effect in ("letters", "publish", "remember", "scores", "rows", "archive", "import", "delivery")
    for side in ("before", "after")
)

Reached = Callable[[str], None]


def crash_point(environ: Mapping[str, str]) -> Reached | None:
    """A function that kills this process when the place in the environment is reached that often; None without one."""
    if VARIABLE not in environ:
        return None
    place, _, times = environ[VARIABLE].partition(":")
    if place not in PLACES or not times.isdecimal():
        raise UsageError(VARIABLE, f"PLACE:TIMES with a place of {', '.join(PLACES)}", repr(environ[VARIABLE]))
    left = int(times)

    def reached(here: str) -> None:
        nonlocal left
        left -= here == place
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


class WatchedStore:
    """A batch.Store that tells before and after every effect of another one."""

    def __init__(self, store: Store, reached: Reached) -> None:
        self._store = store
        self._reached = reached

    def begin(self) -> None:
        self._store.begin()

    def marker(self) -> Marker | None:
        return self._store.marker()

    def fence(self) -> Fence:
        return self._store.fence()

    def lane(self, name: str) -> RowLane:
        return self._store.lane(name)

    def publish(self, marker: Marker, lanes: Mapping[str, str] | None = None) -> None:
        self._reached("before publish")
        self._store.publish(marker, lanes)
        self._reached("after publish")

    def remembered(self, stream: str, ids: pa.Array, batch_id: int) -> Prior:
        return self._store.remembered(stream, ids, batch_id)

    def remember(self, stream: str, decision: Decision, batch_id: int) -> None:
        self._reached("before remember")
        self._store.remember(stream, decision, batch_id)
        self._reached("after remember")

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        return self._store.rows(view, keys)

    def put_rows(self, view: str, rows: PackedRows) -> None:
        self._reached("before rows")
        self._store.put_rows(view, rows)
        self._reached("after rows")
