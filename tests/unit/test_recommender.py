"""What the recommender answers from the parts that it has, and what it says when one is missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_shop import ITEMS, NOW, features, fresh, ids, model

from features.rows.matrix import FeatureMatrix, Status
from models.recommender.artefact import Artefact
from models.recommender.retrieval import Ranked
from serving.recommend.recommender import (
    FallbackReason,
    ItemQuery,
    UserRead,
    as_of,
    newest_event,
    recommend,
    substitute,
)
from serving.recommend.snapshot import NO_ITEMS, ItemRanking, weighted
from serving.recommend.unpersonal import first_of, unpersonal


def test_a_user_with_fresh_clicks_gets_what_goes_with_them():
    answer = recommend(ItemQuery("bob", 2), UserRead(features(recent=["pen"])), model(), NO_ITEMS, None)
    assert answer.reason is None
    assert answer.by_model
    assert ids(answer.items)[0] == "ink"


def test_a_user_whom_only_the_model_remembers_gets_a_personal_answer():
    answer = recommend(ItemQuery("ann", 3), UserRead(features(Status.NOT_FOUND)), model(), NO_ITEMS, None)
    assert answer.reason is None
    assert set(ids(answer.items)) == {"tea", "cup", "pot"}


def test_clicks_of_a_user_outside_max_age_do_not_count():
    answer = recommend(
        ItemQuery("bob", 2), UserRead(features(Status.OUTSIDE_MAX_AGE, ["pen"])), model(), NO_ITEMS, None
    )
    assert answer.reason == FallbackReason.UNKNOWN_USER


def test_an_unknown_user_gets_what_is_hot_now_before_what_the_model_knows():
    answer = recommend(ItemQuery("bob", 3), UserRead(features(Status.NOT_FOUND)), model(), fresh(cup=2, new=7), None)
    assert answer.reason == FallbackReason.UNKNOWN_USER
    assert not answer.by_model
    assert ids(answer.items) == ["new", "cup", "ink"]


def test_nobody_with_a_context_gets_what_goes_with_it_and_never_the_context_itself():
    answer = recommend(ItemQuery(None, 2, context=("tea",)), UserRead(), model(), NO_ITEMS, None)
    assert answer.reason is None
    assert set(ids(answer.items)) == {"cup", "pot"}


def test_nobody_without_a_context_is_a_fallback_that_says_so():
    assert recommend(ItemQuery(None, 2), UserRead(), model(), NO_ITEMS, None).reason == FallbackReason.NO_USER


@pytest.mark.parametrize("problem", [FallbackReason.STORE_DOWN, FallbackReason.EMPTY_STORE])
def test_without_the_store_the_model_still_answers_from_what_it_was_trained_on(problem):
    answer = recommend(ItemQuery("ann", 2), UserRead(problem=problem), model(), NO_ITEMS, None)
    assert (answer.reason, answer.by_model) == (problem, True)
    assert "cup" in ids(answer.items)


def test_without_a_model_the_fresh_features_answer():
    answer = recommend(ItemQuery("ann", 2), UserRead(features(recent=["tea"])), None, fresh(cup=2, new=7), None)
    assert (answer.reason, ids(answer.items)) == (FallbackReason.NO_MODEL, ["new", "cup"])


def test_the_store_is_named_before_the_model_when_both_are_missing():
    answer = recommend(ItemQuery("ann", 2), UserRead(problem=FallbackReason.STORE_DOWN), None, NO_ITEMS, None)
    assert (answer.reason, answer.items) == (FallbackReason.STORE_DOWN, [])


def test_exclude_seen_leaves_out_the_history_and_the_fresh_clicks():
    question = ItemQuery("ann", 5, exclude_seen=True)
    answer = recommend(question, UserRead(features(recent=["pot"])), model(), fresh(tea=9, pot=8), None)
    assert not {"tea", "pot"} & set(ids(answer.items))
    assert "cup" in ids(answer.items)


def test_too_few_items_of_the_model_are_filled_with_what_is_hot():
    answer = recommend(ItemQuery("bob", 7), UserRead(features(recent=["pen"])), model(), fresh(new=1, newer=2), None)
    assert len(answer.items) == 7
    assert ids(answer.items)[-2:] == ["newer", "new"]


@given(
    k=st.integers(1, 8),
    user=st.sampled_from(["ann", "bob", None]),
    context=st.lists(st.sampled_from(ITEMS), max_size=2, unique=True),
    exclude=st.lists(st.sampled_from([*ITEMS, "new"]), max_size=3),
    seen=st.booleans(),
    problem=st.sampled_from([None, FallbackReason.STORE_DOWN]),
)
def test_an_answer_has_at_most_k_different_items_and_none_that_is_excluded(k, user, context, exclude, seen, problem):
    read = UserRead(problem=problem) if problem else UserRead(features(recent=["pen", "gone"]))
    question = ItemQuery(user, k, tuple(context), tuple(exclude), seen)
    found = ids(recommend(question, read, model(), fresh(new=1, cup=2), None).items)
    assert len(found) <= k
    assert len(set(found)) == len(found)
    assert not {*context, *exclude} & set(found)


def test_a_substitute_takes_no_item_twice_from_its_sources():
    found = unpersonal(fresh(ink=1), model(), 5, [])
    assert ids(found) == ["ink", "pen", "pot", "cup", "tea"]
    assert [one.source for one in found[:2]] == ["trending", "popular"]


def test_a_substitute_says_its_reason():
    assert substitute(ItemQuery("ann", 1), FallbackReason.DEADLINE, NO_ITEMS, model()).reason == FallbackReason.DEADLINE


def test_first_of_ends_at_k_and_with_its_sources():
    one, two = Ranked("a", 1.0, "x"), Ranked("b", 1.0, "x")
    assert first_of([[one, one], [two]], 5, []) == [one, two]
    assert first_of([[one], [two]], 1, []) == [one]
    assert first_of([], 3, []) == []
    assert first_of([[one]], 3, ["a"]) == []


def test_a_ranking_has_only_items_with_a_score():
    ranking = ItemRanking.of("hot", np.array([0.0, 2.0, -1.0, 3.0]))
    assert ranking.indices.tolist() == [3, 1]


def test_a_weighted_sum_takes_null_for_nothing():
    matrix = FeatureMatrix(
        ("a", "b"),
        (pa.array([1.0, None]), pa.array([2, 3])),
        np.zeros(2, np.int8),
        np.zeros(2, np.int64),
        np.zeros(2, np.int64),
    )
    assert weighted(matrix, {"a": 10.0, "b": 1.0, "c": 9.0}).tolist() == [12.0, 3.0]
    assert weighted(matrix, {"c": 9.0}).tolist() == [0.0, 0.0]


def test_the_age_of_an_answer_is_that_of_the_newest_event_in_its_features():
    user = UserRead(features())
    assert (as_of(user, NO_ITEMS), newest_event(user, NO_ITEMS)) == (NOW, NOW - 5)
    assert (as_of(UserRead(), fresh(a=1)), newest_event(UserRead(), fresh(a=1))) == (NOW, NOW - 50)
    assert (as_of(UserRead(), NO_ITEMS), newest_event(UserRead(), NO_ITEMS)) == (None, None)


def bought(repeats: bool) -> Artefact:
    """The small model, in which ann bought tea."""
    artefact = model()
    own = {"own_visits": np.ones(1, np.float32), "own_first_ms": np.array([NOW - 1000]), "repeats": repeats}
    return replace(artefact, tables=replace(artefact.tables, **own))


def test_what_a_user_bought_is_left_out_of_every_answer_where_the_query_or_the_model_says_so():
    items, read = fresh(tea=9, new=1), UserRead(features(recent=["pen"]))
    asked = ItemQuery("ann", 7, exclude_taken=True)
    assert "tea" not in ids(recommend(asked, read, bought(True), items, None).items)
    assert "tea" not in ids(substitute(asked, FallbackReason.DEADLINE, items, bought(True)).items)
    plain = ItemQuery("ann", 7)
    assert "tea" in ids(recommend(plain, read, bought(True), items, None).items)
    assert "tea" not in ids(recommend(plain, read, bought(False), items, None).items)
    assert "tea" not in ids(substitute(plain, FallbackReason.DEADLINE, items, bought(False)).items)
