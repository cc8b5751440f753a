"""Candidate tables: plain arrays over items by position, fitted by training and read by retrieval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Bools, Floats, Int64s, concatenated
from features.hashing import hash_text

LANES = 64
"""Vectors of a block, which are multiplied side by side."""


@dataclass(frozen=True)
class SparseRows:
    """Sparse rows of (column, weight); the entries of row r are starts[r]:starts[r + 1]."""

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
        return concatenated(self.starts[rows], lengths), lengths

    def total(self, rows: Int64s, width: int, shares: Floats | None = None) -> Floats:
        """(width,) the sum of these rows, each times its share where there are shares."""
        entries, lengths = self.at(rows)
        weights = self.weight[entries].astype(np.float64)
        if shares is not None:
            weights *= np.repeat(shares, lengths)
        return np.bincount(self.column[entries], weights=weights, minlength=width).astype(np.float64)

    def between(self, rows: Int64s, width: int) -> Floats:
        """(r, r) the weights between these rows, each row's as shares of its highest weight."""
        shares = np.zeros((len(rows), len(rows)))
        if not len(rows):
            return shares
        row_of_column = np.full(width, -1)
        row_of_column[rows] = np.arange(len(rows))
        entries, lengths = self.at(rows)
        columns = row_of_column[self.column[entries]]
        weights = self.weight[entries].astype(np.float64)
        owner = np.repeat(np.arange(len(rows)), lengths)
        top = np.zeros(len(rows))
        np.maximum.at(top, owner, weights)
        inside = (columns >= 0) & (top[owner] > 0)
        shares[owner[inside], columns[inside]] = weights[inside] / top[owner[inside]]
        return np.clip(shares, 0.0, 1.0)

    def transposed(self, columns: int) -> SparseRows:
        """The transposed matrix; each of its rows has the last of the original rows first."""
        row = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        order = np.lexsort((-row, self.column))
        starts = np.searchsorted(self.column[order], np.arange(columns + 1))
        return SparseRows(starts.astype(np.int64), row[order].astype(np.int32), self.weight[order])


