"""From what is known of a user to ranked items: candidates from several sources, then a ranker over them. Pure.

    recent items, user id ──retrieve──► candidates with pair features ──rank──► items with scores and sources

Training calls the same two steps as serving does, so that the ranker is fitted on what it ranks later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender.pairs import Known, Query, SourceScores, best, pairs_of, scores_of
from models.recommender.tables import CandidateTables

SOURCES = ("repeat", "similar", "together", "session", "factor", "trending", "popular", "lasting", "asked")
"""The candidate sources; a candidate of more than one has the first of them here."""

TOP_OWN, TOP_TRENDING, TOP_POPULAR, TOP_LASTING = 60, 20, 40, 20
"""The number of candidates of these sources; the others' are in pairs.SCORED."""


@dataclass(frozen=True)
class RankingRequest:
    """The arguments of a ranking, with which it can be repeated (see Artefact.recommend)."""

    query: Query
    user_row: Floats | None
    item_matrix: Floats | None
    among: Sequence[str] | None = None
    allowed: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Candidates:
    """c items by place, (c, len(PAIR_FEATURES)) what is known of user and item together, and each one's source."""

    places: Int64s
    pairs: Floats
    sources: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.places)

    def only(self, keep: NDArray[np.bool_]) -> Candidates:
        """The candidates where keep is true."""
        return Candidates(self.places[keep], self.pairs[keep], self.sources[keep])


@dataclass(frozen=True)
class Ranked:
    """A recommended item: its score (higher is better, comparable within one answer) and the source that named it."""

    item_id: str
    score: float
    source: str


def retrieve(
    tables: CandidateTables, query: Query, among: Sequence[str] | None = None, allowed: NDArray[np.bool_] | None = None
) -> Candidates:
    """The items worth ranking for this query, or those of ``among`` that the model knows.

    Args:
        allowed: (n,) the items that may be named at all: every source then names its best among these.
    """
    known = Known.of(tables, query)
    scores = scores_of(known)
    if among is not None:
        places = _inside(tables.places(among), allowed)
        sources = np.full(len(places), SOURCES.index("asked"), dtype=np.int8)
    else:
        places, sources = _named(known, scores, allowed)
    return Candidates(places, pairs_of(known, scores, places), sources)


def _named(
    known: Known, scores: dict[str, SourceScores], allowed: NDArray[np.bool_] | None
) -> tuple[Int64s, NDArray[np.int8]]:
    """The places that any source names, each once, and the first source that does."""
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
        chosen = None if allowed is None else best(np.where(allowed, scored.values, 0.0), scored.count)
        named[source] = scored.top if chosen is None else chosen
    ordered = [named.get(source, own[:0]) for source in SOURCES]
    every = np.concatenate(ordered)
    sources = np.repeat(np.arange(len(SOURCES), dtype=np.int8), [len(one) for one in ordered])
    places, first = np.unique(every, return_index=True)
    return places, sources[first]


def _inside(places: Int64s, allowed: NDArray[np.bool_] | None) -> Int64s:
    return places if allowed is None else places[allowed[places]]


def ranker_inputs(candidates: Candidates, user_row: Floats, item_rows: Floats) -> Floats:
    """(c, pair + user + item features): what the ranker is fitted on and asked about.

    Args:
        user_row: (user features,), NaN for null.
        item_rows: (c, item features), aligned with the candidates.
    """
    user = np.broadcast_to(user_row, (len(candidates), len(user_row)))
    return np.concatenate([candidates.pairs, user, item_rows], axis=1)


def best_first(tables: CandidateTables, candidates: Candidates, scores: Floats, k: int) -> list[Ranked]:
    """The k candidates of the highest scores; equal scores in the order of popularity."""
    order = np.lexsort((tables.popular_rank[candidates.places], -scores))[:k]
    return [
        Ranked(tables.items[candidates.places[at]], float(scores[at]), SOURCES[candidates.sources[at]])
        for at in order.tolist()
    ]
