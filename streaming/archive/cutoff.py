"""Where imported history ends: from there on it is the topic that knows, and nothing is counted by both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from features.definitions import Stream
from features.times import moment_text
from streaming.archive.sink import Archive

TopicStarts = Callable[[], Mapping[str, int]]
"""Stream → when its topics' first record became known (ms); without those that have none."""

CUT = "stream '{}': what was known from {} on is left to {}, which begins then by {}; --until says otherwise"

UNCUT = (
    "stream '{}': nothing of {} is archived yet and there is no Kafka to ask, so all of the file is taken. Events that "
    "the topic has too will count twice: say with --until when it begins, or let 'headrace stream' archive it first."
)


@dataclass(frozen=True)
class Cut:
    """Only what was known before ``until_ms`` (None: all) is imported; ``by`` says so: --until, the archive or Kafka.

    ``sentence`` is for a person; empty where nobody needs to be told.
    """

    until_ms: int | None = None
    by: str | None = None
    sentence: str = ""


class Cuts:
    """The cut of each stream: the given one, else when its topics begin, by the archive and by Kafka.

    Args:
        until_ms: the given one, for all streams.
        topic_starts: asks Kafka, once at most. None: there is none.
    """

    def __init__(self, until_ms: int | None = None, topic_starts: TopicStarts | None = None) -> None:
        self._until_ms = until_ms
        self._ask = topic_starts
        self._starts: Mapping[str, int] | None = None

    def of(self, stream: Stream, archive: Archive) -> Cut:
        """The stream's cut. Raises StoreError where Kafka does not answer."""
        if self._until_ms is not None:
            return Cut(self._until_ms, "--until")
        told = ((first_known_ms(archive, stream), "the archive"), (self._topic_start(stream), "Kafka"))
        known = [(first, by) for first, by in told if first is not None]
        topics = " and ".join(stream.topics)
        if not known:
            return Cut(sentence="" if self._ask else UNCUT.format(stream.name, topics))
        first, by = min(known)
        return Cut(first, by, CUT.format(stream.name, moment_text(first), topics, by))

    def _topic_start(self, stream: Stream) -> int | None:
        if self._starts is None:
            self._starts = self._ask() if self._ask else {}
        return self._starts.get(stream.name)


def first_known_ms(archive: Archive, stream: Stream) -> int | None:
    """When the first archived event of the stream's own topic became known; None where there is none."""
    table = archive.read(stream)
    return None if table is None else table.first_known_ms()
