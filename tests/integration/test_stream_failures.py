"""What the stream needs goes away under it: its Java, or room on its disk. Nothing is lost, and it says what to do."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from stream_process import StreamProcess

from features.online_store.sqlite import SqliteRows
from features.repo import load_repo
from features.state import PackedRows, finalize
from streaming.producer import EventProducer
from streaming.topics import ensure_topics

pytestmark = pytest.mark.integration

DEFINITIONS = """
from features.aggregates import Count
from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream

user = Entity("user", keys={{"user_id": "string"}})
clicks = Stream("clicks", topic="{topic}", fields={{"user_id": Field("string", required=True), "note": "string"}})
by_user = FeatureView("by_user", sets=[FeatureSet(user, clicks, [Count()], ["1h"])])
"""
SETTINGS = "[kafka]\nbootstrap_servers = '{}'\n[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"


class Project:
    """A project with one stream, and what was sent to it."""

    def __init__(self, root: Path, bootstrap: str, jars: Path, topic: str) -> None:
        self.root = root
        (root / ".headrace").mkdir(parents=True)
        (root / ".headrace" / "jars").symlink_to(jars)
        (root / "feature_repo").mkdir()
        (root / "feature_repo" / "clicks.py").write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
        (root / "settings.toml").write_text(SETTINGS.format(bootstrap), encoding="utf-8")
        self.repo = load_repo(root / "feature_repo")
        ensure_topics(bootstrap, self.repo.streams.values())
        self.topic, self.producer = topic, EventProducer(bootstrap)
        self.stream = StreamProcess(root, bootstrap)
        self.sent = 0

    def send(self, count: int, note: str = "") -> None:
        """So many more clicks of one user are in the topic."""
        lost: list[object] = []
        for _ in range(count):
            self.sent += 1
            event = {"event_id": f"e{self.sent}", "event_time": int(time.time() * 1000), "user_id": "ann", "note": note}
            value = json.dumps(event).encode()
            self.producer.send(self.topic, b"ann", value, [], lambda error, _: lost.append(error))
        assert self.producer.flush(60) == 0
        assert lost == [None] * count

    def check(self) -> None:
        """Every click is in the row and in the table, once."""
        from deltalake import DeltaTable

        view, keys = self.repo.views["by_user"], pa.array(["ann"])
        values, stream_id = SqliteRows(self.root / ".headrace" / "online.db").read("by_user", keys)
        assert stream_id is not None
        found = finalize(view, PackedRows(keys, values), int(time.time() * 1000), stream_id)
        assert found.to_table().to_pylist() == [{"user_count_1h": self.sent}]
        table = pa.table(DeltaTable(self.root / ".headrace" / "offline" / "clicks").to_pyarrow_table())
        assert sorted(table["event_id"].to_pylist()) == sorted(f"e{number + 1}" for number in range(self.sent))


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name)


def java_below(pid: int) -> int:
    """The Java process that this process started."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"java" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    pytest.fail(f"process {pid} has no Java")


def test_spark_that_is_killed_ends_the_stream_with_a_sentence_and_the_next_run_goes_on(project: Project) -> None:
    project.send(50)
    with project.stream.running() as process:
        project.stream.wait(process, project.stream.is_drained)
        project.send(50)
        os.kill(java_below(process.pid), signal.SIGKILL)
        assert process.wait(60) == 1
    said = project.stream.said()
    assert "Spark's Java process" in said.splitlines()[-1]
    assert "its end by SIGKILL. Nothing is lost: 'headrace stream' goes on where it was." in said.splitlines()[-1]
    assert "Traceback" not in said
    assert "SIGKILL" in project.stream.queries()["fold"]["error"]
    with project.stream.running() as process:
        project.stream.wait(process, project.stream.is_drained)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    project.check()
