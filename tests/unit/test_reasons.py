"""Reasons are what the tables say of an item and its user: against loops over the tables, in random shops."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_retrieval import factor_scores
from small_shop import NOW, features, fresh, ids, model

from features.hashing import hash_texts
from models.recommender.artefact import Artefact
from models.recommender.pairs import KnownUser, Query
from models.recommender.reasons import reasons_of
from models.recommender.retrieval import TOP_LASTING, TOP_POPULAR, TOP_TRENDING, Ranked, retrieve
from models.recommender.scoring import COLUMN, recency_weights
from models.recommender.tables import CandidateTables, Factors, Sessions, SparseRows
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead, rank, recommend, similar, substitute
from serving.recommend.snapshot import NO_ITEMS

N = 90
ITEMS = tuple(f"i{number}" for number in range(N))


def sparse(random: np.random.Generator, rows: int, most: int, *, ones: bool = False) -> SparseRows:
    """Random rows over the items, without a row's own index."""
    columns = [
        random.permutation(np.delete(np.arange(N), row % N))[: random.integers(int(ones), most)] for row in range(rows)
    ]
    lengths = [len(row) for row in columns]
    weights = np.ones(sum(lengths)) if ones else random.integers(1, 9, sum(lengths)) / 4
    column = np.concatenate([np.empty(0, np.int64), *columns])
    return SparseRows(np.concatenate([[0], np.cumsum(lengths)]), column.astype(np.int32), weights.astype(np.float32))


def a_shop(seed: int) -> Artefact:
    """A model of every source; ann has a history, some of it bought."""
    random = np.random.default_rng(seed)
    own = random.permutation(N)[:6].astype(np.int32)
    vectors = random.normal(size=(N, 4)).astype(np.float32)
    tables = CandidateTables(
        items=ITEMS,
        neighbours=sparse(random, N, 8),
        popular=random.integers(0, 9, N).astype(np.float32),
        trending=np.maximum(random.integers(-3, 3, N), 0).astype(np.float32),
        users=hash_texts(pa.array(["ann"])),
        histories=SparseRows(np.array([0, 6]), own, np.ones(6, np.float32)),
        own_count=np.ones(6, np.float32),
        own_last_ms=NOW - random.integers(1, 9, 6) * 1000,
        own_visits=random.integers(0, 2, 6).astype(np.float32),
        own_first_ms=np.full(6, NOW - 9000),
        lasting=random.integers(0, 9, N).astype(np.float32),
        together=sparse(random, N, 8),
        factors=Factors(vectors, 0.1, 10.0),
        sessions=Sessions.of(sparse(random, 40, 6, ones=True), N),
        half_life_ms=5000.0,
    )
    return replace(model(), manifest=model().manifest.model_copy(update={"items": N}), tables=tables)


def parts_of_scores(tables: CandidateTables, query: Query) -> dict[str, dict[int, dict[int, float]]]:
    """Source → item → each of the user's items → its part of the item's score; by loops over the tables."""
    known = KnownUser.of(tables, query)
    trail = dict(zip(known.trail.tolist(), recency_weights(len(known.trail)).tolist(), strict=True))
    shares = dict(zip(known.every.tolist(), known.shares.tolist(), strict=True))
    parts: dict = {source: defaultdict(lambda: defaultdict(float)) for source in ("similar", "together", "session")}

    def row(rows: SparseRows, of: int) -> list[tuple[int, float]]:
        span = rows.span(of)
        return list(zip(rows.column[span].tolist(), rows.weight[span].tolist(), strict=True))

    for source, rows, weights in (("similar", tables.neighbours, shares), ("together", tables.together, trail)):
        for own, share in weights.items():
            for item, weight in row(rows, own):
                parts[source][item][own] += share * weight
    sessions = tables.sessions.items
    count = len(sessions.starts) - 1
    for session in range(count):
        within = [item for item, _ in row(sessions, session)]
        for own in set(within) & set(trail):
            for item in within:
                frequency = sum(item in [one for one, _ in row(sessions, each)] for each in range(count))
                parts["session"][item][own] += trail[own] / np.sqrt(len(within)) * np.log1p(count / frequency)
    return parts


queries = st.builds(
    Query,
    st.sampled_from(["ann", "carl", None]),
    st.lists(st.sampled_from([*ITEMS, "gone"]), max_size=4, unique=True),
    st.just(NOW),
)
SOURCES = ["repeat", "similar", "together", "session", "factor", "trending", "popular", "lasting", "asked"]


