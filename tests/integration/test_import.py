"""Files into the offline store: each event once, through crashes, and joined to the live stream at a cut."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from deltalake import DeltaTable
from imported_shop import DEFINITIONS, T0
from kafka_headers import known_at_header

from features.definitions.repo import load_repo
from features.errors import LeaseError, StoreError
from features.events.parsing import from_columns
from features.formats.reading import read_events
from features.history.archive import IMPORT_PARTITION, open_table
from features.machine import FileLock, free_port
from streaming.archive.cutoff import CutOffs, topic_starts
from streaming.archive.importing import COMMIT_ROWS, REJECTS, Importer, ImportSource, digest_of
from streaming.archive.sink import Archive
from streaming.kafka.topic_admin import ensure_topics

pytestmark = pytest.mark.integration

HOUR_MS = 3_600_000


@pytest.fixture
def project(tmp_path):
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "shop.py").write_text(DEFINITIONS)
    return tmp_path


@pytest.fixture
def repo(project):
    return load_repo(project / "feature_repo")


def write_rows(path: Path, count: int, start: int = T0) -> Path:
    """So many events, a second apart; every hundredth has no user."""
    users = [None if number % 100 == 99 else f"u{number % 7}" for number in range(count)]
    times = start + 1_000 * np.arange(count)
    pq.write_table(pa.table({"event_time": times, "user_id": users, "price": np.arange(count) / 4}), path)
    return path


def source_of(path: Path, repo, kind: str = "parquet", **options) -> ImportSource:
    return ImportSource(path.name, digest_of(path), read_events(path, kind, repo.streams, repo.horizon_ms, **options))


def importer_of(project, repo, **options) -> Importer:
    return Importer(Archive(project / "offline", repo), **options)


def archived(project, repo) -> pa.Table:
    return open_table(project / "offline", repo.streams["shop"]).events().sort_by("offset")


def headrace(project: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *arguments]
    ours = {"HEADRACE_OFFLINE__PATH": "offline", **environ}
    return subprocess.run(command, cwd=project, env=os.environ | ours, capture_output=True, text=True, check=False)


def test_every_event_is_in_the_table_once_however_often_the_file_is_imported(project, repo):
    path = write_rows(project / "rows.parquet", 1_000)
    first = importer_of(project, repo).run(source_of(path, repo))["shop"]
    again = importer_of(project, repo).run(source_of(path, repo, chunk_rows=77))["shop"]
    assert (first.records, first.imported, first.rejected, first.already) == (1_000, 990, 10, 0)
    assert (again.imported, again.rejected, again.already) == (0, 0, 1_000)
    events = archived(project, repo)
    assert events["event_time"].to_pylist() == [T0 + 1_000 * number for number in range(1_000) if number % 100 != 99]
    assert events["known_at"].equals(events["event_time"])
    assert set(events["partition"].to_pylist()) == {IMPORT_PARTITION}
    assert len(set(events["offset"].to_pylist())) == len(set(events["event_id"].to_pylist())) == 990


def test_what_is_no_event_is_kept_with_its_place_and_reason(project, repo):
    path = write_rows(project / "rows.parquet", 300)
    for _ in range(2):
        importer_of(project, repo).run(source_of(path, repo))
    rows = DeltaTable(project / "offline" / REJECTS).to_pyarrow_table().to_pylist()
    assert [(row["file"], row["stream"], row["record"]) for row in rows] == [
        ("rows.parquet", "shop", record) for record in (99, 199, 299)
    ]
    assert all(row["reason"].startswith("missing_field: ") for row in rows)


def test_a_second_file_follows_the_first_and_no_place_is_taken_twice(project, repo):
    one, other = write_rows(project / "one.parquet", 150), write_rows(project / "other.parquet", 250, T0 + HOUR_MS)
    for path in (one, other, one):
        importer_of(project, repo).run(source_of(path, repo))
    assert archived(project, repo)["offset"].to_pylist() == list(range(149 + 248))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_csv_and_lines_are_imported_like_parquet(project, repo, kind):
    lines = [{"event_time": T0 + number, "user_id": "u1", "price": 1.5} for number in range(20)]
    path = project / f"rows.{kind}"
    if kind == "csv":
        path.write_text("event_time,user_id,price\n" + "".join(f"{one['event_time']},u1,1.5\n" for one in lines))
    else:
        path.write_text("".join(f"{json.dumps(one)}\n" for one in [*lines, {"event_time": "never"}]))
    counts = importer_of(project, repo).run(source_of(path, repo, kind))["shop"]
    assert (counts.imported, counts.rejected) == (20, kind == "jsonl")
    events = archived(project, repo)
    assert events["event_time"].to_pylist() == [one["event_time"] for one in lines]
    assert events["event_id"].to_pylist() == [f"{events['event_id'][0].as_py()[:8]}-{row}" for row in range(20)]


def test_a_bad_last_cell_costs_its_row_alone(project, repo):
    rows = [f"{T0 + row},u{row % 7},{row / 4}" for row in range(5_000)]
    path = project / "rows.csv"
    path.write_text("\n".join(["event_time,user_id,price", *rows, f"{T0 + 5_000},u1,n/a"]))
    source = source_of(path, repo, "csv", chunk_rows=1)
    counts = importer_of(project, repo, commit_rows=1_000).run(source)["shop"]
    assert (counts.records, counts.imported, counts.rejected) == (5_001, 5_000, 1)
    (row,) = DeltaTable(project / "offline" / REJECTS).to_pyarrow_table().to_pylist()
    assert row["record"] == 5_000
    assert row["reason"] == (
        """wrong_type: field 'price' requires float64; got string "n/a" (row 5,001, column 'price')"""
    )


def test_imported_history_ends_where_the_topic_begins(project, repo):
    archive = Archive(project / "offline", repo)
    live = {"event_time": [T0 + 500_000], "known_at": [T0 + 500_000], "user_id": ["u1"], "offset": [0]}
    archive.append(repo.streams["shop"], from_columns(pa.table(live), repo.streams["shop"]).events)
    path = write_rows(project / "rows.parquet", 1_000)
    counts = importer_of(project, repo).run(source_of(path, repo))["shop"]
    assert (counts.until_ms, counts.imported, counts.after_cut) == (T0 + 500_000, 495, 495)
    assert archive.end() == {"shop/0": 1}
    events = archived(project, repo)
    assert events["known_at"].to_numpy()[events["partition"].to_numpy() == IMPORT_PARTITION].max() < T0 + 500_000


def test_a_cut_that_is_given_is_the_cut(project, repo):
    path = write_rows(project / "rows.parquet", 90)
    counts = importer_of(project, repo, cut_offs=CutOffs(T0 + 10_000)).run(source_of(path, repo))["shop"]
    assert (counts.imported, counts.after_cut) == (10, 80)


def test_what_lies_past_a_cut_is_brought_by_a_later_one_and_nothing_twice(project, repo, seed):
    times = T0 + 1_000 * np.random.default_rng(seed).permutation(1_000)  # no order of times in the file
    path = project / "rows.parquet"
    users = [None if number % 100 == 99 else "u1" for number in range(1_000)]
    pq.write_table(pa.table({"event_time": times, "user_id": users}), path)
    good = times[np.arange(1_000) % 100 != 99]
    first, second = CutOffs(T0 + 200_000), CutOffs(T0 + 700_000)
    counts = importer_of(project, repo, cut_offs=first).run(source_of(path, repo))["shop"]
    early = int((good < T0 + 200_000).sum())
    assert (counts.imported, counts.rejected, counts.after_cut) == (early, 10, 990 - early)
    with pytest.raises(PowerCutError):
        importer_of(project, repo, cut_offs=second, commit_rows=100, reached=dying_at("after import", 1)).run(
            source_of(path, repo, chunk_rows=100)
        )
    for cuts in (first, second, CutOffs(), first):
        importer_of(project, repo, cut_offs=cuts).run(source_of(path, repo, chunk_rows=77))
        there = archived(project, repo)
        assert len(there) == len(set(there["event_id"].to_pylist()))
    assert sorted(there["event_time"].to_pylist()) == sorted(good.tolist())
    assert there["offset"].to_pylist() == list(range(990))
    assert DeltaTable(project / "offline" / REJECTS).to_pyarrow_table().num_rows == 10


def sent(topic: str, kafka: str, partition: int, known_ms: int) -> None:
    """One event that was known then, into this partition."""
    producer, errors = Producer({"bootstrap.servers": kafka}), []
    value = json.dumps({"event_time": known_ms, "user_id": "u1"}).encode()
    header = known_at_header(known_ms)
    producer.produce(
        topic, value, partition=partition, headers=[header], on_delivery=lambda error, _: errors.append(error)
    )
    assert (producer.flush(60), errors) == (0, [None])


@pytest.fixture
def of_topic(project, unique_name):
    """The project with a topic that no other test has."""
    path = project / "feature_repo" / "shop.py"
    path.write_text(DEFINITIONS.replace('topic="shop"', f'topic="{unique_name}"'))
    return unique_name


def test_history_ends_where_a_topic_begins_that_nothing_was_archived_of(project, kafka, of_topic):
    path = write_rows(project / "rows.parquet", 1_000)
    repo = load_repo(project / "feature_repo")
    assert topic_starts(kafka, repo.streams.values()) == {}
    ensure_topics(kafka, repo.streams.values())
    assert topic_starts(kafka, repo.streams.values()) == {}
    for partition, after_s in ((1, 800), (1, 900), (0, 500)):
        sent(of_topic, kafka, partition, T0 + 1_000 * after_s)
    command = ["import", path.name, "--format", "parquet", "--json"]
    done = headrace(project, *command, HEADRACE_KAFKA__BOOTSTRAP_SERVERS=kafka)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["files"][path.name]["shop"]
    assert (counts["imported"], counts["after_cut"], counts["until_ms"]) == (495, 495, T0 + 500_000)
    assert f"left to {of_topic}, which begins then by Kafka" in done.stderr
    later = headrace(project, *command, "--until", str(T0 + 600_000), HEADRACE_KAFKA__BOOTSTRAP_SERVERS=kafka)
    assert (json.loads(later.stdout)["imported"], "by Kafka" in later.stderr) == (99, False)


def test_nothing_is_imported_while_kafka_does_not_say_where_the_topic_begins(project, repo):
    def asked():
        return topic_starts(f"127.0.0.1:{free_port()}", repo.streams.values(), timeout_s=0.5)

    path = write_rows(project / "rows.parquet", 10)
    with pytest.raises(StoreError, match="say with --until when the topic begins"):
        importer_of(project, repo, cut_offs=CutOffs(None, asked)).run(source_of(path, repo))
    assert open_table(project / "offline", repo.streams["shop"]) is None
    counts = importer_of(project, repo, cut_offs=CutOffs(T0 + 5_000, asked)).run(source_of(path, repo))["shop"]
    assert counts.imported == 5


class PowerCutError(Exception):
    """The end of an import in a test."""


def dying_at(place: str, times: int):
    seen = []

    def reached(where: str) -> None:
        seen.append(where)
        if seen.count(place) == times:
            raise PowerCutError

    return reached


@pytest.mark.parametrize(
    ("place", "times"), [("before import", 1), ("before import", 3), ("after import", 1), ("after import", 3)]
)
def test_an_import_that_dies_in_the_middle_is_ended_by_the_next(project, repo, place, times):
    path = write_rows(project / "rows.parquet", 5_000)
    with pytest.raises(PowerCutError):
        importer_of(project, repo, commit_rows=1_000, reached=dying_at(place, times)).run(
            source_of(path, repo, chunk_rows=300)
        )
    counts = importer_of(project, repo, commit_rows=700).run(source_of(path, repo, chunk_rows=128))["shop"]
    assert counts.imported == 99 * (5_000 - counts.already) // 100
    assert (counts.already > 0) == (times + (place == "after import") > 1)
    assert_whole(project, repo, 5_000)


def assert_whole(project, repo, count):
    good = count * 99 // 100
    events = archived(project, repo)
    assert len(events) == good == len(set(events["event_id"].to_pylist()))
    assert events["offset"].to_pylist() == list(range(good))
    refused = DeltaTable(project / "offline" / REJECTS).to_pyarrow_table()["record"].to_pylist()
    assert sorted(refused) == list(range(99, count, 100))


def test_an_import_that_is_killed_is_ended_by_the_same_command(project, repo):
    count = COMMIT_ROWS + 70_000
    command = ["import", str(write_rows(project / "rows.parquet", count)), "--format", "parquet", "--json"]
    died = headrace(project, *command, HEADRACE_CRASH_AT="after import:1")
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = headrace(project, *command)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["already"] >= COMMIT_ROWS
    assert told["records"] == count
    assert_whole(project, repo, count)


def test_two_imports_at_once_are_refused(project, repo):
    lock = FileLock(project / "offline" / ".import.lock")
    assert lock.take()
    try:
        with pytest.raises(LeaseError, match="one import at a time"):
            importer_of(project, repo).run(source_of(write_rows(project / "rows.parquet", 10), repo))
    finally:
        lock.release()


def test_the_command_says_what_became_of_each_file_and_what_to_do_next(project):
    path = write_rows(project / "rows.parquet", 200)
    done = headrace(project, "import", path.name, "--format", "parquet")
    assert (done.returncode, done.stdout) == (
        0,
        "rows.parquet  198 of 200 imported into shop · 2 refused (2 missing_field), see the table _import_rejects\n",
    )
    assert "headrace features rebuild" in done.stderr
    assert "nothing of shop is archived yet" in done.stderr
    cut = headrace(project, "import", path.name, "--format", "parquet", "--until", str(T0))
    assert "archived yet" not in cut.stderr
    assert "200 there already" in headrace(project, "import", path.name, "--format", "parquet").stdout
    wrong = headrace(project, "import", path.name)
    assert (wrong.returncode, "--format" in wrong.stderr) == (2, True)
    assert headrace(project, "import", "nothing.parquet", "--format", "parquet").returncode == 2
