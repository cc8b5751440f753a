"""The gate: who may become champion, by rows that are known to the last list; and what a verdict's tags are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tags import DIGEST_TAG, champion_tags, refusal, verdict_tags
from training.judging.confidence import bootstrap
from training.judging.gate import gate
from training.recommender.evaluate import ModelResult
from training.settings import TrainingSettings

SETTINGS = TrainingSettings(tolerance=0.02, coverage_share=0.5)
LISTS = 400


def row(name: str, ndcg, coverage: float = 0.3, positives: int | None = None) -> ModelResult:
    """A row of these lists; each user took one thing unless positives says how many all took."""
    values = np.asarray(ndcg, dtype=np.float64)
    mean = float(values.mean()) if len(values) else float("nan")
    metrics = {"ndcg_at_10": mean, "coverage_at_10": coverage}
    return ModelResult(name, metrics, 0.0, values, positives=len(values) if positives is None else positives)


def uneven(mean: float, seed: int = 1) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.2, LISTS), 0, 1)


def test_a_first_model_that_is_surely_above_popularity_is_let_through():
    assert gate([row("popular", uneven(0.2)), row("model", uneven(0.4, 2))], SETTINGS).promoted


def test_a_model_that_is_above_popularity_only_by_luck_is_not():
    lucky = np.zeros(LISTS)
    lucky[0] = 1.0
    verdict = gate([row("popular", np.zeros(LISTS)), row("model", lucky)], SETTINGS)
    assert not verdict.promoted
    assert "not surely above" in verdict.reason


@pytest.mark.parametrize(("share", "promoted"), [(1.1, True), (1.0, True), (0.99, True), (0.95, False), (0.5, False)])
def test_a_model_may_be_as_good_as_the_champion_less_the_tolerance_and_no_worse(share, promoted):
    """Paired: lists differ far more than the models, and yet five per cent less is found out."""
    champion = uneven(0.5)
    verdict = gate([row("popular", champion / 4), row("model", champion * share), row("champion", champion)], SETTINGS)
    assert verdict.promoted == promoted, verdict.reason


def test_a_model_that_may_be_much_worse_waits_though_its_mean_is_the_champions():
    champion = uneven(0.5)[:50]
    shuffled = np.random.default_rng(3).permutation(champion)
    verdict = gate([row("popular", champion * 0), row("model", shuffled), row("champion", champion)], SETTINGS)
    assert not verdict.promoted
    assert "may be below the champion's" in verdict.reason


def test_lists_that_show_far_less_of_the_catalogue_are_refused():
    lists = uneven(0.5)
    rows = [row("popular", lists / 4), row("model", lists, 0.1), row("champion", lists, 0.3)]
    verdict = gate(rows, SETTINGS)
    assert not verdict.promoted
    assert verdict.reason.startswith("coverage_at_10 0.1000 is below 0.1500")


@pytest.mark.parametrize("ndcg", [[], [np.nan, np.nan]])
def test_nothing_to_test_on_lets_nothing_through_and_no_nan_is_compared(ndcg):
    verdict = gate([row("popular", ndcg), row("model", ndcg)], SETTINGS)
    assert (verdict.promoted, verdict.judged) == (False, False)
    assert "nan" not in verdict.reason


@given(users=st.integers(0, 60), positives=st.integers(0, 120), least=st.integers(1, 40), most=st.integers(1, 80))
def test_a_model_is_judged_by_enough_users_who_took_enough_and_by_no_fewer(users, positives, least, most):
    settings = SETTINGS.model_copy(update={"least_test_users": least, "least_test_positives": most})
    better = np.linspace(0.5, 0.9, users)
    verdict = gate(
        [row("popular", better / 9, positives=positives), row("model", better, positives=positives)], settings
    )
    assert verdict.judged == (users >= least and positives >= most and users > 1)
    assert verdict.promoted == verdict.judged, verdict.reason
    if users < least:
        assert f"{users} of at least {least} test users" in verdict.reason
    if positives < most:
        assert f"{positives} of at least {most} items" in verdict.reason


def test_an_interval_of_no_width_is_no_evidence_but_of_the_same_lists():
    popular, model = np.full(LISTS, 0.1), np.full(LISTS, 0.4)
    verdict = gate([row("popular", popular), row("model", model)], SETTINGS)
    assert (verdict.promoted, verdict.judged) == (False, False)
    assert verdict.reason == "not enough to judge: the difference is +0.3000 for every user"
    model = uneven(0.4)
    assert gate([row("popular", popular), row("model", model), row("champion", model)], SETTINGS).promoted
    worse = gate([row("popular", popular), row("model", model), row("champion", model + 0.1)], SETTINGS)
    assert (worse.promoted, worse.judged) == (False, False)


def test_two_users_and_their_four_purchases_make_no_champion():
    """What a shop of two users had: one list, of which the model is right and popularity nearly."""
    verdict = gate([row("popular", [0.6309], positives=2), row("model", [1.0], positives=2)], SETTINGS)
    assert not verdict.promoted
    assert verdict.reason.startswith("not enough to judge: 1 of at least 30 test users")


def test_a_bootstrap_interval_holds_the_mean_as_often_as_it_says():
    """Of 300 samples whose mean is known, about 95 % have an interval with it."""
    rng = np.random.default_rng(11)
    intervals = [bootstrap(rng.normal(1.0, 2.0, 100), seed, 400) for seed in range(300)]
    held = sum(one.low <= 1.0 <= one.high for one in intervals)
    assert 0.89 * 300 <= held <= 0.99 * 300


# --- tags -----------------------------------------------------------------------------------------------------------

MINE = {DIGEST_TAG: "aa"}


@pytest.mark.parametrize(
    ("tags", "because"),
    [
        ({}, "no tag manifest_sha256"),
        (MINE, "no verdict"),
        (MINE | verdict_tags("aa", False, "too slow"), "too slow"),
        (MINE | verdict_tags("bb", True, "fine"), "other files"),
        (MINE | champion_tags("bb", 1), "no verdict"),
        (verdict_tags("", True, "fine"), "no tag manifest_sha256"),
    ],
)
def test_a_version_without_a_passing_verdict_about_its_own_files_must_not_serve(tags, because):
    assert because in refusal(tags)


@pytest.mark.parametrize("more", [verdict_tags("aa", True, "fine"), champion_tags("aa", 1)])
def test_a_version_that_passed_or_was_champion_with_these_files_may(more):
    assert refusal(MINE | more) is None


def test_who_was_champion_may_be_it_again_whatever_a_later_test_says():
    assert refusal(MINE | champion_tags("aa", 1) | verdict_tags("aa", False, "worse than the next")) is None
