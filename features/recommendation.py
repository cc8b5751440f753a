"""From what is known of a user to ranked items: candidates from several sources, then a ranker over them. Pure.

    recent items, user id ──retrieve──► candidates with pair features ──rank──► items with scores and sources

Training calls the same two steps as serving does, so that the ranker is fitted on just what it is asked about later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.hashing import hash_texts

Floats = NDArray[np.float64]
Int64s = NDArray[np.int64]
Score = Callable[[Floats], Floats]
"""(c, inputs) → a score for each row, higher is better."""

SOURCES = ("repeat", "similar", "trending", "popular", "asked")
"""Where a candidate comes from; one that several sources name has the first of them here."""
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
)
"""What the ranker is told about a user and an item together; before the user's and the item's own features."""
TOP_SIMILAR, TOP_OWN, TOP_TRENDING, TOP_POPULAR = 100, 60, 20, 40
"""How many candidates each source names."""


@dataclass(frozen=True)
class CandidateTables:
    """What candidates are made of; n items and u users.

    Args:
        items: the item ids; everything else has their places in here.
        neighbours: for each item its similar ones, best first.
        popular: (n,) weighted, slowly decaying count of events at the model's as_of.
        trending: (n,) how much of that is new, 0 to 1.
        users: (u,) hashes of user key texts, rising.
        histories: for each user the items of its targets before the model's as_of.
        own_count: aligned with histories.column: how often.
        own_last_ms: aligned with histories.column: when last.
    """

    items: tuple[str, ...]
    neighbours: SparseRows
    popular: NDArray[np.float32]
    trending: NDArray[np.float32]
    users: NDArray[np.uint64]
    histories: SparseRows
    own_count: NDArray[np.float32]
    own_last_ms: Int64s

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id → its place."""
        return {item: place for place, item in enumerate(self.items)}

    @cached_property
    def popular_rank(self) -> Floats:
        """(n,) 0 for the most popular item, 1 for the next."""
        return _ranks(self.popular.astype(np.float64))

    @cached_property
    def most_popular(self) -> Int64s:
        """Places of the items, the most popular first."""
        return np.argsort(self.popular_rank, kind="stable")

    @cached_property
    def most_trending(self) -> Int64s:
        """Places of the items that are on their way up, the steepest first."""
        order = np.argsort(-self.trending, kind="stable")
        return order[self.trending[order] > 0]

    def places(self, items: Iterable[str]) -> Int64s:
        """The places of those of the items that the model knows, without repetition, in their order."""
        known = (self.index.get(item) for item in items)
        return np.array(list(dict.fromkeys(place for place in known if place is not None)), dtype=np.int64)

    def user(self, key: str | None) -> slice:
        """Where the user's history stands in histories.column; empty for a user whom the model does not know."""
        if key is None or not len(self.users):
            return slice(0, 0)
        wanted = hash_texts(pa.array([key], pa.string()))[0]
        place = int(np.searchsorted(self.users, wanted))
        found = place < len(self.users) and self.users[place] == wanted
        return self.histories.span(place) if found else slice(0, 0)


@dataclass(frozen=True)
class SparseRows:
    """Rows of (column, weight): row r stands at starts[r]:starts[r + 1]."""

    starts: Int64s
    column: NDArray[np.int32]
    weight: NDArray[np.float32]

    def span(self, row: int) -> slice:
        """Where the row stands."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))

    def total(self, rows: Int64s, width: int) -> Floats:
        """(width,) the sum of these rows."""
        spans = [self.span(row) for row in rows.tolist()]
        if not spans:
            return np.zeros(width)
        columns = np.concatenate([self.column[span] for span in spans])
        weights = np.concatenate([self.weight[span] for span in spans])
        return np.bincount(columns, weights=weights, minlength=width).astype(np.float64)

    def between(self, rows: Int64s, width: int) -> Floats:
        """(r, r) the weight from each of these rows to each of them as a column, as a share of the row's highest."""
        spans = [self.span(row) for row in rows.tolist()]
        shares = np.zeros((len(rows), len(rows)))
        if not spans:
            return shares
        place = np.full(width, -1)
        place[rows] = np.arange(len(rows))
        lengths = [span.stop - span.start for span in spans]
        columns = place[np.concatenate([self.column[span] for span in spans])]
        weights = np.concatenate([self.weight[span] for span in spans]).astype(np.float64)
        owner = np.repeat(np.arange(len(rows)), lengths)
        top = np.zeros(len(rows))
        np.maximum.at(top, owner, weights)
        inside = (columns >= 0) & (top[owner] > 0)
        shares[owner[inside], columns[inside]] = weights[inside] / top[owner[inside]]
        return np.clip(shares, 0.0, 1.0)


@dataclass(frozen=True)
class Query:
    """Who asks, and when: the user's key text (None for nobody known), its newest items first, and as_of in ms."""

    user: str | None
    recent: Sequence[str]
    as_of: int


