"""Pair features, of a user and an item together: scores by every source, then a row for each candidate.

All are computed from the tables and the query's newest items alone, so that training (as of past moments, with tables
of earlier data) and serving compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s, run_starts
from models.recommender.scoring import (
    COLUMN,
    PAIR_FEATURES,
    Scored,
    Scoring,
    WorkingMemory,
    fill,
    recency_weights,
    vector_products,
)
from models.recommender.tables import CandidateTables

POSITION = 1.0
"""The display position of every candidate in a ranking: the ranker learns the effect of positions from shown items, and
scores all candidates at the same one."""

NO_CATEGORIES = np.empty(0, dtype=np.int32)

TRAIL = 20
"""The number of the user's newest items that sessions and co-occurrence go by."""


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
        items = np.sort(np.concatenate([self.own_items, self.recent]))
        return items[run_starts(items)]

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
        trail = dict.fromkeys([*self.recent.tolist(), *self.own_items[order].tolist()])
        return np.array(list(trail)[:TRAIL], dtype=np.int64)

    @cached_property
    def taken(self) -> Int64s:
        """The indices of items that were taken as the target; empty where that was not counted."""
        visits = self.tables.own_visits
        return self.own_items[:0] if visits is None else self.own_items[visits[self.own] > 0]


def score(known: KnownUser, scoring: Scoring) -> Scored:
    """The user's scores by every source that the tables have."""
    tables = known.tables
    scoring.rows("similar", tables.neighbours, known.every, known.shares)
    if tables.together is not None:
        scoring.rows("together", tables.together, known.trail, recency_weights(len(known.trail)))
    if tables.factors is not None:
        scoring.factors(tables.factors, known.every)
    if tables.sessions is not None:
        scoring.sessions(tables.sessions, known.trail)
    return scoring.scored


def pairs_of(known: KnownUser, scored: Scored, memory: WorkingMemory, indices: Int64s) -> Floats:
    """(c, len(PAIR_FEATURES)) the pair features of the items of these indices, each once; NaN for unknown values.

    The memory's sums are zeros again.
    """
    tables, factors = known.tables, known.tables.factors
    pairs = np.full((len(indices), len(PAIR_FEATURES)), np.nan)
    own_values, has_visits = _own(known)
    weights, of_known = _of_category(known)
    products = np.zeros(0 if factors is None else len(indices))
    if factors is not None and scored.user is not None:
        products = vector_products(factors, scored.user, indices)
    sums = memory.items
    fill(
        indices,
        memory.slots,
        scored.touched,
        sums.scores,
        sums.seen,
        sums.touched,
        scored.top_counts,
        scored.tops,
        factors is not None,
        products,
        scored.factor_top,
        tables.popular_log,
        tables.popular_rank,
        tables.trending,
        tables.lasting_log,
        known.own_items,
        own_values,
        has_visits,
        known.recent,
        NO_CATEGORIES if tables.category is None else tables.category,
        known.trail,
        weights,
        of_known,
        POSITION,
        pairs,
    )
    if tables.price is not None:
        pairs[:, COLUMN["price_from_habit"]] = _price_from_habit(known, tables.price, indices)
    return pairs


def _own(known: KnownUser) -> tuple[Floats, bool]:
    """(6, items of the history) their count, share, rank, age, visits and due; whether the last two are known."""
    tables, own = known.tables, known.own
    values = np.full((6, own.stop - own.start), np.nan)
    values[0] = counts = tables.own_count[own].astype(np.float64)
    values[1] = counts / max(counts.sum(), 1.0)
    values[2, np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    values[3] = age = (known.as_of - tables.own_last_ms[own]).astype(np.float64)
    if tables.own_visits is None or tables.own_first_ms is None:
        return values, False
    values[4] = visits = tables.own_visits[own].astype(np.float64)
    between = (tables.own_last_ms[own] - tables.own_first_ms[own]) / np.maximum(visits - 1, 1)
    np.divide(age, between, out=values[5], where=(visits > 1) & (between > 0))
    return values, True


def _of_category(known: KnownUser) -> tuple[Floats, float]:
    """The recency weights of the trail, and the sum of those whose category is known; 0 for none."""
    weights, category = recency_weights(len(known.trail)), known.tables.category
    return weights, 0.0 if category is None else float(weights[category[known.trail] >= 0].sum())


def _price_from_habit(known: KnownUser, price: NDArray[np.float32], indices: Int64s) -> Floats | float:
    """(c,) ln of the item's price over the median price of the user's items; NaN where either is not known."""
    paid = price[known.every]
    paid = np.sort(paid[paid > 0])
    if not len(paid):
        return np.nan
    of_item = price[indices].astype(np.float64)
    middle = paid[(len(paid) - 1) // 2 : len(paid) // 2 + 1]
    habit = float(middle[0] if len(middle) == 1 else (middle[0] + middle[1]) / np.float32(2))
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
