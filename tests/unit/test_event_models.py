"""Models of events as data: what a definition may say, and which events meet its rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.definitions import AtPrecision, EventModel, Rule, TopADay, above, at_least
from features.definitions.repo import load_repo
from features.errors import DefinitionError
from models.event_model.columns import EventModelColumns, usual_of

CARDS = Path(__file__).parents[2] / "feature_repo" / "cards.py"
REPO = load_repo(CARDS)
MODEL = REPO.models["cards"]
ASKED = EventModelColumns.of(REPO, MODEL)


def rows(*changed: dict[str, float]) -> np.ndarray:
    """Ordinary events, but for these columns."""
    usual = dict.fromkeys(MODEL.needed, 0.0) | {
        "amount": 20.0,
        "customer_payment_amount_mean_30d": 25.0,
        "customer_payment_amount_p99_30d": 90.0,
        "customer_payment_count_30d": 40.0,
        "customer_payment_terminal_id_last_10m": float("nan"),
        "terminal_id": 7.0,
    }
    return np.array([[{**usual, **one}[name] for name in MODEL.needed] for one in changed])


def met(**changed: float) -> set[str]:
    return {name for name, which in ASKED.rules_met(rows(changed)).items() if which[0]}


def test_a_repo_knows_its_event_models_by_name_and_the_file_is_under_eighty_lines() -> None:
    assert set(REPO.models) == {"cards"}
    assert len(CARDS.read_text(encoding="utf-8").splitlines()) < 80


def test_an_ordinary_event_meets_no_rule() -> None:
    assert met() == set()


def test_many_payments_within_minutes_meet_the_rule_of_velocity() -> None:
    assert met(customer_payment_count_10m=4) == set()
    assert met(customer_payment_count_10m=5) == {"velocity"}


def test_an_amount_over_the_cards_own_p99_meets_its_rule_once_there_are_enough_to_say_so() -> None:
    assert met(amount=91.0) == {"above_p99"}
    assert met(amount=91.0, customer_payment_count_30d=3) == set()


def test_two_terminals_within_minutes_meet_the_rule_and_one_twice_does_not() -> None:
    assert met(customer_payment_terminal_id_last_10m=8) == {"elsewhere"}
    assert met(customer_payment_terminal_id_last_10m=7) == set()


def test_one_line_adds_a_rule() -> None:
    model = replace(MODEL, rules=[*MODEL.rules, Rule("large", {"amount": above(1_000)})])
    found = EventModelColumns.of(REPO, model).rules_met(rows({"amount": 2_000.0}))
    assert {name for name, which in found.items() if which[0]} == {"above_p99", "large"}


def test_what_is_usual_is_the_entitys_habit_where_the_model_names_one_and_else_typical() -> None:
    typical = np.arange(len(MODEL.inputs), dtype=float)
    usual = usual_of(ASKED, rows({}, {"customer_payment_amount_mean_30d": float("nan")}), typical)
    assert usual[:, 0].tolist() == [25.0, 0.0]
    assert usual[:, 1:].tolist() == [typical[1:].tolist()] * 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "no name"}, "letters"),
        ({"alert": 100}, "TopADay"),
        ({"group": "owner"}, "field of its stream"),
        ({"inputs": []}, "at least one input"),
        ({"inputs": ["amount", "amount"]}, "differ"),
        ({"rules": [Rule("one", {"amount": above(1)}), Rule("one", {"amount": above(2)})]}, "different names"),
        ({"label_delay": "soon"}, "soon"),
    ],
)
def test_a_wrong_definition_says_what_is_required(changed: dict[str, object], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        replace(MODEL, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": ["amount", "weight"]},
        {"rules": [Rule("one", {"weight": above(1)})]},
        {"usual": {"amount": "weight"}},
    ],
)
def test_a_name_that_neither_the_stream_nor_a_view_has_is_refused_when_the_repo_is_loaded(
    changed: dict[str, object],
) -> None:
    model: EventModel = replace(MODEL, **changed)
    with pytest.raises(DefinitionError, match="weight"):
        model.check(REPO.columns_of(model.stream))


@pytest.mark.parametrize("made", [lambda: TopADay(0), lambda: AtPrecision(1.5), lambda: Rule("none", {})])
def test_policies_and_rules_of_nothing_are_refused(made) -> None:
    with pytest.raises(DefinitionError):
        made()


def test_a_rule_compares_numbers_only() -> None:
    model = replace(MODEL, rules=[Rule("text", {"amount": "much"})])
    with pytest.raises(DefinitionError, match="text"):
        model.check(REPO.columns_of(model.stream))
    assert replace(MODEL, rules=[Rule("n", {"amount": at_least(1)})]).needed[:1] == ("amount",)
