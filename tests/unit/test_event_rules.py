"""Rules of feature_repo/cards.py on payments made by hand: each fires where it should, nowhere else; late labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_cards import conformed

from features.definitions import Rule
from features.definitions.expressions import above
from features.definitions.repo import load_repo
from features.events.parsing import event_schema
from models.event_model.columns import EventModelColumns
from training.data.labelled_events import examples_between

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
MODEL = REPO.models["cards"]
NOON_MS = 1_750_032_000_000
SECOND, MINUTE, DAY = 1_000, 60_000, 86_400_000


@dataclass(frozen=True)
class Payment:
    """A customer pays at a terminal, so many ms after noon."""

    at_ms: int
    amount: float = 10.0
    terminal: int = 1
    customer: int = 7


def table_of(payments: Sequence[Payment]) -> pa.Table:
    """The payments as events, each known when it was made."""
    rows = [
        {
            "event_id": f"p-{number}",
            "event_time": NOON_MS + one.at_ms,
            "known_at": NOON_MS + one.at_ms,
            "customer_id": one.customer,
            "terminal_id": one.terminal,
            "amount": one.amount,
        }
        for number, one in enumerate(sorted(payments, key=lambda one: one.at_ms))
    ]
    return conformed(pa.Table.from_pylist(rows), REPO, "transactions")


def fired(payments: Sequence[Payment], *more: Rule) -> list[set[str]]:
    """The rules that each payment meets, with what was known just before it became known."""
    asked = EventModelColumns.of(REPO, replace(MODEL, rules=[*MODEL.rules, *more]))
    table = table_of(payments)
    labels = event_schema(REPO.streams["fraud_labels"]).empty_table()
    events = {"transactions": table, "fraud_labels": labels}
    matrix = asked.source.matrix_before(table, events)
    met = asked.rules_met(matrix)
    return [{name for name, which in met.items() if which[row]} for row in range(table.num_rows)]


def places(found: Sequence[set[str]], rule: str) -> list[int]:
    return [place for place, names in enumerate(found) if rule in names]


def test_the_sixth_payment_within_ten_minutes_is_the_first_that_velocity_is_about() -> None:
    close = [Payment(number * 100 * SECOND) for number in range(8)]  # the sixth has five in the 500 s before it
    assert fired(close) == [set()] * 5 + [{"velocity"}] * 2 + [{"velocity"}]
    assert places(fired([Payment(number * 121 * SECOND) for number in range(12)]), "velocity") == []


def test_velocity_counts_up_to_ten_minutes_and_not_a_second_more() -> None:
    five = [Payment(number * SECOND) for number in range(5)]
    assert places(fired([*five, Payment(600 * SECOND)]), "velocity") == [5]
    assert places(fired([*five, Payment(602 * SECOND)]), "velocity") == []


def test_velocity_is_of_one_customer() -> None:
    assert (
        fired([Payment(number * SECOND, customer=number % 2, terminal=number % 2) for number in range(9)])
        == [set()] * 9
    )


def test_a_payment_at_another_terminal_within_ten_minutes_of_the_last_is_elsewhere() -> None:
    journey = [
        Payment(0),
        Payment(MINUTE, terminal=2),
        Payment(2 * MINUTE, terminal=2),
        Payment(3 * MINUTE, terminal=1),
    ]
    assert fired(journey) == [set(), {"elsewhere"}, set(), {"elsewhere"}]


@pytest.mark.parametrize(("after_ms", "where"), [(599 * SECOND, [1]), (11 * MINUTE, [])])
def test_elsewhere_is_about_minutes_and_not_about_another_time(after_ms: int, where: list[int]) -> None:
    assert places(fired([Payment(0), Payment(after_ms, terminal=2)]), "elsewhere") == where


def test_two_customers_at_two_terminals_are_nowhere_else() -> None:
    assert fired([Payment(0), Payment(MINUTE, terminal=2, customer=8)]) == [set(), set()]


@pytest.mark.parametrize(("before", "where"), [(19, []), (20, [20]), (25, [25])])
def test_an_amount_above_the_customers_own_p99_fires_once_twenty_payments_say_what_that_is(
    before: int, where: list[int]
) -> None:
    month = [Payment(number * DAY, amount=10.0 + number % 3) for number in range(before)]
    assert places(fired([*month, Payment(before * DAY, amount=15.0)]), "above_p99") == where
    assert places(fired([*month, Payment(before * DAY, amount=11.0)]), "above_p99") == []


def test_amounts_of_more_than_a_month_ago_are_no_habit() -> None:
    old = [Payment(number * SECOND * 1_000, amount=1_000.0) for number in range(30)]
    new = [Payment(40 * DAY + number * SECOND * 1_000, amount=10.0) for number in range(20)]
    assert places(fired([*old, *new, Payment(41 * DAY, amount=15.0)]), "above_p99") == [50]


def test_a_line_adds_a_rule_of_fields_features_and_what_is_derived_of_them() -> None:
    large = Rule("large", {"amount": above(100), "customer_payment_count_24h": above(1)})
    found = fired([Payment(0, 500.0), Payment(SECOND, 50.0), Payment(2 * SECOND, 101.0)], large)
    assert found == [set(), set(), {"large"}]


# --- what comes back ------------------------------------------------------------------------------------------------


def test_a_label_that_comes_days_later_raises_the_risk_of_its_terminal_from_then_on_and_no_sooner() -> None:
    """Two payments at a terminal, and nine days later somebody knows that the first was a fraud."""
    payments = table_of([Payment(0, terminal=3, customer=1), Payment(MINUTE, terminal=3, customer=2)])
    fraud = {
        "event_id": "p-0",
        "event_time": NOON_MS,
        "known_at": NOON_MS + 9 * DAY,
        "customer_id": 1,
        "terminal_id": 3,
    }
    labels = conformed(pa.Table.from_pylist([fraud]), REPO, "fraud_labels")
    events = {"transactions": payments, "fraud_labels": labels}
    asked = EventModelColumns.of(REPO, MODEL)
    days = np.array([6.0, 8.5, 9.0, 10.0])
    at = NOON_MS + (days * DAY).astype(np.int64)
    probes = payments.slice(0, 1).take(pa.array([0] * len(at)))
    columns = asked.by_name(asked.source.matrix(probes, at, events))
    risk = columns["terminal_risk_7d_delay_7d"]
    assert columns["terminal_payment_count_7d_delay_7d"].tolist() == [0.0, 2.0, 2.0, 2.0]
    assert np.nan_to_num(risk).tolist() == [0.0, 0.0, 0.5, 0.5]


def test_a_payment_is_a_positive_of_training_once_its_label_is_known() -> None:
    payments = table_of([Payment(0, customer=1), Payment(MINUTE, customer=2)])
    fraud = {"event_id": "p-1", "event_time": NOON_MS + MINUTE, "known_at": NOON_MS + 9 * DAY, "terminal_id": 1}
    labels = conformed(pa.Table.from_pylist([{**fraud, "customer_id": 2}]), REPO, "fraud_labels")
    asked = EventModelColumns.of(REPO, MODEL)
    for known, positive in ((labels.slice(0, 0), [False, False]), (labels, [False, True])):
        events = {"transactions": payments, "fraud_labels": known}
        found = examples_between(events, asked, NOON_MS, NOON_MS + DAY)
        assert found.positive.tolist() == positive
