"""Metrics of ranked lists, by binary relevance. Each function takes m lists at once and returns a value for each.

``hits`` is (m, k): whether the item at each rank is relevant, False beyond the end of a shorter list. ``relevant`` is
(m,): how many items are relevant, found or not. A list for which nothing is relevant has no value: NaN, which ``mean``
leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array  # type: ignore[import-untyped]

from features.arrays import Bools, Floats, Int64s


def hits_of(ranked: Int64s, relevant: Int64s, k: int) -> Bools:
    """(k,) which of the first k ranked items are relevant; an item that is repeated counts where it stands first."""
    top = ranked[:k]
    hits = np.zeros(k, dtype=bool)
    first = np.zeros(len(top), dtype=bool)
    first[np.unique(top, return_index=True)[1]] = True
    hits[: len(top)] = np.isin(top, relevant) & first
    return hits


def ndcg_at_k(hits: Bools, relevant: Int64s) -> Floats:
    """(m,) discounted gain, 1 / log2(rank + 1) a hit, over that of the best list (Järvelin and Kekäläinen, 2002)."""
    discounts = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    best = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(relevant, hits.shape[1])]
    return _over(hits @ discounts, best)


def recall_at_k(hits: Bools, relevant: Int64s) -> Floats:
    """(m,) the share of the relevant items that are among the k."""
    return _over(hits.sum(axis=1), relevant)


def precision_at_k(hits: Bools, relevant: Int64s) -> Floats:
    """(m,) the share of the k that are relevant."""
    return _over(hits.sum(axis=1), np.where(relevant > 0, hits.shape[1], 0))


def hit_rate_at_k(hits: Bools, relevant: Int64s) -> Floats:
    """(m,) 1 where any of the k is relevant, else 0."""
    return _over(np.minimum(hits.sum(axis=1), 1), np.minimum(relevant, 1))


def mrr_at_k(hits: Bools, relevant: Int64s) -> Floats:
    """(m,) one over the rank of the first hit; 0 without one."""
    first = np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)
    return _over(first, np.minimum(relevant, 1))


def average_precision_at_k(hits: Bools, relevant: Int64s) -> Floats:
    """(m,) the sum of the precision at each hit's rank, over how many are relevant (as Microsoft's recommenders)."""
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return _over((precision * hits).sum(axis=1), relevant)


def hits_at_k(top: Int64s, relevant: Bools) -> Bools:
    """(m, k) which of the (m, k) listed columns are relevant, of (m, n) relevant; a column of -1 is none."""
    hits: Bools = np.take_along_axis(relevant, np.maximum(top, 0), axis=1) & (top >= 0)
    return hits


def top_k(scores: Floats, k: int) -> Int64s:
    """(m, k) the columns of the highest of (m, n) scores, the lower column first of equals; -1 for -inf or no more."""
    m, n = scores.shape
    size = min(k, n)
    # The worst that is listed, then all that are better, then from the left as many equal ones as there is room for.
    worst = -np.partition(-scores, size - 1, axis=1)[:, size - 1 : size] if n else np.empty((m, 0))
    better = scores > worst
    equal = scores == worst
    room = size - better.sum(axis=1, keepdims=True)
    chosen = better | (equal & (np.cumsum(equal, axis=1) <= room))
    column = np.flatnonzero(chosen.ravel()).reshape(m, size) % max(n, 1)
    order = np.argsort(-np.take_along_axis(scores, column, axis=1), axis=1, kind="stable")
    column = np.take_along_axis(column, order, axis=1)
    top = np.full((m, k), -1, dtype=np.int64)
    top[:, :size] = np.where(np.isneginf(np.take_along_axis(scores, column, axis=1)), -1, column)
    return top


def novelty(top: Int64s, share: Floats) -> Floats:
    """(m,) the mean of −log2 of the share of users who took each listed item (Vargas and Castells, 2011)."""
    surprise = -np.log2(np.maximum(share, 1.0 / max(len(share), 1) ** 2))
    return _listed_mean(top, surprise)


def popularity_bias(top: Int64s, share: Floats) -> Floats:
    """(m,) the mean share of users who took each listed item (ARP of Yin et al., 2012)."""
    return _listed_mean(top, share)


def _listed_mean(top: Int64s, values: Floats) -> Floats:
    listed = top >= 0
    sums = np.where(listed, values[np.maximum(top, 0)], 0.0).sum(axis=1)
    return _over(sums, listed.sum(axis=1))


def diversity(top: Int64s, users: csr_array) -> Floats:
    """(m,) 1 − the mean cosine, over the pairs of a list, of who took them (Ziegler et al., 2005); NaN without a pair.

    Args:
        users: (items, users), 1 where the user took the item.
    """
    norms = np.maximum(np.sqrt(np.asarray(users.sum(axis=1), dtype=np.float64)), 1.0)
    unit = csr_array(diags_array(1 / norms) @ users)
    row = np.repeat(np.arange(len(top)), top.shape[1])[(top >= 0).ravel()]
    lists = csr_array((np.ones(len(row)), (row, top[top >= 0])), shape=(len(top), users.shape[0]))
    sums, own = csr_array(lists @ unit), np.asarray(unit.multiply(unit).sum(axis=1), dtype=np.float64)
    alike = np.asarray(sums.multiply(sums).sum(axis=1), dtype=np.float64) - lists @ own
    count = (top >= 0).sum(axis=1)
    pairs = count * (count - 1)
    return 1.0 - _over(alike, pairs)


def coverage(lists: Iterable[Int64s], catalogue: int) -> float:
    """The share of the catalogue's items that stand in any list; NaN for an empty catalogue."""
    shown = [np.empty(0, dtype=np.int64), *lists]
    return len(np.unique(np.concatenate(shown))) / catalogue if catalogue else float("nan")


def mean(values: Floats) -> float:
    """The mean of the values that there are; NaN where there is none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _over(gain: NDArray[np.generic], best: NDArray[np.generic]) -> Floats:
    quotient = np.full(len(gain), np.nan)
    np.divide(gain.astype(np.float64), best.astype(np.float64), out=quotient, where=best.astype(bool))
    return quotient
