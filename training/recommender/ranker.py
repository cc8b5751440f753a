"""The second stage: a classifier of (user, item) at a moment, by what was known of both just then."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.definitions import FeatureView
from features.history import Spine, point_in_time
from features.rows import FeatureMatrix
from models.folder import ViewInputs
from models.recommender import PAIR_FEATURES, Candidates, CandidateTables, Query, ranker_inputs, retrieve
from training.data import Domain, Events, Interactions, Moments, SampledEvents
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
"""Pair features of which more (1) or less (-1) never makes an item worse: with few examples, trees would say so."""

NUMERIC = ("int64", "float64", "bool")


def view_inputs(view: FeatureView) -> ViewInputs:
    """The view's features that a ranker can take: the numeric ones, in their order."""
    names = tuple(feature.name for feature in view.features if feature.dtype in NUMERIC)
    return ViewInputs(view=view.name, schema_hash=f"{view.schema_hash:016x}", names=names)


@dataclass(frozen=True)
class Asked:
    """m moments with what was known at each: the user's features (m, user features) and the candidates."""

    moments: Moments
    user_rows: Floats
    candidates: list[Candidates]
    item_rows: list[Floats] | None = None
    """What was known of each moment's candidates, where it has been asked already (see told_of_items)."""


def ask(tables: CandidateTables, moments: Moments, history: Interactions, events: Events, domain: Domain) -> Asked:
    """The user's features as of each moment, and the candidates that retrieval finds from them."""
    keys = history.users.take(pa.array(moments.user))
    matrix = point_in_time(domain.user, Spine(keys, moments.as_of), events)
    name = domain.recent_feature
    recents = matrix.to_table()[name].to_pylist() if name else [None] * len(moments)
    asked = zip(keys.to_pylist(), recents, moments.as_of.tolist(), strict=True)
    candidates = [retrieve(tables, Query(user, recent or (), as_of)) for user, recent, as_of in asked]
    return Asked(moments, matrix.to_numpy(view_inputs(domain.user).names), candidates)


def told_of_items(asked: Asked, tables: CandidateTables, of: Features) -> Asked:
    """The same with the item features of all candidates: asked once for all who rank them."""
    if asked.item_rows is not None:
        return asked
    return replace(asked, item_rows=item_features(asked.candidates, asked.moments.as_of, tables, of))


def item_features(candidates: list[Candidates], as_of: Int64s, tables: CandidateTables, of: Features) -> list[Floats]:
    """For each moment the item features of its candidates as of then, (c, item features)."""
    places = np.concatenate([np.empty(0, dtype=np.int64), *(one.places for one in candidates)])
    times = np.repeat(as_of, [len(one) for one in candidates])
    order = np.lexsort((places, times))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(times[order]) != 0) | (np.diff(places[order]) != 0)
    first = order[new]
    keys = pa.array(tables.items, pa.string()).take(pa.array(places[first]))
    matrix = of.of_items(Spine(keys, times[first]))
    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.cumsum(new) - 1
    rows = matrix.to_numpy(view_inputs(of.domain.item).names)[row]
    return np.split(rows, np.cumsum([len(one) for one in candidates])[:-1]) if candidates else []


@dataclass(frozen=True)
class Features:
    """Where features come from."""

    events: Events
    domain: Domain

    def of_items(self, spine: Spine) -> FeatureMatrix:
        """The item view's features of the spine: of everybody's events, whoever was drawn to learn from."""
        if isinstance(self.events, SampledEvents):
            return self.events.whole.features(self.domain.item, spine)
        return point_in_time(self.domain.item, spine, self.events)


@dataclass(frozen=True)
class Examples:
    """n rows of ranker inputs (pair, user, item features), and whether the item was taken."""

    inputs: Floats
    taken: NDArray[np.bool_]


def examples(
    asked: Asked, tables: CandidateTables, history: Interactions, of: Features, settings: TrainingSettings
) -> Examples:
    """Of each moment every candidate that was then taken, and some that were not; only moments with both."""
    rng = np.random.default_rng(settings.seed)
    item_of_code = places_of(tables, history)
    kept, users, taken, as_of, rows = [], [], [], [], []
    for moment, candidates in enumerate(asked.candidates):
        positive = np.isin(candidates.places, item_of_code[asked.moments.taken(moment)])
        negative = np.flatnonzero(~positive)
        if positive.any() and len(negative):
            keep = positive.copy()
            keep[rng.choice(negative, min(settings.negatives, len(negative)), replace=False)] = True
            kept.append(candidates.only(keep))
            users.append(asked.user_rows[moment])
            taken.append(positive[keep])
            as_of.append(asked.moments.as_of[moment])
            rows += [] if asked.item_rows is None else [asked.item_rows[moment][keep]]
    if asked.item_rows is None:
        rows = item_features(kept, np.array(as_of, dtype=np.int64), tables, of)
    width = len(view_inputs(of.domain.user).names) + len(view_inputs(of.domain.item).names)
    inputs = [ranker_inputs(*one) for one in zip(kept, users, rows, strict=True)]
    return Examples(
        np.concatenate([np.empty((0, inputs[0].shape[1] if inputs else width)), *inputs]),
        np.concatenate([np.empty(0, dtype=bool), *taken]),
    )


def places_of(tables: CandidateTables, history: Interactions) -> Int64s:
    """For each item code of the interactions its place in the tables, -1 for an item that they do not know."""
    return np.array([tables.index.get(item, -1) for item in history.items.to_pylist()], dtype=np.int64)


def fit_ranker(rows: Examples, settings: TrainingSettings) -> Any:
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
