"""Topics beside where queries stand: what is lost by now, and whether they are still the topics that were pinned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.online_store import Offsets
from streaming.kafka import TopicReader, clock_warnings, read_watermarks
from streaming.losses.gaps import TopicLogs
from streaming.losses.pinned_topics import PinnedTopics
from streaming.losses.record import loss_error
from streaming.settings import StreamOptions
from streaming.spark import check_partitions
from streaming.supervisor import Log


@dataclass(frozen=True)
class Found:
    """The topics as they are now: pins with today's ids and epochs, and the offsets that they have."""

    pins: PinnedTopics
    logs: TopicLogs


class TopicWatch:
    """Asks the broker about the topics of a stream."""

    def __init__(self, options: StreamOptions, topics: Sequence[str]) -> None:
        self._options, self._topics = options, list(topics)
        self._reader = TopicReader(options.bootstrap, options.client)
        self._pins = PinnedTopics.read(options.offline)

    def look(self, standings: Sequence[Offsets]) -> Found:
        """The topics as they are now, for queries that stand at these offsets.

        Raises:
            StoreError: the broker does not answer in time, or a topic is not there.
        """
        ids = self._reader.ids(self._topics)
        # Behind what a reader of committed records may read there can be an open transaction.
        client = {**self._options.client, "isolation.level": "read_uncommitted"}
        watermarks = read_watermarks(self._options.bootstrap, self._topics, client)
        pins = self._pins.now(ids, watermarks.high, standings)
        return Found(pins, pins.logs(watermarks))

    def warnings(self, streams: Iterable[Stream], log: Log) -> list[dict[str, str]]:
        """What is to be said of the streams' topics, as clock_warnings() has it; logged too.

        Raises:
            FormatError: a topic has more partitions than a stream has numbers for.
            StoreError: the broker does not answer in time.
        """
        facts = self._reader.facts(self._topics)
        for stream in streams:
            for number, topic in enumerate(stream.topics):
                if topic in facts:
                    check_partitions(topic, facts[topic].partitions, number * PARTITIONS_OF_A_TOPIC)
        warnings = clock_warnings(facts, self._options.bootstrap)
        for warning in warnings:
            log(f"{warning['found']}. To change it: {warning['mend']}")
        return warnings

    def pin(self, pins: PinnedTopics) -> None:
        """From now on these are the topics that are read."""
        if pins != self._pins:
            pins.write(self._options.offline)
            self._pins = pins

    def check(self, query: str, standing: Offsets) -> None:
        """Raise LossError where a query that stands there cannot read on, else nothing or StoreError, as look()."""
        gaps = self.look([standing]).logs.gaps(query, standing)
        if gaps:
            raise loss_error(gaps)

    def check_ids(self, query: str, standing: Offsets) -> None:
        """As check(), of topics that were made anew: called when a batch is fetched, and nothing is made of it.

        Ids never come back: if they are the same now, all that was fetched before is of the pinned topics.
        """
        found = self._reader.ids(self._topics)
        pinned = {name: self._pins.topics[name].id for name in found if name in self._pins.topics}
        if any(None not in (found[name], expected) and found[name] != expected for name, expected in pinned.items()):
            self.check(query, standing)
