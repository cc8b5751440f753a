"""Since when topics know: the first record that each of their partitions has, asked of the broker."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from features.definitions import Stream
from features.errors import StoreError
from streaming.kafka import CONSUMER_OPTIONS, POLL_S, Record, TopicError, admin_client, record_of, topics
from streaming.spark import known_at

TIMEOUT_S = 15.0

ROWS = pa.schema({"timestamp": pa.int64(), "headers": pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))})

SAY_UNTIL = "Start it, or say with --until when the topic begins."


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
    wanted = {one.name: one.topics for one in streams}
    try:
        there = topics(admin_client(bootstrap, options), bootstrap, timeout_s)
        places = [(name, part) for name in {*sum(wanted.values(), ())} for part in range(there.get(name, 0))]
        firsts = list(_first_records(bootstrap, places, options or {}, timeout_s))
    except TopicError as error:
        required = f"an answer in {timeout_s:.0f} s, as what its topics have is not imported"
        raise StoreError(f"Kafka at {bootstrap}", required, error.got, SAY_UNTIL) from error
    known = {name: _known_ms([one for one in firsts if one.topic in several]) for name, several in wanted.items()}
    return {name: first for name, first in known.items() if first is not None}


def _known_ms(records: Sequence[Record]) -> int | None:
    """When the first of them became known, by the rule of the stream's batches."""
    headers = [[{"key": key, "value": value} for key, value in one.headers] for one in records]
    rows = pa.table([[one.timestamp_ms for one in records], headers], schema=ROWS)
    return int(known_at(rows).min()) if records else None


def _first_records(
    bootstrap: str, places: Sequence[tuple[str, int]], options: Mapping[str, Any], timeout_s: float
) -> Iterator[Record]:
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer({**CONSUMER_OPTIONS, **options, "bootstrap.servers": bootstrap})
    open_ends, deadline = set(places), time.monotonic() + timeout_s
    try:
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
        while open_ends:
            message = consumer.poll(POLL_S)
            error = None if message is None else message.error()
            if message is None or (error is not None and error.retriable()):
                if time.monotonic() > deadline:
                    raise TopicError("Kafka", "the first records", f"none yet of {len(open_ends)} partitions")
            elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise TopicError("Kafka", "the first records", error.str())
            elif (place := (message.topic(), message.partition())) in open_ends:
                open_ends.discard(place)
                consumer.pause([TopicPartition(*place)])
                if error is None:
                    yield record_of(message)
    finally:
        consumer.close()
