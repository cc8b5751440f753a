"""What every recommender keeps, and where the right answer is known, that they find it."""

from __future__ import annotations

import numpy as np
import pytest
from als_library import needs_als

from training.recommender.scorers import (
    DAY_MS,
    Als,
    Blend,
    CoVisited,
    Ease,
    Popular,
    SessionNeighbours,
    Taken,
    UserFrequency,
    shares,
    taken_of,
)

NOW = 100 * DAY_MS
EVERY = {
    "popular": Popular(),
    "trending": Popular(half_life_days=2.0),
    "own": UserFrequency(),
    "ease": Ease(l2=1.0),
    "als": Als(factors=4, regularization=0.1, alpha=5.0),
    "co_visited": CoVisited(shrink=1.0),
    "session_neighbours": SessionNeighbours(neighbours=5),
    "blend": Blend(((UserFrequency(), 1.0), (Ease(l2=1.0), 1.0))),
}
SIMILAR = [name for name in EVERY if name not in {"popular", "trending", "own"}]


def checkerboard(users: int = 20, items: int = 10) -> Taken:
    """Even users took the even items, odd users the odd ones, but for one item each."""
    user, item = (array.ravel() for array in np.meshgrid(np.arange(users), np.arange(items), indexing="ij"))
    own = ((user + item) % 2 == 0) & (item != (user // 2 * 2 + user % 2) % items)
    times = NOW - DAY_MS + np.arange(int(own.sum()))
    return Taken(users, items, user[own], item[own], np.ones(int(own.sum())), times)


def nobody(items: int = 10) -> Taken:
    nothing = np.empty(0, dtype=np.int64)
    return Taken(1, items, nothing, nothing, np.empty(0), nothing)


def skip_what_is_missing(name):
    if name == "als":
        needs_als()


@pytest.fixture(params=EVERY)
def scorer(request):
    skip_what_is_missing(request.param)
    return EVERY[request.param].fit(checkerboard(), NOW)


def test_scores_are_finite_and_of_every_user_and_item(scorer):
    scores = scorer(checkerboard())
    assert scores.shape == (20, 10)
    assert np.isfinite(scores).all()


def test_users_alone_have_the_scores_that_they_have_together(scorer):
    shop = checkerboard()
    one_by_one = [scorer(shop.of(np.array([user])))[0] for user in range(20)]
    np.testing.assert_allclose(scorer(shop), one_by_one, rtol=1e-4, atol=1e-6)


def test_somebody_who_took_nothing_yet_is_answered(scorer):
    assert np.isfinite(scorer(nobody())).all()


def test_nobody_at_all_has_no_scores(scorer):
    assert scorer(checkerboard().of(np.empty(0, dtype=np.int64))).shape == (0, 10)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_and_data_give_the_same_scores(name):
    skip_what_is_missing(name)
    first, second = (EVERY[name].fit(checkerboard(), NOW)(checkerboard()) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", SIMILAR)
def test_on_a_checkerboard_the_best_new_item_is_the_one_that_was_left_out(name):
    skip_what_is_missing(name)
    shop = checkerboard()
    scores = np.where(shop.had, -np.inf, EVERY[name].fit(shop, NOW)(shop))
    users = np.arange(20)
    assert scores.argmax(axis=1).tolist() == ((users // 2 * 2 + users % 2) % 10).tolist()


@pytest.mark.parametrize("name", SIMILAR)
def test_a_user_who_came_after_the_fit_is_served_by_recent_events_without_a_refit(name):
    skip_what_is_missing(name)
    newcomer = Taken(1, 10, np.array([0, 0]), np.array([1, 3]), np.ones(2), np.array([NOW, NOW + 1]))
    scores = EVERY[name].fit(checkerboard(), NOW)(newcomer)[0]
    assert scores[[5, 7, 9]].min() > scores[[0, 2, 4, 6, 8]].max()


def test_what_was_returned_does_not_count_and_was_had_all_the_same():
    taken = Taken(1, 3, np.array([0, 0, 0]), np.array([1, 1, 2]), np.array([1.0, -1.0, 1.0]), np.array([1, 2, 3]))
    assert taken.ones.toarray().tolist() == [[0, 0, 1]]
    assert taken.had.tolist() == [[False, True, True]]


def test_own_puts_the_more_frequent_first_and_the_newest_of_equals():
    taken = Taken(1, 4, np.zeros(4, np.int64), np.array([0, 1, 1, 2]), np.ones(4), np.array([1, 2, 3, 9]) * DAY_MS)
    assert np.argsort(-UserFrequency().fit(taken, NOW)(taken)[0]).tolist()[:3] == [1, 2, 0]


def test_trending_counts_half_after_its_half_life():
    taken = Taken(1, 2, np.zeros(3, np.int64), np.array([0, 0, 1]), np.ones(3), NOW - np.array([2, 2, 0]) * DAY_MS)
    np.testing.assert_allclose(Popular(half_life_days=2.0).fit(taken, NOW)(taken), [[1.0, 1.0]])


def test_a_blend_of_what_is_new_measures_by_the_best_of_what_is_new():
    shop = checkerboard()
    blend = Blend(((Ease(l2=1.0), 2.0),), only_new=True)
    scores = blend.fit(shop, NOW)(shop)
    np.testing.assert_allclose(scores.max(axis=1), 2.0)
    assert (scores[shop.had] == 0).all()


def test_shares_of_rows_without_anything_above_zero_are_zero():
    assert shares(np.array([[0.0, -1.0], [2.0, 1.0]])).tolist() == [[0.0, 0.0], [1.0, 0.5]]


def test_ease_of_fewer_users_than_items_is_that_of_the_large_matrix():
    from scipy.sparse import csr_array, vstack

    from training.recommender.candidates import ease

    taken = csr_array((np.random.default_rng(3).random((5, 9)) < 0.5).astype(float))
    empty = csr_array((9, 9))
    np.testing.assert_allclose(ease(taken, 2.0), ease(csr_array(vstack([taken, empty])), 2.0), atol=1e-10)


def test_only_kinds_with_a_weight_are_taken():
    import pyarrow as pa

    from training.data.dataset import Interactions

    codes = np.array([0, 0, 0])
    history = Interactions(pa.array(["u"]), pa.array(["i"]), ("buy", "see"), codes, codes, np.array([0, 1, 0]), codes)
    taken = taken_of(history, {"buy": 1.0, "return": -1.0})
    assert (len(taken), taken.weights.toarray().tolist()) == (2, [[2.0]])
