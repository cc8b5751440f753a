"""Candidate tables: plain arrays over items by position, fitted by training and read by retrieval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.hashing import hash_texts


@dataclass(frozen=True)
class SparseRows:
    """Rows of (column, weight): row r stands at starts[r]:starts[r + 1]."""

    starts: Int64s
    column: NDArray[np.int32]
    weight: NDArray[np.float32]

    def span(self, row: int) -> slice:
        """The positions of the row's entries."""
        return slice(int(self.starts[row]), int(self.starts[row + 1]))

    def at(self, rows: Int64s, most: int | None = None) -> tuple[Int64s, Int64s]:
        """The positions of the first ``most`` entries of these rows, one row after the other, and the count of each."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        lengths = lengths if most is None else np.minimum(lengths, most)
        before = np.cumsum(lengths) - lengths
        return np.arange(int(lengths.sum())) + np.repeat(self.starts[rows] - before, lengths), lengths

    def total(self, rows: Int64s, width: int, shares: Floats | None = None) -> Floats:
        """(width,) the sum of these rows, each times its share where there are shares."""
        places, lengths = self.at(rows)
        weights = self.weight[places].astype(np.float64)
        if shares is not None:
            weights *= np.repeat(shares, lengths)
        return np.bincount(self.column[places], weights=weights, minlength=width).astype(np.float64)

    def between(self, rows: Int64s, width: int) -> Floats:
        """(r, r) the weight from each of these rows to each of them as a column, as a share of the row's highest."""
        shares = np.zeros((len(rows), len(rows)))
        if not len(rows):
            return shares
        place = np.full(width, -1)
        place[rows] = np.arange(len(rows))
        places, lengths = self.at(rows)
        columns = place[self.column[places]]
        weights = self.weight[places].astype(np.float64)
        owner = np.repeat(np.arange(len(rows)), lengths)
        top = np.zeros(len(rows))
        np.maximum.at(top, owner, weights)
        inside = (columns >= 0) & (top[owner] > 0)
        shares[owner[inside], columns[inside]] = weights[inside] / top[owner[inside]]
        return np.clip(shares, 0.0, 1.0)

    def transposed(self, columns: int) -> SparseRows:
        """Row c has the rows of column c, the last first."""
        row = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        order = np.lexsort((-row, self.column))
        starts = np.searchsorted(self.column[order], np.arange(columns + 1))
        return SparseRows(starts.astype(np.int64), row[order].astype(np.int32), self.weight[order])


@dataclass(frozen=True)
class Factors:
    """Items as vectors of implicit-feedback matrix factorisation (Hu, Koren and Volinsky, ICDM 2008).

    Args:
        items: (n, f).
        regularization: λ, as at the fit.
        alpha: the confidence in something taken, as at the fit; 1 in what was not.
    """

    items: NDArray[np.float32]
    regularization: float
    alpha: float

    @cached_property
    def _gram(self) -> Floats:
        items = self.items.astype(np.float64)
        return items.T @ items + self.regularization * np.eye(items.shape[1])

    def scores(self, taken: Int64s) -> Floats:
        """(n,) each item's score for one who took these: (YᵀCY + λI)⁻¹ YᵀCp, equation 4, times each item's vector."""
        if not len(taken):
            return np.zeros(len(self.items))
        theirs = self.items[taken].astype(np.float64)
        weighted = self._gram + (self.alpha - 1) * (theirs.T @ theirs)
        user = np.linalg.solve(weighted, self.alpha * theirs.sum(axis=0))
        return np.asarray(self.items @ user.astype(np.float32), dtype=np.float64)


@dataclass(frozen=True)
class Sessions:
    """The latest sessions, the last one last: what those who took similar items took with them.

    Args:
        items: for each session its items.
        of_item: for each item its sessions, the last first.
    """

    items: SparseRows
    of_item: SparseRows

    @classmethod
    def of(cls, items: SparseRows, width: int) -> Sessions:
        """The sessions of so many items."""
        return cls(items, items.transposed(width))


