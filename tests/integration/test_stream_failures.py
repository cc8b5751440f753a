"""What the stream needs goes away under it: its Java, or room on its disk. Nothing is lost, and it says what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from full_disk import fill
from older_kernel import BREAKS, older_compared
from stream_process import StreamProcess

from features.definitions.expressions import conditions
from features.definitions.repo import load_repo
from features.history.point_in_time_join import Spine, point_in_time
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from streaming.dead_letters import read_dead_letters
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics

pytestmark = pytest.mark.integration

DEFINITIONS = """
from headrace import Count, LastK
from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream

user = Entity("user", keys={{"user_id": "string"}})
clicks = Stream("clicks", topic="{topic}", fields={{"user_id": Field("string", required=True), "note": "string"}})
by_user = FeatureView("by_user", sets=[FeatureSet(user, clicks, [Count(), LastK("note", 2)], ["1h"])])
"""
SETTINGS = """
[kafka]
bootstrap_servers = '{}'
[stream]
spark_memory = '512m'
archive_trigger_s = 0.5
[offline]
path = '.headrace/room/offline'
"""
STORE = "online_store:\n  type: SqliteRowsOnlineStore\n  path: ../.headrace/room/online.db\n"
ROOM = "12m"


class Project:
    """A project with one stream, and what was sent to it."""

    def __init__(self, root: Path, bootstrap: str, jars: Path, topic: str) -> None:
        self.room = root / ".headrace" / "room"
        """Where the stores are."""
        self.room.mkdir(parents=True)
        (root / ".headrace" / "jars").symlink_to(jars)
        (root / "feature_repo").mkdir()
        (root / "feature_repo" / "clicks.py").write_text(DEFINITIONS.format(topic=topic), encoding="utf-8")
        (root / "feature_repo" / "feature_store.yaml").write_text(STORE, encoding="utf-8")
        (root / "settings.toml").write_text(SETTINGS.format(bootstrap), encoding="utf-8")
        self.repo = load_repo(root / "feature_repo")
        ensure_topics(bootstrap, self.repo.streams.values())
        self.topic, self.producer = topic, EventProducer(bootstrap)
        self.stream = StreamProcess(root, bootstrap)
        self.sent = 0

    def send(self, count: int, note: str = "") -> None:
        """So many more clicks, each of another user, are in the topic."""
        lost: list[object] = []
        for _ in range(count):
            self.sent += 1
            event = {
                "event_id": f"e{self.sent}",
                "event_time": int(time.time() * 1000),
                "user_id": f"u{self.sent}",
                "note": note,
            }
            value = json.dumps(event).encode()
            self.producer.send(self.topic, b"u", value, [], lambda error, _: lost.append(error))
        assert self.producer.flush(60) == 0
        assert lost == [None] * count

    def check(self) -> None:
        """Every click is in the row and in the table, once."""
        from deltalake import DeltaTable

        view, keys = self.repo.views["by_user"], pa.array([f"u{number + 1}" for number in range(self.sent)])
        values, stream_id = SqliteRows(self.room / "online.db").read("by_user", keys)
        assert stream_id is not None
        found = finalize(view, PackedRows(keys, values), int(time.time() * 1000), stream_id)
        assert found.to_table()["user_count_1h"].to_pylist() == [1] * self.sent
        table = pa.table(DeltaTable(self.room / "offline" / "clicks").to_pyarrow_table())
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


def test_stores_without_room_say_so_and_go_on_when_there_is_room_and_nothing_is_lost(project: Project) -> None:
    mounted = f'mount -t tmpfs -o size={ROOM} tmpfs "$1" && shift && exec "$@"'
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh", str(project.room)]
    if not shutil.which("unshare") or subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a user namespace, to mount a disk that is full")
    project.send(20)
    stream = project.stream
    with stream.running(*within) as process:
        room = Path(f"/proc/{process.pid}/root") / project.room.relative_to("/")
        stream.wait(process, stream.is_drained)
        fill(room / "filler")
        project.send(400, note="n" * 4_000)
        stream.wait(process, lambda: all("room on its disk" in str(one["error"]) for one in stream.queries().values()))
        assert "online.db requires room on its disk; got OperationalError: database or disk is full" in stream.said()
        (room / "filler").unlink()
        stream.wait(process, stream.is_drained)
        assert [one["error"] for one in stream.queries().values()] == [None, None]
        # The disk is mounted for the process alone, and SQLite would open a file beside it: nothing moves in it now.
        project.room = Path(
            shutil.copytree(room, project.room.with_name("copy"), ignore=shutil.ignore_patterns("*-shm"))
        )
        project.check()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


# --- records that break a kernel ------------------------------------------------------------------------------------

BREAKING = """
from older_kernel import older_compared

