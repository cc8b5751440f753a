"""A backlog of large messages gets through a small heap of Java: batches are bounded in bytes as well."""

from __future__ import annotations

import base64
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from stream_process import StreamProcess

from features.definitions.repo import load_repo
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from streaming.dead_letters import read_dead_letters
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics

pytestmark = pytest.mark.integration

DEFINITIONS = """
from headrace import Count
from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream

user = Entity("user", keys={{"user_id": "string"}})
clicks = Stream("clicks", topic="{topic}", fields={{"user_id": Field("string", required=True)}})
by_user = FeatureView("by_user", sets=[FeatureSet(user, clicks, [Count()], ["24h"])])
"""
SETTINGS = """
[kafka]
bootstrap_servers = '{}'
[stream]
spark_memory = '512m'
archive_trigger_s = 0.5
"""
STORE = "online_store:\n  type: SqliteRowsOnlineStore\n  path: ../.headrace/online.db\n"
SLOW = pytest.mark.slow
USERS = 50
REFUSED_EVERY = 500


class Project:
    """A project with one stream of large messages, and the clicks that were sent to it by user."""

    def __init__(self, root: Path, bootstrap: str, jars: Path, topic: str) -> None:
        self.home, self.topic = root / ".headrace", topic
        self.home.mkdir(parents=True)
        (self.home / "jars").symlink_to(jars)
        (root / "feature_repo").mkdir()
        (root / "feature_repo" / "clicks.py").write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
        (root / "feature_repo" / "feature_store.yaml").write_text(STORE, encoding="utf-8")
        (root / "settings.toml").write_text(SETTINGS.format(bootstrap), encoding="utf-8")
        self.repo = load_repo(root / "feature_repo")
        ensure_topics(bootstrap, self.repo.streams.values(), partitions=2)
        self.producer, self.stream = EventProducer(bootstrap), StreamProcess(root, bootstrap)
        self.clicks: Counter[str] = Counter()
        self.sent = self.refused = 0

    def send(self, count: int, size: int) -> None:
        """So many more messages of this size; a few of them have no user."""
        lost: list[object] = []
        padding = base64.b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()  # hardly compressible
        for _ in range(count):
            self.sent += 1
            event: dict[str, Any] = {"event_id": f"e{self.sent}", "event_time": int(time.time() * 1000)}
            if self.sent % REFUSED_EVERY:
                event["user_id"] = f"u{self.sent % USERS}"
                self.clicks[event["user_id"]] += 1
            else:
                self.refused += 1
            value = json.dumps(event | {"padding": padding}).encode()
            self.producer.send(self.topic, str(self.sent).encode(), value, [], lambda error, _: lost.append(error))
        assert self.producer.flush(120) == 0
        assert lost == [None] * count

    def check(self, bootstrap: str) -> None:
        """Every message is counted, archived or a dead letter, once."""
        from deltalake import DeltaTable

        users = sorted(self.clicks)
        keys = pa.array(users)
        values, stream_id = SqliteRows(self.home / "online.db").read("by_user", keys)
        assert stream_id is not None
        found = finalize(self.repo.views["by_user"], PackedRows(keys, values), int(time.time() * 1000), stream_id)
        assert found.to_table()["user_count_24h"].to_pylist() == [self.clicks[user] for user in users]
        ids = pa.table(DeltaTable(self.home / "offline" / "clicks").to_pyarrow_table(columns=["event_id"]))["event_id"]
        assert Counter(ids.to_pylist()) == Counter(
            f"e{number + 1}" for number in range(self.sent) if (number + 1) % REFUSED_EVERY
        )
        places = [letter.place for letter in read_dead_letters(bootstrap, self.topic)]
        assert len(set(places)) == self.refused


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name)


@pytest.mark.parametrize(
    ("count", "size"),
    [(30_000, 11_000), pytest.param(100_000, 11_000, marks=SLOW), pytest.param(400, 900_000, marks=SLOW)],
)
def test_a_backlog_of_large_messages_and_more_of_them_while_it_runs_get_through(
    project: Project, kafka: str, count: int, size: int
) -> None:
    """In pieces of 32 MB; a batch fetched whole ended Java, and was planned again as it was."""
    project.send(count, size)
    stream = project.stream
    with stream.running() as process:
        stream.wait(process, stream.is_drained, 600)
        project.send(2_000, 100)
        stream.wait(process, stream.is_drained)
        project.send(count // 5, size)
        stream.wait(process, stream.is_drained, 200)
        assert [(one["restarts"], one["error"]) for one in stream.queries().values()] == [(0, None)] * 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    project.check(kafka)
