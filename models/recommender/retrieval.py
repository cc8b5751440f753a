"""Candidates from several sources, and the order of their scores. Pure functions.

    recent items, user id ──retrieve──► candidates with pair features ──rank──► items with scores and sources

Training and serving call the same two steps, so that the ranker is fitted on the kind of candidates that it ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender.pairs import KnownUser, Query, SourceScores, best, pairs_of, scores_of
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

TOP_OWN, TOP_CONTENT, TOP_TRENDING, TOP_POPULAR, TOP_LASTING = 60, 20, 20, 40, 20
"""The number of candidates of these sources; those of the others are in pairs.SCORED."""


@dataclass(frozen=True)
class RankingRequest:
    """The arguments of Artefact.recommend, with which a ranking can be repeated."""

    query: Query
    user_row: Floats | None
    item_matrix: Floats | None
    among: Sequence[str] | None = None
    allowed: NDArray[np.bool_] | None = None


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
        later = scores["factor"].values[tables.fitted :]
        named["content"] = tables.fitted + best(
            later if allowed is None else np.where(allowed[tables.fitted :], later, 0.0), TOP_CONTENT
        )
    ordered = [named.get(source, own[:0]) for source in SOURCES]
    every = np.concatenate(ordered)
    sources = np.repeat(np.arange(len(SOURCES), dtype=np.int8), [len(indices) for indices in ordered])
    indices, first = np.unique(every, return_index=True)
    return indices, sources[first]


def _inside(indices: Int64s, allowed: NDArray[np.bool_] | None) -> Int64s:
    return indices if allowed is None else indices[allowed[indices]]


def ranker_inputs(candidates: Candidates, user_row: Floats, item_rows: Floats) -> Floats:
    """(c, pair + user + item features): the rows that the ranker is fitted on and scores.

    Args:
        user_row: (user features,), NaN for null.
        item_rows: (c, item features), aligned with the candidates.
    """
    user = np.broadcast_to(user_row, (len(candidates), len(user_row)))
    return np.concatenate([candidates.pairs, user, item_rows], axis=1)


def best_first(tables: CandidateTables, candidates: Candidates, scores: Floats, k: int) -> list[Ranked]:
    """The k candidates of the highest scores; equal scores in the order of popularity."""
    order = np.lexsort((tables.popular_rank[candidates.indices], -scores))[:k]
    return [
        Ranked(tables.items[candidates.indices[row]], float(scores[row]), SOURCES[candidates.sources[row]])
        for row in order.tolist()
    ]
