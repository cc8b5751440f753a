"""Upkeep of real Delta tables while they are written and read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

import headrace
from features.definitions import Entity, Stream
from features.definitions.repo import FeatureRepo
from features.events.parsing import from_columns
from features.history.archive import Span, open_table
from headrace.cli import cli
from streaming.archive.appending import append_rows
from streaming.archive.maintenance import maintain, maintained_every, state_of, tables_of
from streaming.archive.sink import Archive

pytestmark = pytest.mark.integration

SHOP = Stream("shop", topic="shop", event_id=None, fields={"user_id": "string", "price": "float64"})
REPO = FeatureRepo(Path(), {"user": Entity("user", {"user_id": "string"})}, {"shop": SHOP}, {})
T0, ROWS = 1_700_000_000_000, 50


def events_of(batch: int) -> pa.Table:
    offset = np.arange(batch * ROWS, (batch + 1) * ROWS)
    columns = {"event_time": T0 + 1_000 * offset, "offset": offset, "user_id": [f"u{n % 7}" for n in offset]}
    return from_columns(pa.table({**columns, "price": offset / 4}), SHOP).events


@pytest.fixture
def archive(tmp_path):
    archive = Archive(tmp_path / "offline", REPO)
    for batch in range(30):
        archive.append(SHOP, events_of(batch))
    return archive


def offsets(archive):
    return sorted(archive.events(SHOP)["offset"].to_pylist())


def test_many_small_files_become_few_and_every_row_and_the_end_of_each_topic_stay(archive):
    table = DeltaTable(archive.path(SHOP))
    done = maintain("shop", table, keep_h=168)
    assert (done.files_before, done.files_after, done.deleted) == (30, 1, 0)
    assert offsets(archive) == list(range(30 * ROWS))
    assert archive.append(SHOP, events_of(29)) == 0
    assert archive.append(SHOP, events_of(30)) == ROWS
    assert archive.end() == {"shop/0": 31 * ROWS}


def test_files_of_old_versions_go_when_their_time_is_over_and_a_checkpoint_keeps_the_ends(archive):
    maintain("shop", DeltaTable(archive.path(SHOP)), keep_h=168)
    assert len(list(archive.path(SHOP).glob("*.parquet"))) == 31
    done = maintain("shop", DeltaTable(archive.path(SHOP)), keep_h=0)
    assert done.deleted == 30
    assert len(list(archive.path(SHOP).glob("*.parquet"))) == 1
    for log in sorted((archive.path(SHOP) / "_delta_log").glob("*.json"))[:-1]:
        log.unlink()  # what is cleaned up once a checkpoint has it
    assert archive.end() == {"shop/0": 30 * ROWS}
    assert archive.append(SHOP, events_of(29)) == 0
    assert offsets(archive) == list(range(30 * ROWS))


def test_a_reader_that_opened_the_table_before_reads_on(archive):
    before = open_table(archive.path(SHOP).parent, SHOP)
    batches = before.batches(["user_id", "offset"])
    first = next(batches)
    archive.append(SHOP, events_of(30))
    maintain("shop", DeltaTable(archive.path(SHOP)), keep_h=1)
    assert len(first) + sum(len(batch) for batch in batches) == 30 * ROWS == len(before.events())


def test_the_writer_goes_on_while_tables_are_compacted(archive):
    def write() -> list[int]:
        return [archive.append(SHOP, events_of(batch)) for batch in range(30, 70)]

    upkeeps = 0
    with ThreadPoolExecutor(1) as threads:
        writer = threads.submit(write)
        while not writer.done():
            maintain("shop", DeltaTable(archive.path(SHOP)), keep_h=1)
            upkeeps += 1
    assert writer.result() == [ROWS] * 40
    assert upkeeps > 0
    assert offsets(archive) == list(range(70 * ROWS))
    assert archive.end() == {"shop/0": 70 * ROWS}


def test_compacted_files_still_say_which_times_they_hold(archive):
    maintain("shop", DeltaTable(archive.path(SHOP)), keep_h=168)
    table = archive.read(SHOP)
    middle = T0 + 1_000 * 10 * ROWS
    assert table.rows(Span(end_ms=T0)) == 0
    assert len(table.events(span=Span(middle, middle + 5_000))) == 5


def test_the_command_shows_tables_and_compacts_them(archive, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "headrace", "tables", *arguments]
        ours = os.environ | {"HEADRACE_OFFLINE__PATH": "offline"}
        done = subprocess.run(command, cwd=tmp_path, env=ours, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    (shown,) = json.loads(run("--json").stdout)
    (state,) = (state_of(name, table) for name, table in tables_of(tmp_path / "offline"))
    assert shown == {"table": "shop", "rows": 30 * ROWS, "files": 30, "bytes": state.bytes, "version": 29}
    (done,) = json.loads(run("compact", "--json").stdout)
    assert (done["files_before"], done["files_after"]) == (30, 1)
    refused = CliRunner().invoke(cli, ["tables", "compact", "--keep-hours", "1.5"])
    assert (refused.exit_code, "'1.5' is not a valid integer" in refused.output) == (2, True)
    assert run().stdout.split()[:5] == ["table", "rows", "files", "bytes", "version"]


def test_tables_are_kept_up_beside_whatever_runs_and_a_failure_is_told(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_OFFLINE__PATH", "offline")
    monkeypatch.setenv("PYTHONPATH", str(Path(headrace.__file__).parent.parent))
    said = []
    with maintained_every(0.1, tmp_path, said.append):
        until(lambda: len(DeltaTable(archive.path(SHOP)).file_uris()) == 1)
    assert (offsets(archive), said) == (list(range(30 * ROWS)), [])
    with maintained_every(0.1, tmp_path, said.append, [sys.executable, "-c", "raise SystemExit(3)"]):
        until(lambda: said)
    assert "failed (exit 3); by hand: headrace tables compact" in said[0]


def test_upkeep_that_runs_when_all_ends_is_ended_too(tmp_path):
    left = "from pathlib import Path; import time; Path('began').touch(); time.sleep(600); Path('ended').touch()"
    said = []
    with maintained_every(0.1, tmp_path, said.append, [sys.executable, "-c", left]):
        until((tmp_path / "began").exists)
    assert (said, (tmp_path / "ended").exists()) == ([], False)
    assert "maintenance" not in [thread.name for thread in threading.enumerate()]


def until(seen):
    """Return when it is seen; two minutes are for a busy machine."""
    deadline = time.monotonic() + 120
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_writers_that_make_a_table_at_the_same_time_lose_nothing(tmp_path):
    def write(table: Path, started: threading.Barrier, writer: int) -> None:
        started.wait()
        append_rows(table, pa.table({"writer": [writer]}), {f"writer-{writer}": 0})

    for trial in range(5):
        table, started = tmp_path / f"table-{trial}", threading.Barrier(3)
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(partial(write, table, started), range(3)))
        assert sorted(DeltaTable(table).to_pyarrow_table()["writer"].to_pylist()) == [0, 1, 2]
