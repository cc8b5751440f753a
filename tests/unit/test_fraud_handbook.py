from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from features.definitions.windows import UNITS_MS
from headrace.cli import cli
from training.protocols.fraud_handbook import INPUTS, Days, LabelledPayments, card_precision, without_known_cards

DAY_MS = UNITS_MS["d"]


def payments(*rows: tuple[int, int, bool]) -> LabelledPayments:
    """LabelledPayments of (day, card, fraud)."""
    day, card, fraud = (np.array(column) for column in zip(*rows, strict=True))
    return LabelledPayments(day * DAY_MS, card, fraud, np.zeros((len(rows), len(INPUTS))))


def precision(top: int, *rows: tuple[int, int, bool, float]) -> float:
    return card_precision(payments(*(row[:3] for row in rows)), np.array([row[3] for row in rows]), top)


# --- card precision, by hand ----------------------------------------------------------------------------------------


def test_card_precision_is_the_share_of_compromised_cards_among_the_most_suspicious() -> None:
    assert precision(2, (0, 1, True, 0.9), (0, 2, False, 0.8), (0, 3, True, 0.1)) == 0.5


def test_a_card_counts_once_a_day_by_its_highest_score_and_is_compromised_by_any_of_its_payments() -> None:
    assert precision(1, (0, 1, True, 0.1), (0, 1, False, 0.9), (0, 2, False, 0.5)) == 1.0


def test_a_card_that_was_found_leaves_the_days_after_it() -> None:
    day = [(0, 1, True, 0.9), (0, 2, False, 0.1)]
    assert precision(1, *day, (1, 1, True, 0.9), (1, 2, True, 0.8)) == 1.0
    assert precision(1, *day, (1, 1, True, 0.9), (1, 3, False, 0.8), (1, 2, True, 0.1)) == 0.5


def test_days_with_fewer_cards_than_can_be_looked_into_still_count_against_all_of_them() -> None:
    assert precision(4, (0, 1, True, 0.9)) == 0.25


# --- the split, by hand ---------------------------------------------------------------------------------------------


def kept(days: Days, *rows: tuple[int, int, bool]) -> list[tuple[int, int]]:
    every = payments(*rows)
    which = without_known_cards(every, days)
    return list(zip((every.time[which] // DAY_MS).tolist(), every.card[which].tolist(), strict=True))


def test_only_test_days_are_tested_on() -> None:
    days = Days(start=0, train=2, delay=1, test=2)
    assert kept(days, *((day, 1, False) for day in range(6))) == [(3, 1), (4, 1)]


def test_a_card_with_a_fraud_in_training_is_not_tested_on() -> None:
    days = Days(start=0, train=2, delay=1, test=2)
    assert kept(days, (1, 1, True), (3, 1, False), (3, 2, False)) == [(3, 2)]


def test_a_fraud_leaves_the_test_from_the_day_on_which_it_is_known() -> None:
    """A fraud of day 2 is known on day 4 where labels take one day and end at midnight."""
    days = Days(start=0, train=2, delay=1, test=2)
    assert kept(days, (2, 1, True), (3, 1, False), (4, 1, False), (4, 2, False)) == [(3, 1), (4, 2)]


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, seed):
    """Three weeks of 40 cards at 20 terminals; two of these are fraudulent."""
    rng = np.random.default_rng(seed)
    count = 3_000
    second = np.sort(rng.integers(0, 21 * 86_400, count))
    terminal = rng.integers(0, 20, count)
    table = {
        "TRANSACTION_ID": np.arange(count),
        "TX_DATETIME": np.datetime64("2018-07-02T00:00:00", "ns") + second.astype("timedelta64[s]"),
        "CUSTOMER_ID": rng.integers(0, 40, count),
        "TERMINAL_ID": terminal,
        "TX_AMOUNT": np.round(rng.lognormal(3.0, 1.0, count), 2),
        "TX_FRAUD": ((terminal < 2) & (rng.random(count) < 0.2)).astype(int),
    }
    path = tmp_path / "payments.parquet"
    pq.write_table(pa.table(table), path)
    return path


def run(*arguments: str):
    return CliRunner().invoke(cli, ["evaluate", "fraud-handbook", *arguments])


def test_the_command_prints_a_row_for_the_baseline_and_each_model_of_each_start(file) -> None:
    asked = [
        *("--data", str(file), "--model", "logistic_regression", "--train-days", "5", "--test-days", "5"),
        *("--train-start", "2018-07-02", "--train-start", "2018-07-03", "--json"),
    ]
    done = run(*asked)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["protocol"], told["baseline"]) == ("fraud-handbook", "amount")
    starts = ["2018-07-02", "2018-07-02", "2018-07-03", "2018-07-03"]
    assert [row["train_start"] for row in told["rows"]] == starts
    assert [row["model"] for row in told["rows"]] == ["amount", "logistic_regression"] * 2
    assert all(0 <= row[name] <= 1 for row in told["rows"] for name in ("auc", "ap", "card_precision_at_100"))
    assert [part["test_start"] for part in told["parts"]] == ["2018-07-14", "2018-07-15"]
    assert all(part["payments"]["train"] > part["frauds"]["train"] > 0 for part in told["parts"])


def test_without_a_start_the_last_days_of_the_file_are_tested_on(file) -> None:
    done = run("--data", str(file), "--model", "logistic_regression", "--train-days", "5", "--test-days", "5")
    assert done.exit_code == 0, done.output
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["train_start", "test_start", "model"],
        ["2018-07-06", "2018-07-18", "amount"],
        ["2018-07-06", "2018-07-18", "logistic_regression"],
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--model", "prophecy"], "logistic_regression"),
        (["--train-start", "in July"], "requires a date, such as 2018-07-04; got 'in July'"),
        (["--train-start", "2017-01-01"], "Take another start"),
        (["--format", "taobao"], "'behavior'"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_line(file, asked: list[str], said: str) -> None:
    done = run("--data", str(file), *asked)
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output
