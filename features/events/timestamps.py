"""Times of messages → int64 epoch ms, whole columns at once; fractions of a millisecond are cut off."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from features.definitions import TIME_UNITS_PER_MS
from features.times import moment_text

RFC_3339 = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})\z"
"""https://www.rfc-editor.org/rfc/rfc3339#section-5.6; leap seconds (:60) have no epoch time and are refused."""

LARGEST = 2**63 - 1

EARLIEST_MS, LATEST_MS = 631_152_000_000, 4_102_444_800_000
"""1990 and 2100: a time outside of [EARLIEST_MS, LATEST_MS) is implausible, as one that is read in the wrong unit."""

PLAUSIBLE = "a time from 1990 to 2099"

UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

CLIPPED = " or more, which looks like nanoseconds read as seconds"
"""What is said of a number of seconds that is beyond all int64 milliseconds."""

DAY_HOURS, SIXTY = 24, 60

Bytes = NDArray[np.uint8]


def ms_of_numbers(numbers: pa.Array, unit: str) -> pa.Array:
    """Epoch ms of an int64 array in ``unit`` ('s', 'ms', 'us' or 'ns'); a time beyond int64 is clipped."""
    if unit == "ms":
        return numbers
    values = np.asarray(numbers.fill_null(0))
    mask = np.asarray(numbers.is_null())
    if unit == "s":
        inside = np.clip(values, -(LARGEST // 1000), LARGEST // 1000)
        return pa.array(np.where(values == inside, inside * 1000, np.sign(values) * LARGEST), mask=mask)
    return pa.array(values // (1_000 if unit == "us" else 1_000_000), mask=mask)


@overload
def implausible(times: int) -> bool: ...
@overload
def implausible(times: Int64s) -> Bools: ...
def implausible(times: int | Int64s) -> bool | Bools:
    """True for each time (epoch ms) that is before 1990 or after 2099."""
    return (times < EARLIEST_MS) | (times >= LATEST_MS)


def with_unit_hint(ms: int, unit: str) -> str:
    """An implausible time as text, with the unit in which its number would be a plausible one, if there is such a unit.

    Args:
        ms: the time as it was read.
        unit: the unit that its number was read in ('s', 'ms', 'us' or 'ns').
    """
    first, after = ms * TIME_UNITS_PER_MS[unit], (ms + 1) * TIME_UNITS_PER_MS[unit]
    # Of a number in smaller units than ms the end was cut off: it was one of several.
    numbers = (first, max(first, after - 1))
    times = [(other, int(number / per_ms)) for other, per_ms in TIME_UNITS_PER_MS.items() for number in numbers]
    meant = [(other, time) for other, time in times if not implausible(time)]
    if not meant:
        return f"{ms} ms" + CLIPPED * (unit == "s" and ms == LARGEST)
    other, time = meant[0]
    return f"{ms} ms, which looks like {UNITS[other]} read as {UNITS[unit]}: {moment_text(time)}"


def ms_of_timestamps(timestamps: pa.Array) -> pa.Array:
    """Epoch ms of Arrow timestamps; those without a zone are UTC."""
    return ms_of_numbers(timestamps.cast(pa.int64()), timestamps.type.unit)


def ms_of_datetimes(values: Sequence[datetime | None]) -> pa.Array:
    """Epoch ms of Python datetimes with a zone; None becomes null."""
    return ms_of_timestamps(pa.array(values, type=pa.timestamp("us", tz="UTC")))


def ms_of_text(texts: pa.Array) -> pa.Array:
    """Epoch ms of a string array of RFC 3339 times with their zone; null for any other text, and for null."""
    rows = np.flatnonzero(np.asarray(pc.match_substring_regex(texts, RFC_3339).fill_null(fill_value=False)))
    times = np.zeros(len(texts), dtype=np.int64)
    absent = np.ones(len(texts), dtype=bool)
    if rows.size:
        times[rows], real = _read(texts.take(pa.array(rows)))
        absent[rows] = ~real
    return pa.array(times, mask=absent)


def _read(texts: pa.Array) -> tuple[Int64s, Bools]:
    """Epoch ms of ASCII texts that match RFC_3339, and a mask of those that are times of the calendar."""
    starts, ends, data = _layout(texts)
    year, month, day, hour, minute, second = (
        _number(data, starts + first, digits) for first, digits in ((0, 4), (5, 2), (8, 2), (11, 2), (14, 2), (17, 2))
    )
    offset_min, real_offset = _offset(data, ends)
    midnight, real = days_of(year, month, day)
    real &= _on_a_clock(hour, minute) & (second < SIXTY) & real_offset
    minutes = midnight * 1_440 + hour * 60 + minute - offset_min
    return minutes * 60_000 + second * 1_000 + _fraction_ms(data, starts), real


def days_of(year: Int64s, month: Int64s, day: Int64s) -> tuple[Int64s, Bools]:
    """Days from the epoch to each date, and a mask of those that are dates of the calendar."""
    month_in_range = np.clip(month, 1, 12)
    months = (year - 1970) * 12 + month_in_range - 1
    days = _days(months) + day - 1
    return days, (month == month_in_range) & (day >= 1) & (days < _days(months + 1))


def _days(months: Int64s) -> Int64s:
    """Days from the epoch to the first of the month; months are counted from the epoch too."""
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _on_a_clock(hour: Int64s, minute: Int64s) -> Bools:
    return (hour < DAY_HOURS) & (minute < SIXTY)


def _layout(texts: pa.Array) -> tuple[Int64s, Int64s, Bytes]:
    """Start and end of each text in the bytes of them all, which are padded for reads past the last."""
    offsets = np.frombuffer(texts.buffers()[1], dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.append(np.frombuffer(texts.buffers()[2], dtype=np.uint8), np.zeros(4, dtype=np.uint8))
    return offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64), data


def _number(data: Bytes, start: Int64s, digits: int) -> Int64s:
    number = np.zeros(len(start), dtype=np.int64)
    for position in range(digits):
        number = number * 10 + (data[start + position] - ord("0"))
    return number


def _fraction_ms(data: Bytes, starts: Int64s) -> Int64s:
    """The milliseconds of a fraction: its first three digits."""
    running = data[starts + 19] == ord(".")
    fraction = np.zeros(len(starts), dtype=np.int64)
    for position, weight in ((20, 100), (21, 10), (22, 1)):
        # Two steps inside the text at most: it ends with a zone, which is no digit and stops the run.
        digit = data[np.where(running, starts + position, starts)]
        running = running & (digit >= ord("0")) & (digit <= ord("9"))
        fraction += np.where(running, (digit.astype(np.int64) - ord("0")) * weight, 0)
    return fraction


def _offset(data: Bytes, ends: Int64s) -> tuple[Int64s, Bools]:
    """Minutes ahead of UTC, and a mask of the offsets that are below a day."""
    zulu = (data[ends - 1] | 0x20) == ord("z")
    hour, minute = _number(data, ends - 5, 2), _number(data, ends - 2, 2)
    sign = np.where(data[ends - 6] == ord("-"), -1, 1)
    return np.where(zulu, 0, sign * (hour * 60 + minute)), zulu | _on_a_clock(hour, minute)
