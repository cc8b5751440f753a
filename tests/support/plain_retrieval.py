"""Candidates and their pair features by arrays over all items: the plain computation that retrieval is compared with.

What is not defined by the sources themselves is defined here: of equal scores the item of the lower index is named
first, sums are made in the order of their entries, and products in the order of the factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender.artefact import Artefact
from models.recommender.pairs import POSITION, KnownUser, Query, blended
from models.recommender.retrieval import (
    SOURCES,
    TOP_LASTING,
    TOP_OWN,
    TOP_POPULAR,
    TOP_TRENDING,
    Candidates,
    Ranked,
    ranker_inputs,
)
from models.recommender.scoring import (
    COLUMN,
    NEAREST_SESSIONS,
    PAIR_FEATURES,
    SCORED,
    SESSIONS_AN_ITEM,
    TOP_CONTENT,
    recency_weights,
)
from models.recommender.tables import CandidateTables, Factors, Sessions


@dataclass(frozen=True)
class SourceScores:
    """A source's score of every item, (n,), higher is better, and the number of candidates it names."""

    values: Floats
    count: int

    @cached_property
    def top(self) -> Int64s:
        """The indices of the items that it names, in no order."""
        return best(self.values, self.count)

    @cached_property
    def ranks(self) -> Floats:
        """(n,) 0 for the highest score, of equal ones the lower index first; ``count`` for what it does not name."""
        ranks = np.full(len(self.values), float(self.count))
        ranks[self.top[np.lexsort((self.top, -self.values[self.top]))]] = np.arange(len(self.top))
        return ranks


def scores_of(known: KnownUser) -> dict[str, SourceScores]:
    """Source → its scores, for the sources that the tables have."""
    tables, n = known.tables, len(known.tables.items)
    scores = {"similar": tables.neighbours.total(known.every, n, known.shares)}
    if tables.together is not None:
        scores["together"] = tables.together.total(known.trail, n, recency_weights(len(known.trail)))
    if tables.factors is not None:
        scores["factor"] = factor_scores(tables.factors, known.every)
    if tables.sessions is not None:
        scores["session"] = session_scores(tables.sessions, known.trail, n)
    return {source: SourceScores(values, SCORED[source]) for source, values in scores.items()}


def factor_scores(factors: Factors, taken: Int64s) -> Floats:
    """(n,) each item's score for a user who took these."""
    scores = np.zeros(len(factors.items), dtype=np.float32)
    if len(taken):
        user = factors.user(taken)
        for factor in range(len(user)):
            scores = scores + factors.items[:, factor] * user[factor]
    return scores.astype(np.float64)


def session_scores(sessions: Sessions, trail: Int64s, width: int) -> Floats:
    """(width,) scores from the sessions most like the trail: V-SKNN (Ludewig and Jannach, UMUAI 2018).

    An item of the trail has its recency weight; a session the sum over the items that it shares with the trail, divided
    by the root of its length; an item is weighted by its inverse session frequency.
    """
    if not len(trail) or not len(sessions.items.starts) > 1:
        return np.zeros(width)
    count = len(sessions.items.starts) - 1
    entries, lengths = sessions.of_item.at(trail, SESSIONS_AN_ITEM)
    named = sessions.of_item.column[entries]
    shared = np.bincount(named, weights=np.repeat(recency_weights(len(trail)), lengths), minlength=count)
    similarity: Floats = shared / np.sqrt(np.diff(sessions.items.starts))
    nearest = best(similarity, NEAREST_SESSIONS)
    frequency = np.diff(sessions.of_item.starts)
    return sessions.items.total(nearest, width, similarity[nearest]) * np.log1p(count / np.maximum(frequency, 1))


def best(scores: Floats, count: int) -> Int64s:
    """The indices of the highest positive scores, the highest first."""
    count = min(count, len(scores))
    if not count:
        return np.empty(0, dtype=np.int64)
    highest = np.argsort(-scores, kind="stable")[:count]
    return highest[scores[highest] > 0]


def pairs_of(known: KnownUser, scores: Mapping[str, SourceScores], indices: Int64s) -> Floats:
    """(c, len(PAIR_FEATURES)) the pair features of the items of these indices; NaN for unknown values."""
    pairs = np.full((len(indices), len(PAIR_FEATURES)), np.nan)

    def put(name: str, values: Floats | float) -> None:
        pairs[:, COLUMN[name]] = values

    tables = known.tables
    for source, scored in scores.items():
        put(f"{source}_score", scored.values[indices])
        put(f"{source}_rank", scored.ranks[indices])
    put("popular_score", tables.popular_log[indices])
    put("popular_rank", tables.popular_rank[indices])
    put("trending_score", tables.trending[indices].astype(np.float64))
    put("lasting_score", tables.lasting_log[indices])
    for name, values in _own(known, indices).items():
        put(name, values)
    rank = _rank_of(known.recent, len(tables.items))[indices]
    put("recent_place", np.where(rank >= 0, rank, np.nan))
    put("history_size", float(len(known.own_items) + len(known.recent)))
    put("category_share", _category_share(known, indices))
    put("price_from_habit", _price_from_habit(known, indices))
    put("position", POSITION)
    put("blended", blended(pairs))
    return pairs


