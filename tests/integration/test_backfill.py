"""`headrace features backfill`: a file's rows with the features that they had then, and what is no spine."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from features.definitions.repo import load_repo
from features.events.parsing import from_columns
from headrace.cli import cli
from streaming.archive.sink import Archive

pytestmark = pytest.mark.integration
DEFINITIONS = """
from headrace import Count, Sum
from features.definitions import Entity, FeatureSet, FeatureView, Stream

orders = Stream("orders", topic="orders", fields={"user_id": "string", "shop": "int64", "price": "float64"})
user, shop = Entity("user", keys={"user_id": "string"}), Entity("shop", keys={"shop": "int64"})
by_user = FeatureView("by_user", ttl="24h", sets=[FeatureSet(user, orders, [Count(), Sum("price")], ["1h"])])
by_shop = FeatureView("by_shop", sets=[FeatureSet(shop, orders, [Count()], ["1h"])])
"""
T0, MINUTE_MS = 1_700_000_000_000, 60_000
SPINE = pd.DataFrame(
    {
        "user_id": ["007", "007", "nobody", "007", None],
        "event_timestamp": [T0 + minute * MINUTE_MS for minute in (3, 1, 3, 90, 3)],
        "note": ["c", "a", "?", "d", "e"],
    }
)
COUNTS, SUMS = [2, 1, None, 0, None], [3.0, 1.0, None, 0.0, None]


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    """Three orders: at 1, 2 and 4 minutes."""
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "shop.py").write_text(DEFINITIONS)
    repo = load_repo(tmp_path / "feature_repo")
    times = [T0 + minute * MINUTE_MS for minute in (1, 2, 4)]
    table = pa.table(
        {"event_time": times, "known_at": times, "offset": [0, 1, 2], "user_id": ["007"] * 3, "shop": [1, 2, 1]}
    )
    events = from_columns(table.append_column("price", pa.array([1.0, 2.0, 4.0])), repo.streams["orders"]).events
    Archive(tmp_path / ".headrace" / "offline", repo).append(repo.streams["orders"], events)
    monkeypatch.chdir(tmp_path)


def backfill(*arguments: str):
    return CliRunner().invoke(cli, ["features", "backfill", *arguments])


@pytest.mark.parametrize("kind", ["ms.csv", "ms.parquet", "texts.csv", "times.parquet"])
def test_every_row_comes_back_in_its_place_with_what_was_known_then(kind):
    times = pd.to_datetime(SPINE["event_timestamp"], unit="ms", utc=True)
    written = {"ms": SPINE["event_timestamp"], "times": times, "texts": times.dt.strftime("%Y-%m-%dT%H:%M:%SZ")}
    frame = SPINE.assign(event_timestamp=written[kind.partition(".")[0]])
    (frame.to_csv if kind.endswith("csv") else frame.to_parquet)(kind, index=False)
    done = backfill(kind, "--out", "made/set.parquet", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["views"]) == (5, {"by_user": 2})
    found = pq.read_table("made/set.parquet").to_pydict()
    assert list(found) == ["user_id", "event_timestamp", "note", "user_count_1h", "user_price_sum_1h"]
    assert (found["note"], found["user_count_1h"], found["user_price_sum_1h"]) == (list(SPINE["note"]), COUNTS, SUMS)
    assert found["user_id"] == ["007", "007", "nobody", "007", None]


def test_a_spine_with_the_keys_of_several_views_gets_the_features_of_all_or_of_those_that_are_named():
    SPINE.assign(shop=[1, 1, 2, 3, 2]).to_parquet("spine.parquet", index=False)
    assert json.loads(backfill("spine.parquet", "--out", "a", "--json").stdout)["views"] == {"by_user": 2, "by_shop": 1}
    assert pq.read_table("a")["shop_count_1h"].to_pylist() == [1, 1, 1, None, 1]
    assert (
        backfill("spine.parquet", "--out", "a", "--view", "by_shop").stdout == "a: 5 rows with 1 features of by_shop\n"
    )


def test_a_spine_without_rows_has_the_columns():
    SPINE[:0].astype({"user_id": str}).to_csv("spine.csv", index=False)
    assert backfill("spine.csv", "--out", "a").exit_code == 0
    assert pq.read_table("a").num_rows == 0
    assert "user_count_1h" in pq.read_table("a").column_names


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("user_id\nu1\n", (), "event_timestamp and the keys"),
        ("who,event_timestamp\nu1,5\n", (), "the keys of a feature view"),
        ("who,event_timestamp\nu1,5\n", ("--view", "by_user"), "event_timestamp and user_id"),
        ("user_id,event_timestamp\nu1,5\n", ("--view", "nobody"), "one of by_user, by_shop"),
        ("userid,event_timestamp\nu1,5\n", (), "'userid' is nearly 'user_id'"),
        ("user_id,event_timestamp\nu1,yesterday\nu2,\n", (), "2 of 2 rows refused (1 bad_time, 1 missing_field)"),
        ("user_id,event_timestamp,user_count_1h\nu1,5,1\n", (), "different names"),
        (f"user_id,event_timestamp\nu1,{T0}\n", (), "a file that can be written"),
        ("user_id,event_timestamp\nu1,1714554001123456\n", (), "looks like microseconds read as milliseconds"),
        (f"user_id,event_timestamp\nu1,{T0}\nu1,{T0 // 1_000}\n", (), "looks like seconds read as milliseconds"),
        (None, (), "nothing there"),
    ],
)
def test_what_cannot_be_answered_is_asked_wrongly(tmp_path, text, arguments, words):
    if text is not None:
        (tmp_path / "spine.csv").write_text(text)
    done = backfill("spine.csv", "--out", str(tmp_path), *arguments)
    assert (done.exit_code, words in done.stderr) == (2, True), done.stderr


def test_rows_that_cannot_be_read_are_left_out_and_said(tmp_path):
    """A key that is no number, a short row, a byte of Latin-1, and a quote that never closes."""
    lines = [
        b"shop,event_timestamp,note",
        b"1,%d,a",
        b"n/a,%d,b",
        b"1",
        b"1,%d,caf\xe9",
        b'1,%d,"e',
        b"1.0,%d,f",
        b"1,%d,g",
    ]
    time = str(T0 + 3 * MINUTE_MS).encode()
    (tmp_path / "spine.csv").write_bytes(b"\n".join(line.replace(b"%d", time) for line in lines))
    done = backfill("spine.csv", "--out", "a", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["refused"]) == (2, 5)
    assert "5 of 7 rows refused (2 wrong_type, 2 bad_row, 1 bad_utf8)" in done.stderr
    assert "field 'shop' requires int64; got string \"n/a\" (row 2)" in told["examples"][0]
    found = pq.read_table("a").to_pydict()
    assert (found["note"], found["shop_count_1h"]) == (["a", "g"], [1, 1])
    (tmp_path / "spine.csv").write_bytes(b"\n".join(lines[:1] + lines[2:3]))
    assert backfill("spine.csv", "--out", "a").exit_code == 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_without_a_time_are_left_out_and_said(kind):
    times = [str(T0 + 3 * MINUTE_MS), "yesterday", None, "2023-11-14T22:16:20Z"]
    frame = pd.DataFrame({"user_id": ["007"] * 4, "event_timestamp": times, "note": list("abcd")})
    (frame.to_csv if kind == "csv" else frame.to_parquet)(f"spine.{kind}", index=False)
    done = backfill(f"spine.{kind}", "--out", "a")
    assert done.exit_code == 0, done.stderr
    assert "2 of 4 rows refused (1 bad_time, 1 missing_field)" in done.stderr
    found = pq.read_table("a").to_pydict()
    assert (found["note"], found["user_count_1h"]) == (["a", "d"], [2, 2])


def test_a_key_column_of_another_type_is_refused_with_its_name():
    for shops in (["one"] * 5, [1.0, 1.5, 1.0, 1.0, 1.0], [True] * 5, [2.0**53] * 5):
        SPINE.assign(shop=shops).to_parquet("spine.parquet", index=False)
        done = backfill("spine.parquet", "--out", "a", "--view", "by_shop")
        assert (done.exit_code, "column 'shop' requires int64" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("shops", [[1, 1, 2, 3, None], ["1", " 1", "+2", "03", None], [1.0, 1.0, 2.0, 3.0, None]])
def test_a_key_is_the_same_as_text_integer_and_float_and_null_is_nobody(shops):
    SPINE.assign(shop=shops).to_parquet("spine.parquet", index=False)
    assert backfill("spine.parquet", "--out", "a", "--view", "by_shop").exit_code == 0
    assert pq.read_table("a")["shop_count_1h"].to_pylist() == [1, 1, 1, None, None]