@dataclass(frozen=True)
class VectorBlocks:
    """Vectors of places, the longest first, in blocks of LANES.

    Args:
        vectors: (blocks, f, LANES).
        longest: (blocks,) the length of each block's longest vector.
        places: (blocks · LANES,) the place of each; -1 for none.
    """

    vectors: NDArray[np.float32]
    longest: Floats
    places: NDArray[np.int32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], first: int = 0) -> VectorBlocks:
        """These vectors, of the places from ``first`` on."""
        (n, f), blocks = vectors.shape, -(-len(vectors) // LANES)
        lengths = np.sqrt(np.einsum("nf,nf->n", vectors, vectors))
        order = np.argsort(-lengths, kind="stable")
        places, laid = np.full(blocks * LANES, -1, dtype=np.int32), np.zeros((blocks * LANES, f), dtype=np.float32)
        places[:n], laid[:n] = first + order, vectors[order]
        longest = lengths[order[::LANES]].astype(np.float64)
        return cls(np.ascontiguousarray(laid.reshape(blocks, LANES, f).transpose(0, 2, 1)), longest, places)

    def reach(self, user: NDArray[np.float32]) -> float:
        """Times a block's longest length: no product of the block with the user's vector is above that.

        Rounding adds less than a share of f · 2⁻²³ to each of a product, the length of a vector, and the user's.
        """
        length = float(np.sqrt(np.square(user.astype(np.float64)).sum()))
        return length * (1 + (len(user) + 8) * 2.0**-21)


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
    fitted: int | None = None
    """The first so many vectors are of the fit, the others of later items; None for all."""

    @cached_property
    def _gram(self) -> Floats:
        items = self.items[: self.fitted].astype(np.float64)
        return items.T @ items + self.regularization * np.eye(items.shape[1])

    def with_items(self, vectors: NDArray[np.float32]) -> Factors:
        """The same with vectors of later items after its own."""
        fitted = len(self.items) if self.fitted is None else self.fitted
        longer = Factors(np.concatenate([self.items, vectors]), self.regularization, self.alpha, fitted)
        vars(longer).update(_gram=self._gram, blocks=self.blocks)
        return longer

    @cached_property
    def blocks(self) -> VectorBlocks:
        """The vectors of the fit, the longest first."""
        return VectorBlocks.of(self.items[: self.fitted])

    @cached_property
    def later_blocks(self) -> VectorBlocks | None:
        """The vectors of later items; None without any."""
        later = len(self.items) if self.fitted is None else self.fitted
        return VectorBlocks.of(self.items[later:], later) if later < len(self.items) else None

    @cached_property
    def _lengths(self) -> Floats:
        return np.asarray(np.linalg.norm(self.items, axis=1), dtype=np.float64)

    def likeness(self, item: int) -> Floats:
        """(n,) the cosine between this item's vector and each; 0 where either is nothing."""
        products = np.asarray(self.items @ self.items[item], dtype=np.float64)
        lengths = self._lengths * self._lengths[item]
        return np.asarray(np.divide(products, lengths, out=np.zeros(len(products)), where=lengths > 0))

    def user(self, taken: Int64s) -> NDArray[np.float32]:
        """(f,) the vector of a user who took these: (YᵀCY + λI)⁻¹ YᵀCp, equation 4."""
        vectors = self.items[taken].astype(np.float64)
        weighted = self._gram + (self.alpha - 1) * (vectors.T @ vectors)
        return np.linalg.solve(weighted, self.alpha * vectors.sum(axis=0)).astype(np.float32)


@dataclass(frozen=True)
class Sessions:
    """The latest sessions in order of time, for session-based neighbours.

    Args:
        items: the items of each session.
        of_item: the sessions of each item, the latest first.
    """

    items: SparseRows
    of_item: SparseRows

    @classmethod
    def of(cls, items: SparseRows, width: int) -> Sessions:
        """These sessions over ``width`` items, with the index by item."""
        return cls(items, items.transposed(width))

    @cached_property
    def roots(self) -> Floats:
        """The root of each session's length."""
        return np.sqrt(np.diff(self.items.starts))

    @cached_property
    def idf(self) -> Floats:
        """The inverse session frequency of each item."""
        return np.log1p((len(self.items.starts) - 1) / np.maximum(np.diff(self.of_item.starts), 1))


@dataclass(frozen=True)
class CandidateTables:
    """The arrays that candidates come from, of n items and u users; None for what the model was trained without.

    Args:
        items: the item ids; everything else has their indices in here.
        neighbours: the similar items of each item, best first.
        popular: (n,) weighted, slowly decaying count of events at the model's as_of.
        trending: (n,) how much of that is new, 0 to 1.
        users: (u,) hashes of user key texts, ascending.
        histories: the items that each user took as the target before the model's as_of.
        own_count: aligned with histories.column: the number of times.
        own_last_ms: aligned with histories.column: the last time.
        own_visits: aligned with histories.column: the number of sessions in which it was taken as the target.
        own_first_ms: aligned with histories.column: the first time.
        lasting: (n,) weighted count of all events, which does not decay.
        first: (n,) weighted count that decays as it ranks best what users take of whom nothing is known.
        together: the items of the same sessions as each item, best first.
        factors: the items as vectors.
        sessions: the latest sessions.
        category: (n,) the code of the item's category, -1 where it is not known.
        price: (n,) the item's last price, NaN where it is not known.
        half_life_ms: the half-life of a user's history in the scores of similar items; infinite for no decay.
        repeats: whether users take items again; if not, items that a user took are no candidates.
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
    first: NDArray[np.float32] | None = None
    together: SparseRows | None = None
    factors: Factors | None = None
    sessions: Sessions | None = None
    category: NDArray[np.int32] | None = None
    price: NDArray[np.float32] | None = None
    half_life_ms: float = math.inf
    repeats: bool = True

    @property
    def fitted(self) -> int:
        """The number of items of the fit, which are the first; later ones have no interactions here."""
        known = None if self.factors is None else self.factors.fitted
        return len(self.items) if known is None else known

    @cached_property
    def spare_memory(self) -> list[Any]:
        """Working memory that no retrieval is using (see scoring.working_memory)."""
        return []

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id → its index."""
        return {item: index for index, item in enumerate(self.items)}

    @cached_property
    def popular_rank(self) -> Floats:
        """(n,) 0 for the most popular item, 1 for the next; equal ones in the order of their indices."""
        ranks = np.empty(len(self.popular))
        ranks[self.most_popular] = np.arange(len(self.popular))
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
        """Indices of the items, the most popular first."""
        return np.argsort(-self.popular.astype(np.float64), kind="stable")

    @cached_property
    def most_trending(self) -> Int64s:
        """Indices of the items with a trend above 0, the steepest first."""
        return _falling(self.trending)

    @cached_property
    def most_lasting(self) -> Int64s:
        """Indices of the items by all-time popularity, the most popular first; empty where that was not counted."""
        return np.empty(0, dtype=np.int64) if self.lasting is None else _falling(self.lasting)

    def indices(self, items: Iterable[str]) -> Int64s:
        """The indices of the known ones of these items, in their order, without repetition."""
        known = (self.index.get(item) for item in items)
        return np.array(list(dict.fromkeys(index for index in known if index is not None)), dtype=np.int64)

    def user(self, key: str | None) -> slice:
        """The positions of the user's history in histories.column; empty for an unknown user."""
        if key is None or not len(self.users):
            return slice(0, 0)
        hashed = np.uint64(hash_text(key))
        row = int(np.searchsorted(self.users, hashed))
        known = row < len(self.users) and self.users[row] == hashed
        return self.histories.span(row) if known else slice(0, 0)


def places_among(rising: NDArray[np.integer], values: NDArray[np.integer]) -> tuple[Int64s, Bools]:
    """The places among rising, different numbers of those values that are there, and which of the values are."""
    at = np.searchsorted(rising, values)
    there = at < len(rising)
    there[there] = rising[at[there]] == values[there]
    return at[there], there


def _falling(values: NDArray[np.float32]) -> Int64s:
    """The indices of the values above 0, the highest first."""
    order = np.argsort(-values, kind="stable")
    return order[values[order] > 0]