@dataclass(frozen=True)
class Asked:
    """All that a model was asked with, so that it can be asked the same again (see Artefact.recommend)."""

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
    own = tables.user(query.user)
    own_items = tables.histories.column[own].astype(np.int64)
    recent = tables.places(query.recent)
    known = np.unique(np.concatenate([own_items, recent]))
    similar = tables.neighbours.total(known, len(tables.items))
    if among is not None:
        places = _inside(tables.places(among), allowed)
        sources = np.full(len(places), SOURCES.index("asked"), dtype=np.int8)
    else:
        own_best = _inside(own_items[np.argsort(-tables.own_count[own], kind="stable")], allowed)[:TOP_OWN]
        places, sources = _merged(
            np.concatenate([_inside(recent, allowed), own_best]),
            _best(similar if allowed is None else np.where(allowed, similar, 0.0), TOP_SIMILAR),
            _inside(tables.most_trending, allowed)[:TOP_TRENDING],
            _inside(tables.most_popular, allowed)[:TOP_POPULAR],
        )
    pairs = _pairs(tables, query, similar, recent, own)[places]
    pairs[:, PAIR_FEATURES.index("blended")] = blended(pairs)
    return Candidates(places, pairs, sources)


def _inside(places: Int64s, allowed: NDArray[np.bool_] | None) -> Int64s:
    return places if allowed is None else places[allowed[places]]


def _merged(*several: Int64s) -> tuple[Int64s, NDArray[np.int8]]:
    """The places that any source names, each once, with the first source that does."""
    named = np.concatenate(several)
    source = np.repeat(np.arange(len(several), dtype=np.int8), [len(one) for one in several])
    places, first = np.unique(named, return_index=True)
    return places, source[first]


def _best(scores: Floats, count: int) -> Int64s:
    """The places of the highest positive scores."""
    count = min(count, len(scores))
    if not count:
        return np.empty(0, dtype=np.int64)
    best = np.argpartition(-scores, count - 1)[:count]
    return best[scores[best] > 0]


def _ranks(scores: Floats) -> Floats:
    """0 for the highest score; equal scores in the order of their places."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return ranks


def _pairs(tables: CandidateTables, query: Query, similar: Floats, recent: Int64s, own: slice) -> Floats:
    """(n, len(PAIR_FEATURES)) for every item; NaN where there is nothing to say."""
    n = len(tables.items)
    own_items = tables.histories.column[own]
    counts = tables.own_count[own].astype(np.float64)
    columns = dict.fromkeys(PAIR_FEATURES, np.full(n, np.nan))
    columns["similar_score"], columns["similar_rank"] = similar, _ranks(similar)
    columns["popular_score"], columns["popular_rank"] = np.log1p(tables.popular), tables.popular_rank
    columns["trending_score"] = tables.trending
    columns["own_count"] = _placed(n, own_items, counts, 0.0)
    columns["own_share"] = _placed(n, own_items, counts / max(counts.sum(), 1.0), 0.0)
    columns["own_rank"] = _placed(n, own_items, _ranks(counts), np.nan)
    columns["own_age_ms"] = _placed(n, own_items, (query.as_of - tables.own_last_ms[own]).astype(np.float64), np.nan)
    columns["recent_place"] = _placed(n, recent, np.arange(len(recent), dtype=np.float64), np.nan)
    columns["history_size"] = np.full(n, float(len(own_items) + len(recent)))
    return np.column_stack(list(columns.values()))


def _placed(size: int, places: NDArray[np.integer], values: Floats, otherwise: float) -> Floats:
    array = np.full(size, otherwise)
    array[places] = values
    return array


def ranker_inputs(candidates: Candidates, user_row: Floats, item_rows: Floats) -> Floats:
    """(c, pair + user + item features): what the ranker is fitted on and asked about.

    Args:
        user_row: (user features,), NaN for null.
        item_rows: (c, item features), aligned with the candidates.
    """
    user = np.broadcast_to(user_row, (len(candidates), len(user_row)))
    return np.concatenate([candidates.pairs, user, item_rows], axis=1)


def blended(pairs: Floats) -> Floats:
    """A score without a ranker: similarity and the user's own habit, each as a share of the best, and some popularity.

    Args:
        pairs: (c, at least len(PAIR_FEATURES)), the pair features first.
    """

    def share(name: str) -> Floats:
        column = pairs[:, PAIR_FEATURES.index(name)]
        top = column.max(initial=0.0)
        return column / top if top > 0 else np.zeros(len(column))

    return share("similar_score") + share("own_count") + 0.1 * share("popular_score")


def best_first(tables: CandidateTables, candidates: Candidates, scores: Floats, k: int) -> list[Ranked]:
    """The k candidates of the highest scores; equal scores in the order of popularity."""
    order = np.lexsort((tables.popular_rank[candidates.places], -scores))[:k]
    return [
        Ranked(tables.items[candidates.places[at]], float(scores[at]), SOURCES[candidates.sources[at]])
        for at in order.tolist()
    ]
