"""A definition that accepts more: what is valid today is no dead letter, and what was one counts once when replayed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from stream_process import Process, StreamProcess

from features.definitions.repo import load_repo
from features.history.archive import deduplicated
from features.online_store.port import of_schema
from features.online_store.reader import FeatureReader
from features.online_store.sqlite.rows import SqliteRows
from streaming.archive.sink import Archive
from streaming.dead_letters import DeadLetter, read_dead_letters, replay
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics

pytestmark = pytest.mark.integration

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Field, Stream

user = Entity("user", keys={{"user_id": "string"}})
shop = Stream(
    "shop", topic="{topic}", fields={{"user_id": "string", "kind": Field("string", enum={kinds})}}, event_id=None
)
by_user = FeatureView("by_user", sets=[FeatureSet(user, shop, [Count()], ["24h"])])
"""


class Project:
    """A stream of events without ids, whose kinds are an enum that can be widened."""

    def __init__(self, root: Path, bootstrap: str, topic: str) -> None:
        self.topic, self.stream = topic, StreamProcess(root, bootstrap)
        self.producer = EventProducer(bootstrap)

    @property
    def root(self) -> Path:
        return self.stream.root

    def define(self, *kinds: str) -> None:
        text = DEFINITIONS.format(topic=self.topic, kinds=list(kinds))
        (self.root / "feature_repo" / "shop.py").write_text(text, encoding="utf-8")
        self.repo = load_repo(self.root / "feature_repo")

    def send(self, kind: str) -> None:
        event = {"event_time": int(time.time() * 1000), "user_id": "ann", "kind": kind}
        self.producer.send(self.topic, b"ann", json.dumps(event).encode())
        assert self.producer.flush() == 0

    def count(self) -> int | None:
        reader = FeatureReader(SqliteRows(self.root / ".headrace" / "online.db"), self.repo)
        found = reader.read("by_user", pa.array(["ann"])).columns[0][0].as_py()
        return None if found is None else int(found)

    def archived(self) -> int:
        shop = self.repo.streams["shop"]
        events = Archive(self.root / ".headrace" / "offline", self.repo).events(shop)
        return deduplicated(events, shop).num_rows

    def letters(self) -> list[DeadLetter]:
        return read_dead_letters(self.stream.bootstrap, self.topic)

    def reads_todays_rows(self) -> bool:
        rows, view = SqliteRows(self.root / ".headrace" / "online.db"), self.repo.views["by_user"]
        current = rows.current(of_schema(view.name, view.schema_hash))
        return current is not None and rows.current(view.name) == current

    def older(self) -> int | None:
        """The records that the older generation has refused."""
        counts = [query["counts"] for name, query in self.stream.queries().items() if name.startswith("older")]
        return int(counts[0]["dead_letter"]) if counts else None

    def wait_until_counted(self, process: Process, expected: int) -> None:
        self.stream.wait(process, self.stream.is_drained)
        self.stream.wait(process, lambda: (self.count(), self.archived()) == (expected, expected))

    def stop(self, process: Process) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

    def deadletters_replay(self) -> dict[str, int]:
        command = [sys.executable, "-m", "headrace", "deadletters", "replay", "--topic", self.topic, "--json"]
        done = subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True)
        said: dict[str, int] = json.loads(done.stdout)
        return said


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str) -> Project:
    root = tmp_path / "project"
    (root / ".headrace").mkdir(parents=True)
    (root / ".headrace" / "jars").symlink_to(spark_jars[0].parent.parent)
    (root / "feature_repo").mkdir()
    settings = f"[kafka]\nbootstrap_servers = '{kafka}'\n[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"
    (root / "settings.toml").write_text(settings, encoding="utf-8")
    made = Project(root, kafka, unique_name)
    made.define("view")
    ensure_topics(kafka, made.repo.streams.values(), partitions=1)
    return made


def test_what_a_widened_enum_accepts_is_no_dead_letter_and_counts_once_when_it_is_sent_again(project: Project) -> None:
    stream = project.stream
    project.send("view")
    project.send("wish")
    with stream.running() as process:
        project.wait_until_counted(process, 1)
        project.stop(process)
    (refused,) = project.letters()
    assert (refused.code, refused.place) == ("unknown_value", (project.topic, 0, 1))

    project.define("view", "wish")
    with stream.running() as process:
        stream.wait(process, project.reads_todays_rows)
        stream.wait(process, lambda: project.older() == 1)
        project.send("wish")
        project.wait_until_counted(process, 2)
        stream.wait(process, lambda: project.older() == 2)
        assert [letter.place for letter in project.letters()] == [refused.place]

        assert project.deadletters_replay() == {"replayed": 1, "archived": 0}
        project.wait_until_counted(process, 3)
        # A crash before the receipt would have left the letter waiting: the stream knows the second by its first place.
        assert replay(project.producer, [refused]) == 1
        stream.wait(process, lambda: stream.queries()["fold"]["counts"]["duplicate"] == 1)
        project.wait_until_counted(process, 3)
        assert [letter.is_replayed for letter in project.letters()] == [True]
        assert stream.queries()["fold"]["counts"]["dead_letter"] == 0
        project.stop(process)
