"""How messages and files write times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from features.definitions.checks import check_zone, freeze
from features.errors import DefinitionError

TIME_UNITS_PER_MS = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}

EPOCH = "epoch"
"""The format of numbers with a fraction, and of numbers in text."""

DIRECTIVES = "YymdHIMSfpbBaAz"
DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)

RFC_3339_TEXTS = ("2026-03-04T05:06:07Z", "2026-03-04T05:06:07.089Z", "2026-03-04 05:06:07Z")


@dataclass(frozen=True)
class Time:
    """How a time is written: RFC 3339 text and whole numbers in ``unit`` always, and what else is declared.

    Args:
        unit: of numbers since the epoch: 's', 'ms', 'us' or 'ns'.
        zone: IANA name of the zone of times that state none, such as 'Europe/Berlin': ISO 8601 texts without a zone,
            timestamps without a zone, dates (their midnight) and texts by ``format``.
        format: of other texts, tried in this order before RFC 3339: 'epoch' (also a number with a fraction, and numbers
            in text) or patterns as of strptime, such as '%d.%m.%Y %H:%M', of %Y %y %m %b %B %d %a %A %H %I %p %M %S
            %f %z.
    """

    unit: str = "ms"
    zone: str | None = None
    format: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.unit not in tuple(TIME_UNITS_PER_MS):
            raise DefinitionError("a time", f"a time_unit of {', '.join(TIME_UNITS_PER_MS)}", repr(self.unit))
        if self.zone is not None:
            check_zone(self.zone, "a time")
        formats = (self.format,) if isinstance(self.format, str) else () if self.format is None else self.format
        if not isinstance(formats, Sequence) or not all(isinstance(one, str) for one in formats):
            raise DefinitionError("a time", "a format, or a list of formats", repr(self.format))
        freeze(self, format=tuple(formats) or None)
        for pattern in self.patterns:
            self._check_pattern(pattern)

    @property
    def formats(self) -> tuple[str, ...]:
        """The checked form of ``format``."""
        return self.format or ()  # type: ignore[return-value]  # __post_init__ made it a tuple

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """The formats that are patterns."""
        return tuple(one for one in self.formats if one != EPOCH)

    @property
    def takes_fractions(self) -> bool:
        """True if a number may have a fraction."""
        return EPOCH in self.formats

    @property
    def required(self) -> str:
        """What a time has to be, for reasons."""
        if not self.formats and self.zone is None:
            return "a time with its zone, such as 2026-07-01T12:00:00Z"
        declared = [f"a number of {self.unit}" if one == EPOCH else f"text as {one}" for one in self.formats]
        declared += ["RFC 3339"] if self.zone is None else [f"ISO 8601 (in {self.zone} if it has no zone)"]
        return f"a time: {' or '.join(declared)}"

    def _check_pattern(self, pattern: str) -> None:
        named = DIRECTIVE.findall(pattern)
        unknown = [f"%{one}" for one in named if one not in [*DIRECTIVES, "%"]]
        known = " ".join(f"%{one}" for one in DIRECTIVES)
        if unknown or not named:
            raise DefinitionError("a time", f"a format of '{EPOCH}', or a pattern of {known}", repr(pattern))
        kinds = [_part(one) for one in named if one != "%"]
        if len(set(kinds)) < len(kinds) or not {"year", "month", "day"} <= set(kinds):
            raise DefinitionError("a time", "a format with a year, a month and a day, each part once", repr(pattern))
        if ("I" in named) != ("p" in named):
            raise DefinitionError("a time", "a format with both %I and %p, or neither", repr(pattern))
        if "z" not in named and self.zone is None:
            next_step = "Give time_zone= an IANA name such as 'Europe/Berlin', or 'UTC'."
            raise DefinitionError("a time", "a zone, as texts of this format have none", repr(pattern), next_step)
        for text in RFC_3339_TEXTS:
            self._check_beside(pattern, text)

    def _check_beside(self, pattern: str, text: str) -> None:
        """A pattern must not read RFC 3339, which every stream takes, as another time."""
        from zoneinfo import ZoneInfo

        try:
            read = datetime.strptime(text, pattern)  # noqa: DTZ007  # the pattern says whether it has a zone
        except ValueError:
            return
        instant = read if read.tzinfo else read.replace(tzinfo=ZoneInfo(self.zone or "UTC"))
        if instant.replace(microsecond=0) != datetime.fromisoformat(text).replace(microsecond=0):
            required = "a format that does not read RFC 3339 as another time"
            raise DefinitionError("a time", required, f"{pattern!r}, to which {text} is {instant.isoformat()}")


def _part(directive: str) -> str:
    """The part of a time that a directive stands for."""
    parts = {"Y": "year", "y": "year", "m": "month", "b": "month", "B": "month", "d": "day"}
    return {**parts, "H": "hour", "I": "hour", "a": "weekday", "A": "weekday"}.get(directive, directive)


def is_of_digits(pattern: str) -> bool:
    """True for a pattern whose texts are digits alone: a whole number is read by it, too."""
    return not re.sub("%[YymdHMSf]", "", pattern)