@given(seed=st.integers(0, 10_000), query=queries)
def test_the_item_that_a_reason_names_gave_the_largest_part_of_the_score(seed, query):
    tables = a_shop(seed).tables
    parts, pairs = parts_of_scores(tables, query), retrieve(tables, query, among=ITEMS).pairs
    for source, by_item in parts.items():
        summed = np.array([sum(by_item[item].values()) for item in range(N)])
        np.testing.assert_allclose(pairs[:, COLUMN[f"{source}_score"]], summed, rtol=1e-5, atol=1e-9)
    for source in ("similar", "together", "session", "asked", "popular"):
        found = reasons_of(tables, query, [Ranked(item, 1.0, source) for item in ITEMS])
        for item, reasons in enumerate(found):
            named = [reason.removeprefix("similar_to: ") for reason in reasons if reason.startswith("similar_to: ")]
            asked = ("similar", "together", "session") if source == "asked" else (source,)
            by_source = [
                {own: part for own, part in parts.get(one, {}).get(item, {}).items() if own != item} for one in asked
            ]
            expected = next((own for own in by_source if own), None)
            assert bool(named) == (expected is not None)
            if expected:
                assert expected[ITEMS.index(named[0])] == pytest.approx(max(expected.values()), rel=1e-5)


@given(seed=st.integers(0, 10_000), query=queries, source=st.sampled_from(SOURCES))
def test_every_other_reason_is_what_the_tables_have(seed, query, source):
    artefact = a_shop(seed)
    tables = artefact.tables
    own = tables.histories.column.tolist() if query.user == "ann" else []
    bought = {item for item, visits in zip(own, tables.own_visits.tolist(), strict=False) if visits > 0}
    used = {*own, *(ITEMS.index(item) for item in query.recent if item != "gone")}
    taste = factor_scores(tables.factors, np.array(sorted(used), dtype=np.int64))
    best = set(sorted((at for at in range(N) if taste[at] > 0), key=lambda at: -taste[at])[:60])
    falling = {
        name: sorted(range(N), key=lambda at: (-getattr(tables, name)[at], at))
        for name in ("popular", "trending", "lasting")
    }
    hot = [at for at in falling["trending"] if tables.trending[at] > 0][:TOP_TRENDING]
    liked = [
        *falling["popular"][:TOP_POPULAR],
        *[at for at in falling["lasting"] if tables.lasting[at] > 0][:TOP_LASTING],
    ]
    items = [Ranked(item, 1.0, source) for item in (*ITEMS, "gone", "unheard")]
    for at, reasons in enumerate(reasons_of(tables, query, items)):
        expected = {
            "bought_before": at in bought,
            "viewed": at in used - bought or (at == N and "gone" in query.recent),
            "taste": at in best or source == "factor",
            "trending": at in hot or source == "trending",
            "popular": at in liked or source in ("popular", "lasting"),
            "new": at >= N,
        }
        said = [reason for reason in reasons if not reason.startswith("similar_to")]
        assert said == [reason for reason, holds in expected.items() if holds]


def test_an_answer_has_reasons_where_the_query_asks_for_them_and_each_kind_of_answer_has():
    read, items = UserRead(features(recent=["tea"])), fresh(new=3, newer=2)
    plain = recommend(ItemQuery("ann", 4), read, model(), items, None)
    assert plain.reasons is None
    said = recommend(ItemQuery("ann", 7, explain=True), read, model(), items, None)
    by_item = dict(zip(ids(said.items), said.reasons, strict=True))
    assert by_item["cup"] == ["similar_to: tea", "popular"]
    assert by_item["tea"][0] == "viewed"
    assert by_item["new"] == ["trending", "new"]
    ranked = rank(ItemQuery("ann", 3, among=("pen", "new", "unheard"), explain=True), read, model(), items, None)
    assert ranked.reasons == [["popular"], ["trending", "new"], []]
    assert similar("tea", ItemQuery(None, 2, explain=True), model(), items).reasons == [["similar_to: tea"]] * 2


def test_an_answer_without_the_user_has_no_reasons_of_a_user():
    late = substitute(ItemQuery("ann", 3, explain=True), FallbackReason.DEADLINE, fresh(new=3), model())
    assert (ids(late.items), late.reasons) == (
        ["new", "ink", "pen"],
        [["trending", "new"], ["trending", "popular"], ["popular"]],
    )
    nobody = substitute(ItemQuery("ann", 3, explain=True), FallbackReason.NO_MODEL, fresh(new=3), None)
    assert nobody.reasons == [["trending"]]
    assert substitute(ItemQuery("ann", 3, explain=True), FallbackReason.NO_MODEL, NO_ITEMS, None).reasons == []
