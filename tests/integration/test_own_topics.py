"""A topic of somebody's own: stamped by producers, compacted, with partitions that are added while the stream runs."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from orders_project import Orders, orders_stream

from streaming.kafka.consumer import read_topic
from streaming.kafka.topic_admin import admin_client

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000

CONFIG = {
    "message.timestamp.type": "CreateTime",
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "max.compaction.lag.ms": "100",
    "message.timestamp.after.max.ms": str(24 * HOUR_MS),  # Kafka refuses what is more than an hour ahead by default
}


@pytest.fixture
def orders(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Orders:
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

    admin = admin_client(kafka)
    made: Any = admin.create_topics([NewTopic(unique_name, 1, config=CONFIG)])
    made[unique_name].result(30)
    return Orders(orders_stream(tmp_path / "project", kafka, spark_jars, unique_name), unique_name)


def send(orders: Orders, name: str, ahead_ms: int = 0, partition: int = 0, key: str | None = None) -> None:
    """An order, stamped by a clock that is so much ahead."""
    from confluent_kafka import Producer

    now = int(time.time() * 1000)
    event = {"event_id": name, "event_time": now + ahead_ms, "user_id": "ann"}
    producer = Producer({"bootstrap.servers": orders.stream.bootstrap})
    message = json.dumps(event).encode()
    stamped: list[int] = []
    producer.produce(
        orders.topic,
        message,
        (key or name).encode(),
        partition=partition,
        timestamp=now + ahead_ms,
        on_delivery=lambda error, sent: stamped.append(sent.timestamp()[1] if error is None else -1),
    )
    assert producer.flush(30) == 0
    assert stamped == [now + ahead_ms]


def test_a_topic_that_producers_stamp_and_the_broker_compacts(orders: Orders) -> None:
    from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

    stream, kafka = orders.stream, orders.stream.bootstrap
    number = 0
    while len(list(read_topic(kafka, orders.topic))) in (number, 0):  # until the cleaner has taken some
        number += 1
        send(orders, f"same {number}", key="same")
        time.sleep(0.5)
    with stream.running() as process:
        stream.wait(process, stream.is_drained, 300)
        before = stream.queries()["fold"]["counts"]["folded"]
        assert 0 < before < number
        for name, ahead_ms in (("first", 0), ("ahead", 4 * HOUR_MS), ("then", 0), ("ahead again", 5 * HOUR_MS)):
            send(orders, name, ahead_ms)
            stream.wait(process, stream.is_drained, 300)
        for name in ("first", "then"):  # within their horizon, whatever another clock says
            send(orders, name)
        admin = admin_client(kafka)
        grown: Any = admin.create_partitions([NewPartitions(orders.topic, 3)])
        grown[orders.topic].result(30)
        send(orders, "in a new partition", partition=2)
        stream.wait(process, lambda: stream.queries()["fold"]["counts"]["folded"] == before + 5, 300)
        stream.wait(process, stream.is_drained, 300)
        counts = stream.queries()["fold"]["counts"]
        assert counts == {"folded": before + 5, "duplicate": 2, "late": 0, "dead_letter": 0}
        stream.wait(process, lambda: [query["lag"] for query in stream.queries().values()] == [0, 0], 300)
        assert "CreateTime: known_at is the producer's clock" in stream.status()["warnings"][0]["found"]
        assert "message.timestamp.type=LogAppendTime" in orders.headrace("doctor", code=None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "is the producer's clock" in stream.said()
