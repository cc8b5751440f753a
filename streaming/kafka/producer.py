"""An idempotent producer that partitions by key as Java's clients do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from features.errors import HeadraceError

Headers = Sequence[tuple[str, bytes | None]]

OnAck = Callable[[Any, Any], None]
"""Called with (KafkaError or None, Message); an error of a timeout means unknown, not lost."""

KNOWN_AT = "known_at"
"""The header that carries when a record became known, in epoch ms as text, where that is not the broker's time."""

FORGOTTEN = "hr_forgotten"
"""The header of a tombstone for an entity that was forgotten: it is no event, and no dead letter."""

FIRST_PLACE = "hr_first_place"
"""Header of a record that was sent again: topic-partition-offset, where it stood before it was ever refused."""

ELEMENT = "hr_element"
"""Header of a record of which one element is sent again: the number of that element, from 0."""

FIRST_TIME = "hr_first_time"
"""Header of a record that was sent again, or for an event of that time: when it was written first, epoch ms as text."""

PLACE_PATTERN = r"^[A-Za-z0-9._-]{1,249}-[0-9]{1,9}-[0-9]{1,18}$"
"""Values of that header; another is ignored."""

PRODUCER_OPTIONS: dict[str, Any] = {
    "enable.idempotence": True,  # and so acks=all, in order, and no duplicate of a retry
    "partitioner": "murmur2_random",  # Java's: the same key goes to the same partition, whoever sends it
    "compression.type": "lz4",
    "linger.ms": 5,
    "log_level": 0,  # what goes wrong comes with the acknowledgement
}


class ProducerError(HeadraceError):
    """Raised when Kafka cannot take a message at all."""


class EventProducer:
    """Sends events; ``on_ack`` is called with each acknowledgement.

    Args:
        bootstrap_servers: the cluster.
        client_options: further options of librdkafka, which win over ours.
    """

    def __init__(self, bootstrap_servers: str, client_options: Mapping[str, Any] | None = None) -> None:
        from confluent_kafka import Producer

        self.bootstrap_servers = bootstrap_servers
        self._producer = Producer(
            {**PRODUCER_OPTIONS, **(client_options or {}), "bootstrap.servers": bootstrap_servers}
        )

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        on_ack: OnAck | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Queue the message; waits while the producer's queue is full, as Kafka is slower than we are.

        Raises:
            ProducerError: the queue was full for ``timeout_s``, or the message can never be sent (too large).
        """
        deadline = time.monotonic() + timeout_s
        while not self._enqueue(topic, key, value, headers, on_ack):
            if time.monotonic() > deadline:
                where, required = f"topic '{topic}'", "Kafka to take messages"
                got = f"a queue that stayed full for {timeout_s:.0f} s"
                raise ProducerError(where, required, got, "See headrace status.")
            self._producer.poll(0.1)
        self._producer.poll(0)

    def _enqueue(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None, on_ack: OnAck | None
    ) -> bool:
        from confluent_kafka import KafkaException

        try:
            self._producer.produce(topic, value=value, key=key, headers=list(headers or ()), on_delivery=on_ack)
        except BufferError:
            return False
        except KafkaException as error:
            raise ProducerError(f"topic '{topic}'", "a message that Kafka takes", error.args[0].str()) from error
        return True

    def poll(self, timeout_s: float = 0.0) -> int:
        """Hand new acknowledgements to their ``on_ack``; returns their number."""
        return int(self._producer.poll(timeout_s))

    def flush(self, timeout_s: float = 30.0) -> int:
        """Wait until every message is acknowledged or the time is over; returns the number of those that are not."""
        return int(self._producer.flush(timeout_s))

    def waiting(self) -> int:
        """The number of messages that are not acknowledged yet."""
        return len(self._producer)
