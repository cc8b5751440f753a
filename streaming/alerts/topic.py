"""The topic of alerts as one sink reads it: from its own place on, which it moves when the sink has what was read."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

from streaming.kafka import CONSUMER_OPTIONS, POLL_S, ReadError, Record, admin_client, record_of, topics

if TYPE_CHECKING:
    from confluent_kafka import TopicPartition

LOOK_EVERY_S = 30.0
"""How often new partitions are looked for."""

KEEP_EVERY_S = 3_600.0
"""How often places are committed though nothing comes: a cluster forgets those of seven days ago."""

ASK_WITHIN_S = 10.0

COUNTS = 2

QUEUED_BYTES = 4096
"""Kibibytes that wait in memory at most."""


@dataclass(frozen=True)
class Place:
    """Where a group stands in a partition, and what it counted up to there, which are committed together."""

    next: int
    delivered: int = 0
    refused: int = 0

    @classmethod
    def read(cls, committed: TopicPartition) -> Place:
        """The place that was committed; without counts where somebody else did that."""
        counts = [int(part) for part in (committed.metadata or "").split() if part.isdecimal()]
        return cls(committed.offset, *counts) if len(counts) == COUNTS else cls(committed.offset)

    @property
    def metadata(self) -> str:
        """What the commit says beside the offset."""
        return f"{self.delivered} {self.refused}"

    def beyond(self, offset: int, is_refused: bool) -> Place:
        """The place after this record."""
        return Place(offset + 1, self.delivered + (not is_refused), self.refused + is_refused)


class AlertTopic:
    """A topic's records after those that the group's committed places are about. Used by one thread.

    The partitions are assigned, not balanced among members: a process that starts goes on at once where one that was
    killed stood, and a group is read by one process at a time.

    Args:
        bootstrap: the cluster's servers.
        topic: its name.
        group: whose places.
        client_options: further options of librdkafka.
    """

    def __init__(self, bootstrap: str, topic: str, group: str, client_options: Mapping[str, Any] | None = None) -> None:
        self.topic, self.group = topic, group
        self._bootstrap, self._client_options = bootstrap, client_options
        self._consumer: Any = None
        self._places: dict[int, Place] = {}
        self._end: dict[int, int] = {}
        self._look_at = self._keep_at = float("-inf")

    def take(self, most: int, linger_s: float, stop: Event) -> list[Record]:
        """At most so many records: what came within ``linger_s`` of the first; none where none came for a moment.

        Once ``stop`` is set nothing is waited for.

        Raises:
            ReadError: the topic is not there, or cannot be read.
            TopicError: the cluster does not answer.
        """
        self._open()
        taken: list[Record] = []
        until = time.monotonic() + POLL_S
        while len(taken) < most:
            left_s = 0.0 if stop.is_set() else max(until - time.monotonic(), 0.0)
            record = self._poll(min(left_s, POLL_S))
            if record is not None:
                until = until if taken else time.monotonic() + linger_s
                taken.append(record)
            elif not left_s:
                break
        return taken

    def commit(self, records: Sequence[Record], refused: Collection[int] = ()) -> None:
        """The group's places are behind these records, and its counts have them.

        Args:
            refused: which of them, by their number, its sink refused.

        Raises ReadError where the cluster does not take it.
        """
        places = dict(self._places)
        for number, one in enumerate(records):
            before = places[one.partition]
            places[one.partition] = before.beyond(one.offset, is_refused=number in refused)
        self._commit(places)
        self._places = places

    def counts(self) -> dict[str, int]:
        """How many records the group's sink got, and how many it refused, in all."""
        several = self._places.values()
        return {"delivered": sum(one.delivered for one in several), "refused": sum(one.refused for one in several)}

    def waiting(self) -> int | None:
        """How many records are behind the places, as far as is known; None before the first was asked for."""
        if self._consumer is None:
            return None
        from confluent_kafka import TopicPartition

        left = 0
        for partition, place in self._places.items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
            left += max(max(end, self._end[partition]) - place.next, 0)
        return left

    def close(self) -> None:
        """The connection is closed; what was read and not committed will come again."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    # --- the consumer -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        now = time.monotonic()
        if self._consumer is None or now >= self._look_at:
            count = self._partitions()
            if self._consumer is None or count != len(self._places):
                self._start(count)
            self._look_at = now + LOOK_EVERY_S
        if now >= self._keep_at:
            self._commit(self._places)

    def _partitions(self) -> int:
        count = topics(admin_client(self._bootstrap, self._client_options), self._bootstrap).get(self.topic, 0)
        if not count:
            raise ReadError(f"topic '{self.topic}'", "to be there", "none", "Start 'headrace stream', which makes it.")
        return count

    def _start(self, count: int) -> None:
        """Reading from the committed places on; from the beginning where there is none, or what it names is gone."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        self.close()
        ours = {"group.id": self.group, "auto.offset.reset": "earliest", "queued.max.messages.kbytes": QUEUED_BYTES}
        options = {**CONSUMER_OPTIONS, **ours, **(self._client_options or {}), "bootstrap.servers": self._bootstrap}
        consumer = Consumer(options)
        try:
            asked = [TopicPartition(self.topic, number) for number in range(count)]
            found = consumer.committed(asked, timeout=ASK_WITHIN_S)
            for one in found:
                low, self._end[one.partition] = consumer.get_watermark_offsets(one, timeout=ASK_WITHIN_S)
                one.offset = max(one.offset, low)  # where there is no place it is below zero
            consumer.assign(found)
        except KafkaException as error:
            consumer.close()
            raise self._failed("to say where its readers are", error) from error
        self._consumer, self._places = consumer, {one.partition: Place.read(one) for one in found}

    def _poll(self, wait_s: float) -> Record | None:
        from confluent_kafka import KafkaError

        message = self._consumer.poll(wait_s)
        error = None if message is None else message.error()
        if message is None or (error is not None and (error.code() == KafkaError._PARTITION_EOF or error.retriable())):
            return None
        if error is not None:
            self.close()
            raise ReadError(f"topic '{self.topic}'", "to be read", error.str())
        return record_of(message)

    def _commit(self, places: Mapping[int, Place]) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        told = [TopicPartition(self.topic, part, one.next, metadata=one.metadata) for part, one in places.items()]
        try:
            done = self._consumer.commit(offsets=told, asynchronous=False)
        except KafkaException as error:
            raise self._failed("to keep where its readers are", error) from error
        refused = [one.error for one in done if one.error is not None]
        if refused:
            raise ReadError(f"topic '{self.topic}'", "to keep where its readers are", refused[0].str())
        self._keep_at = time.monotonic() + KEEP_EVERY_S

    def _failed(self, required: str, error: Any) -> ReadError:
        return ReadError(f"topic '{self.topic}'", required, error.args[0].str())
