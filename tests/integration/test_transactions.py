"""Topics of transactional producers: only what is committed counts, and markers between the records are no lag."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from orders_project import Orders, orders_stream
from stream_process import StreamProcess

from streaming.kafka.consumer import read_topic

pytestmark = pytest.mark.integration


@pytest.fixture
def stream(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> StreamProcess:
    return orders_stream(tmp_path / "project", kafka, spark_jars, unique_name)


class Transactions:
    """A transactional producer of one topic."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        from confluent_kafka import Producer

        self.topic = topic
        self.producer: Any = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
        self.producer.init_transactions(30)

    def begin(self, *ids: str) -> None:
        """A transaction with these events is open, and they are in the topic."""
        self.producer.begin_transaction()
        for name in ids:
            event = {"event_id": name, "event_time": int(time.time() * 1000), "user_id": "ann"}
            self.producer.produce(self.topic, json.dumps(event).encode(), b"ann", partition=0)
        self.producer.flush(30)


def test_only_committed_records_are_folded_and_archived_and_lag_ends_at_zero(
    stream: StreamProcess, kafka: str, unique_name: str
) -> None:
    transactions = Transactions(kafka, unique_name)
    transactions.begin("a1", "a2")
    transactions.producer.commit_transaction(30)
    transactions.begin("never1", "never2", "never3")
    transactions.producer.abort_transaction(30)
    with stream.running() as process:
        stream.wait(process, stream.is_drained)
        assert stream.queries()["fold"]["counts"]["folded"] == 2
        transactions.begin("b1")
        assert [json.loads(record.value or b"")["event_id"] for record in read_topic(kafka, unique_name)] == [
            "a1",
            "a2",
        ]
        assert stream.is_drained()  # an open transaction is nobody's to read yet
        transactions.producer.commit_transaction(30)
        stream.wait(process, lambda: stream.queries()["fold"]["counts"]["folded"] == 3 and stream.is_drained())
        stream.wait(process, lambda: [query["lag"] for query in stream.queries().values()] == [0, 0])
        stream.wait(process, lambda: Orders(stream, unique_name).archived() == ["a1", "a2", "b1"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    counts = stream.queries()["fold"]["counts"]
    assert counts == {"folded": 3, "duplicate": 0, "late": 0, "dead_letter": 0}
