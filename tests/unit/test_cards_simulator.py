"""Simulated payments have the frauds of the Handbook, and labels that come a week later."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.definitions.repo import load_repo
from features.definitions.windows import UNITS_MS
from features.errors import UsageError
from features.events.parsing import Verdict, from_columns
from headrace.simulators.cards import Block, CardSimulator

DAY_MS = UNITS_MS["d"]
UNTIL = 17_600 * DAY_MS
SIMULATOR = CardSimulator(seed=3, customers=400, terminals=900)


def together(blocks: Iterable[Block]) -> dict[str, pa.Table]:
    several = list(blocks)
    return {name: pa.concat_tables([block[name] for block in several]) for name in several[0]}


@pytest.fixture(scope="module")
def month() -> dict[str, pa.Table]:
    return together(SIMULATOR.history(40, UNTIL))


def paid(month: dict[str, pa.Table]) -> pa.Table:
    return pa.concat_tables([month["atm"], month["online"]])


def test_the_same_seed_and_times_make_the_same_events() -> None:
    first, again = (together(CardSimulator(5, 50, 60).history(9, UNTIL)) for _ in range(2))
    assert first == again
    assert together(CardSimulator(6, 50, 60).history(9, UNTIL)) != first


def test_customers_pay_about_twice_a_day_mostly_by_day_and_at_terminals_near_to_them(month) -> None:
    payments = paid(month)
    assert payments.num_rows == pytest.approx(40 * 400 * 2, rel=0.05)
    hour = payments["event_time"].to_numpy() // UNITS_MS["h"] % 24
    assert np.mean((hour >= 6) & (hour < 18)) > 0.65
    cash = month["atm"].group_by("customer_id").aggregate([("terminal_id", "count_distinct")])
    assert pc.max(cash["terminal_id_count_distinct"]).as_py() < 50
    assert np.all(month["online"]["terminal_id"].to_numpy() % 3 == 0)
    assert np.all(month["atm"]["terminal_id"].to_numpy() % 3 != 0)


def test_a_label_has_its_payments_id_and_time_and_is_known_seven_days_after_it(month) -> None:
    labels, payments = month["fraud_labels"], paid(month)
    at = pc.index_in(labels["event_id"], value_set=payments["event_id"])
    assert at.null_count == 0
    matched = payments.take(at)
    for name in ("event_time", "customer_id", "terminal_id"):
        assert matched[name].equals(labels[name])
    assert pc.all(pc.equal(labels["known_at"], pc.add(labels["event_time"], 7 * DAY_MS))).as_py()
    assert pc.max(labels["known_at"]).as_py() < UNTIL
    assert "amount" not in labels.column_names


def test_frauds_are_of_three_kinds(month) -> None:
    """High amounts, always; terminals where everything is a fraud; and cards with dear payments among usual ones."""
    payments = paid(month)
    payments = payments.filter(pc.less(payments["event_time"], UNTIL - 8 * DAY_MS))
    fraud = np.asarray(pc.is_in(payments["event_id"], value_set=month["fraud_labels"]["event_id"]))
    amount, terminal = payments["amount"].to_numpy(), payments["terminal_id"].to_numpy()
    assert fraud[amount > 220].all()
    small = fraud & (amount <= 220)
    by_terminal = np.bincount(terminal[small], minlength=900)
    assert by_terminal.max() > 10
    assert 0.005 < fraud.mean() < 0.3


def test_live_payments_come_at_the_rate_and_labels_only_of_what_was_paid_a_week_ago() -> None:
    blocks = list(SIMULATOR.live(UNTIL, 200.0, UNTIL + 10_000))
    assert len(blocks) == 10
    payments = paid(together(blocks))
    assert payments.num_rows == pytest.approx(2_000, rel=0.15)
    times = payments["event_time"].to_numpy()
    assert (times.min() >= UNTIL, times.max() < UNTIL + 10_000) == (True, True)
    assert together(blocks)["fraud_labels"].num_rows == 0
    assert len(set(payments["event_id"].to_pylist())) == payments.num_rows


def test_frauds_that_nobody_knew_of_become_known_in_the_days_after() -> None:
    blocks = SIMULATOR.history(9, UNTIL)
    payments = []
    while True:
        try:
            payments.append(paid(dict(next(blocks))))
        except StopIteration as stopped:
            unknown = stopped.value
            break
    second = SIMULATOR.live(UNTIL, 0.001, UNTIL + 2_000, unknown)
    early = [int(time) for time in unknown.time if time + 7 * DAY_MS < UNTIL + 2_000]
    assert together(second)["fraud_labels"]["event_time"].to_pylist() == early
    assert unknown.fraud.all()
    assert unknown.time.min() + 7 * DAY_MS >= UNTIL
    ids = pa.concat_tables(payments)["event_id"]
    (day,) = SIMULATOR._blocks(UNTIL, UNTIL + DAY_MS, DAY_MS, 1e-9, unknown, by_day=False)
    assert day["fraud_labels"].num_rows > 0
    assert pc.all(pc.is_in(day["fraud_labels"]["event_id"], value_set=ids.combine_chunks())).as_py()


def test_every_event_is_one_of_the_domains_streams(tmp_path) -> None:
    from pathlib import Path

    streams = load_repo(Path(__file__).parents[2] / "feature_repo").streams
    blocks = together(SIMULATOR.history(9, UNTIL))
    for name, stream in {"atm": "transactions", "online": "transactions", "fraud_labels": "fraud_labels"}.items():
        parsed = from_columns(blocks[name], streams[stream], 37 * DAY_MS)
        assert (parsed.verdicts == Verdict.VALID).all()
        assert parsed.events.num_rows == blocks[name].num_rows > 0


@pytest.mark.parametrize("asked", [{"customers": 0}, {"terminals": 2}, {"seed": -1}])
def test_a_world_that_cannot_be_is_refused(asked: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="simulated card payments"):
        CardSimulator(**asked)
