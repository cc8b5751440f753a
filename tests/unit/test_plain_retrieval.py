"""Retrieval and ranking of many requests, compared to the bit with the computation over arrays of all items."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import plain_retrieval as plain
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from features.hashing import hash_text, hash_texts
from models.folder import ViewInputs
from models.recommender import (
    PAIR_FEATURES,
    Artefact,
    Calibration,
    CandidateTables,
    Factors,
    Manifest,
    Query,
    RankingRequest,
    Sessions,
    SparseRows,
)

USERS, NOW, DAY = 40, 10**12, 86_400_000
USER, ITEM = ("user_a", "user_b"), ("item_a", "item_b", "item_c")
VARIANTS, QUESTIONS = 40, 250
"""VARIANTS × QUESTIONS are the 10,000 questions."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads of scikit-learn would wait for each other on busy cores."""
    with threadpool_limits(1):
        yield


def sparse(rng: np.random.Generator, rows: int, width: int, most: int, steps: int, least: int = 0) -> SparseRows:
    """Rows of up to ``most`` different columns, with weights of few different values: many scores are equal."""
    columns = [rng.permutation(width)[: rng.integers(least, min(most, width) + 1)] for _ in range(rows)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in columns])]).astype(np.int64)
    column = np.concatenate([np.empty(0, np.int64), *columns]).astype(np.int32)
    weight = rng.integers(1, steps, len(column)) / (7 if steps > 2 else 1)
    return SparseRows(starts, column, weight.astype(np.float32))


