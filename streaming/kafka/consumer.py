"""Reads of whole topics, and of new records as they come, outside of any consumer group."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from features.errors import HeadraceError
from streaming.kafka.topic_admin import admin_client, topics

POLL_S = 0.5

SILENCE_S = 30.0
"""A cluster that sends nothing for so long is gone."""

CONSUMER_OPTIONS: dict[str, Any] = {
    "group.id": "headrace-reader",  # librdkafka wants one, though nothing is committed and nothing is balanced
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 50,
    "log_level": 0,
}


class ReadError(HeadraceError):
    """Raised when a topic cannot be read to its end."""


@dataclass(frozen=True)
class Record:
    """A message as the broker has it; ``timestamp_ms`` is the broker's, or the producer's if the topic is set so."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def read_topic(bootstrap_servers: str, topic: str, client_options: Mapping[str, Any] | None = None) -> Iterator[Record]:
    """Every record that the topic has now, each partition in its order; nothing where there is no such topic.

    Raises:
        ReadError: the topic cannot be read to its end.
        TopicError: the cluster does not answer.
    """
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    partitions = topics(admin_client(bootstrap_servers, client_options), bootstrap_servers).get(topic, 0)
    consumer = Consumer({**CONSUMER_OPTIONS, **(client_options or {}), "bootstrap.servers": bootstrap_servers})
    try:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        yield from _until_ends(consumer, topic, partitions)
    finally:
        consumer.close()


def _until_ends(consumer: Any, topic: str, partitions: int) -> Iterator[Record]:
    from confluent_kafka import KafkaError

    unread, idle_s = set(range(partitions)), 0.0
    while unread:
        message = consumer.poll(POLL_S)
        if message is None:
            idle_s += POLL_S
            if idle_s > SILENCE_S:
                raise ReadError(f"topic '{topic}'", "to be read to its end", f"nothing for {SILENCE_S:.0f} s")
            continue
        idle_s = 0.0
        error = message.error()
        if error is None:
            if message.partition() in unread:
                yield record_of(message)
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition())
        elif not error.retriable():
            raise ReadError(f"topic '{topic}'", "to be read to its end", error.str())


def record_of(message: Any) -> Record:
    """The client's message as a Record."""
    return Record(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
    )


def follow_topic(
    bootstrap_servers: str,
    topic: str,
    deadline_s: float,
    client_options: Mapping[str, Any] | None = None,
    *,
    from_beginning: bool = False,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Record]:
    """Records as they come, those of a partition in order, until ``deadline_s`` on the monotonic clock.

    Args:
        from_beginning: existing records come first.
        going: False ends the iteration; called at least twice a second.

    Raises:
        ReadError: the topic is not there, or cannot be read.
        TopicError: the cluster does not answer.
    """
    from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, TopicPartition

    partitions = topics(admin_client(bootstrap_servers, client_options), bootstrap_servers).get(topic, 0)
    if not partitions:
        raise ReadError(f"topic '{topic}'", "to be there", "no such topic", "Start 'headrace stream'.")
    consumer = Consumer({**CONSUMER_OPTIONS, **(client_options or {}), "bootstrap.servers": bootstrap_servers})
    first = OFFSET_BEGINNING if from_beginning else OFFSET_END
    try:
        consumer.assign([TopicPartition(topic, number, first) for number in range(partitions)])
        while going() and time.monotonic() < deadline_s:
            message = consumer.poll(min(POLL_S, max(deadline_s - time.monotonic(), 0.0)))
            error = None if message is None else message.error()
            if message is not None and error is None:
                yield record_of(message)
            elif error is not None and error.code() != KafkaError._PARTITION_EOF and not error.retriable():
                raise ReadError(f"topic '{topic}'", "to be read", error.str())
    finally:
        consumer.close()
