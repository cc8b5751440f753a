"""The gate's question whether features are the same online as offline, and what the answers come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import StoreError
from features.repo import load_repo
from features.verification import Difference, Findings
from features.verified_stores import Asked
from training.gate import Verdict
from training.parity import Parity, parity, with_parity

VIEW = load_repo(Path(__file__).resolve().parents[2] / "feature_repo").views["user_activity"]
ASKED = Asked(10, 1, 0)
BETTER = Verdict(True, "it is better")


class Stores:
    """Two stores in which this many values are compared, and these differ."""

    def __init__(self, compared: int, *differences: Difference) -> None:
        self.found = Findings("user_activity", compared=compared)
        self.found.add(differences)

    def verify(self, view, asked):
        return self.found


class Silent:
    def verify(self, view, asked):
        raise StoreError("the online store", "an answer", "none")


WRONG = Difference("mismatch", "user_activity", "ann", "user_view_count_1h", 1, 3, 2)


@pytest.mark.parametrize("demand", ["ask", "require"])
def test_values_that_agree_leave_the_verdict_and_are_told(demand):
    verdict = with_parity(BETTER, parity(Stores(1_200), [VIEW], ASKED), demand)
    assert (verdict.promoted, verdict.reason) == (True, "it is better; features online and offline: 1,200 values agree")


@pytest.mark.parametrize("demand", ["ask", "require"])
def test_a_value_that_differs_refuses_and_is_named(demand):
    verdict = with_parity(BETTER, parity(Stores(1_200, WRONG), [VIEW], ASKED), demand)
    assert verdict.promoted is False
    assert "1 of 1,200 values differ, such as user_view_count_1h of ann: 3, not 2" in verdict.reason


@pytest.mark.parametrize("stores", [Silent(), Stores(0)])
def test_where_nothing_can_be_compared_that_is_said_and_refuses_only_where_it_is_required(stores):
    found = parity(stores, [VIEW], ASKED)
    assert found.unavailable
    assert with_parity(BETTER, found, "ask") == Verdict(
        True, f"it is better; features online and offline were {found.told}"
    )
    refused = with_parity(BETTER, found, "require")
    assert (refused.promoted, found.told in refused.reason) == (False, True)


def test_no_parity_makes_a_worse_model_better():
    assert with_parity(Verdict(False, "worse"), Parity(compared=5), "ask").promoted is False
