"""An entity is forgotten: nothing of it is left in rows, pending events, sessions, tables and files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake
from serving_world import REPO

from features.definitions import Entity
from features.definitions.repo import load_repo
from features.errors import StoreError
from features.events.parsing import from_columns
from features.hashing import hash_texts
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker, PendingEvent
from features.online_store.settings import StoreSettings
from headrace.cli import cli
from streaming.forget import Places, Subject, forget
from streaming.forget.search import times_in

GONE, STAYS = "user-gone-0815", "user-stays-4711"
VIEWS = ("user_activity", "item_activity")
USER = Entity("user", keys={"user_id": "string"})


@pytest.fixture(scope="module")
def repo():
    return load_repo(REPO)


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def store(request, tmp_path) -> Iterator[StoreSettings]:
    (tmp_path / "home").mkdir()
    if request.param == "sqlite":
        yield StoreSettings(address=str(tmp_path / "home" / "online.db"), project="shop")
    elif request.param == "redis":
        url = request.getfixturevalue("redis_url")
        yield StoreSettings(kind="redis", address=url, project=f"forget-{tmp_path.name}")
    else:
        url = request.getfixturevalue("cluster")[0].url
        yield StoreSettings(kind="redis", address=url, mode="cluster", project=f"forget-{tmp_path.name}")


def events(repo):
    now = time.time_ns() // 1_000_000
    users = [GONE, GONE, STAYS, STAYS]
    table = pa.table(
        {
            "event_id": [f"e{number}" for number in range(4)],
            "event_time": pa.array([now - 60_000 + number for number in range(4)]),
            "event_type": ["view"] * 4,
            "user_id": users,
            "session_id": [f"session-of-{user}" for user in users],
            "item_id": ["tea", "milk", "tea", "milk"],
        }
    )
    return from_columns(table, repo.streams["activity"]).events


@pytest.fixture
def places(store, repo, tmp_path) -> Places:
    """Two generations, pending events, sessions, tables of the archive, of alerts and of refused rows, kept stages."""
    home, offline = tmp_path / "home", tmp_path / "home" / "offline"
    views, now = [repo.views[name] for name in VIEWS], time.time_ns() // 1_000_000
    with closing(store.open()) as rows:
        for stream_id in (7, 8):
            build_generation(
                rows.generation(stream_id), views, stream_id, {"activity": events(repo)}, Marker(0, {}, {}, 0), now
            )
        for view in VIEWS:
            rows.set_current(view, 8)
        pending = rows.pending()
        for number, user in enumerate((GONE, STAYS)):
            value = json.dumps({"user_id": user, "item_id": "tea"}).encode()
            keys = (("user_activity", user), ("item_activity", "tea"))
            pending.put([PendingEvent(view, key, "t/0", number, now, value) for view, key in keys], 600_000)
            pending.add_to_session(f"session-of-{user}", ["tea"], 600_000)
    table = events(repo)
    for part in (table.slice(0, 3), table.slice(3)):
        write_deltalake(offline / "activity", part, mode="append")
    alerts = [{"alert_id": user, "event": json.dumps({"user_id": user, "item_id": "x"})} for user in (GONE, STAYS)]
    write_deltalake(offline / "alerts", pa.Table.from_pylist(alerts))
    rejects = [{"file": "f", "record": 1, "reason": f"got {user}"} for user in (GONE, STAYS)]
    write_deltalake(offline / "_import_rejects", pa.Table.from_pylist(rejects))
    DeltaTable(offline / "activity").create_checkpoint()
    (home / "training" / "shop").mkdir(parents=True)
    (home / "training" / "shop" / "users.json").write_text(GONE)
    return Places(repo, home, offline, store.erasure(), [home], ["activity"])


def bytes_of(folder: Path, text: str) -> list[str]:
    """The files that have the text, also within Parquet."""
    pattern = Subject(USER, {"user_id": text}).pattern
    return [str(path) for path in folder.rglob("*") if path.is_file() and times_in(path, pattern)]


def test_nothing_is_left_of_who_is_forgotten_and_all_of_others_is(places, store, repo):
    subject = Subject(USER, {"user_id": GONE})
    counted = forget(places, subject, 0, dry_run=True)
    assert bytes_of(places.offline / "activity", GONE), "the counting deletes nothing"
    report = forget(places, subject, 0)
    expected = {"user_activity": 2}
    for each in (counted, report):
        assert each.deleted["rows"] == expected
        assert (each.deleted["pending"], each.deleted["sessions"], each.deleted["training_stages"]) == (1, 1, 1)
        assert each.deleted["tables"] == {"activity": 2, "alerts": 1, "_import_rejects": 1}
    assert not counted.is_clean
    assert (report.is_clean, report.found) == (True, [])
    assert bytes_of(places.home, GONE) == []
    with closing(store.open()) as rows:
        keys = pa.array([GONE, STAYS])
        assert [value is not None for value in rows.read("user_activity", keys)[0].to_pylist()] == [False, True]
        assert sorted(rows.keys("user_activity").to_pylist()) == [STAYS]
        pending = rows.pending()
        assert [len(pending.of("user_activity", [key])) for key in (GONE, STAYS)] == [0, 1]
        assert len(pending.of("item_activity", ["tea"])) == 1
        assert pending.size()[0] == 2
        assert [pending.session(f"session-of-{user}") for user in (GONE, STAYS)] == [(), ("tea",)]
    for table, rows_left in (("activity", 2), ("alerts", 1), ("_import_rejects", 1)):
        assert DeltaTable(places.offline / table).to_pyarrow_dataset().count_rows() == rows_left
        assert bytes_of(places.offline / table, STAYS)
    assert forget(places, subject, 0).deleted["tables"] == {}


def test_a_crash_among_the_tables_leaves_no_session_that_nothing_names_any_more(places, store, monkeypatch):
    def no_disk(path: Path, _: Subject) -> None:
        if path.name == "activity":
            raise OSError("the disk is gone")

    subject = Subject(USER, {"user_id": GONE})
    with monkeypatch.context() as crashing:
        crashing.setattr("streaming.forget.tables._purge", no_disk)
        with pytest.raises(StoreError, match="the disk is gone"):
            forget(places, subject, 0)
    assert DeltaTable(places.offline / "activity").to_pyarrow_dataset().count_rows() == 2
    forget(places, subject, 0)
    with closing(store.open()) as rows:
        assert rows.pending().session(f"session-of-{GONE}") == ()
    assert bytes_of(places.home, GONE) == []


def test_a_table_is_written_on_after_what_its_log_lost(places):
    """Its versions go on, and a writer that opened it before finds what was deleted."""
    open_before = DeltaTable(places.offline / "activity")
    version = open_before.version()
    forget(places, Subject(USER, {"user_id": GONE}), 0)
    open_before.update_incremental()
    assert open_before.version() == DeltaTable(places.offline / "activity").version() > version
    write_deltalake(open_before, pa.table({"event_id": ["late"]}), mode="append", schema_mode="merge")
    assert DeltaTable(places.offline / "activity").to_pyarrow_dataset().count_rows() == 3


def test_cells_of_a_table_that_a_driver_dropped_after_the_look_are_none_to_delete(places, store):
    cells = [cell for cell, _ in places.store.cells() if cell[0] == 7]
    with closing(store.open()) as rows:
        rows.drop_generation(7)
    places.store.delete(cells)
    assert {stream_id for (stream_id, *_), _ in places.store.cells()} == {8}


def test_what_is_found_afterwards_is_told_with_its_place(places):
    (places.home / "note.txt").write_text(f"about {GONE}, and {GONE}")
    report = forget(places, Subject(USER, {"user_id": GONE}), 0)
    assert not report.is_clean
    assert report.found == [{"place": str(places.home / "note.txt"), "times": 2, "folded": False}]


def test_a_model_that_has_the_hash_of_the_id_is_named(places):
    np.savez(places.home / "candidates.npz", users=hash_texts(pa.array([STAYS])))
    assert not any("candidates" in each["what"] for each in forget(places, Subject(USER, {"user_id": GONE}), 0).kept)
    kept = forget(places, Subject(USER, {"user_id": STAYS}), 0).kept
    assert any("candidates.npz" in each["what"] and each["until"] == "headrace train" for each in kept)


@pytest.mark.parametrize(
    ("cell_key", "is_of"),
    [("2:u1,1:7,", True), ("2:u1,2:77,", True), ("3:u11,1:7,", False), ("1:u,3:1,7,", False), ("", False)],
)
def test_rows_of_an_entity_with_more_keys_are_of_the_subject_too(cell_key, is_of):
    both = Entity("user_shop", keys={"user_id": "string", "shop": "int64"})
    assert Subject(USER, {"user_id": "u1"}).is_of(both, cell_key) is is_of
    assert Subject(both, {"user_id": "u1", "shop": 7}).is_of(USER, "u1") is False


def test_a_short_id_is_a_word_of_its_own_and_a_long_one_stands_anywhere():
    short, long = (Subject(USER, {"user_id": text}).pattern for text in ("u1", "user-0815"))
    assert [bool(short.search(text)) for text in (b'"u1"', b"u12", b"xu1", b"a u1,")] == [True, False, False, True]
    assert long.search(b"xuser-0815y")


def test_the_command_deletes_and_says_what_stays(tmp_path, monkeypatch):
    (tmp_path / "feature_repo").mkdir()
    for name in ("shop.py", "cards.py"):
        (tmp_path / "feature_repo" / name).write_text((REPO / name).read_text())
    monkeypatch.chdir(tmp_path)
    offline = tmp_path / ".headrace" / "offline"
    offline.mkdir(parents=True)
    write_deltalake(offline / "activity", events(load_repo(REPO)))
    done = CliRunner().invoke(cli, ["forget", "user", GONE, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["deleted"]["tables"], report["clean"]) == ({"activity": 2}, True)
    assert any("no broker" in each["why"] for each in report["kept"])
    done = CliRunner().invoke(cli, ["forget", "user", STAYS, "--dry-run"])
    assert (done.exit_code, "would delete 2 tables of activity" in done.stdout) == (0, True), done.output
    for words in (["nobody", "x"], ["user", ""]):
        assert CliRunner().invoke(cli, ["forget", *words]).exit_code == 2


def test_a_short_id_is_looked_for_in_texts_and_keys_and_not_among_bytes(places):
    """Hashes and packed numbers have every short text in them."""
    (places.home / "hashes.bin").write_bytes(b"\0\1u1\0")
    (places.home / "notes.txt").write_text("of u1, not u12")
    report = forget(places, Subject(USER, {"user_id": "u1"}), 0)
    assert [each["place"] for each in report.found] == [str(places.home / "notes.txt")]
    assert any("binary files" in each["what"] for each in report.kept)
    assert not any("binary files" in each["what"] for each in forget(places, Subject(USER, {"user_id": GONE}), 0).kept)
