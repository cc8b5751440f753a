"""The ids of the topics that a project's offsets are of, and their epochs, in a file beside the archive.

    <offline>/_topics.json    {topic: {"id", "epoch", "reason"}}

A topic that was deleted and made anew has another id. A topic whose end is before what was read of it has lost records
that it had acknowledged. Either begins an epoch, in which no offset is one of before (features/epochs.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from features.epochs import EPOCHS, OFFSETS_AN_EPOCH, epoch_of, our_offsets, topic_of
from features.errors import FormatError
from features.machine import write_json
from features.online_store import Offsets
from streaming.kafka import Watermarks
from streaming.losses.gaps import RECREATED, TRUNCATED, TopicLogs

FILE = "_topics.json"


@dataclass(frozen=True)
class PinnedTopic:
    """A topic by its id (None from a broker that has none), its epoch, and why that began; '' for the first."""

    id: str | None
    epoch: int = 0
    reason: str = ""


@dataclass(frozen=True)
class PinnedTopics:
    """The topics that a project has read."""

    topics: Mapping[str, PinnedTopic] = field(default_factory=dict)

    @classmethod
    def read(cls, offline: Path) -> PinnedTopics:
        """Those of the archive in the folder; none where nothing was pinned yet."""
        path = offline / FILE
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return cls({name: PinnedTopic(**values) for name, values in found.items()})

    def write(self, offline: Path) -> None:
        """Replace the file."""
        write_json(offline / FILE, {name: asdict(pinned) for name, pinned in self.topics.items()})

    def now(self, ids: Mapping[str, str | None], ends: Offsets, standings: Sequence[Offsets]) -> PinnedTopics:
        """The same with today's ids; topics that were made anew, or have lost their end, are in another epoch.

        Args:
            ids: of the topics that are there.
            ends: the broker's end offset of every partition of theirs, open transactions included.
            standings: where queries stand.

        Raises:
            FormatError: a topic has had all the epochs that there are.
        """
        return PinnedTopics({**self.topics, **{name: self._now(name, ids[name], ends, standings) for name in ids}})

    def _now(self, topic: str, found: str | None, ends: Offsets, standings: Sequence[Offsets]) -> PinnedTopic:
        read = {(name, at) for each in standings for name, at in each.items() if topic_of(name) == topic}
        latest = max((epoch_of(at) for _, at in read), default=0)
        pinned = self.topics.get(topic, PinnedTopic(found, latest))
        latest = max(latest, pinned.epoch)
        if None not in (pinned.id, found) and pinned.id != found:
            return _next(topic, found, latest, RECREATED)
        present = {name: at % OFFSETS_AN_EPOCH for name, at in read if epoch_of(at) == pinned.epoch}
        if any(at > ends.get(name, 0) for name, at in present.items()):
            return _next(topic, found, latest, TRUNCATED)
        return PinnedTopic(found or pinned.id, pinned.epoch, pinned.reason)

    def logs(self, watermarks: Watermarks) -> TopicLogs:
        """The broker's watermarks in our offsets."""
        starts = {name: pinned.epoch * OFFSETS_AN_EPOCH for name, pinned in self.topics.items()}
        reasons = {name: pinned.reason for name, pinned in self.topics.items() if pinned.reason}
        return TopicLogs(our_offsets(watermarks.low, starts), our_offsets(watermarks.high, starts), reasons)


def _next(topic: str, found: str | None, latest: int, reason: str) -> PinnedTopic:
    if latest + 1 >= EPOCHS:
        required, next_step = f"to be made anew at most {EPOCHS - 1} times", "Read a topic of another name."
        raise FormatError(f"topic '{topic}'", required, f"time {latest + 1}", next_step)
    return PinnedTopic(found, latest + 1, reason)
