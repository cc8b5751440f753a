"""Ranking the caller's items, items like an item, filters, candidates, sessions and variety; all of it pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import ITEMS, features, fresh, ids, model

from features.rows.matrix import FeatureMatrix, Status
from serving.recommend.attributes import Attributes
from serving.recommend.recommender import (
    FallbackReason,
    ItemQuery,
    UserRead,
    diversified,
    rank,
    recommend,
    similar,
)
from serving.recommend.snapshot import NO_ITEMS, ItemKeys, ItemSnapshot

KINDS = {"tea": "drinks", "cup": "dishes", "pot": "dishes", "pen": "desk", "ink": "desk"}


def described() -> ItemSnapshot:
    """A snapshot that knows the items' categories and nothing else."""
    attributes = Attributes({"category": pa.array(list(KINDS.values()))})
    empty = FeatureMatrix((), (), np.zeros(5, np.int8), np.zeros(5, np.int64), np.zeros(5, np.int64))
    return ItemSnapshot(ItemKeys(pa.array(list(KINDS))), empty, (), 1, attributes)


def all_of(**counts: float) -> ItemSnapshot:
    """A snapshot of the model's items and those of these counts."""
    return fresh(**{**dict.fromkeys(ITEMS, 0), **counts})


def only(*names: str) -> dict[str, list[str]]:
    """The filter that these items meet."""
    return {"name": list(names)}


# --- recommend --------------------------------------------------------------------------------------------------------


def test_a_filter_leaves_the_best_of_what_meets_it_not_what_is_left_of_the_best():
    question = ItemQuery("bob", 5, conditions=only("pot", "ink"))
    answer = recommend(question, UserRead(features(recent=["tea"])), model(), all_of(cup=9, ink=3), None)
    assert sorted(ids(answer.items)) == ["ink", "pot"]
    assert ids(answer.items)[0] == "pot"


def test_only_candidates_come_and_those_that_only_fresh_features_know_come_after_the_models():
    question = ItemQuery("bob", 5, among=("cup", "new", "unheard"))
    answer = recommend(question, UserRead(features(recent=["tea"])), model(), fresh(new=9, pen=99), None)
    assert ids(answer.items) == ["cup", "new"]


def test_a_fallback_keeps_to_filter_and_candidates_too():
    question = ItemQuery("bob", 5, among=("cup", "pen", "ink"), conditions=only("cup", "ink", "tea"))
    answer = recommend(question, UserRead(features(Status.NOT_FOUND)), model(), all_of(pen=9), None)
    assert (answer.reason, sorted(ids(answer.items))) == (FallbackReason.UNKNOWN_USER, ["cup", "ink"])


def test_a_sessions_items_lead_without_a_user_and_may_come_again():
    answer = recommend(ItemQuery(None, 5, session="s"), UserRead(recent=("pen",)), model(), NO_ITEMS, None)
    assert answer.reason is None
    assert {"pen", "ink"} == set(ids(answer.items)[:2])


def test_a_session_that_nothing_is_known_of_is_named():
    assert recommend(ItemQuery(None, 1, session="s"), UserRead(), model(), NO_ITEMS, None).reason == (
        FallbackReason.UNKNOWN_SESSION
    )


def test_a_user_who_brings_features_is_no_unknown_user():
    read = UserRead(features(recent=None), own_features=True)
    assert recommend(ItemQuery(None, 1), read, model(), NO_ITEMS, None).reason is None


# --- rank -------------------------------------------------------------------------------------------------------------


def test_ranking_returns_every_item_once_the_unknown_ones_last_and_named():
    asked = ("unheard", "pen", "cup", "new", "pen")
    answer = rank(ItemQuery("bob", 5, among=asked), UserRead(features(recent=["tea"])), model(), fresh(new=1), None)
    assert ids(answer.items) == ["cup", "pen", "new", "unheard"]
    assert [one.source for one in answer.items] == ["asked", "asked", "trending", "unknown"]
    assert np.isnan(answer.items[-1].score)


def test_ranking_for_an_unknown_user_is_by_the_model_and_says_so():
    question = ItemQuery("bob", 2, among=("tea", "pen"))
    answer = rank(question, UserRead(features(Status.NOT_FOUND)), model(), NO_ITEMS, None)
    assert (answer.reason, answer.by_model, ids(answer.items)) == (FallbackReason.UNKNOWN_USER, True, ["pen", "tea"])


def test_ranking_without_a_model_is_by_fresh_features():
    answer = rank(ItemQuery("ann", 3, among=("a", "tea", "new")), UserRead(), None, fresh(new=1, tea=5), None)
    assert (answer.reason, ids(answer.items)) == (FallbackReason.NO_MODEL, ["tea", "new", "a"])


