"""The options, definitions, store and log that the parts of a running stream share."""

from __future__ import annotations

from dataclasses import dataclass

from features.definitions import FeatureRepo
from features.online_store import OnlineStore
from streaming.fold import Reached
from streaming.settings import StreamOptions
from streaming.supervisor import Log


@dataclass(frozen=True)
class StreamContext:
    """The options, definitions, store and log of a running stream.

    Args:
        repo: today's definitions.
        rows: the online store.
        log: takes lines for a person.
        reached: called before and after every effect (fold/crash_points.py); None without crash points.
    """

    options: StreamOptions
    repo: FeatureRepo
    rows: OnlineStore
    log: Log
    reached: Reached | None = None

    def topics(self) -> list[str]:
        """The topics of all the repo's streams, each once."""
        return list(dict.fromkeys(topic for stream in self.repo.streams.values() for topic in stream.topics))

    def at_effect(self, effect: str) -> None:
        """Call ``reached``, if any."""
        if self.reached is not None:
            self.reached(effect)
