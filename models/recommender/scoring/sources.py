"""Scores of the candidate sources for one user: sums over the entries that the user's items name, in working memory.

An item that no entry names has the score 0, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.arrays import LARGEST, Floats, Int64s
from models.recommender.scoring import loading
from models.recommender.scoring.columns import SCORED, SPARSE
from models.recommender.tables import LANES, CandidateTables, Factors, Sessions, SparseRows, VectorBlocks

SESSIONS_AN_ITEM, NEAREST_SESSIONS = 200, 100
"""V-SKNN's sizes: latest sessions of each item, most similar sessions that score."""

TOP_CONTENT = 20
"""The number of items later than the fit that are named by their vectors, which come from their attributes."""

NO_FACTORS = np.empty(0)
ALL_PLACES = np.empty(0, dtype=np.bool_)
NO_PLACES = np.empty(0, dtype=np.int64)


class Sums:
    """Sums by place: zeros between two uses."""

    def __init__(self, sources: int, places: int) -> None:
        self.scores = np.zeros((sources, places))
        self.seen = np.zeros((sources, places), dtype=np.uint8)
        self.touched = np.empty((sources, places), dtype=np.int32)


class WorkingMemory:
    """What one retrieval writes into: as long as the items, and cleared by what was written."""

    def __init__(self, items: int, sessions: int) -> None:
        self.items = Sums(len(SPARSE), items)
        self.slots = np.zeros(items, dtype=np.int32)
        self.closed = np.zeros(items, dtype=np.uint8)
        self.sessions = Sums(1, sessions)


@contextmanager
def working_memory(tables: CandidateTables) -> Iterator[WorkingMemory]:
    """Memory that no other thread has; after an error nobody gets it again, as it may hold anything."""
    try:
        memory: WorkingMemory = tables.spare_memory.pop()
    except IndexError:
        sessions = 0 if tables.sessions is None else len(tables.sessions.items.starts) - 1
        memory = WorkingMemory(len(tables.items), sessions)
    yield memory
    tables.spare_memory.append(memory)


@dataclass(frozen=True)
class Restriction:
    """The places that sources may name: ``allowed`` ones (empty for all) that are not ``closed``.

    Args:
        active: False where that is every place.
    """

    allowed: NDArray[np.bool_]
    closed: NDArray[np.uint8]
    active: bool

    def first(self, order: Int64s, count: int) -> Int64s:
        """The first places of an order that may be named, at most ``count``."""
        if not self.active:
            return order[:count]
        out = np.empty(count, dtype=np.int64)
        return out[: loading.first_open(order, self.allowed, self.closed, out)]


@dataclass
class Scored:
    """The scores of one user.

    Args:
        touched: of each of SPARSE the number of places with a score; -1 for a source that the tables lack.
        tops, top_counts: of each of SPARSE the places of the highest scores, the best first.
        named: source → the best places that it may name.
        user: (f,) the user's vector; None without factors, and for a user without items.
        factor_top: the places of the highest products with it, the best first.
    """

    touched: Int64s = field(default_factory=lambda: np.full(len(SPARSE), -1))
    tops: Int64s = field(default_factory=lambda: np.empty((len(SPARSE), max(SCORED.values())), dtype=np.int64))
    top_counts: Int64s = field(default_factory=lambda: np.zeros(len(SPARSE), dtype=np.int64))
    named: dict[str, Int64s] = field(default_factory=dict)
    user: NDArray[np.float32] | None = None
    factor_top: Int64s = field(default_factory=lambda: NO_PLACES)


@dataclass(frozen=True)
class Scoring:
    """Scores one user's places: ``scored`` and the memory's sums are the result."""

    memory: WorkingMemory
    restriction: Restriction
    scored: Scored = field(default_factory=Scored)

    def rows(self, source: str, rows: SparseRows, of: Int64s, shares: Floats, factors: Floats = NO_FACTORS) -> None:
        """The source's scores are the sum of these rows, each times its share, and times the place's factor."""
        at, scored = SPARSE.index(source), self.scored
        top = scored.tops[at, : SCORED[source]]
        counts, open_top = _summed(rows, of, shares, self.memory.items, at, top, self.restriction, factors=factors)
        scored.touched[at], scored.top_counts[at], opened = counts.tolist()
        scored.named[source] = open_top[:opened] if self.restriction.active else top[: scored.top_counts[at]]

    def sessions(self, sessions: Sessions, trail: Int64s) -> None:
        """Scores from the sessions most like the trail: V-SKNN (Ludewig and Jannach, UMUAI 2018).

        An item of the trail has its recency weight; a session the sum over the items that it shares with the trail,
        divided by the root of its length; an item is weighted by its inverse session frequency.
        """
        self.rows("session", sessions.items, *nearest_sessions(sessions, trail, self.memory.sessions), sessions.idf)

    def factors(self, factors: Factors, taken: Int64s) -> None:
        """The user's vector, and the places of its highest products."""
        restriction = self.restriction
        if not len(taken):
            self.scored.named["factor"] = NO_PLACES
            return
        user = factors.user(taken)
        best = _Nearest(SCORED["factor"], restriction)
        best.among(factors.blocks, user)
        if factors.later_blocks is not None:
            best.among(factors.later_blocks, user)
            later = _Nearest(TOP_CONTENT, restriction)
            later.among(factors.later_blocks, user)
            self.scored.named["content"] = later.named
        self.scored.user, self.scored.factor_top = user, best.top[: best.counts[1]]
        self.scored.named["factor"] = best.named


