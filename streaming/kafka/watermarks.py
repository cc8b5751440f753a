"""The first and end offsets of topics' partitions, read from the broker.

The end is that of committed records, as every reader of ours sees it: an open transaction is not lag.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.errors import StoreError
from features.online_store import Offsets
from streaming.kafka.consumer import CONSUMER_OPTIONS

TIMEOUT_S = 10.0

PAUSE_S = 0.1


@dataclass(frozen=True)
class Watermarks:
    """'topic/partition' → its first offset (``low``), and the offset after its last record (``high``)."""

    low: Offsets
    high: Offsets


def read_watermarks(
    bootstrap: str, topics: Sequence[str], options: Mapping[str, str | int] | None = None, timeout_s: float = TIMEOUT_S
) -> Watermarks:
    """The watermarks of every partition of the topics; ``options`` are librdkafka's.

    Raises:
        StoreError: the broker does not answer in time, or has no such topic.
    """
    from confluent_kafka import Consumer, KafkaException

    defaults = {**CONSUMER_OPTIONS, "group.id": "headrace-watermarks"}
    consumer = Consumer(defaults | dict(options or {}) | {"bootstrap.servers": bootstrap})
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                return _read(consumer, topics, deadline)
            except KafkaException as error:
                # A new topic has no leader yet, and one whose broker is gone gets another.
                if time.monotonic() > deadline - PAUSE_S:
                    got = error.args[0].str()
                    raise StoreError(f"Kafka at {bootstrap}", f"an answer in {timeout_s:.0f} s", got) from error
                time.sleep(PAUSE_S)
    finally:
        consumer.close()


def _read(consumer: Any, topics: Sequence[str], deadline: float) -> Watermarks:
    from confluent_kafka import TopicPartition

    low, high = {}, {}
    for topic in topics:
        for partition in _partitions(consumer, topic, _left(deadline)):
            name = f"{topic}/{partition}"
            low[name], high[name] = consumer.get_watermark_offsets(
                TopicPartition(topic, partition), timeout=_left(deadline)
            )
    return Watermarks(low, high)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), PAUSE_S)


def _partitions(consumer: Any, topic: str, timeout_s: float) -> list[int]:
    known = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
    if known.error is not None or not known.partitions:
        raise StoreError("Kafka", f"topic '{topic}'", "no such topic", "Create it, or correct the stream's topic=.")
    return sorted(known.partitions)
