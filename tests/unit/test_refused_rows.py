"""What the commands say of rows that are refused, and of files without the key that is asked for."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from headrace.cli import cli

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Stream

user, place = Entity("user", keys={"user_id": "string"}), Entity("place", keys={"shop": "int64"})
fields = {"user_id": "string", "shop": "int64", "price": "float64"}
orders = Stream("orders", topic="orders", event_time="at", fields=fields)
user_orders = FeatureView("user_orders", sets=[FeatureSet(user, orders, [Count()], ["1m"])])
place_orders = FeatureView("place_orders", sets=[FeatureSet(place, orders, [Count()], ["1m"])])
"""
T0 = 1_700_000_000_000
CSV = "at,user_id,shop,price\n" + "".join(f"{T0 + second},ann,1,2.5\n" for second in range(6))
BAD_ROWS = f"{T0},ann,1,n/a\n{T0}\n{T0},ann,one,1.0\n"
FILE = ("--from", "orders.csv", "--format", "csv")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "orders.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["features", *arguments], prog_name="headrace")


@pytest.mark.parametrize("command", [("show", "user", "ann"), ("check", "--seed", "1")])
def test_rows_that_are_refused_are_counted_with_the_first_reasons(command: tuple[str, ...]) -> None:
    Path("orders.csv").write_text(CSV + BAD_ROWS)
    told = run(*command, *FILE, "--json")
    assert told.exit_code == 0, told.stderr
    file = json.loads(told.stdout)["file"]
    assert (file["rows"], file["refused"], file["reasons"]) == (9, 3, {"wrong_type": 2, "bad_row": 1})
    assert "3 of 9 rows refused (2 wrong_type, 1 bad_row):" in told.stderr
    assert """field 'price' requires float64; got string "n/a" (row 7, column 'price')""" in told.stderr


def test_show_of_an_entity_whose_key_no_event_has_is_an_error() -> None:
    Path("orders.csv").write_text(CSV.replace("user_id", "buyer"))
    told = run("show", "user", "ann", *FILE)
    assert (told.exit_code, "events with user_id" in told.stderr) == (2, True), told.stderr
    Path("orders.csv").write_text(CSV.replace("user_id", "userid"))
    told = run("show", "user", "ann", *FILE)
    assert (told.exit_code, "'userid' is nearly 'user_id'" in told.stderr) == (1, True), told.stderr
    assert run("show", "user", "ann", *FILE, "--column", "user_id=userid").exit_code == 0
