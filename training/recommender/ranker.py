"""The ranker, the second stage: a classifier of (user, item) at a moment, by the features of both just then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.history import Spine, point_in_time
from models.recommender import PAIR_FEATURES, Candidates, CandidateTables, Query, ranker_inputs, retrieve
from training.data import Interactions, Moments
from training.item_content import PastTables
from training.run import Features, TrainingRun
from training.settings import TrainingSettings

RISING = {
    "similar_score": 1,
    "similar_rank": -1,
    "popular_score": 1,
    "popular_rank": -1,
    "own_count": 1,
    "own_share": 1,
    "own_rank": -1,
    "blended": 1,
    "together_score": 1,
    "together_rank": -1,
    "factor_score": 1,
    "factor_rank": -1,
    "session_score": 1,
    "session_rank": -1,
    "lasting_score": 1,
    "own_visits": 1,
}
"""Pair features that must rise (1) or fall (-1) with the score: with few examples, trees would learn otherwise."""


@dataclass(frozen=True)
class RetrievedMoments:
    """m moments with the user's features then (m, user features), and the candidates that retrieval found."""

    moments: Moments
    user_rows: Floats
    candidates: list[Candidates]
    item_rows: list[Floats] | None = None
    """The features of each moment's candidates, where they were computed already (see with_item_features)."""


def retrieve_at(
    tables: CandidateTables, moments: Moments, history: Interactions, features: Features
) -> RetrievedMoments:
    """The user's features as of each moment, and the candidates that retrieval finds from them."""
    domain = features.domain
    users = history.users.take(pa.array(moments.user))
    matrix = point_in_time(domain.user, Spine(users, moments.as_of), features.events)
    name = domain.recommender.recent_feature
    recents = matrix.to_table()[name].to_pylist() if name else [None] * len(moments)
    queries = zip(users.to_pylist(), recents, moments.as_of.tolist(), strict=True)
    known = tables.known_at if isinstance(tables, PastTables) else lambda _: None
    candidates = [
        retrieve(tables, Query(user, recent or (), as_of), allowed=known(as_of)) for user, recent, as_of in queries
    ]
    return RetrievedMoments(moments, matrix.to_numpy(domain.user_inputs.names), candidates)


def with_item_features(retrieved: RetrievedMoments, tables: CandidateTables, features: Features) -> RetrievedMoments:
    """The same with the item features of all candidates: computed once for all who rank them."""
    if retrieved.item_rows is not None:
        return retrieved
    rows = item_features(retrieved.candidates, retrieved.moments.as_of, tables, features)
    return replace(retrieved, item_rows=rows)


def item_features(
    candidates: list[Candidates], as_of: Int64s, tables: CandidateTables, features: Features
) -> list[Floats]:
    """For each moment the item features of its candidates as of then, (c, item features)."""
    items = np.concatenate([np.empty(0, dtype=np.int64), *(each.indices for each in candidates)])
    times = np.repeat(as_of, [len(each) for each in candidates])
    order = np.lexsort((items, times))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(times[order]) != 0) | (np.diff(items[order]) != 0)
    first = order[new]
    keys = pa.array(tables.items, pa.string()).take(pa.array(items[first]))
    matrix = features.of_items(Spine(keys, times[first]))
    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.cumsum(new) - 1
    rows = matrix.to_numpy(features.domain.item_inputs.names)[row]
    return np.split(rows, np.cumsum([len(each) for each in candidates])[:-1]) if candidates else []


@dataclass(frozen=True)
class RankerExamples:
    """n rows of ranker inputs (pair, user, item features), and whether the item was taken."""

    inputs: Floats
    taken: NDArray[np.bool_]


def examples(retrieved: RetrievedMoments, tables: CandidateTables, run: TrainingRun) -> RankerExamples:
    """Every candidate of each moment that was then taken, and some that were not; only moments with both."""
    settings, domain = run.settings, run.domain
    rng = np.random.default_rng(settings.seed)
    index_of_code = item_indices(tables, run.history)
    chosen, users, taken, as_of, rows = [], [], [], [], []
    for moment, candidates in enumerate(retrieved.candidates):
        positive = np.isin(candidates.indices, index_of_code[retrieved.moments.taken(moment)])
        negative = np.flatnonzero(~positive)
        if positive.any() and len(negative):
            keep = positive.copy()
            keep[rng.choice(negative, min(settings.negatives, len(negative)), replace=False)] = True
            chosen.append(candidates.only(keep))
            users.append(retrieved.user_rows[moment])
            taken.append(positive[keep])
            as_of.append(retrieved.moments.as_of[moment])
            rows += [] if retrieved.item_rows is None else [retrieved.item_rows[moment][keep]]
    if retrieved.item_rows is None:
        rows = item_features(chosen, np.array(as_of, dtype=np.int64), tables, run.features)
    width = len(domain.user_inputs.names) + len(domain.item_inputs.names)
    inputs = [ranker_inputs(*parts) for parts in zip(chosen, users, rows, strict=True)]
    return RankerExamples(
        np.concatenate([np.empty((0, inputs[0].shape[1] if inputs else width)), *inputs]),
        np.concatenate([np.empty(0, dtype=bool), *taken]),
    )


def item_indices(tables: CandidateTables, history: Interactions) -> Int64s:
    """For each item code of the interactions its index in the tables, -1 for an item that they do not know."""
    return np.array([tables.index.get(item, -1) for item in history.items.to_pylist()], dtype=np.int64)


def fit_ranker(rows: RankerExamples, settings: TrainingSettings) -> Any:
    """A fitted classifier, or None with fewer positive rows than settings.ranker_positives."""
    if int(rows.taken.sum()) < settings.ranker_positives:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    others = rows.inputs.shape[1] - len(PAIR_FEATURES)
    classifier = HistGradientBoostingClassifier(
        max_iter=settings.iterations,
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.leaves,
        min_samples_leaf=settings.smallest_leaf,
        l2_regularization=settings.l2,
        monotonic_cst=[RISING.get(name, 0) for name in PAIR_FEATURES] + [0] * others,
        early_stopping=False,
        random_state=settings.seed,
    )
    # Binning fails on a column of nothing but NaN. No tree splits by a constant, whatever it is asked about later.
    nothing = np.isnan(rows.inputs).all(axis=0)
    with threadpool_limits(settings.threads):
        return classifier.fit(np.where(nothing, 0.0, rows.inputs), rows.taken)