@given(
    asked=st.lists(st.sampled_from([*ITEMS, "new", "unheard", "x"]), min_size=1, max_size=12),
    known=st.booleans(),
    diversity=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_ranking_drops_and_adds_nothing(asked, known, diversity):
    read = UserRead(features(recent=["pen"])) if known else UserRead(features(Status.NOT_FOUND))
    question = ItemQuery("bob", len(asked), among=tuple(asked), diversity=diversity)
    answer = rank(question, read, model() if known else None, fresh(new=2), None)
    assert sorted(ids(answer.items)) == sorted(set(asked))


# --- similar ----------------------------------------------------------------------------------------------------------


def test_items_like_an_item_are_those_that_go_with_it_and_never_itself():
    answer = similar("tea", ItemQuery(None, 2), model(), fresh(pen=9))
    assert (answer.reason, set(ids(answer.items))) == (None, {"cup", "pot"})
    assert {one.source for one in answer.items} == {"similar"}


def test_items_like_an_item_keep_to_filter_and_exclusion():
    question = ItemQuery(None, 5, exclude=("cup",), conditions=only("cup", "pot", "pen"))
    assert ids(similar("tea", question, model(), all_of()).items) == ["pot"]


@pytest.mark.parametrize(
    ("item", "conditions", "reason"),
    [("unheard", {}, FallbackReason.UNKNOWN_ITEM), ("tea", only("pen"), FallbackReason.NOTHING_SIMILAR)],
)
def test_where_nothing_is_similar_the_answer_is_a_fallback_that_says_why(item, conditions, reason):
    answer = similar(item, ItemQuery(None, 3, conditions=conditions), model(), all_of(pen=9))
    assert (answer.reason, ids(answer.items)[0]) == (reason, "pen")
    assert item not in ids(answer.items)


# --- variety ----------------------------------------------------------------------------------------------------------


def test_variety_alternates_what_is_of_one_kind():
    scores, kind = np.array([9.0, 8.9, 8.8, 2.0]), np.array([0, 0, 0, 1])
    likeness = (kind[:, None] == kind[None, :]).astype(float)
    assert diversified(scores, likeness, 4, 0.6).tolist() == [0, 3, 1, 2]
    assert diversified(scores, likeness, 4, 0.0).tolist() == [0, 1, 2, 3]


scored = st.integers(1, 12).flatmap(
    lambda c: st.tuples(
        st.lists(st.floats(-5, 5), min_size=c, max_size=c),
        st.lists(st.lists(st.floats(0, 1), min_size=c, max_size=c), min_size=c, max_size=c),
    )
)


@given(scored=scored, k=st.integers(1, 15), diversity=st.floats(0, 1))
def test_variety_chooses_k_different_items_and_the_best_one_first(scored, k, diversity):
    scores, likeness = np.array(scored[0]), np.array(scored[1])
    found = diversified(scores, likeness, k, diversity).tolist()
    assert len(found) == len(set(found)) == min(k, len(scores))
    assert diversity == 1 or scores.max() - scores[found[0]] <= 1e-9 * np.ptp(scores)


@given(scored=scored, k=st.integers(1, 15), diversity=st.floats(0.001, 1))
def test_every_choice_is_the_best_of_the_rest_by_the_formula(scored, k, diversity):
    """Against the definition, written as a loop."""
    scores, likeness = np.array(scored[0]), np.array(scored[1])
    spread = np.ptp(scores)
    relevance = (scores - scores.min()) / spread if spread > 0 else np.zeros(len(scores))
    chosen: list[int] = []
    for place in diversified(scores, likeness, k, diversity).tolist():
        worth = {
            other: (1 - diversity) * relevance[other]
            - diversity * max([likeness[one][other] for one in chosen], default=0.0)
            for other in range(len(scores))
            if other not in chosen
        }
        assert worth[place] >= max(worth.values()) - 1e-12
        chosen.append(place)


def test_without_diversity_an_answer_is_the_models_own_to_the_bit():
    read = UserRead(features(recent=["tea", "pen"]))
    plain = recommend(ItemQuery("bob", 5), read, model(), described(), None)
    artefact = model()
    assert plain.items == artefact.recommend(
        ["tea", "pen"], artefact.user_row(features()), None, 5, user="bob", as_of=(int(features().as_of[0]))
    )


def test_a_varied_answer_has_the_same_items_in_which_one_kind_does_not_follow_itself():
    read = UserRead(features(recent=["tea", "pen"]))
    varied = recommend(ItemQuery("bob", 5, diversity=0.9, alike_by="category"), read, model(), described(), None)
    kinds = [KINDS[item] for item in ids(varied.items)]
    assert sorted(ids(varied.items)) == sorted(ITEMS)
    assert len(set(kinds[:3])) == 3


def test_items_that_go_with_each_other_are_alike_for_the_model():
    likeness = model().likeness(["tea", "cup", "unheard", "pen"])
    assert likeness.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