from features.definitions.expressions import conditions
from headrace import Count, Entity, FeatureSet, FeatureView, Field, Last, Stream, above

conditions._compared = older_compared
user = Entity("user", keys={{"user_id": "string"}})
refs = Stream("refs", topic="{topic}", fields={{"user_id": Field("string", required=True), "ref": "int64"}})
a_all = FeatureView("a_all", sets=[FeatureSet(user, refs, [Count(), Last("ref")], ["1h"])])
b_some = FeatureView("b_some", sets=[FeatureSet(user, refs, [Count()], ["1h"], where={{"ref": above(0.5)}})])
"""


def test_records_that_break_a_kernel_are_letters_and_every_query_goes_on(
    tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in a hundred, batch after batch: no neighbour is lost, and each letter, the log and the status say why."""
    from deltalake import DeltaTable

    support = str(Path(__file__).resolve().parents[1] / "support")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(conditions, "_compared", older_compared)
    root = tmp_path / "project"
    (root / ".headrace").mkdir(parents=True)
    (root / ".headrace" / "jars").symlink_to(spark_jars[0].parent.parent)
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "refs.py").write_text(BREAKING.format(topic=unique_name), encoding="utf-8")
    settings = f"[kafka]\nbootstrap_servers = '{kafka}'\n[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"
    (root / "settings.toml").write_text(settings + "max_offsets_per_trigger = 150\n", encoding="utf-8")
    repo = load_repo(root / "feature_repo")
    ensure_topics(kafka, repo.streams.values())
    producer, stream, sent = EventProducer(kafka), StreamProcess(root, kafka), 500
    broken = [number for number in range(sent) if number % 100 == 7]
    for number in range(sent):
        ref = BREAKS if number in broken else number + 1
        event = {"event_id": f"e{number}", "event_time": int(time.time() * 1000), "user_id": f"u{number}", "ref": ref}
        producer.send(unique_name, b"u", json.dumps(event).encode(), [])
    assert producer.flush(60) == 0
    with stream.running() as process:
        stream.wait(process, stream.is_drained)
        stream.wait(process, lambda: stream.queries()["fold"]["cannot_be_folded"] == len(broken))
        queries = stream.queries()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert queries["fold"]["counts"] == {
        "folded": sent - len(broken),
        "duplicate": 0,
        "late": 0,
        "dead_letter": len(broken),
    }
    assert [(query["restarts"], query["error"]) for query in queries.values()] == [(0, None)] * len(queries)
    letters = {
        json.loads(letter.value or b"{}")["event_id"]: letter.reason for letter in read_dead_letters(kafka, unique_name)
    }
    reason = f"cannot_be_folded: ArrowInvalid: Integer value {BREAKS} not in range"
    assert {name: text[: len(reason)] for name, text in letters.items()} == {f"e{n}": reason for n in broken}
    assert f"as an error was raised with each of them: {reason}" in stream.said()
    keys, rows = pa.array([f"u{number}" for number in range(sent)]), SqliteRows(root / ".headrace" / "online.db")
    events = pa.table(DeltaTable(root / ".headrace" / "offline" / "refs").to_pyarrow_table()).drop_columns(["topic"])
    kept = [int(number not in broken) for number in range(sent)]
    assert sorted(events["event_id"].to_pylist()) == sorted(f"e{number}" for number in range(sent) if kept[number])
    for name, view in repo.views.items():
        values, stream_id = rows.read(name, keys)
        now = int(time.time() * 1000)
        found = finalize(view, PackedRows(keys, values), now, stream_id or 0)
        assert [count or 0 for count in found.columns[0].to_pylist()] == kept
        history = point_in_time(view, Spine(keys, np.full(sent, now)), {"refs": events})
        assert found.to_table().equals(history.to_table())
