"""Candidates on data whose right answer is known, and against brute force."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from models.recommender.pairs import Query
from models.recommender.retrieval import retrieve
from models.recommender.scoring import PAIR_FEATURES
from training.data.dataset import Interactions
from training.recommender.candidates import decayed_counts, ease, fit_candidates, strongest
from training.settings import TrainingSettings

DAY = 86_400_000
SETTINGS = TrainingSettings(ease_l2=1.0)


def checkerboard(users: int = 20, items: int = 10, last: int = 100 * DAY) -> Interactions:
    """Even users took the even items, odd users the odd ones; but user u has not taken item u // 2 · 2 + u % 2 yet."""
    user, item = (array.ravel() for array in np.meshgrid(np.arange(users), np.arange(items), indexing="ij"))
    own = (user + item) % 2 == 0
    left_out = item == (user // 2 * 2 + user % 2) % items
    user, item = user[own & ~left_out], item[own & ~left_out]
    known = np.sort(last - np.arange(len(user)) * 1_000)
    names = (pa.array([f"{kind}{code:02}" for code in range(n)]) for kind, n in (("u", users), ("i", items)))
    return Interactions(*names, ("purchase",), user, item, np.zeros(len(user), dtype=np.int64), known)


def fitted(shop: Interactions, settings: TrainingSettings = SETTINGS, as_of: int = 101 * DAY):
    return fit_candidates(shop, ("purchase",), as_of, settings)


def pair(candidates, place: int, name: str) -> float:
    (row,) = np.flatnonzero(candidates.indices == place)
    return float(candidates.pairs[row, PAIR_FEATURES.index(name)])


def test_ease_is_the_solution_of_the_least_squares_that_it_stands_for(seed):
    """Column by column: the weights with a zero of its own that predict an item best, by the normal equations."""
    taken = (np.random.default_rng(seed).random((30, 6)) < 0.4).astype(float)
    l2 = 2.5
    expected = np.zeros((6, 6))
    for item in range(6):
        others = [other for other in range(6) if other != item]
        x = taken[:, others]
        expected[others, item] = np.linalg.solve(x.T @ x + l2 * np.eye(5), x.T @ taken[:, item])
    np.testing.assert_allclose(ease(csr_array(taken), l2), expected, atol=1e-10)


def test_on_a_checkerboard_the_most_similar_new_item_is_the_one_that_the_user_has_left_out():
    shop = checkerboard()
    tables = fitted(shop)
    for user in range(20):
        found = retrieve(tables, Query(f"u{user:02}", (), 101 * DAY))
        similar = found.pairs[:, PAIR_FEATURES.index("similar_score")]
        fresh = found.pairs[:, PAIR_FEATURES.index("own_count")] == 0
        best = found.indices[fresh][np.argmax(similar[fresh])]
        assert tables.items[best] == f"i{(user // 2 * 2 + user % 2) % 10:02}"


def test_on_a_checkerboard_recent_items_alone_bring_their_own_colour():
    tables = fitted(checkerboard())
    found = retrieve(tables, Query(None, ("i00", "i02"), 101 * DAY))
    similar = found.pairs[:, PAIR_FEATURES.index("similar_score")]
    assert sorted(tables.items[place] for place in found.indices[np.argsort(-similar)[:3]]) == ["i04", "i06", "i08"]


def test_an_unknown_user_gets_the_popular_items():
    tables = fitted(checkerboard())
    found = retrieve(tables, Query("nobody", ("nothing",), 101 * DAY))
    assert set(found.indices.tolist()) == set(range(10))
    assert pair(found, 0, "history_size") == 0
    assert pair(found, 0, "similar_score") == 0


def test_histories_are_the_users_own_with_how_often_and_when_last():
    known = np.array([1, 2, 3, 4]) * DAY
    user, item = np.array([0, 0, 0, 1]), np.array([1, 0, 1, 0])
    users, items = pa.array(["anna", "bert"]), pa.array(["pen", "tea"])
    shop = Interactions(users, items, ("purchase",), user, item, np.zeros(4, dtype=np.int64), known)
    tables = fitted(shop, as_of=10 * DAY)
    found = retrieve(tables, Query("anna", (), 10 * DAY))
    assert [pair(found, place, "own_count") for place in (0, 1)] == [1, 2]
    assert [pair(found, place, "own_age_ms") for place in (0, 1)] == [8 * DAY, 7 * DAY]
    assert [pair(found, place, "own_rank") for place in (0, 1)] == [1, 0]
    assert pair(found, 1, "own_share") == pytest.approx(2 / 3)


def test_what_was_known_only_at_as_of_or_later_plays_no_part():
    shop = checkerboard()
    middle = int(shop.known_at[40])
    whole, early = fitted(shop, as_of=middle), fitted(shop.between(0, middle), as_of=middle)
    assert whole.items == early.items
    for name in ("popular", "trending", "users", "own_count", "own_last_ms"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(early, name))
    np.testing.assert_array_equal(whole.neighbours.weight, early.neighbours.weight)


def test_only_the_most_popular_items_have_neighbours_where_there_are_more_than_the_bound():
    tables = fitted(checkerboard(), TrainingSettings(ease_l2=1.0, ease_items=4))
    with_neighbours = np.flatnonzero(np.diff(tables.neighbours.starts))
    assert len(with_neighbours) == 4
    assert set(tables.neighbours.column.tolist()) <= set(with_neighbours.tolist())


def test_the_strongest_weights_of_a_row_are_kept_the_largest_first():
    kept = strongest(np.array([[0.0, 0.5, -0.9, 0.1], [0.2, 0.0, 0.0, 0.0]]), 2)
    assert kept.starts.tolist() == [0, 2, 3]
    assert kept.column.tolist() == [1, 2, 0]
    np.testing.assert_allclose(kept.weight, [0.5, -0.9, 0.2], rtol=1e-6)


def test_an_event_counts_half_after_each_half_life():
    counts = decayed_counts(np.array([0, 0, 1]), np.ones(3), np.array([0, 10, 20]), 10, 3)
    assert counts.tolist() == [1.5, 0.25, 0.0]


def test_an_item_that_only_sells_lately_trends_and_one_that_always_did_does_not():
    times = np.concatenate([np.arange(0, 100, 2), np.arange(96, 100)]) * DAY
    item = np.concatenate([np.zeros(50), np.ones(4)]).astype(np.int64)
    order = np.argsort(times, kind="stable")
    zeros = np.zeros(54, dtype=np.int64)
    shop = Interactions(pa.array(["u"]), pa.array(["old", "new"]), ("view",), zeros, item[order], zeros, times[order])
    tables = fit_candidates(shop, ("view",), 100 * DAY, SETTINGS)
    trend = dict(zip(tables.items, tables.trending.tolist(), strict=True))
    assert trend["new"] > 0.3
    assert trend["old"] < 0.1
