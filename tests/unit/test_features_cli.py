"""`headrace features`: what list, show and check print, and what they refuse."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import headrace
from features.checks.entity import find_entity
from features.definitions import Entity
from features.definitions import aggregations as agg
from features.definitions.describe import aggregation_text, expression_text
from features.definitions.expressions import above, difference
from features.definitions.repo import load_repo
from features.definitions.windows import Bounds
from features.errors import UsageError
from features.events import parsed_key, parsed_time
from features.formats.reading import read_events
from headrace.cli import cli

DEFINITIONS = """
from headrace import Count, LastK, Sum
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from headrace import ratio
from headrace import Window

user = Entity("user", keys={"user_id": "string"})
place = Entity("place", keys={"shop": "int64", "till": "string"})
orders = Stream(
    "orders",
    topic="orders",
    event_time="at",
    event_id="id",
    fields={"user_id": "string", "shop": "int64", "till": "string", "price": "float64", "kind": "string"},
)
visits = Stream("visits", topic="visits", fields={"user_id": "string"})
minute = Window("1m", tile="10s")
user_orders = FeatureView(
    "user_orders",
    description="What a user buys.",
    sets=[
        FeatureSet(user, orders, [Count(), Sum("price"), LastK("price", 2)], [minute]),
        FeatureSet(user, orders, [Count()], [Window("1m", tile="10s", delay="1m")], where={"kind": "paid"}),
    ],
    derived={"mean_price": ratio("user_price_sum_1m", "user_count_1m")},
    version=3,
)
place_orders = FeatureView("place_orders", sets=[FeatureSet(place, orders, [Count()], [minute])])
user_visits = FeatureView("user_visits", sets=[FeatureSet(user, visits, [Count()], [minute])])
"""
T0 = 1_700_000_000_000
ROWS = [
    ("a", 10, "ann", 1, "x,1", 2.5, "paid"),
    ("b", 20, "bob", 1, "x,1", 9.0, "paid"),
    ("c", 30, "ann", 2, "y", 4.0, "open"),
    ("d", 50, "ann", 1, "y", 1.0, "paid"),
    ("b", 55, "ann", 1, "y", 100.0, "paid"),  # bob's b was first
    ("e", 60, "eve", 2, "y", 3.0, "paid"),
]
CSV = "id,at,user_id,shop,till,price,kind\n" + "".join(
    f'{id_},{T0 + 1_000 * at},{user},{shop},"{till}",{price},{kind}\n'
    for id_, at, user, shop, till, price, kind in ROWS
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "orders.py").write_text(DEFINITIONS)
    (tmp_path / "orders.csv").write_text(CSV)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["features", *arguments], prog_name="headrace")


FILE = ("--from", "orders.csv", "--format", "csv", "--stream", "orders")


def show(*arguments: str) -> dict[str, Any]:
    result = run("show", *arguments, *FILE, "--json")
    assert result.exit_code == 0, result.stderr
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


# --- list ------------------------------------------------------------------------------------------------------------


def test_list_has_every_feature_in_order_with_what_follows_from_its_definition() -> None:
    views = {view["view"]: view for view in json.loads(run("list", "--json").stdout)["views"]}
    repo = load_repo("feature_repo")
    assert {name: tuple(f["feature"] for f in view["features"]) for name, view in views.items()} == {
        name: view.names for name, view in repo.views.items()
    }
    user_orders = views["user_orders"]
    assert user_orders["schema_hash"] == f"{repo.views['user_orders'].schema_hash:016x}"
    assert (user_orders["version"], user_orders["entity"], user_orders["streams"]) == (3, "user", ["orders"])
    assert user_orders["features"][3] == {
        "feature": "user_paid_count_1m_delay_1m",
        "dtype": "int64",
        "stream": "orders",
        "window": "1m, 1m ago",
        "tile": "10s",
        "meaning": "events where kind is paid",
    }
    assert user_orders["features"][4]["meaning"] == "price_sum_1m / count_1m"


def test_the_definitions_are_those_that_the_settings_name() -> None:
    Path("feature_repo").rename("mine")
    Path("settings.toml").write_text('[stream]\nrepo = "mine"\n')
    assert run("list").stdout == run("list", "--repo", "mine").stdout != ""
    assert show("user", "ann")["views"]


def test_list_is_a_table_for_people_without_escape_codes_where_nobody_looks() -> None:
    text = run("list", "--view", "user_orders").stdout
    assert text.splitlines()[0].startswith("user_orders · user (user_id string) from orders · version 3 · schema ")
    assert text.splitlines()[1] == "What a user buys."
    assert text.splitlines()[2].split() == ["feature", "dtype", "stream", "window", "tile", "meaning"]
    assert text.splitlines()[3].split() == ["user_count_1m", "int64", "orders", "1m", "10s", "events"]
    assert "\x1b" not in text
    assert "place_orders" not in text


@pytest.mark.parametrize(
    ("aggregation", "text"),
    [
        (agg.Count("price"), "events with a price"),
        (
            agg.Sum("a", where={"a": above(5), "kind": ["x", "y", "z"]}),
            "sum of a where a > 5 and kind is x, y or z",
        ),
        (agg.LastK("item", 3, where={"member": False}), "newest 3 item where not member; newest first"),
        (agg.Quantile("price", 0.95), "0.95 quantile of price; within 1 %"),
        (agg.Variance("price"), "variance of price"),
        (agg.StdDev("price", where={"kind": "a"}), "standard deviation of price where kind is a"),
        (agg.ZScore("price"), "newest price less its mean; in standard deviations"),
        (agg.Change("price"), "newest price less the one before"),
        (agg.Slope("price", per="1d"), "slope of price over time; per 24h"),
        (agg.ExponentialMean("price", "1h"), "mean price; each value counts half after every 1h"),
        (agg.Ratio(agg.Count(where={"kind": "a"}), agg.Count()), "(events where kind is a) / (events)"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.label,
)
def test_a_meaning_is_said_in_words(aggregation: Any, text: str) -> None:
    assert aggregation_text(aggregation) == text


def test_a_derived_feature_is_its_arithmetic() -> None:
    assert expression_text(difference("user_a", "user_b"), "user") == "a - b"


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_is_as_of_the_newest_event_of_the_file_unless_it_is_told() -> None:
    shown = show("user", "ann", "--view", "user_orders")
    assert (shown["entity"], shown["key"], shown["as_of"]) == ("user", {"user_id": "ann"}, T0 + 60_000)
    (view,) = shown["views"]
    assert (view["status"], view["newest_event"]) == ("PRESENT", T0 + 50_000)
    assert view["features"] == {
        "user_count_1m": 3,
        "user_price_sum_1m": 7.5,
        "user_price_last_2_1m": [1.0, 4.0],
        "user_paid_count_1m_delay_1m": 0,
        "user_mean_price": 2.5,
    }


@pytest.mark.parametrize("time", [str(T0 + 31_000), "2023-11-14T22:13:51Z", "2023-11-14T23:13:51.000+01:00"])
def test_show_takes_times_as_epoch_ms_or_rfc_3339_and_sees_nothing_later(time: str) -> None:
    shown = show("user", "ann", "--as-of", time)
    assert shown["as_of"] == T0 + 31_000
    assert shown["views"][0]["features"]["user_price_last_2_1m"] == [4.0, 2.5]


def test_show_has_every_view_of_the_entity_that_the_file_can_fill() -> None:
    assert [view["view"] for view in show("user", "ann")["views"]] == ["user_orders"]


def test_a_composite_id_names_its_keys_in_any_order() -> None:
    for text in ("shop=1,till=y", "till=y,shop=1"):
        shown = show("place", text)
        assert shown["key"] == {"shop": 1, "till": "y"}
        assert shown["views"][0]["features"] == {"place_count_1m": 1}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nobody",), "NOT_FOUND"),
        (("ann", "--as-of", str(T0 + 9_999)), "NOT_FOUND"),
        (("ann", "--as-of", str(T0 + 50_000 + 120_001)), "OUTSIDE_MAX_AGE"),
        (("ann", "--as-of", str(T0 + 50_000 + 240_001)), "NOT_FOUND"),
    ],
)
def test_an_absent_or_old_entity_is_called_so_and_that_is_no_failure(arguments: tuple[str, ...], status: str) -> None:
    (view,) = show("user", *arguments)["views"]
    assert view["status"] == status
    assert set(view["features"].values()) == {None}
    result = run("show", "user", *arguments, *FILE)
    assert result.exit_code == 0
    assert status in result.stdout
    assert "user_count_1m" not in result.stdout


def test_explain_has_the_events_inside_the_longest_window_newest_first() -> None:
    (view,) = show("user", "ann", "--as-of", str(T0 + 51_000), "--explain")["views"]
    assert [event["event_id"] for event in view["events"]] == ["d", "c", "a"]
    assert view["events"][0] == {
        "stream": "orders",
        "event_id": "d",
        "event_time": T0 + 50_000,
        "price": 1.0,
        "kind": "paid",
    }
    assert view["more_events"] == 0
    assert show("user", "ann", "--as-of", str(T0 + 131_000), "--explain")["views"][0]["events"][-1]["event_id"] == "a"
    assert show("user", "ann", "--as-of", str(T0 + 149_000), "--explain")["views"][0]["events"][-1]["event_id"] == "c"


def test_explain_shows_some_events_and_counts_the_rest() -> None:
    rows = "".join(f"n{n},{T0 + 1_000 + n},zoe,1,y,1,paid\n" for n in range(50))
    Path("orders.csv").write_text(CSV + rows)
    text = run("show", "user", "zoe", *FILE, "--explain").stdout
    assert text.splitlines()[-1] == "and 30 older"
    assert text.count("paid") - text.count("user_paid") == 20
    assert "2023-11-14T22:13:21.049Z" in text


def test_the_first_record_of_an_id_counts_also_where_another_entitys_chunk_has_it(tmp_path: Path) -> None:
    names = ["id", "at", "user_id", "shop", "till", "price", "kind"]
    columns = dict(zip(names, map(list, zip(*ROWS, strict=True)), strict=True))
    columns["at"] = [T0 + 1_000 * at for at in columns["at"]]
    pq.write_table(pa.table(columns), tmp_path / "orders.parquet")
    repo = load_repo("feature_repo")
    read = partial(read_events, "orders.parquet", "parquet", repo.streams, stream="orders", chunk_rows=1)
    found = find_entity(read, repo.streams, repo.entities["user"], {"user_id": "ann"})
    assert found.events["orders"]["event_id"].to_pylist() == ["a", "c", "d"]
    assert found.clock == T0 + 60_000


def test_a_column_of_the_file_may_have_another_name() -> None:
    Path("orders.csv").write_text(CSV.replace("user_id", "Customer No."))
    (view,) = show("user", "ann", "--column", "user_id=Customer No.")["views"]
    assert view["features"]["user_count_1m"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "user", "ann", "--format", "csv"), ("--from", "no --from")),
        (("show", "user", "ann", "--from", "orders.csv"), ("--format", "jsonl")),
        (("show", "user", "ann", "--from", "orders.csv", "--format", "xml"), ("online-retail", "'xml'")),
        (("show", "user", "ann", "--from", "none.csv", *FILE[2:]), ("none.csv", "nothing there")),
        (("show", "user", "ann", *FILE[:4]), ("stream", "orders, visits")),
        (("show", "user", "ann", *FILE, "--column", "user_id"), ("OURS=THEIRS",)),
        (("show", "usr", "ann", *FILE), ("user, place", "'usr'")),
        (("show", "place", "1", *FILE), ("shop=…,till=…", "'1'")),
        (("show", "place", "shop=1,till=y,till=z", *FILE), ("shop=…,till=…",)),
        (("show", "place", "shop=one,till=y", *FILE), ("int64", '"one"')),
        (("show", "place", f"shop={2**63},till=y", *FILE), ("int64",)),
        (("show", "user", "ann", *FILE, "--as-of", "yesterday"), ("RFC 3339", "'yesterday'")),
        (("show", "user", "ann", *FILE, "--as-of", "2023-11-14T22:13:51"), ("zone",)),
        (("show", "user", "ann", *FILE, "--view", "usr_orders"), ("user_orders", "'usr_orders'")),
        (("show", "user", "ann", *FILE, "--view", "place_orders"), ("user_orders, user_visits", "'place_orders'")),
        (("show", "user", "ann", *FILE, "--view", "user_visits"), ("events of visits", "orders")),
        (("list", "--view", "orders"), ("user_orders", "'orders'")),
        (("list", "--repo", "nowhere"), ("nowhere", "nothing there")),
        (("check",), ("--from",)),
        (("check", *FILE, "--entities", "0"), ("--entities",)),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("show", "list", "check") else "",
)
def test_what_cannot_be_is_asked_wrongly_with_what_is_required(
    arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(word in result.stderr for word in words), result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_without_events_needs_a_time_to_be_read_as_of() -> None:
    Path("orders.csv").write_text(CSV.splitlines()[0] + "\n")
    assert run("show", "user", "ann", *FILE).exit_code == 2
    assert show("user", "ann", "--as-of", str(T0))["views"][0]["status"] == "NOT_FOUND"


def test_an_id_may_be_a_negative_number() -> None:
    assert show("user", "-5")["key"] == {"user_id": "-5"}
    assert run("show", "user", "-5", *FILE, "--viw", "x").exit_code == 2


def test_ids_and_times_at_the_edges_of_int64() -> None:
    thing = Entity("thing", keys={"n": "int64"})
    assert parsed_key(thing, str(2**63 - 1)) == {"n": 2**63 - 1}
    assert parsed_key(thing, str(-(2**63))) == {"n": -(2**63)}
    assert parsed_time("631152000000") == parsed_time("1990-01-01T00:00:00Z") == 631_152_000_000
    for implausible in ("631151999999", "-1", "2100-01-01T00:00:00Z", "9" * 18, "9" * 19):
        with pytest.raises(UsageError):
            parsed_time(implausible)


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_reports_each_law_and_exits_0_where_all_hold() -> None:
    result = run("check", *FILE, "--seed", "7", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"], report["seed"]) == (0, True, 7)
    laws = {(law["view"], law["law"]): law for law in report["laws"]}
    assert laws["", "verdicts of orders add up"]["note"] == "5 folded, 1 duplicate, 0 late, 0 dead letter"
    assert laws["user_orders", "history = oracle"]["compared"] == 3 * 20 * 5
    assert laws["user_orders", "stream in random batches = oracle"]["compared"] == 3 * 20 * 5
    assert {view for view, _ in laws} == {"", "user_orders", "place_orders"}
    assert "seed 7" in result.stderr


def test_check_says_why_records_are_dead_letters() -> None:
    Path("orders.csv").write_text(
        CSV + f"f,,ann,1,y,1,paid\ng,,bob,1,y,1,paid\n,{T0},ann,1,y,1,paid\nh,0,ann,1,y,1,paid\n"
    )
    law = json.loads(run("check", *FILE, "--view", "place_orders", "--json").stdout)["laws"][0]
    assert law["note"] == "5 folded, 1 duplicate, 0 late, 4 dead letter (3 missing_field, 1 implausible_time)"


def test_check_is_one_line_a_law_for_people() -> None:
    result = run("check", *FILE, "--view", "place_orders")
    assert result.exit_code == 0
    assert all(line.startswith("ok ") for line in result.stdout.splitlines())
    assert "user_orders" not in result.stdout


def test_check_says_that_nothing_was_compared_where_no_event_names_an_entity() -> None:
    Path("orders.csv").write_text("id,at,shop,till\na,1700000000000,1,x\n")
    lines = run("check", *FILE, "--view", "user_orders").stdout.splitlines()
    assert lines[-1].startswith("none")
    assert lines[-1].endswith("these events name no user")


def test_a_planted_fault_fails_the_check_with_its_worst_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that ends a tile too late, in the kernels' bounds and not in the oracle's."""
    right = Bounds.right
    monkeypatch.setattr(Bounds, "right", lambda self, as_of: right(self, as_of) + self.tile_ms)
    result = run("check", *FILE, "--view", "user_orders", "--seed", "7", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (1, False)
    wrong = {law["law"]: law["worst"] for law in report["laws"] if law["mismatches"]}
    assert "history = oracle" in wrong
    assert any("user_paid_count_1m_delay_1m is" in line for line in wrong["history = oracle"])
    people = run("check", *FILE, "--view", "user_orders", "--seed", "7")
    assert people.exit_code == 1
    assert "FAILED  user_orders" in people.stdout


# --- README ----------------------------------------------------------------------------------------------------------

ROOT = Path(headrace.__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def shown_in_readme() -> dict[str, str]:
    """Each `features` command of the README with the output that stands below it."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL)).replace("\\\n", "")
    pairs = re.findall(r"^\$ \.venv/bin/headrace features (.*)\n((?:(?!\$ ).*\n)*)", blocks, re.MULTILINE)
    return {" ".join(command.split()): output.strip() for command, output in pairs}


@pytest.mark.parametrize("command", [one for one in shown_in_readme() if not one.startswith("check")])
def test_a_command_of_the_readme_prints_what_the_readme_says(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_file: Callable[[str], Path]
) -> None:
    """From the beginning: a long output may be cut."""
    folder = tmp_path / "readme"
    (folder / "my_repo").mkdir(parents=True)
    (folder / "feature_repo").symlink_to(ROOT / "feature_repo")
    (program,) = re.findall(r"```python\n(from headrace.*?)\nfor ", README, re.DOTALL)
    (folder / "my_repo" / "orders.py").write_text(program)
    (rows,) = re.findall(r"```\n(order,.*?)```", README, re.DOTALL)
    (folder / "orders.csv").write_text(rows)
    if "card-transactions" in command:
        (folder / "card-transactions.parquet").symlink_to(real_file("card-transactions.parquet"))
    monkeypatch.chdir(folder)
    result = run(*shlex.split(command))
    assert result.exit_code == 0
    assert result.stdout.startswith(shown_in_readme()[command])