def tables(seed: int) -> CandidateTables:
    """Random tables, each optional one in half of the seeds."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 5, 60, 130, 400]))
    steps = int(rng.choice([2, 4, 10_000]))
    users = np.sort(hash_texts(pa.array([f"u{user}" for user in range(USERS)])))
    histories = sparse(rng, USERS, n, 12, 5)
    m = len(histories.column)

    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.5 else None

    vectors = rng.integers(-3, 4, (n, 5)) / (1 if steps == 2 else rng.random((n, 1)) * 9 + 1)
    visited = rng.random() < 0.5
    trending = np.where(rng.random(n) < 0.4, rng.integers(0, 4, n) / 4, 0)
    return CandidateTables(
        items=tuple(f"i{item}" for item in range(n)),
        neighbours=sparse(rng, n, n, 90, steps),
        popular=rng.integers(0, 9, n).astype(np.float32),
        trending=trending.astype(np.float32),
        users=users,
        histories=histories,
        own_count=rng.integers(1, 4, m).astype(np.float32),
        own_last_ms=NOW - rng.integers(0, 90, m) * DAY,
        own_visits=rng.integers(0, 4, m).astype(np.float32) if visited else None,
        own_first_ms=NOW - rng.integers(90, 120, m) * DAY if visited else None,
        lasting=maybe(rng.integers(0, 9, n).astype(np.float32)),
        together=maybe(sparse(rng, n, n, 30, steps)),
        factors=maybe(Factors(vectors.astype(np.float32), 0.5, 7.0, maybe(n // 2 + 1))),
        sessions=maybe(Sessions.of(sparse(rng, 120, n, 6, 2, least=1), n)),
        category=maybe(rng.integers(-1, 4, n).astype(np.int32)),
        price=maybe(np.where(rng.random(n) < 0.8, rng.integers(0, 90, n), np.nan).astype(np.float32)),
        half_life_ms=float(rng.choice([np.inf, 20 * DAY])),
        repeats=bool(rng.random() < 0.7),
    )


def ranker(seed: int) -> HistGradientBoostingClassifier:
    rng = np.random.default_rng(seed)
    inputs = rng.random((400, len(PAIR_FEATURES) + len(USER) + len(ITEM))) * 60
    inputs[rng.random(inputs.shape) < 0.2] = np.nan
    return HistGradientBoostingClassifier(max_iter=8, random_state=seed).fit(inputs, rng.random(400) < 0.4)


def artefact(seed: int) -> Artefact:
    found = tables(seed)
    manifest = Manifest(
        name="groceries",
        created_ms=NOW,
        as_of_ms=NOW,
        target=("purchase",),
        items=len(found.items),
        user=ViewInputs(view="user_view", schema_hash="00" * 8, names=USER),
        item=ViewInputs(view="item_view", schema_hash="11" * 8, names=ITEM),
        calibration=Calibration(slope=1.3, intercept=-0.4) if seed % 3 == 0 else None,
    )
    return Artefact(manifest, found, ranker(seed) if seed % 5 else None)


def question(rng: np.random.Generator, artefact: Artefact, matrix: np.ndarray) -> RankingRequest:
    n = len(artefact.items)

    def some(most: int) -> list[str]:
        return [f"i{item}" for item in rng.integers(0, n + 3, rng.integers(0, most))]

    user = f"u{rng.integers(USERS + 3)}" if rng.random() < 0.9 else None
    row = np.where(rng.random(len(USER)) < 0.2, np.nan, rng.random(len(USER)) * 60)
    return RankingRequest(
        Query(user, some(25), NOW + int(rng.integers(0, 9)) * DAY),
        row if rng.random() < 0.8 else None,
        matrix if rng.random() < 0.8 else None,
        some(40) if rng.random() < 0.25 else None,
        rng.random(n) < rng.choice([0.0, 0.1, 0.9]) if rng.random() < 0.4 else None,
        int(rng.choice([1, 10, 500])),
        artefact.tables.indices(some(30)) if rng.random() < 0.4 else None,
    )


def alone(artefact: Artefact, asked: RankingRequest) -> list[Any]:
    """The answer by the plain computation."""
    exclude = [] if asked.exclude is None else [artefact.items[at] for at in asked.exclude.tolist()]
    return plain.recommend(
        artefact,
        asked.query,
        asked.user_row,
        asked.item_matrix,
        asked.k,
        exclude=exclude,
        among=asked.among,
        allowed=asked.allowed,
    )


@pytest.mark.parametrize("seed", range(VARIANTS))
def test_requests_are_answered_as_the_plain_computation_answers_them(seed: int) -> None:
    """Ids, order, sources and scores."""
    rng, model = np.random.default_rng(1_000 + seed), artefact(seed)
    matrix = np.where(rng.random((len(model.items), 3)) < 0.2, np.nan, rng.random((len(model.items), 3)) * 60)
    asked = [question(rng, model, matrix) for _ in range(QUESTIONS)]
    assert [model.answer(one) for one in asked] == [alone(model, one) for one in asked]


@pytest.mark.parametrize("seed", range(VARIANTS))
def test_candidates_have_the_pair_features_of_the_plain_computation(seed: int) -> None:
    rng, model = np.random.default_rng(seed), artefact(seed)
    for _ in range(40):
        asked = question(rng, model, np.empty(0))
        found = model.retrieve(asked.query, asked.among, asked.allowed)
        expected = plain.retrieve(model.tables, asked.query, asked.among, asked.allowed)
        assert found.indices.tolist() == expected.indices.tolist()
        assert found.sources.tolist() == expected.sources.tolist()
        assert found.pairs.tobytes() == expected.pairs.tobytes()


def test_a_request_is_answered_as_recommend_answers_its_arguments() -> None:
    rng, model = np.random.default_rng(7), artefact(7)
    for _ in range(50):
        asked = question(rng, model, rng.random((len(model.items), 3)))
        exclude = [] if asked.exclude is None else [model.items[at] for at in asked.exclude.tolist()]
        query = asked.query
        found = model.recommend(
            query.recent,
            asked.user_row,
            asked.item_matrix,
            asked.k,
            user=query.user,
            as_of=query.as_of,
            exclude=exclude,
            among=asked.among,
            allowed=asked.allowed,
        )
        assert found == model.answer(asked)


def test_a_model_of_a_users_own_is_asked_about_one_request_at_a_time() -> None:
    class Own:
        """Its answers depend on the rows that it is asked about."""

        def predict_proba(self, inputs: np.ndarray) -> np.ndarray:
            asked.append(len(inputs))
            return np.column_stack([np.zeros(len(inputs)), np.arange(len(inputs)) / len(inputs)])

    asked: list[int] = []
    rng, model = np.random.default_rng(3), replace(artefact(3), ranker=Own())
    questions = [question(rng, model, rng.random((len(model.items), 3))) for _ in range(20)]
    counts = []
    for one in questions:
        candidates = model.retrieve(one.query, one.among, one.allowed)
        counts.append(len(np.setdiff1d(candidates.indices, [] if one.exclude is None else one.exclude)))
        model.answer(one)
    assert asked == [count for count in counts if count]


def test_threads_share_an_artefact() -> None:
    rng, model = np.random.default_rng(11), artefact(12)
    questions = [question(rng, model, rng.random((len(model.items), 3))) for _ in range(300)]
    expected = [alone(model, one) for one in questions]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(model.answer, questions)) == expected


def test_after_a_request_that_failed_the_next_ones_are_answered_as_ever() -> None:
    rng, model = np.random.default_rng(13), artefact(6)
    questions = [question(rng, model, rng.random((len(model.items), 3))) for _ in range(20)]
    expected = [alone(model, one) for one in questions]
    for one, answer in zip(questions, expected, strict=True):
        with pytest.raises((TypeError, IndexError)):
            model.retrieve(one.query, None, np.ones(3, dtype=np.complex128))
        assert model.answer(one) == answer


@given(st.text(max_size=80))
def test_the_hash_of_one_text_is_that_of_many(text: str) -> None:
    """Users are found by it; some texts are longer than it adds up itself."""
    longer = text * 3
    assert [hash_text(text), hash_text(longer)] == hash_texts(pa.array([text, longer])).tolist()
