"""The gate: who may become champion, by rows that are known to the last list; and what a verdict's tags are worth."""

from __future__ import annotations

import numpy as np
import pytest

from models.tags import DIGEST_TAG, champion_tags, refusal, verdict_tags
from training.judging.confidence import bootstrap
from training.judging.gate import gate
from training.recommender.evaluate import ModelResult
from training.settings import TrainingSettings

SETTINGS = TrainingSettings(tolerance=0.02, coverage_share=0.5)
LISTS = 400


def row(name: str, ndcg, coverage: float = 0.3) -> ModelResult:
    values = np.asarray(ndcg, dtype=np.float64)
    mean = float(values.mean()) if len(values) else float("nan")
    return ModelResult(name, {"ndcg_at_10": mean, "coverage_at_10": coverage}, 0.0, values)


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
    champion = uneven(0.5)[:30]
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
def test_nothing_to_test_on_lets_nothing_through(ndcg):
    assert not gate([row("popular", ndcg), row("model", ndcg)], SETTINGS).promoted


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
