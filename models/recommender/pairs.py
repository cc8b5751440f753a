"""Pair features, of a user and an item together: scores of every source for every item, then a row for each candidate.

Everything here is of the tables and of the query's newest items, so that training, which asks as of moments of the past
with tables of before, and serving compute the same.
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

COLUMN = {name: place for place, name in enumerate(PAIR_FEATURES)}

POSITION = 1.0
"""Where every candidate is taken to be shown: the ranker learns what was due to the place from what was shown, and is
asked about one place for all."""

SCORED = {"similar": 100, "together": 60, "factor": 60, "session": 60}
"""Source → how many candidates it names; a rank is this where the source does not name the item."""

TRAIL, SESSIONS_AN_ITEM, ALIKE = 20, 200, 100
"""Of so many newest items similar sessions are looked for, among so many of each, and so many of them answer."""


@dataclass(frozen=True)
class Query:
    """A user at an instant: the key text (None for nobody known), its newest items first, and as_of in ms."""

    user: str | None
    recent: Sequence[str]
    as_of: int


@dataclass(frozen=True)
class Known:
    """The user in the tables: the positions of the history, its items, and the positions of the newest items."""

    tables: CandidateTables
    own: slice
    recent: Int64s
    as_of: int

    @classmethod
    def of(cls, tables: CandidateTables, query: Query) -> Known:
        """This query's user in the tables."""
        return cls(tables, tables.user(query.user), tables.places(query.recent), query.as_of)

    @cached_property
    def own_items(self) -> Int64s:
        """The places of the history's items, the most frequent first."""
        return self.tables.histories.column[self.own].astype(np.int64)

    @cached_property
    def every(self) -> Int64s:
        """The places of history and newest items, each once."""
        return np.unique(np.concatenate([self.own_items, self.recent]))

    @cached_property
    def shares(self) -> Floats:
        """Aligned with ``every``: 1 for the newest items, and for the history's less the longer ago they were last."""
        ages = np.maximum(self.as_of - self.tables.own_last_ms[self.own], 0)
        shares = np.zeros(len(self.every))
        shares[np.searchsorted(self.every, self.own_items)] = np.exp2(-ages / self.tables.half_life_ms)
        shares[np.searchsorted(self.every, self.recent)] = 1.0
        return shares

    @cached_property
    def trail(self) -> Int64s:
        """At most TRAIL places, the newest first: those of the query, then the history's by when they were last."""
        order = np.argsort(-self.tables.own_last_ms[self.own], kind="stable")[:TRAIL]
        trail = np.concatenate([self.recent, self.own_items[order]])
        return trail[np.sort(np.unique(trail, return_index=True)[1])][:TRAIL]

    @cached_property
    def taken(self) -> Int64s:
        """The places of what was taken as the target; none where that was not counted."""
        visits = self.tables.own_visits
        return self.own_items[:0] if visits is None else self.own_items[visits[self.own] > 0]


@dataclass(frozen=True)
class SourceScores:
    """(n,) what a source says of every item, higher is better, and how many candidates it names."""

    values: Floats
    count: int

    @cached_property
    def top(self) -> Int64s:
        """The places of the items that it names, in no order."""
        return best(self.values, self.count)

    @cached_property
    def ranks(self) -> Floats:
        """(n,) 0 for the highest score, of equal ones the lower place first; ``count`` for what it does not name."""
        ranks = np.full(len(self.values), float(self.count))
        ranks[self.top[np.lexsort((self.top, -self.values[self.top]))]] = np.arange(len(self.top))
        return ranks


def scores_of(known: Known) -> dict[str, SourceScores]:
    """Source → what it says; only the sources that the tables have."""
    tables, n = known.tables, len(known.tables.items)
    scores = {"similar": tables.neighbours.total(known.every, n, known.shares)}
    if tables.together is not None:
        scores["together"] = tables.together.total(known.trail, n, lateness(len(known.trail)))
    if tables.factors is not None:
        scores["factor"] = tables.factors.scores(known.every)
    if tables.sessions is not None:
        scores["session"] = session_scores(tables.sessions, known.trail, n)
    return {source: SourceScores(values, SCORED[source]) for source, values in scores.items()}


def lateness(count: int) -> Floats:
    """(count,) 1 for the newest, and so down in equal steps to above 0."""
    return 1.0 - np.arange(count) / max(count, 1)


