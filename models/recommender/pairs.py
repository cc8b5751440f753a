"""Pair features, of a user and an item together: scores of every source for every item, then a row for each candidate.

All are computed from the tables and the query's newest items alone, so that training (as of past moments, with tables
of earlier data) and serving compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.arrays import Floats, Int64s
from models.recommender.tables import CandidateTables, Sessions

PAIR_FEATURES = (
    "similar_score",
    "similar_rank",
    "popular_score",
    "popular_rank",
    "trending_score",
    "own_count",
    "own_share",
    "own_rank",
    "own_age_ms",
    "recent_place",
    "history_size",
    "blended",
    "together_score",
    "together_rank",
    "factor_score",
    "factor_rank",
    "session_score",
    "session_rank",
    "lasting_score",
    "own_visits",
    "own_due",
    "category_share",
    "price_from_habit",
    "position",
)
"""The ranker's inputs about a user and an item together; the user's and the item's own features follow them."""

COLUMN = {name: column for column, name in enumerate(PAIR_FEATURES)}

POSITION = 1.0
"""The display position of every candidate in a ranking: the ranker learns the effect of positions from shown items, and
scores all candidates at the same one."""

SCORED = {"similar": 100, "together": 60, "factor": 60, "session": 60}
"""Source → the number of candidates it names, which is also the rank of an item that it does not name."""

TRAIL, SESSIONS_AN_ITEM, NEAREST_SESSIONS = 20, 200, 100
"""V-SKNN's sizes: newest items of the user, latest sessions of each of them, most similar sessions that score."""


@dataclass(frozen=True)
class Query:
    """A user at an instant: the key text (None without a user), its recent items, newest first, and as_of in ms."""

    user: str | None
    recent: Sequence[str]
    as_of: int


@dataclass(frozen=True)
class KnownUser:
    """The user in the tables: the positions of its history, the indices of its recent items, and as_of in ms."""

    tables: CandidateTables
    own: slice
    recent: Int64s
    as_of: int

    @classmethod
    def of(cls, tables: CandidateTables, query: Query) -> KnownUser:
        """The user of a query in the tables."""
        return cls(tables, tables.user(query.user), tables.indices(query.recent), query.as_of)

    @cached_property
    def own_items(self) -> Int64s:
        """The indices of the history's items, the most frequent first."""
        return self.tables.histories.column[self.own].astype(np.int64)

    @cached_property
    def every(self) -> Int64s:
        """The indices of history and recent items, each once."""
        return np.unique(np.concatenate([self.own_items, self.recent]))

    @cached_property
    def shares(self) -> Floats:
        """Aligned with ``every``: 1 for recent items, and a decay since the last time for those of the history."""
        ages = np.maximum(self.as_of - self.tables.own_last_ms[self.own], 0)
        shares = np.zeros(len(self.every))
        shares[np.searchsorted(self.every, self.own_items)] = np.exp2(-ages / self.tables.half_life_ms)
        shares[np.searchsorted(self.every, self.recent)] = 1.0
        return shares

    @cached_property
    def trail(self) -> Int64s:
        """Indices of at most TRAIL items, newest first: those of the query, then the history's by their last time."""
        order = np.argsort(-self.tables.own_last_ms[self.own], kind="stable")[:TRAIL]
        trail = np.concatenate([self.recent, self.own_items[order]])
        return trail[np.sort(np.unique(trail, return_index=True)[1])][:TRAIL]

    @cached_property
    def taken(self) -> Int64s:
        """The indices of items that were taken as the target; empty where that was not counted."""
        visits = self.tables.own_visits
        return self.own_items[:0] if visits is None else self.own_items[visits[self.own] > 0]


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
        scores["factor"] = tables.factors.scores(known.every)
    if tables.sessions is not None:
        scores["session"] = session_scores(tables.sessions, known.trail, n)
    return {source: SourceScores(values, SCORED[source]) for source, values in scores.items()}


def recency_weights(count: int) -> Floats:
    """(count,) weights of items, newest first: from 1 down in equal steps, all above 0."""
    return 1.0 - np.arange(count) / max(count, 1)


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
    """The indices of the highest positive scores, in no order."""
    count = min(count, len(scores))
    if not count:
        return np.empty(0, dtype=np.int64)
    highest = np.argpartition(-scores, count - 1)[:count]
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


def blended(pairs: Floats) -> Floats:
    """The score without a ranker: similarity and own count, each as a share of the highest, plus 0.1 popularity.

    Args:
        pairs: (c, at least len(PAIR_FEATURES)), the pair features first.
    """

    def share(name: str) -> Floats:
        column = pairs[:, COLUMN[name]]
        top = column.max(initial=0.0)
        return column / top if top > 0 else np.zeros(len(column))

    return share("similar_score") + share("own_count") + 0.1 * share("popular_score")
