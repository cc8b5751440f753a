"""Answers by position are those of sets and lists of item ids, in random worlds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_answers import plain_rank, plain_recommend, plain_similar, plain_substitute
from small_shop import NOW, features, model, snapshot

from features.hashing import hash_texts
from features.rows.matrix import FeatureMatrix, Status
from models.recommender.artefact import Artefact
from models.recommender.retrieval import Ranked
from models.recommender.tables import CandidateTables, SparseRows
from serving.recommend.attributes import Attributes
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead, rank, recommend, similar, substitute
from serving.recommend.snapshot import ItemKeys, ItemSnapshot

NAMES = [f"i{number}" for number in range(40)]
ANYTHING = st.sampled_from([*NAMES, "unheard", "x"])


def a_model(seed: int) -> Artefact:
    """A model of some of the items, in an order of its own; ann and bob have histories."""
    random = np.random.default_rng(seed)
    items = tuple(random.permutation(NAMES)[: random.integers(3, 30)].tolist())
    n = len(items)
    lengths = random.integers(0, min(n, 6), n)
    neighbours = SparseRows(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([random.permutation(n)[:length] for length in lengths]).astype(np.int32),
        random.integers(1, 4, lengths.sum()).astype(np.float32),
    )
    histories = np.sort(random.integers(0, n, 3)).astype(np.int32)
    tables = CandidateTables(
        items=items,
        neighbours=neighbours,
        popular=random.integers(0, 4, n).astype(np.float32),
        trending=np.maximum(random.integers(-2, 3, n), 0).astype(np.float32),
        users=np.sort(hash_texts(pa.array(["ann"]))),
        histories=SparseRows(np.array([0, 3]), histories, np.ones(3, np.float32)),
        own_count=np.ones(3, np.float32),
        own_last_ms=np.full(3, NOW - 1000),
    )
    return replace(model(), manifest=model().manifest.model_copy(update={"items": n}), tables=tables)


def a_snapshot(seed: int) -> ItemSnapshot:
    """Some of the items with counts and attributes, some of them null."""
    random = np.random.default_rng(seed)
    names = random.permutation(NAMES)[: random.integers(0, 40)].tolist()
    n = len(names)

    def column(values: list, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=random.random(n) < 0.2)

    matrix = FeatureMatrix(
        ("hot", "sold"),
        (column(random.integers(0, 3, n), pa.int64()), column(random.integers(-1, 3, n) / 2, pa.float64())),
        np.zeros(n, np.int8),
        np.full(n, NOW),
        np.full(n, NOW - 50),
    )
    attributes = Attributes(
        {
            "category": column(random.choice(["a", "b", "c"], n).tolist(), pa.string()),
            "price": column(random.integers(0, 20, n) / 2, pa.float64()),
        }
    )
    keys, answerable = ItemKeys(pa.array(names, pa.string())), random.random(n) < 0.7 if seed % 2 else None
    return snapshot(keys, matrix, {"hot": 1.0}, {"sold": 2.0}, attributes, answerable)


conditions = st.fixed_dictionaries(
    {},
    optional={
        "category": st.one_of(st.sampled_from("abcd"), st.lists(st.sampled_from("abcd"), min_size=1, max_size=3)),
        "price": st.fixed_dictionaries({}, optional={"min": st.integers(0, 8), "max": st.integers(0, 8)}).filter(len),
    },
)

worlds = st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)).map(
    lambda seeds: (a_model(seeds[0]), a_snapshot(seeds[1]))
)

queries = st.builds(
    ItemQuery,
    st.sampled_from(["ann", "carl", None]),
    st.integers(1, 25),
    st.lists(ANYTHING, max_size=2, unique=True).map(tuple),
    st.lists(ANYTHING, max_size=4).map(tuple),
    st.booleans(),
    among=st.one_of(st.none(), st.lists(ANYTHING, min_size=1, max_size=15).map(tuple)),
    conditions=conditions,
)

reads = st.one_of(
    st.builds(
        lambda recent, seen: UserRead(features(recent=recent), seen=tuple(seen)), *[st.lists(ANYTHING, max_size=3)] * 2
    ),
    st.sampled_from([UserRead(features(Status.NOT_FOUND)), UserRead(problem=FallbackReason.STORE_DOWN)]),
)


def shown(items: list[Ranked]) -> list[tuple[str, float | None, str]]:
    """The items with their scores and sources; None for the score of an unknown one."""
    return [(one.item_id, None if np.isnan(one.score) else one.score, one.source) for one in items]


@given(world=worlds, query=queries, read=reads, with_model=st.booleans())
def test_a_recommendation(world, query, read, with_model):
    artefact, items = world if with_model else (None, world[1])
    answer = recommend(query, read, artefact, items, None)
    expected, reason = plain_recommend(query, read, artefact, items)
    assert (shown(answer.items), answer.reason) == (shown(expected), reason)


@given(
    world=worlds, query=queries, read=reads, with_model=st.booleans(), asked=st.lists(ANYTHING, min_size=1, max_size=15)
)
def test_a_ranking_and_the_one_without_the_model_have_each_item_once(world, query, read, with_model, asked):
    artefact, items = world if with_model else (None, world[1])
    question = replace(query, among=tuple(asked), k=len(asked), conditions={}, ranks=True)
    answer = rank(question, read, artefact, items, None)
    assert shown(answer.items) == shown(plain_rank(question, read, artefact, items))
    late = substitute(question, FallbackReason.DEADLINE, items, artefact).items
    assert shown(late) == shown(plain_rank(replace(question, k=0), UserRead(), artefact, items))
    assert sorted(one.item_id for one in late) == sorted(set(asked))


@given(world=worlds, query=queries, item=ANYTHING)
def test_items_like_an_item(world, query, item):
    artefact, items = world
    question = ItemQuery(None, query.k, exclude=query.exclude, conditions=query.conditions)
    answer = similar(item, question, artefact, items)
    assert shown(answer.items) == shown(plain_similar(item, question, artefact, items))
    assert answer.by_model == (answer.reason in (None, FallbackReason.FEW_ITEMS))
    assert len(answer.items) == query.k or answer.reason is not None


@given(world=worlds, query=queries, found=st.booleans())
def test_a_fallback_whether_or_not_the_filters_items_have_been_found(world, query, found):
    artefact, items = world
    if found:
        items.meeting(query.conditions)
    answer = substitute(query, FallbackReason.DEADLINE, items, artefact)
    assert shown(answer.items) == shown(plain_substitute(query, items, artefact))


@pytest.mark.parametrize("diversity", [0.0, 0.5])
def test_a_long_list_is_ranked_by_the_model_to_its_end(diversity):
    artefact = model()
    n = 700
    tables = CandidateTables(
        items=tuple(f"i{number}" for number in range(n)),
        neighbours=SparseRows(np.zeros(n + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)),
        popular=np.arange(n, 0, -1).astype(np.float32),
        trending=np.zeros(n, np.float32),
        users=hash_texts(pa.array(["ann"])),
        histories=SparseRows(np.array([0, 1]), np.array([0], np.int32), np.ones(1, np.float32)),
        own_count=np.ones(1, np.float32),
        own_last_ms=np.array([NOW]),
    )
    artefact = replace(artefact, manifest=artefact.manifest.model_copy(update={"items": n}), tables=tables)
    question = ItemQuery("ann", n, among=tables.items, diversity=diversity, ranks=True)
    answer = rank(question, UserRead(features()), artefact, a_snapshot(1), None)
    assert {one.source for one in answer.items} == {"asked"}
    assert len(answer.items) == len({one.item_id for one in answer.items}) == n