def session_scores(sessions: Sessions, trail: Int64s, width: int) -> Floats:
    """(width,) what the sessions most like the trail have: V-SKNN (Ludewig and Jannach, UMUAI 2018).

    An item of the trail counts by how late it came; a session by the sum of those that it shares, over the root of
    how many items it has; rare items count more.
    """
    if not len(trail) or not len(sessions.items.starts) > 1:
        return np.zeros(width)
    count = len(sessions.items.starts) - 1
    places, lengths = sessions.of_item.at(trail, SESSIONS_AN_ITEM)
    named = sessions.of_item.column[places]
    shared = np.bincount(named, weights=np.repeat(lateness(len(trail)), lengths), minlength=count)
    alike: Floats = shared / np.sqrt(np.diff(sessions.items.starts))
    chosen = best(alike, ALIKE)
    often = np.diff(sessions.of_item.starts)
    return sessions.items.total(chosen, width, alike[chosen]) * np.log1p(count / np.maximum(often, 1))


def best(scores: Floats, count: int) -> Int64s:
    """The places of the highest positive scores, in no order."""
    count = min(count, len(scores))
    if not count:
        return np.empty(0, dtype=np.int64)
    highest = np.argpartition(-scores, count - 1)[:count]
    return highest[scores[highest] > 0]


def pairs_of(known: Known, scores: Mapping[str, SourceScores], places: Int64s) -> Floats:
    """(c, len(PAIR_FEATURES)) for the items at these places; NaN where there is nothing to say."""
    pairs = np.full((len(places), len(PAIR_FEATURES)), np.nan)

    def put(name: str, values: Floats | float) -> None:
        pairs[:, COLUMN[name]] = values

    tables = known.tables
    for source, scored in scores.items():
        put(f"{source}_score", scored.values[places])
        put(f"{source}_rank", scored.ranks[places])
    put("popular_score", tables.popular_log[places])
    put("popular_rank", tables.popular_rank[places])
    put("trending_score", tables.trending[places].astype(np.float64))
    put("lasting_score", tables.lasting_log[places])
    for name, values in _own(known, places).items():
        put(name, values)
    at = _number_of(known.recent, len(tables.items))[places]
    put("recent_place", np.where(at >= 0, at, np.nan))
    put("history_size", float(len(known.own_items) + len(known.recent)))
    put("category_share", _category_share(known, places))
    put("price_from_habit", _price_from_habit(known, places))
    put("position", POSITION)
    put("blended", blended(pairs))
    return pairs


def _own(known: Known, places: Int64s) -> dict[str, Floats]:
    """(c,) what the user's own history says of each item."""
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
    at = _number_of(known.own_items, len(tables.items))[places]
    return {name: _taken(values, at, other) for name, (values, other) in columns.items()}


def _number_of(places: Int64s, size: int) -> Int64s:
    """(size,) the number of each place among these; -1 for one that is not among them."""
    number = np.full(size, -1)
    number[places] = np.arange(len(places))
    return number


def _taken(values: Floats, at: Int64s, otherwise: float) -> Floats:
    """The values at these numbers; ``otherwise`` at -1."""
    return np.append(values, otherwise)[at]


def _category_share(known: Known, places: Int64s) -> Floats | float:
    """(c,) how much of the trail is of the item's category."""
    category = known.tables.category
    if category is None:
        return np.nan
    theirs, weights = category[known.trail], lateness(len(known.trail))
    there = theirs >= 0
    if not there.any():
        return np.nan
    sums = np.bincount(theirs[there], weights=weights[there], minlength=int(category.max()) + 1)
    of_item = category[places]
    return np.where(of_item >= 0, sums[np.maximum(of_item, 0)] / weights[there].sum(), np.nan)


def _price_from_habit(known: Known, places: Int64s) -> Floats | float:
    """(c,) ln of the item's price over the middle one of the user's items; NaN where either is not known."""
    price = known.tables.price
    if price is None:
        return np.nan
    theirs = price[known.every]
    theirs = theirs[theirs > 0]
    if not len(theirs):
        return np.nan
    of_item = price[places].astype(np.float64)
    habit = float(np.median(theirs))
    return np.log(np.where(of_item > 0, of_item, np.nan) / habit)


def blended(pairs: Floats) -> Floats:
    """A score without a ranker: similarity and the user's own habit, each as a share of the best, and some popularity.

    Args:
        pairs: (c, at least len(PAIR_FEATURES)), the pair features first.
    """

    def share(name: str) -> Floats:
        column = pairs[:, COLUMN[name]]
        top = column.max(initial=0.0)
        return column / top if top > 0 else np.zeros(len(column))

    return share("similar_score") + share("own_count") + 0.1 * share("popular_score")
