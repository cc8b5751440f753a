"""Gaps between where a query stands and what its topics still have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from features.epochs import OFFSETS_AN_EPOCH, epoch_of, epoch_start, topic_of
from features.online_store import Offsets

EXPIRED, RECREATED, TRUNCATED = "expired", "recreated", "truncated"

WORDS = {
    EXPIRED: "deleted before they were read",
    RECREATED: "the topic was deleted and made anew",
    TRUNCATED: "were read, and the topic has lost them since",
}

ARCHIVE, FOLD, SCORES = "archive", "fold", "scores"


@dataclass(frozen=True)
class Gap:
    """Records of a partition that are gone, by the broker's offsets [start, end).

    Args:
        query: ARCHIVE, FOLD or SCORES: whose records they are.
        end: None where the log that had them is gone, so that nobody knows how many there were.
        reason: EXPIRED, RECREATED or TRUNCATED.
    """

    query: str
    topic: str
    partition: int
    start: int
    end: int | None
    reason: str

    @property
    def count(self) -> int | None:
        """The number of offsets, which is at least that of records; None where it is not known."""
        return None if self.end is None else self.end - self.start

    def text(self) -> str:
        """The gap for a person."""
        place = f"topic '{self.topic}', partition {self.partition}, for the {self.query}"
        if self.end is None:
            return f"{place}: what was at offset {self.start:,} and after ({WORDS[self.reason]})"
        return f"{place}: offsets {self.start:,} to {self.end - 1:,}, {self.count:,} ({WORDS[self.reason]})"


@dataclass(frozen=True)
class TopicLogs:
    """The first and the end offset of each partition of some topics, in the epochs that the topics are in now.

    Args:
        low, high: our offsets (features/epochs.py).
        reasons: topic → why its epoch began: RECREATED or TRUNCATED.
    """

    low: Offsets
    high: Offsets
    reasons: Mapping[str, str]

    def resumed(self, standing: Offsets) -> dict[str, int]:
        """For every partition of the topics, the first offset that a query which stands there can read on from."""
        return {name: self._resumed(name, standing.get(name)) for name in self.low}

    def _resumed(self, name: str, at: int | None) -> int:
        low, high = self.low[name], self.high[name]
        if at is None:
            return low
        if epoch_of(at) == epoch_of(low):
            return max(at, low)
        if self.reasons.get(topic_of(name)) == TRUNCATED:
            return min(max(epoch_start(low) + at % OFFSETS_AN_EPOCH, low), high)
        return low

    def gaps(self, query: str, standing: Offsets, *, is_whole: bool = True) -> list[Gap]:
        """What a query that stands there will never read.

        Args:
            is_whole: of a topic that it has met, the query has met every partition that there was; else a partition
                may be missing because none of its records mattered.
        """
        topics, known = {topic_of(name) for name in self.low}, {topic_of(name) for name in standing}
        behind = [name for name in standing if topic_of(name) in topics]
        fresh = [name for name in self.low if is_whole and name not in standing and topic_of(name) in known]
        found = [gap for name in sorted(behind) for gap in self._behind(query, name, standing[name])]
        return found + [
            gap for name in sorted(fresh) for gap in self._expired(query, name, epoch_start(self.low[name]))
        ]

    def _behind(self, query: str, name: str, at: int) -> Iterator[Gap]:
        low, reason = self.low.get(name), self.reasons.get(topic_of(name), RECREATED)
        if low is None or (epoch_of(at) != epoch_of(low) and reason == RECREATED):
            yield _gap(query, name, at, None, RECREATED)
            return
        if epoch_of(at) != epoch_of(low):
            at = epoch_start(low) + at % OFFSETS_AN_EPOCH
            if at > self.high[name]:
                yield _gap(query, name, self.high[name], at, TRUNCATED)
        yield from self._expired(query, name, at)

    def _expired(self, query: str, name: str, at: int) -> Iterator[Gap]:
        if at < self.low[name]:
            yield _gap(query, name, at, self.low[name], EXPIRED)


def _gap(query: str, name: str, start: int, end: int | None, reason: str) -> Gap:
    topic, _, partition = name.rpartition("/")
    of_broker = None if end is None else end % OFFSETS_AN_EPOCH
    return Gap(query, topic, int(partition), start % OFFSETS_AN_EPOCH, of_broker, reason)