@dataclass(frozen=True)
class CandidateTables:
    """The arrays that candidates come from; n items and u users. The model was made without those that are None.

    Args:
        items: the item ids; everything else has their places in here.
        neighbours: for each item its similar ones, best first.
        popular: (n,) weighted, slowly decaying count of events at the model's as_of.
        trending: (n,) how much of that is new, 0 to 1.
        users: (u,) hashes of user key texts, rising.
        histories: for each user the items of its targets before the model's as_of.
        own_count: aligned with histories.column: how often.
        own_last_ms: aligned with histories.column: when last.
        own_visits: aligned with histories.column: in how many sessions it was taken as the target.
        own_first_ms: aligned with histories.column: when first.
        lasting: (n,) weighted count of all events, which does not decay.
        together: for each item those of the same sessions, best first.
        factors: the items as vectors.
        sessions: the latest sessions.
        category: (n,) the code of the item's category, -1 where it is not known.
        price: (n,) the item's last price, NaN where it is not known.
        half_life_ms: how long until what a user took counts half for what is similar; infinite where it does not fade.
        repeats: whether users come back to what they took: where not, what they took is no candidate.
    """

    items: tuple[str, ...]
    neighbours: SparseRows
    popular: NDArray[np.float32]
    trending: NDArray[np.float32]
    users: NDArray[np.uint64]
    histories: SparseRows
    own_count: NDArray[np.float32]
    own_last_ms: Int64s
    own_visits: NDArray[np.float32] | None = None
    own_first_ms: Int64s | None = None
    lasting: NDArray[np.float32] | None = None
    together: SparseRows | None = None
    factors: Factors | None = None
    sessions: Sessions | None = None
    category: NDArray[np.int32] | None = None
    price: NDArray[np.float32] | None = None
    half_life_ms: float = math.inf
    repeats: bool = True

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id → its place."""
        return {item: place for place, item in enumerate(self.items)}

    @cached_property
    def popular_rank(self) -> Floats:
        """(n,) 0 for the most popular item, 1 for the next; equal ones in the order of their places."""
        ranks = np.empty(len(self.popular))
        ranks[np.argsort(-self.popular.astype(np.float64), kind="stable")] = np.arange(len(self.popular))
        return ranks

    @cached_property
    def popular_log(self) -> Floats:
        """(n,) ln(1 + popular)."""
        return np.log1p(self.popular.astype(np.float64))

    @cached_property
    def lasting_log(self) -> Floats:
        """(n,) ln(1 + lasting); NaN where that was not counted."""
        return np.full(len(self.items), np.nan) if self.lasting is None else np.log1p(self.lasting.astype(np.float64))

    @cached_property
    def most_popular(self) -> Int64s:
        """Places of the items, the most popular first."""
        return np.argsort(self.popular_rank, kind="stable")

    @cached_property
    def most_trending(self) -> Int64s:
        """Places of the items that are on their way up, the steepest first."""
        return _falling(self.trending)

    @cached_property
    def most_lasting(self) -> Int64s:
        """Places of the items that were popular ever, the most first; none where that was not counted."""
        return np.empty(0, dtype=np.int64) if self.lasting is None else _falling(self.lasting)

    def places(self, items: Iterable[str]) -> Int64s:
        """The places of those of the items that the model knows, without repetition, in their order."""
        known = (self.index.get(item) for item in items)
        return np.array(list(dict.fromkeys(place for place in known if place is not None)), dtype=np.int64)

    def user(self, key: str | None) -> slice:
        """The positions of the user's history in histories.column; empty for a user whom the model does not know."""
        if key is None or not len(self.users):
            return slice(0, 0)
        wanted = hash_texts(pa.array([key], pa.string()))[0]
        place = int(np.searchsorted(self.users, wanted))
        found = place < len(self.users) and self.users[place] == wanted
        return self.histories.span(place) if found else slice(0, 0)


def _falling(values: NDArray[np.float32]) -> Int64s:
    """The places of the values above 0, the highest first."""
    order = np.argsort(-values, kind="stable")
    return order[values[order] > 0]
