"""The cut-off of imported history: later events come from the topic, so that no event is counted twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from features.definitions import Stream
from features.errors import StoreError
from features.times import moment_text
from streaming.archive.sink import Archive
from streaming.kafka import CONSUMER_OPTIONS, POLL_S, Record, TopicError, admin_client, record_of, topics
from streaming.spark import known_at

TopicStarts = Callable[[], Mapping[str, int]]
"""Stream → when its topics' first record became known (ms); without those that have none."""

CUT_OFF = "stream '{}': what was known from {} on is left to {}, which begins then by {}; --until says otherwise"

NO_CUT_OFF = (
    "stream '{}': nothing of {} is archived yet and there is no Kafka to ask, so all of the file is taken. Events that "
    "the topic has too will count twice: say with --until when it begins, or let 'headrace stream' archive it first."
)

TIMEOUT_S = 15.0

ROWS = pa.schema({"timestamp": pa.int64(), "headers": pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))})

SAY_UNTIL = "Start it, or say with --until when the topic begins."


@dataclass(frozen=True)
class CutOff:
    """Only events known before ``until_ms`` (None: all) are imported.

    Args:
        by: its source: --until, the archive or Kafka.
        message: for the user; empty where there is nothing to log.
    """

    until_ms: int | None = None
    by: str | None = None
    message: str = ""


class CutOffs:
    """The cut-off of each stream: as configured, else the time at which its topics begin, by the archive and by Kafka.

    Args:
        until_ms: the configured one, for all streams.
        topic_starts: reads the beginnings from Kafka, once at most; None without Kafka.
    """

    def __init__(self, until_ms: int | None = None, topic_starts: TopicStarts | None = None) -> None:
        self._until_ms = until_ms
        self._topic_starts = topic_starts
        self._starts: Mapping[str, int] | None = None

    def of(self, stream: Stream, archive: Archive) -> CutOff:
        """The stream's cut-off. Raises StoreError where Kafka does not answer."""
        if self._until_ms is not None:
            return CutOff(self._until_ms, "--until")
        starts = ((first_known_ms(archive, stream), "the archive"), (self._topic_start(stream), "Kafka"))
        known = [(first, by) for first, by in starts if first is not None]
        names = " and ".join(stream.topics)
        if not known:
            return CutOff(message="" if self._topic_starts else NO_CUT_OFF.format(stream.name, names))
        first, by = min(known)
        return CutOff(first, by, CUT_OFF.format(stream.name, moment_text(first), names, by))

    def _topic_start(self, stream: Stream) -> int | None:
        if self._starts is None:
            self._starts = self._topic_starts() if self._topic_starts else {}
        return self._starts.get(stream.name)


def first_known_ms(archive: Archive, stream: Stream) -> int | None:
    """The known_at of the first archived event of the stream's own topic; None where there is none."""
    table = archive.read(stream)
    return None if table is None else table.first_known_ms()


# --- by Kafka -------------------------------------------------------------------------------------------------------


def topic_starts(
    bootstrap: str, streams: Iterable[Stream], options: Mapping[str, Any] | None = None, timeout_s: float = TIMEOUT_S
) -> dict[str, int]:
    """Stream → when the first records of its topics' partitions became known (ms); without those that have none.

    Records of a partition that became known before its first, as those of a second replay may, are not seen.

    Args:
        options: librdkafka's.

    Raises:
        StoreError: the cluster does not answer in time.
    """
    topics_of = {stream.name: stream.topics for stream in streams}
    try:
        partitions = topics(admin_client(bootstrap, options), bootstrap, timeout_s)
        names = {*sum(topics_of.values(), ())}
        read = [(name, partition) for name in names for partition in range(partitions.get(name, 0))]
        firsts = list(_first_records(bootstrap, read, options or {}, timeout_s))
    except TopicError as error:
        required = f"an answer in {timeout_s:.0f} s, as what its topics have is not imported"
        raise StoreError(f"Kafka at {bootstrap}", required, error.got, SAY_UNTIL) from error
    known = {
        stream: _known_ms([record for record in firsts if record.topic in names]) for stream, names in topics_of.items()
    }
    return {stream: first for stream, first in known.items() if first is not None}


def _known_ms(records: Sequence[Record]) -> int | None:
    """The known_at of the first of them, by the rule of the stream's batches."""
    headers = [[{"key": key, "value": value} for key, value in record.headers] for record in records]
    rows = pa.table([[record.timestamp_ms for record in records], headers], schema=ROWS)
    return int(known_at(rows).min()) if records else None


def _first_records(
    bootstrap: str, partitions: Sequence[tuple[str, int]], options: Mapping[str, Any], timeout_s: float
) -> Iterator[Record]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer({**CONSUMER_OPTIONS, **options, "bootstrap.servers": bootstrap})
    unread, deadline = set(partitions), time.monotonic() + timeout_s
    try:
        consumer.assign([TopicPartition(*partition, OFFSET_BEGINNING) for partition in partitions])
        while unread:
            message = consumer.poll(POLL_S)
            error = None if message is None else message.error()
            if message is None or (error is not None and error.retriable()):
                if time.monotonic() > deadline:
                    raise TopicError("Kafka", "the first records", f"none yet of {len(unread)} partitions")
            elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise TopicError("Kafka", "the first records", error.str())
            elif (partition := (message.topic(), message.partition())) in unread:
                unread.discard(partition)
                consumer.pause([TopicPartition(*partition)])
                if error is None:
                    yield record_of(message)
    finally:
        consumer.close()
