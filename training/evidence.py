"""The least that a verdict is formed of: with less, nothing is said to be better, worse or moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NOT_ENOUGH = "not enough to judge"
"""A verdict's reason begins with this where there was too little to form it."""


@dataclass(frozen=True)
class Evidence:
    """The number of things that a test has, and the least that a verdict needs.

    Args:
        what: the things, in the plural.
    """

    what: str
    got: int
    least: int

    @property
    def suffices(self) -> bool:
        """True where there is at least the least."""
        return self.got >= self.least

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.got:,} of at least {self.least:,} {self.what}"


def not_enough(counts: Iterable[Evidence]) -> str | None:
    """The reason for which no verdict is formed, with every count that is too small; None where all suffice."""
    lacking = [count.text for count in counts if not count.suffices]
    return f"{NOT_ENOUGH}: {', '.join(lacking)}" if lacking else None
