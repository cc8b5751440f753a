"""Topics of transactional producers: only what is committed counts, and markers between the records are no lag."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from stream_process import StreamProcess

from features.definitions.repo import load_repo
from streaming.kafka.consumer import read_topic
from streaming.kafka.topic_admin import ensure_topics

pytestmark = pytest.mark.integration

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Stream

user = Entity("user", keys={{"user_id": "string"}})
orders = Stream("orders", topic="{topic}", fields={{"user_id": "string"}})
by_user = FeatureView("by_user", sets=[FeatureSet(user, orders, [Count()], ["1h"])])
"""


@pytest.fixture
def stream(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> StreamProcess:
    root = tmp_path / "project"
    (root / ".headrace").mkdir(parents=True)
    (root / ".headrace" / "jars").symlink_to(spark_jars[0].parent.parent)
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "orders.py").write_text(DEFINITIONS.format(topic=unique_name), encoding="utf-8")
    settings = f"[kafka]\nbootstrap_servers = '{kafka}'\n[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"
    (root / "settings.toml").write_text(settings, encoding="utf-8")
    ensure_topics(kafka, load_repo(root / "feature_repo").streams.values())
    return StreamProcess(root, kafka)


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


def archived(stream: StreamProcess) -> list[str]:
    from deltalake import DeltaTable

    table = pa.table(DeltaTable(stream.root / ".headrace" / "offline" / "orders").to_pyarrow_table())
    return sorted(table["event_id"].to_pylist())


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
        stream.wait(process, lambda: archived(stream) == ["a1", "a2", "b1"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    counts = stream.queries()["fold"]["counts"]
    assert counts == {"folded": 3, "duplicate": 0, "late": 0, "dead_letter": 0}
