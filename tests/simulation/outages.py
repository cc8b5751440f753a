"""Outages in the simulator's stories that are longer than the topic keeps its records.

What is lost is found, accepted and gone on from by the rules of streaming/losses, as Resuming does: the archive is the
measure, and where it or the rows cannot read on, rows are made again from the archive. Topics made anew are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from features.online_store.port import Offsets
from streaming.losses import ARCHIVE, FOLD, TopicLogs

OUTAGE_STORIES, OUTAGE_SHARE = 0.35, 0.4

Lost = frozenset[tuple[int, int]]
"""Partition and offset of records."""


@dataclass(frozen=True)
class Accepted:
    """What is said to be lost, what the archive passes over, and the offsets up to which rows are made of it again."""

    lost: Lost
    passed_over: Lost
    rows: Offsets


class Retention:
    """The first offset of each partition that the topic still has, and the offset that the archive has come to."""

    def __init__(self, seed: int, ends: Offsets) -> None:
        self._rng = Random(f"outages {seed}")
        self.has_outages = self._rng.random() < OUTAGE_STORIES
        self._ends, self._low, self._archive = ends, dict.fromkeys(ends, 0), dict.fromkeys(ends, 0)

    def begins(self) -> bool:
        """True if there is an outage now."""
        return self.has_outages and self._rng.random() < OUTAGE_SHARE

    def outlast(self, folded: Offsets) -> None:
        """The topic drops records; the archive stands before or behind the fold."""
        for place, end in self._ends.items():
            at, first = folded[place], self._archive[place]
            self._archive[place] = self._rng.randint(max(first, at - 5), max(first, min(end, at + 5)))
            self._low[place] = self._rng.randint(self._low[place], max(self._low[place], min(end, at + 9)))

    def has(self, start: Offsets) -> bool:
        """Whether the topic has all records from these offsets on."""
        return all(start[place] >= low for place, low in self._low.items())

    def archived(self, end: Offsets) -> None:
        """The archive has all up to these offsets, which rows were made of."""
        self._archive = {place: max(at, end[place]) for place, at in self._archive.items()}

    def accept(self, folded: Offsets) -> Accepted | None:
        """What a start of the stream accepts; None if archive and rows can both read on."""
        logs = TopicLogs(self._low, self._ends, {})
        gaps = logs.gaps(ARCHIVE, self._archive)
        if not gaps and not logs.gaps(FOLD, folded):
            return None
        before, self._archive = self._archive, logs.resumed(self._archive)
        lost = {(gap.partition, offset) for gap in gaps for offset in range(gap.start, gap.end or gap.start)}
        passed_over = {
            (int(place.removeprefix("t/")), offset)
            for place, at in self._archive.items()
            for offset in range(before[place], at)
        }
        return Accepted(frozenset(lost), frozenset(passed_over), dict(self._archive))
