"""Epoch milliseconds: of now, and as text."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta


def moment_text(ms: int) -> str:
    """A time as people read it, to the millisecond; one that is in no year of the calendar as its number."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    except OverflowError:
        return f"{ms} ms"
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def now_ms() -> int:
    """The wall clock in epoch ms."""
    return time.time_ns() // 1_000_000
