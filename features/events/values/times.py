"""Times as messages and files have them → epoch ms, by how the stream says that they are written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from features.arrays import Floats, Int64s
from features.definitions import EPOCH, Time, is_of_digits
from features.events.timestamps import ms_of_numbers, ms_of_text, ms_of_timestamps
from features.events.values.patterns import ms_of_pattern
from features.zones import utc_ms

WHOLE = r"\A-?([0-9]{1,18}|[1-8][0-9]{18})\z"
NUMBER = r"\A[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\z"
LOCAL = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?\z"
"""RFC 3339 without its zone."""

PER_US = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e3}
"""By which a number is multiplied, or for nanoseconds divided, to be in microseconds."""

LARGEST_US = 9e18
DAY_MS = 86_400_000


def epoch_ms(values: pa.Array, time: Time, *, digits: bool = False) -> pa.Array:
    """Epoch ms of texts, numbers, timestamps or dates; null for whatever is not a time as ``time`` says.

    Args:
        digits: whole numbers in text are numbers, as in cells of CSV.
    """
    kind = values.type
    if kinds.is_string(kind):
        return _of_texts(values, time, digits)
    if kinds.is_integer(kind):
        return _of_integers(values, time)
    if kinds.is_floating(kind) and time.takes_fractions:
        return _of_fractions(values, time.unit)
    if kinds.is_timestamp(kind):
        times = ms_of_timestamps(values)
        return _in_zone(times, time.zone) if kind.tz is None and time.zone is not None else times
    if kinds.is_date(kind) and time.zone is not None:
        return _in_zone(ms_of_numbers(values.cast(pa.timestamp("ms")).cast(pa.int64()), "ms"), time.zone)
    return pa.nulls(len(values), pa.int64())


def is_time(kind: pa.DataType, time: Time) -> bool:
    """True for the types of columns, other than text, whose values can be times as ``time`` says."""
    return (
        kinds.is_integer(kind)
        or kinds.is_timestamp(kind)
        or (kinds.is_floating(kind) and time.takes_fractions)
        or (kinds.is_date(kind) and time.zone is not None)
    )


def _in_zone(local: pa.Array, zone: str) -> pa.Array:
    """The epoch ms of local times of the zone."""
    return pa.array(utc_ms(np.asarray(local.fill_null(0)), zone), mask=np.asarray(local.is_null()))


def _of_integers(values: pa.Array, time: Time) -> pa.Array:
    """Of patterns that are of digits alone, else numbers in the unit; those beyond int64 are clipped to it."""
    if kinds.is_uint64(values.type):
        values = pc.min_element_wise(values, pa.scalar(2**63 - 1, pa.uint64()), skip_nulls=False)
    numbers = values.cast(pa.int64())
    packed = [pattern for pattern in time.patterns if is_of_digits(pattern)]
    texts = numbers.cast(pa.string()) if packed else None
    by_pattern = [ms_of_pattern(texts, pattern, time.zone) for pattern in packed]
    return pc.coalesce(*by_pattern, ms_of_numbers(numbers, time.unit))


def _of_fractions(values: pa.Array, unit: str) -> pa.Array:
    """Numbers with a fraction, read to the microsecond; what is below a millisecond is cut off."""
    numbers: Floats = np.asarray(values.cast(pa.float64()).fill_null(np.nan))
    finite = np.isfinite(numbers)
    numbers = np.where(finite, numbers, 0.0)
    us = np.rint(numbers / PER_US[unit] if unit == "ns" else numbers * PER_US[unit])
    ms: Int64s = np.clip(us, -LARGEST_US, LARGEST_US).astype(np.int64) // 1_000
    return pa.array(ms, mask=~finite)


def _of_texts(texts: pa.Array, time: Time, digits: bool) -> pa.Array:
    """By the formats in their order, then numbers if they may be text, RFC 3339, and local times of the zone."""
    times = pa.nulls(len(texts), pa.int64())
    ways = [
        *time.formats,
        *([WHOLE] if digits and not time.takes_fractions else []),
        "",
        *([LOCAL] if time.zone else []),
    ]
    for way in ways:
        if times.null_count == texts.null_count:
            break
        times = pc.coalesce(times, _by(way, texts, time))
    return times


def _by(way: str, texts: pa.Array, time: Time) -> pa.Array:
    if way == EPOCH:
        return _of_numbers(texts, time.unit)
    if way == WHOLE:
        return ms_of_numbers(_matching(texts, WHOLE).cast(pa.int64()), time.unit)
    if way == LOCAL:
        return _in_zone(ms_of_text(pc.binary_join_element_wise(_matching(texts, LOCAL), "Z", "")), str(time.zone))
    return ms_of_pattern(texts, way, time.zone) if way else ms_of_text(texts)


def _of_numbers(texts: pa.Array, unit: str) -> pa.Array:
    """Of numbers in text: whole ones exactly, others as float64."""
    whole = _matching(texts, WHOLE)
    others = _matching(pc.if_else(whole.is_null(), texts, None), NUMBER)
    bare = pc.replace_substring_regex(others, r"\A\+", "")
    return pc.coalesce(ms_of_numbers(whole.cast(pa.int64()), unit), _of_fractions(bare.cast(pa.float64()), unit))


def _matching(texts: pa.Array, pattern: str) -> pa.Array:
    """The texts that match; null for others."""
    return pc.if_else(pc.match_substring_regex(texts, pattern).fill_null(fill_value=False), texts, None)
