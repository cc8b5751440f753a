"""The metrics against tables that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.recommender.metrics import (
    coverage,
    hit_rate_at_k,
    hits_of,
    mean,
    mrr_at_k,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

LOG2_3, LOG2_4 = math.log2(3), math.log2(4)
# Three ranks: hits at 1 and 3 of two relevant; a hit at 2 of five; none of one; nothing relevant at all.
HITS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=bool)
RELEVANT = np.array([2, 5, 1, 0])


def test_ndcg_is_the_discounted_gain_over_that_of_the_best_list():
    first = (1 + 1 / LOG2_4) / (1 + 1 / LOG2_3)
    second = (1 / LOG2_3) / (1 + 1 / LOG2_3 + 1 / LOG2_4)
    np.testing.assert_allclose(ndcg_at_k(HITS, RELEVANT), [first, second, 0.0, math.nan])


def test_ndcg_of_a_perfect_list_is_one_however_many_items_are_relevant():
    assert ndcg_at_k(np.array([[True, True, True], [True, False, False]]), np.array([7, 1])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (recall_at_k, [1.0, 0.2, 0.0, math.nan]),
        (precision_at_k, [2 / 3, 1 / 3, 0.0, math.nan]),
        (hit_rate_at_k, [1.0, 1.0, 0.0, math.nan]),
        (mrr_at_k, [1.0, 0.5, 0.0, math.nan]),
    ],
)
def test_the_other_metrics_have_these_values(metric, expected):
    np.testing.assert_allclose(metric(HITS, RELEVANT), expected)


@pytest.mark.parametrize("metric", [ndcg_at_k, recall_at_k, precision_at_k, hit_rate_at_k, mrr_at_k])
def test_no_lists_have_no_values_and_no_mean(metric):
    values = metric(np.empty((0, 3), dtype=bool), np.empty(0, dtype=np.int64))
    assert values.shape == (0,)
    assert math.isnan(mean(values))


def test_the_mean_leaves_out_lists_that_nothing_was_relevant_for():
    assert mean(np.array([1.0, 0.5, math.nan])) == 0.75


def test_hits_say_which_ranks_are_relevant_and_nothing_beyond_the_end_of_a_short_list():
    assert hits_of(np.array([4, 2, 9]), np.array([9, 4, 1]), 5).tolist() == [True, False, True, False, False]
    assert hits_of(np.array([4, 2, 9]), np.array([9]), 2).tolist() == [False, False]
    assert hits_of(np.empty(0, dtype=np.int64), np.array([1]), 2).tolist() == [False, False]


def test_an_item_that_is_listed_twice_counts_once():
    assert hits_of(np.array([4, 4, 9]), np.array([4, 9]), 3).tolist() == [True, False, True]


def test_coverage_is_the_share_of_the_catalogue_that_was_shown_to_anyone():
    assert coverage([np.array([0, 1]), np.array([1, 2])], 10) == 0.3
    assert coverage([], 10) == 0.0
    assert math.isnan(coverage([], 0))
