"""`headrace features show` without a file: what the online store answers, and the events behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from features.definitions.repo import load_repo
from features.formats.reading import read_events
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.cli import cli
from streaming.archive.sink import Archive

DEFINITIONS = """
from headrace import Count, LastK, Sum
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from headrace import Window

FIELDS = {"user_id": "string", "price": "float64"}
user = Entity("user", keys={"user_id": "string"})
orders = Stream("orders", topic="orders", event_id="id", event_time="at", fields=FIELDS)
visits = Stream("visits", topic="visits", fields={"user_id": "string"})
minute = Window("1m", tile="10s")
aggregations = [Count(), Sum("price"), LastK("price", 2)]
user_orders = FeatureView("user_orders", sets=[FeatureSet(user, orders, aggregations, [minute])])
user_visits = FeatureView("user_visits", sets=[FeatureSet(user, visits, [Count()], [minute])])
"""
T0 = 1_700_000_000_000
ROWS = [
    ("a", 10, "ann", 2.5),
    ("b", 20, "bob", 9.0),
    ("c", 30, "ann", 4.0),
    ("b", 45, "ann", 7.0),
    ("d", 50, "ann", 1.0),
]
FILE = ("--from", "orders.csv", "--format", "csv", "--stream", "orders")
AS_OF = ("--as-of", str(T0 + 70_000))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "orders.py").write_text(DEFINITIONS)
    lines = [f"{id_},{T0 + 1_000 * at},{user},{price}" for id_, at, user, price in ROWS]
    (tmp_path / "orders.csv").write_text("\n".join(["id,at,user_id,price", *lines]))
    monkeypatch.chdir(tmp_path)


def show(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["features", "show", *arguments], prog_name="headrace")


def views(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return {view["view"]: view for view in json.loads(result.stdout)["views"]}


def store(*, archived: bool) -> None:
    """The events of the file are in the project's stores, as the stream leaves them."""
    repo = load_repo("feature_repo")
    parsed = [one.events for _, one in read_events("orders.csv", "csv", repo.streams, stream="orders")]
    events = pa.concat_tables(parsed)
    rows, view = SqliteRows(Path(".headrace/online.db")), repo.views["user_orders"]
    build_generation(rows.generation(7), [view], 7, {"orders": events}, Marker(-1, {}, {}, -1), T0)
    rows.set_current(view.name, 7)
    if archived:
        Archive(Path(".headrace/offline"), repo).append(repo.streams["orders"], events)


def test_the_stores_show_what_the_file_shows() -> None:
    store(archived=True)
    (from_file,) = views(show("user", "ann", *FILE, *AS_OF, "--explain", "--json")).values()
    result = show("user", "ann", *AS_OF, "--explain", "--json")
    found = views(result)
    assert (found["user_orders"].pop("as_of"), found["user_orders"].pop("idle_ms")) == (T0 + 70_000, 20_000)
    assert found["user_orders"] == from_file
    assert [event["event_id"] for event in from_file["events"]] == ["d", "c", "a"]  # bob's b was first
    assert found["user_visits"]["status"] == "NOT_FOUND"
    assert json.loads(result.stdout)["age_ms"] is None
    assert "the stream does not run" in result.stderr
    assert "user ann · user_orders · PRESENT as of" in show("user", "ann", *AS_OF).stdout


def test_a_time_before_a_rows_newest_event_is_answered_as_of_that_and_says_so() -> None:
    store(archived=False)
    result = show("user", "ann", "--as-of", str(T0 + 40_000), "--json", "--view", "user_orders")
    assert views(result)["user_orders"]["as_of"] == T0 + 50_000
    assert "is shown as of then; --from FILE goes back further" in result.stderr


def test_a_row_that_is_too_old_to_be_read_says_how_old_and_the_streams_clock_reads_it() -> None:
    store(archived=True)
    now = show("user", "ann", "--json", "--view", "user_orders")
    assert views(now)["user_orders"]["status"] == "NOT_FOUND"
    assert "user_orders: the row's newest event, of 2023-11-14T22:14:10.000Z, is" in now.stderr
    assert "more than twice its ttl, 1m; --clock stream or --as-of shows it as of then" in now.stderr
    outside = show("user", "ann", "--as-of", str(T0 + 130_000))
    assert "is 1.3 m old: more than its ttl, 1m" in outside.stderr
    assert "newest event" not in show("user", "nobody").stderr
    (found,) = views(show("user", "ann", "--clock", "stream", "--json", "--view", "user_orders")).values()
    assert (found["status"], found["as_of"], found["idle_ms"]) == ("PRESENT", T0 + 50_000, 0)
    bob = views(show("user", "bob", "--clock", "stream", "--json", "--view", "user_orders"))["user_orders"]
    assert (bob["status"], bob["as_of"], bob["idle_ms"]) == ("PRESENT", T0 + 50_000, 30_000)


def test_the_streams_clock_is_the_rows_own_where_nothing_is_archived_yet_and_is_no_instant_beside_another() -> None:
    store(archived=False)
    result = show("user", "ann", "--clock", "stream", "--json", "--view", "user_orders")
    assert views(result)["user_orders"]["as_of"] == T0 + 50_000
    assert "is shown as of then" not in result.stderr
    for others in (AS_OF, FILE):
        wrong = show("user", "ann", "--clock", "stream", *others)
        assert (wrong.exit_code, "--clock requires a read of the online store" in wrong.stderr) == (2, True)


def test_what_nobody_has_folded_is_not_found_and_what_nobody_has_archived_is_not_explained() -> None:
    assert {view["status"] for view in views(show("user", "ann", "--json")).values()} == {"NOT_FOUND"}
    store(archived=False)
    result = show("user", "ann", "--explain")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "requires a table of orders, visits; got none" in result.stderr