def nearest_sessions(sessions: Sessions, trail: Int64s, sums: Sums) -> tuple[Int64s, Floats]:
    """The sessions most like the trail, the most alike first and of equal ones the earlier, and how alike they are."""
    nearest = np.empty(NEAREST_SESSIONS, dtype=np.int64)
    every = Restriction(ALL_PLACES, np.empty(0, dtype=np.uint8), active=False)
    shares, rows = recency_weights(len(trail)), sessions.of_item
    counts, _ = _summed(rows, trail, shares, sums, 0, nearest, every, SESSIONS_AN_ITEM, sessions.roots)
    nearest = nearest[: counts[1]]
    alike = sums.scores[0][nearest]
    touched = sums.touched[0, : counts[0]]
    sums.scores[0][touched] = 0.0
    sums.seen[0][touched] = 0
    return nearest, alike


def vector_products(factors: Factors, user: NDArray[np.float32], places: Int64s) -> Floats:
    """(places,) the product of each item's vector with the user's, added up in the order of the factors."""
    products = np.empty(len(places))
    loading.products_of(factors.items, user, places, products)
    return products


def best_by_vectors(factors: Factors, taken: Int64s) -> Int64s:
    """The items of the highest products with the vector of a user who took these, the best first."""
    memory = WorkingMemory(0, 0)
    scoring = Scoring(memory, Restriction(ALL_PLACES, memory.closed, active=False))
    scoring.factors(factors, taken)
    return scoring.scored.factor_top


class _Nearest:
    """The places of the highest products of some blocks with a user's vector (see walks.nearest)."""

    def __init__(self, most: int, restriction: Restriction) -> None:
        self.restriction, self.counts = restriction, np.zeros(3, dtype=np.int64)
        self.top, self.open_top = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
        self._scores, self._open_scores = np.empty(most), np.empty(most)

    def among(self, blocks: VectorBlocks, user: NDArray[np.float32]) -> None:
        """The vectors of these blocks too."""
        loading.nearest(
            blocks.vectors,
            blocks.longest,
            blocks.places,
            user,
            blocks.reach(user),
            self.restriction.active,
            self.restriction.allowed,
            self.restriction.closed,
            np.empty(LANES, dtype=np.float32),
            self._scores,
            self.top,
            self._open_scores,
            self.open_top,
            self.counts,
        )

    @property
    def named(self) -> Int64s:
        """The best places that may be named."""
        return self.open_top[: self.counts[2]] if self.restriction.active else self.top[: self.counts[1]]


def _summed(  # noqa: PLR0913, PLR0917  # what add_rows takes
    rows: SparseRows,
    of: Int64s,
    shares: Floats,
    sums: Sums,
    at: int,
    top: Int64s,
    restriction: Restriction,
    most: int = LARGEST,
    divisors: Floats = NO_FACTORS,
    factors: Floats = NO_FACTORS,
) -> tuple[Int64s, Int64s]:
    """See walks.add_rows: ``counts`` and ``open_top``."""
    counts, open_top = np.zeros(3, dtype=np.int64), np.empty(len(top) if restriction.active else 0, dtype=np.int64)
    loading.add_rows(
        of,
        shares,
        most,
        rows.starts,
        rows.column,
        rows.weight,
        divisors,
        factors,
        restriction.active,
        restriction.allowed,
        restriction.closed,
        sums.scores[at],
        sums.seen[at],
        sums.touched[at],
        np.empty(len(top)),
        top,
        np.empty(len(open_top)),
        open_top,
        counts,
    )
    return counts, open_top


def recency_weights(count: int) -> Floats:
    """(count,) weights of items, newest first: from 1 down in equal steps, all above 0."""
    return 1.0 - np.arange(count) / max(count, 1)
