"""The topic of alerts as a sink reads it: from its committed offsets, which move when the sink has the records."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING, Any

from streaming.kafka import CONSUMER_OPTIONS, POLL_S, ReadError, Record, admin_client, record_of, topics

if TYPE_CHECKING:
    from confluent_kafka import TopicPartition

LOOK_EVERY_S = 30.0
"""The time between two looks for new partitions."""

COMMIT_EVERY_S = 3_600.0
"""The time between two commits without records: a cluster forgets offsets after seven days."""

ASK_WITHIN_S = 10.0

COUNTS = (2, 3)
"""Numbers in a commit's metadata: version 0.1 did not count what expired."""

QUEUED_BYTES = 4096
"""Kibibytes queued in memory, at most."""


@dataclass(frozen=True)
class CommittedOffset:
    """A group's next offset of a partition and its counts up to there, which are committed together."""

    next: int
    delivered: int = 0
    refused: int = 0
    expired: int = 0

    @classmethod
    def read(cls, committed: TopicPartition) -> CommittedOffset:
        """From a commit; without counts where another program made it."""
        counts = [int(part) for part in (committed.metadata or "").split() if part.isdecimal()]
        return cls(committed.offset, *counts) if len(counts) in COUNTS else cls(committed.offset)

    @property
    def metadata(self) -> str:
        """The commit's metadata: the counts."""
        return f"{self.delivered} {self.refused} {self.expired}"

    def from_first(self, low: int) -> CommittedOffset:
        """The same, with what the topic no longer has counted: its records before ``low``."""
        gone = max(low - self.next, 0) if self.next >= 0 else 0
        return replace(self, next=max(self.next, low), expired=self.expired + gone)

    def beyond(self, offset: int, is_refused: bool) -> CommittedOffset:
        """The offset and counts after this record."""
        delivered, refused = self.delivered + (not is_refused), self.refused + is_refused
        return replace(self, next=offset + 1, delivered=delivered, refused=refused)


class AlertTopic:
    """A topic's records after the group's committed offsets. Used by a single thread.

    The partitions are assigned, not balanced among members: a process continues at once after one that was killed, and
    a group is read by one process at a time.

    Args:
        bootstrap: the cluster's servers.
        topic: its name.
        group: of the committed offsets.
        client_options: further options of librdkafka.
    """

    def __init__(self, bootstrap: str, topic: str, group: str, client_options: Mapping[str, Any] | None = None) -> None:
        self.topic, self.group = topic, group
        self._bootstrap, self._client_options = bootstrap, client_options
        self._consumer: Any = None
        self._committed: dict[int, CommittedOffset] = {}
        self._end: dict[int, int] = {}
        self._look_at = self._commit_at = float("-inf")

    def take(self, most: int, linger_s: float, stop: Event) -> list[Record]:
        """At most ``most`` records, those within ``linger_s`` of the first; none where none came for a moment.

        Once ``stop`` is set it does not wait.

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
        """Commit the offsets behind these records, and count them.

        Args:
            refused: the indices of those that the sink refused.

        Raises ReadError where the cluster does not take it.
        """
        offsets = dict(self._committed)
        for index, record in enumerate(records):
            before = offsets[record.partition].from_first(min(self._low(record.partition), record.offset))
            offsets[record.partition] = before.beyond(record.offset, is_refused=index in refused)
        self._commit(offsets)
        self._committed = offsets

    def counts(self) -> dict[str, int]:
        """The records that the group's sink took and refused, and that expired before it had them, in all."""
        offsets = self._committed.values()
        return {name: sum(getattr(each, name) for each in offsets) for name in ("delivered", "refused", "expired")}

    def waiting(self) -> int | None:
        """The records behind the committed offsets, as far as is known; None before the first read."""
        if self._consumer is None:
            return None
        from confluent_kafka import TopicPartition

        left = 0
        for partition, committed in self._committed.items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
            left += max(max(end, self._end[partition]) - committed.next, 0)
        return left

    def _low(self, partition: int) -> int:
        """The partition's first offset, as far as is known."""
        from confluent_kafka import TopicPartition

        low, _ = self._consumer.get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
        return int(low)

    def close(self) -> None:
        """Close the connection; what was read and not committed will come again."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    # --- the consumer -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        now = time.monotonic()
        if self._consumer is None or now >= self._look_at:
            count = self._partitions()
            if self._consumer is None or count != len(self._committed):
                self._start(count)
            self._look_at = now + LOOK_EVERY_S
        if now >= self._commit_at:
            self._commit(self._committed)

    def _partitions(self) -> int:
        count = topics(admin_client(self._bootstrap, self._client_options), self._bootstrap).get(self.topic, 0)
        if not count:
            raise ReadError(f"topic '{self.topic}'", "to be there", "none", "Start 'headrace stream', which makes it.")
        return count

    def _start(self, count: int) -> None:
        """Read from the committed offsets; from the beginning where there is none, or its record is gone."""
        from confluent_kafka import Consumer, KafkaException, TopicPartition

        self.close()
        stored: dict[int, CommittedOffset] = {}
        ours = {"group.id": self.group, "auto.offset.reset": "earliest", "queued.max.messages.kbytes": QUEUED_BYTES}
        options = {**CONSUMER_OPTIONS, **ours, **(self._client_options or {}), "bootstrap.servers": self._bootstrap}
        consumer = Consumer(options)
        try:
            partitions = [TopicPartition(self.topic, number) for number in range(count)]
            committed = consumer.committed(partitions, timeout=ASK_WITHIN_S)
            for partition in committed:
                low, self._end[partition.partition] = consumer.get_watermark_offsets(partition, timeout=ASK_WITHIN_S)
                stored[partition.partition] = CommittedOffset.read(partition).from_first(low)
                partition.offset = stored[partition.partition].next  # below zero where none is committed
            consumer.assign(committed)
        except KafkaException as error:
            consumer.close()
            raise self._failed("to say where its readers are", error) from error
        self._consumer = consumer
        self._committed = stored

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

    def _commit(self, committed: Mapping[int, CommittedOffset]) -> None:
        from confluent_kafka import KafkaException, TopicPartition

        offsets = [
            TopicPartition(self.topic, number, each.next, metadata=each.metadata) for number, each in committed.items()
        ]
        try:
            done = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise self._failed("to keep where its readers are", error) from error
        refused = [partition.error for partition in done if partition.error is not None]
        if refused:
            raise ReadError(f"topic '{self.topic}'", "to keep where its readers are", refused[0].str())
        self._commit_at = time.monotonic() + COMMIT_EVERY_S

    def _failed(self, required: str, error: Any) -> ReadError:
        return ReadError(f"topic '{self.topic}'", required, error.args[0].str())
