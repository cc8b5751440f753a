"""Payments as their producers send them: web shops in JSON, cash machines in Avro with schema ids of a registry."""

from __future__ import annotations

import io
import json
import time
from random import Random
from typing import Any

import fastavro
from schema_registry import Registry

from features.definitions import Stream
from streaming.kafka.producer import EventProducer

CUSTOMERS, TERMINALS = 12, 20


class CardPayments:
    """Sends payments of both kinds; ``sent`` has the ids of those that Kafka acknowledged.

    Args:
        stream: the stream of payments, with two topics.
        registry: the registry of the cash machines' schemas.
    """

    def __init__(self, bootstrap: str, stream: Stream, registry: Registry, seed: int) -> None:
        self.sent: list[str] = []
        self._online, self._machines = stream.parts
        self._producer, self._registry, self._random = EventProducer(bootstrap), registry, Random(seed)
        self.schema: dict[str, Any] = json.loads(str(self._machines.schema))

    def evolve(self) -> None:
        """Adds an optional field to the schema of the cash machines' next messages, which gives it a new schema id."""
        field = {"name": "chip", "type": ["null", "string"], "default": None}
        self.schema = {**self.schema, "fields": [*self.schema["fields"], field]}

    def send(self, count: int) -> None:
        """Sends ``count`` more payments and waits for their acknowledgement."""
        errors: list[object] = []
        for number in range(len(self.sent), len(self.sent) + count):
            customer, terminal = self._random.randrange(CUSTOMERS), self._random.randrange(TERMINALS)
            amount = round(self._random.uniform(1, 300), 2)
            topic, value = self._message(f"p{number}", customer, terminal, amount)
            self._producer.send(topic, str(customer).encode(), value, [], lambda error, _: errors.append(error))
            self.sent.append(f"p{number}")
        assert self._producer.flush(60) == 0
        assert errors == [None] * count

    def _message(self, name: str, customer: int, terminal: int, amount: float) -> tuple[str, bytes]:
        now = time.time_ns() // 1_000_000
        if self._random.random() < 0.5:
            fields = {"customer_id": customer, "terminal_id": terminal, "amount": amount}
            return self._online.topic, json.dumps({"transaction_id": name, "event_time": now, **fields}).encode()
        record = {"id": name, "at": now, "card_holder": customer, "machine": terminal, "amount": amount, "chip": "new"}
        return self._machines.topic, self._avro(record)

    def _avro(self, record: dict[str, Any]) -> bytes:
        number = self._registry.register(f"{self._machines.topic}-value", json.dumps(self.schema))
        buffer = io.BytesIO(bytes([0]) + number.to_bytes(4, "big"))
        buffer.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(buffer, fastavro.parse_schema(self.schema), record)
        return buffer.getvalue()
