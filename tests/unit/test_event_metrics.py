"""Thresholds and metrics of event models, by hand; their decisions and alerts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from features.definitions import AtPrecision, TopADay
from features.definitions.repo import load_repo
from training.data.labelled_events import LabelledEvents
from training.event_model.metrics import (
    at_threshold,
    group_precision,
    ranking_metrics,
    threshold_at_precision,
    threshold_of_top,
)
from training.event_model.training import kind_for

CARDS = Path(__file__).parents[2] / "feature_repo" / "cards.py"
SCORES = np.array([0.9, 0.8, 0.7, 0.6])


def test_the_threshold_of_a_budget_lets_so_many_a_day_through() -> None:
    assert threshold_of_top(SCORES, days=1, a_day=3) == 0.7
    assert threshold_of_top(SCORES, days=2, a_day=1) == 0.8
    assert threshold_of_top(SCORES, days=1, a_day=100) == 0.6
    assert threshold_of_top(SCORES, days=1, a_day=4) == 0.6
    assert threshold_of_top(SCORES, days=1.5, a_day=1) == 0.9


def test_a_budget_is_kept_where_many_events_have_one_score() -> None:
    tied = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    assert [threshold_of_top(tied, 1, count) for count in (1, 2, 3, 4, 5)] == [0.9, 0.9, 0.9, 0.5, 0.1]
    assert threshold_of_top(np.full(5, 0.7), 1, 3) > 0.7


def test_what_a_threshold_came_to_is_counted_on_the_test() -> None:
    positive = np.array([True, False, True, True])
    assert at_threshold(positive, SCORES, 0.7, days=2) == {
        "alerts_a_day": 1.5,
        "alert_precision": pytest.approx(2 / 3),
        "alert_recall": pytest.approx(2 / 3),
    }
    none = at_threshold(positive, SCORES, 0.95, days=2)
    assert (none["alerts_a_day"], none["alert_recall"], np.isnan(none["alert_precision"])) == (0.0, 0.0, True)


@pytest.mark.parametrize(("alert", "threshold"), [(TopADay(1), 0.8), (AtPrecision(0.5), 0.6), (AtPrecision(1), 0.9)])
def test_a_definition_says_by_which_of_the_two_the_threshold_is_set(alert, threshold: float) -> None:
    model = replace(load_repo(CARDS).models["cards"], alert=alert)
    none = np.zeros(4, np.int64)
    test = LabelledEvents(none, none, np.array([True, False, True, False]), np.zeros((4, 1)))
    assert kind_for(model).threshold(test, SCORES, days=2) == threshold


@pytest.mark.parametrize(("share", "threshold"), [(1.0, 0.9), (0.6, 0.7), (0.5, 0.6)])
def test_the_threshold_of_a_precision_is_the_lowest_that_keeps_it(share: float, threshold: float) -> None:
    assert threshold_at_precision(np.array([True, False, True, False]), SCORES, share) == threshold


def test_where_no_threshold_keeps_the_precision_nothing_alerts() -> None:
    assert threshold_at_precision(np.zeros(4, bool), SCORES, 0.5) > 0.9


def test_a_threshold_does_not_part_events_of_one_score() -> None:
    positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.9, 0.5, 0.5])
    assert threshold_at_precision(positive, scores, 0.5) == 0.5
    assert threshold_at_precision(positive, scores, 0.9) > 0.9


def test_a_group_counts_once_a_day_and_leaves_when_it_was_found() -> None:
    day, group = np.array([0, 0, 1, 1]), np.array([1, 2, 1, 2])
    positive, scores = np.array([True, False, True, True]), np.array([0.9, 0.8, 0.9, 0.1])
    assert group_precision(day, group, positive, scores, top=1) == 1.0


def test_scores_in_the_right_order_have_full_marks() -> None:
    assert ranking_metrics(np.array([True, True, False, False]), SCORES) == {"auc": 1.0, "ap": 1.0}
