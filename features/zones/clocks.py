"""Local times of the zones of the IANA database, whole columns at once; also those that a clock shows twice or never.

A clock that is put back shows an hour twice: its local times are read as the first. One that is put forward leaves an
hour out: a local time in it is read with the offset of before, that much later by the new clock. It is the rule of
Python's fold=0, of Java's ZonedDateTime and of 'compatible' in JavaScript's Temporal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from features.arrays import Int64s

FIRST, LAST = datetime(1989, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)
"""Offsets are known between these; before and after, the first and the last hold."""

STEP = timedelta(days=5)
"""No zone changes its offset and changes it back within this time."""


@dataclass(frozen=True)
class Offsets:
    """The offsets of a zone, in ms ahead of UTC, and from when each holds: in UTC, and by the local clock.

    ``since`` and ``local_since`` have an element less than ``offsets``, whose first holds before all of them.
    """

    since: Int64s
    local_since: Int64s
    offsets: Int64s


def local_ms(times: Int64s, zone: str) -> Int64s:
    """What the zone's clock shows at each time (epoch ms), as the epoch ms at which UTC's shows it."""
    table = _offsets(zone)
    return times + table.offsets[np.searchsorted(table.since, times, side="right")]


def utc_ms(local: Int64s, zone: str) -> Int64s:
    """The epoch ms at which the zone's clock shows each local time: the inverse of local_ms."""
    table = _offsets(zone)
    return local - table.offsets[np.searchsorted(table.local_since, local, side="right")]


@lru_cache(maxsize=64)
def _offsets(name: str) -> Offsets:
    zone = ZoneInfo(name)
    changes: list[tuple[datetime, timedelta]] = []
    moment, offset = FIRST, _offset(FIRST, zone)
    first = offset
    while moment < LAST:
        later = moment + STEP
        after = _offset(later, zone)
        if after != offset:
            changes.append((_change(moment, later, zone), after))
        moment, offset = later, after
    since = np.array([_ms(at - datetime(1970, 1, 1, tzinfo=UTC)) for at, _ in changes], dtype=np.int64)
    offsets = np.array([_ms(one) for one in (first, *(after for _, after in changes))], dtype=np.int64)
    return Offsets(since, since + np.maximum(offsets[:-1], offsets[1:]), offsets)


def _change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The second from which the offset of ``after`` holds."""
    old = _offset(before, zone)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        before, after = (middle, after) if _offset(middle, zone) == old else (before, middle)
    return after


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
