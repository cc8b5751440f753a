"""Candidates from several sources, and the order of their scores. Pure functions.

    recent items, user id ──retrieve──► candidates with pair features ──rank──► items with scores and sources

Training and serving call the same two steps, so that the ranker is fitted on the kind of candidates that it ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender.pairs import KnownUser, Query, pairs_of, score
from models.recommender.scoring import ALL_PLACES, COLUMN, Restriction, Scoring, working_memory
from models.recommender.tables import CandidateTables

SOURCES = (
    "repeat",
    "similar",
    "together",
    "session",
    "content",
    "factor",
    "trending",
    "popular",
    "lasting",
    "asked",
)
"""The candidate sources; a candidate of more than one is said to be of the first here."""

TOP_OWN, TOP_TRENDING, TOP_POPULAR, TOP_LASTING = 60, 20, 40, 20
"""The number of candidates of these sources; those of the others are in scoring."""


@dataclass(frozen=True)
class RankingRequest:
    """The arguments of Artefact.recommend, with which a ranking can be repeated.

    Args:
        exclude: the indices of items to leave out.
    """

    query: Query
    user_row: Floats | None
    item_matrix: Floats | None
    among: Sequence[str] | None = None
    allowed: NDArray[np.bool_] | None = None
    k: int = 10
    exclude: Int64s | None = None


@dataclass(frozen=True)
class Candidates:
    """The indices of c items, their pair features (c, len(PAIR_FEATURES)), and the source of each."""

    indices: Int64s
    pairs: Floats
    sources: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.indices)

    def only(self, keep: NDArray[np.bool_]) -> Candidates:
        """The candidates where keep is true."""
        return Candidates(self.indices[keep], self.pairs[keep], self.sources[keep])


@dataclass(frozen=True)
class Ranked:
    """A recommended item: its score (higher is better, comparable within one answer) and the source that named it."""

    item_id: str
    score: float
    source: str


def retrieve(
    tables: CandidateTables, query: Query, among: Sequence[str] | None = None, allowed: NDArray[np.bool_] | None = None
) -> Candidates:
    """The candidates for this query, or the known ones of ``among``.

    Args:
        allowed: (n,) the items that may be candidates: every source names its best among these.
    """
    known = KnownUser.of(tables, query)
    with working_memory(tables) as memory:
        if among is not None:
            scored = score(known, Scoring(memory, Restriction(ALL_PLACES, memory.closed, active=False)))
            indices = tables.indices(among)
            indices = indices if allowed is None else indices[allowed[indices]]
            sources = np.full(len(indices), SOURCES.index("asked"), dtype=np.int8)
        else:
            taken = known.own_items[:0] if tables.repeats else known.taken
            memory.closed[taken] = 1
            restriction = Restriction(
                ALL_PLACES if allowed is None else allowed, memory.closed, allowed is not None or not tables.repeats
            )
            scored = score(known, Scoring(memory, restriction))
            indices, sources = _named(known, scored.named, restriction)
            memory.closed[taken] = 0
        return Candidates(indices, pairs_of(known, scored, memory, indices), sources)


def _named(known: KnownUser, named: Mapping[str, Int64s], restriction: Restriction) -> tuple[Int64s, NDArray[np.int8]]:
    """The indices that any source names, each once, and the first source that does."""
    tables = known.tables
    own = known.own_items[np.argsort(-tables.own_count[known.own], kind="stable")]
    ordered = {
        **named,
        "repeat": np.concatenate([restriction.first(known.recent, len(known.recent)), restriction.first(own, TOP_OWN)]),
        "trending": restriction.first(tables.most_trending, TOP_TRENDING),
        "popular": restriction.first(tables.most_popular, TOP_POPULAR),
        "lasting": restriction.first(tables.most_lasting, TOP_LASTING),
    }
    parts = [(code, ordered[source]) for code, source in enumerate(SOURCES) if source in ordered]
    every = np.concatenate([part for _, part in parts])
    codes = np.repeat(np.array([code for code, _ in parts], dtype=np.int8), [len(part) for _, part in parts])
    indices, first = np.unique(every, return_index=True)
    return indices, codes[first]


def ranker_inputs(candidates: Candidates, user_row: Floats, item_rows: Floats) -> Floats:
    """(c, pair + user + item features): the rows that the ranker is fitted on and scores.

    Args:
        user_row: (user features,), NaN for null.
        item_rows: (c, item features), aligned with the candidates.
    """
    user = np.broadcast_to(user_row, (len(candidates), len(user_row)))
    return np.concatenate([candidates.pairs, user, item_rows], axis=1)


def first_scores(tables: CandidateTables, candidates: Candidates) -> Floats | None:
    """(c,) scores below 1 by the popularity that ranks best what new users take; None for a user with a past.

    None too where the tables do not have it.
    """
    if tables.first is None or candidates.pairs[:, COLUMN["history_size"]].any():
        return None
    popular = tables.first[candidates.indices].astype(np.float64)
    return popular / (1.0 + popular)


def ranking_order(tables: CandidateTables, candidates: Candidates, scores: Floats) -> Int64s:
    """The rows of the candidates by falling scores; equal scores in the order of popularity."""
    return np.lexsort((tables.popular_rank[candidates.indices], -scores))


def best_first(tables: CandidateTables, candidates: Candidates, scores: Floats, k: int) -> list[Ranked]:
    """The k candidates of the highest scores, in their order."""
    order = ranking_order(tables, candidates, scores)[:k]
    return [
        Ranked(tables.items[candidates.indices[row]], float(scores[row]), SOURCES[candidates.sources[row]])
        for row in order.tolist()
    ]
