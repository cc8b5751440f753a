"""A clock that only a test moves."""

from __future__ import annotations


class Clock:
    """Shows ``now``, in seconds, until a test sets another."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
