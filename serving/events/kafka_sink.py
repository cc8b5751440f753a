"""Sends accepted events to Kafka; a message counts once Kafka has acknowledged it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving.events.verdicts import Acknowledgement, Message

POLL_S = 0.05

FLUSH_S = 5.0


class KafkaSink:
    """An idempotent producer whose acknowledgements are awaited.

    Args:
        bootstrap_servers: the cluster.
        client: more options of librdkafka; they win over ours.
        acknowledge_within_s: a message without an acknowledgement by then is unknown.
    """

    def __init__(self, bootstrap_servers: str, client: Mapping[str, Any], acknowledge_within_s: float) -> None:
        from confluent_kafka import Producer

        options: dict[str, Any] = {
            "enable.idempotence": True,  # acks=all, in order, and a retry makes no copy
            "partitioner": "murmur2_random",  # as Java's clients: a user stays in one partition
            "compression.type": "lz4",
            "linger.ms": 1,  # a client waits for every message
            "message.timeout.ms": int(acknowledge_within_s * 1000),
            "log_level": 0,  # errors come with the acknowledgement
        }
        self._producer = Producer({**options, **client, "bootstrap.servers": bootstrap_servers})
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-acknowledgements", daemon=True)
        self._poller.start()

    def _poll(self) -> None:
        while not self._closing.is_set():
            self._producer.poll(POLL_S)

    async def send(self, messages: Sequence[Message]) -> list[Acknowledgement | str]:
        """The acknowledgement of each message, or the reason for none."""
        return list(await asyncio.gather(*(self._sent(message) for message in messages)))

    def _sent(self, message: Message) -> asyncio.Future[Acknowledgement | str]:
        from confluent_kafka import KafkaException

        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Acknowledgement | str] = loop.create_future()

        def on_delivery(error: Any, sent: Any) -> None:
            acknowledged = (
                None if error is not None else Acknowledgement(sent.partition(), sent.offset(), sent.timestamp()[1])
            )
            loop.call_soon_threadsafe(_settle, outcome, acknowledged or str(error.str()))

        try:
            self._producer.produce(
                message.topic, message.value, message.key, headers=list(message.headers), on_delivery=on_delivery
            )
        except BufferError:
            outcome.set_result("the queue of messages to Kafka is full")
        except KafkaException as error:
            outcome.set_result(str(error.args[0].str()))
        return outcome

    def offer(self, message: Message, on_delivery: Callable[[bool], None]) -> None:
        """Queues the message without waiting; ``on_delivery`` is called once with whether Kafka has it."""
        from confluent_kafka import KafkaException

        try:
            self._producer.produce(
                message.topic, message.value, message.key, on_delivery=lambda error, _: on_delivery(error is None)
            )
        except (BufferError, KafkaException):
            on_delivery(False)

    def close(self) -> None:
        """Flushes queued messages for at most FLUSH_S, and ends sending."""
        self._producer.flush(FLUSH_S)
        self._closing.set()
        self._poller.join(timeout=FLUSH_S)


def _settle(outcome: asyncio.Future[Acknowledgement | str], value: Acknowledgement | str) -> None:
    if not outcome.done():  # the request may be gone
        outcome.set_result(value)