def _own(known: KnownUser, indices: Int64s) -> dict[str, Floats]:
    """Pair feature → (c,) its values from the user's own history."""
    tables, own = known.tables, known.own
    counts = tables.own_count[own].astype(np.float64)
    age = (known.as_of - tables.own_last_ms[own]).astype(np.float64)
    ranks = np.empty(len(counts))
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    columns = {
        "own_count": (counts, 0.0),
        "own_share": (counts / max(counts.sum(), 1.0), 0.0),
        "own_rank": (ranks, np.nan),
        "own_age_ms": (age, np.nan),
    }
    if tables.own_visits is not None and tables.own_first_ms is not None:
        visits = tables.own_visits[own].astype(np.float64)
        between = (tables.own_last_ms[own] - tables.own_first_ms[own]) / np.maximum(visits - 1, 1)
        due = np.divide(age, between, out=np.full(len(age), np.nan), where=(visits > 1) & (between > 0))
        columns |= {"own_visits": (visits, 0.0), "own_due": (due, np.nan)}
    rank = _rank_of(known.own_items, len(tables.items))[indices]
    return {name: np.append(values, default)[rank] for name, (values, default) in columns.items()}


def _rank_of(indices: Int64s, size: int) -> Int64s:
    """(size,) the position of each index among these; -1 for one that is not among them."""
    rank = np.full(size, -1)
    rank[indices] = np.arange(len(indices))
    return rank


def _category_share(known: KnownUser, indices: Int64s) -> Floats | float:
    """(c,) the share of the trail that is of the item's category."""
    category = known.tables.category
    if category is None:
        return np.nan
    of_trail, weights = category[known.trail], recency_weights(len(known.trail))
    known_ones = of_trail >= 0
    if not known_ones.any():
        return np.nan
    sums = np.bincount(of_trail[known_ones], weights=weights[known_ones], minlength=int(category.max()) + 1)
    of_item = category[indices]
    return np.where(of_item >= 0, sums[np.maximum(of_item, 0)] / weights[known_ones].sum(), np.nan)


def _price_from_habit(known: KnownUser, indices: Int64s) -> Floats | float:
    """(c,) ln of the item's price over the median price of the user's items; NaN where either is not known."""
    price = known.tables.price
    if price is None:
        return np.nan
    paid = price[known.every]
    paid = paid[paid > 0]
    if not len(paid):
        return np.nan
    of_item = price[indices].astype(np.float64)
    habit = float(np.median(paid))
    return np.log(np.where(of_item > 0, of_item, np.nan) / habit)


def retrieve(
    tables: CandidateTables, query: Query, among: Sequence[str] | None = None, allowed: NDArray[np.bool_] | None = None
) -> Candidates:
    """As models.recommender.retrieve."""
    known = KnownUser.of(tables, query)
    scores = scores_of(known)
    if among is not None:
        indices = _inside(tables.indices(among), allowed)
        sources = np.full(len(indices), SOURCES.index("asked"), dtype=np.int8)
    else:
        indices, sources = _named(known, scores, allowed)
    return Candidates(indices, pairs_of(known, scores, indices), sources)


def _named(
    known: KnownUser, scores: dict[str, SourceScores], allowed: NDArray[np.bool_] | None
) -> tuple[Int64s, NDArray[np.int8]]:
    """The indices that any source names, each once, and the first source that does."""
    tables = known.tables
    if not tables.repeats:
        allowed = np.ones(len(tables.items), dtype=bool) if allowed is None else allowed.copy()
        allowed[known.taken] = False
    own = known.own_items[np.argsort(-tables.own_count[known.own], kind="stable")]
    named = {
        "repeat": np.concatenate([_inside(known.recent, allowed), _inside(own, allowed)[:TOP_OWN]]),
        "trending": _inside(tables.most_trending, allowed)[:TOP_TRENDING],
        "popular": _inside(tables.most_popular, allowed)[:TOP_POPULAR],
        "lasting": _inside(tables.most_lasting, allowed)[:TOP_LASTING],
    }
    for source, scored in scores.items():
        named[source] = scored.top if allowed is None else best(np.where(allowed, scored.values, 0.0), scored.count)
    if "factor" in scores and tables.fitted < len(tables.items):
        later = scores["factor"].values.copy()
        later[: tables.fitted] = 0.0
        named["content"] = best(later if allowed is None else np.where(allowed, later, 0.0), TOP_CONTENT)
    ordered = [named.get(source, own[:0]) for source in SOURCES]
    every = np.concatenate(ordered)
    sources = np.repeat(np.arange(len(SOURCES), dtype=np.int8), [len(indices) for indices in ordered])
    indices, first = np.unique(every, return_index=True)
    return indices, sources[first]


def _inside(indices: Int64s, allowed: NDArray[np.bool_] | None) -> Int64s:
    return indices if allowed is None else indices[allowed[indices]]


def recommend(
    artefact: Artefact,
    query: Query,
    user_row: Floats | None,
    item_matrix: Floats | None,
    k: int = 10,
    *,
    exclude: Sequence[str] = (),
    among: Sequence[str] | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> list[Ranked]:
    """As Artefact.recommend, the ranker asked by its predict_proba."""
    tables, manifest = artefact.tables, artefact.manifest
    found = retrieve(tables, query, among, allowed)
    found = found.only(~np.isin(found.indices, tables.indices(exclude)))
    if artefact.ranker is None or not len(found):
        scores = blended(found.pairs)
    else:
        user = np.full(len(manifest.user.names), np.nan) if user_row is None else user_row
        missing = np.full((len(found), len(manifest.item.names)), np.nan)
        rows = missing if item_matrix is None else item_matrix[found.indices]
        scores = artefact.ranker.predict_proba(ranker_inputs(found, user, rows))[:, 1]
        scores = scores if manifest.calibration is None else manifest.calibration.calibrated(scores)
    order = np.lexsort((tables.popular_rank[found.indices], -scores))[:k]
    return [
        Ranked(tables.items[found.indices[row]], float(scores[row]), SOURCES[found.sources[row]])
        for row in order.tolist()
    ]
