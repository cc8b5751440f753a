"""How good ranked lists are, by binary relevance. Each function takes m lists at once and says a value for each.

``hits`` is (m, k): whether the item at each rank is relevant, False beyond the end of a shorter list. ``relevant`` is
(m,): how many items are relevant, found or not. A list for which nothing is relevant has no value: NaN, which ``mean``
leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def hits_of(ranked: NDArray[np.int64], relevant: NDArray[np.int64], k: int) -> Hits:
    """(k,) which of the first k ranked items are relevant; an item that is repeated counts where it stands first."""
    top = ranked[:k]
    hits = np.zeros(k, dtype=bool)
    first = np.zeros(len(top), dtype=bool)
    first[np.unique(top, return_index=True)[1]] = True
    hits[: len(top)] = np.isin(top, relevant) & first
    return hits


def ndcg_at_k(hits: Hits, relevant: Counts) -> Floats:
    """(m,) discounted gain, 1 / log2(rank + 1) a hit, over that of the best list (Järvelin and Kekäläinen, 2002)."""
    discounts = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    best = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(relevant, hits.shape[1])]
    return _over(hits @ discounts, best)


def recall_at_k(hits: Hits, relevant: Counts) -> Floats:
    """(m,) the share of the relevant items that are among the k."""
    return _over(hits.sum(axis=1), relevant)


def precision_at_k(hits: Hits, relevant: Counts) -> Floats:
    """(m,) the share of the k that are relevant."""
    return _over(hits.sum(axis=1), np.where(relevant > 0, hits.shape[1], 0))


def hit_rate_at_k(hits: Hits, relevant: Counts) -> Floats:
    """(m,) 1 where any of the k is relevant, else 0."""
    return _over(np.minimum(hits.sum(axis=1), 1), np.minimum(relevant, 1))


def mrr_at_k(hits: Hits, relevant: Counts) -> Floats:
    """(m,) one over the rank of the first hit; 0 without one."""
    first = np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)
    return _over(first, np.minimum(relevant, 1))


def coverage(lists: Iterable[NDArray[np.int64]], catalogue: int) -> float:
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
