"""Texts of times by a pattern as of strptime → epoch ms, whole columns at once.

A part has 1 or 2 digits, and 2 where another number follows at once; %Y has 4. A space stands for one or more. Names
are English, in any case; that of a weekday is not compared with the date. %y is 1969 to 2068. A fraction (%f) has 1 to
9 digits; what is below a millisecond is cut off. A part of the time of day that a pattern lacks is 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Int64s
from features.events.timestamps import days_of
from features.zones import utc_ms

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS = {
    "Y": ("[0-9]{4}", "[0-9]{4}"),
    "y": ("[0-9]{2}", "[0-9]{2}"),
    **dict.fromkeys("mdHIMS", ("[0-9]{1,2}", "[0-9]{2}")),
    "f": ("[0-9]{1,9}", "[0-9]{1,9}"),
}
"""Directive → its digits, and its digits before another number."""
NAMES = {
    "b": "|".join(name[:3] for name in MONTHS),
    "B": "|".join(MONTHS),
    "a": "|".join(name[:3] for name in WEEKDAYS),
    "A": "|".join(WEEKDAYS),
    "p": "am|pm",
    "z": "z|[+-][0-9]{2}:?[0-9]{2}",
}
CENTURY_OF_1900 = 69
MINUTES_OF_A_DAY, HOURS, SIXTY, NOON = 1_440, 24, 60, 12


@dataclass(frozen=True)
class Pattern:
    """A pattern as a regular expression (of RE2), with a group for each of the directives in it."""

    regex: str
    directives: frozenset[str]


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Pattern:
    """The pattern, ready for texts."""
    parts = re.findall(r"%.|[^%]", pattern, re.DOTALL)
    found: list[str] = []
    regex = ""
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        directive = part[1:]
        if directive in NUMBERS:
            plain, packed = NUMBERS[directive]
            before_number = following[1:] in NUMBERS or following.isdigit()
            regex += f"(?P<{directive}>{packed if before_number else plain})"
        elif directive in NAMES:
            regex += f"(?P<{directive}>{NAMES[directive]})"
        else:
            regex += " +" if part == " " else re.escape(part[-1])
        found += [directive] if directive in NUMBERS or directive in NAMES else []
    return Pattern(rf"(?i)\A{regex}\z", frozenset(found))


def ms_of_pattern(texts: pa.Array, pattern: str, zone: str | None) -> pa.Array:
    """Epoch ms of a string array; null for a text that does not match, or is no time of the calendar.

    Args:
        zone: of texts by a pattern without %z.
    """
    form = compiled(pattern)
    found = pc.extract_regex(texts, form.regex)
    rows = np.flatnonzero(np.asarray(found.is_valid()))
    times = np.zeros(len(texts), dtype=np.int64)
    absent = np.ones(len(texts), dtype=bool)
    if rows.size:
        groups = found.take(pa.array(rows))
        local, real = _local_ms({name: groups.field(name) for name in form.directives})
        if "z" in form.directives:
            minutes, of_a_clock = _offset(groups.field("z"))
            times[rows], real = local - minutes * 60_000, real & of_a_clock
        else:
            times[rows] = utc_ms(local, zone or "UTC")
        absent[rows] = ~real
    return pa.array(times, mask=absent)


def _local_ms(groups: dict[str, pa.Array]) -> tuple[Int64s, Bools]:
    """What the texts show, and a mask of those that a calendar and a clock can show."""
    zero = np.zeros(len(next(iter(groups.values()))), dtype=np.int64)
    days, real = days_of(_year(groups), _month(groups), _numbers(groups["d"]))
    hour = _numbers(groups["H"]) if "H" in groups else zero
    if "I" in groups:
        of_twelve = _numbers(groups["I"])
        real &= (of_twelve >= 1) & (of_twelve <= NOON)
        hour = of_twelve % NOON + NOON * _index(groups["p"], ["am", "pm"])
    minute, second = (_numbers(groups[name]) if name in groups else zero for name in "MS")
    fraction = _numbers(_three_digits(groups["f"])) if "f" in groups else zero
    real &= (hour < HOURS) & (minute < SIXTY) & (second < SIXTY)
    return (days * MINUTES_OF_A_DAY + hour * 60 + minute) * 60_000 + second * 1_000 + fraction, real


def _year(groups: dict[str, pa.Array]) -> Int64s:
    if "Y" in groups:
        return _numbers(groups["Y"])
    short = _numbers(groups["y"])
    return np.where(short < CENTURY_OF_1900, short + 2_000, short + 1_900)


def _month(groups: dict[str, pa.Array]) -> Int64s:
    if "m" in groups:
        return _numbers(groups["m"])
    return 1 + (_index(groups["B"], MONTHS) if "B" in groups else _index(groups["b"], [name[:3] for name in MONTHS]))


def _numbers(digits: pa.Array) -> Int64s:
    return np.asarray(digits.cast(pa.int64()))


def _index(names: pa.Array, known: Sequence[str]) -> Int64s:
    return np.asarray(pc.index_in(pc.ascii_lower(names), value_set=pa.array(known))).astype(np.int64)


def _three_digits(fractions: pa.Array) -> pa.Array:
    return pc.utf8_slice_codeunits(pc.ascii_rpad(fractions, 3, "0"), 0, 3)


def _offset(texts: pa.Array) -> tuple[Int64s, Bools]:
    """Minutes ahead of UTC, and a mask of the offsets that are below a day."""
    is_utc = np.asarray(pc.equal(pc.ascii_lower(texts), "z"))
    plain = pc.if_else(pa.array(is_utc), "+0000", pc.replace_substring(texts, ":", ""))
    sign = np.where(np.asarray(pc.starts_with(plain, "-")), -1, 1)
    hour, minute = (_numbers(pc.utf8_slice_codeunits(plain, start, start + 2)) for start in (1, 3))
    return sign * (hour * 60 + minute), (hour < HOURS) & (minute < SIXTY)
