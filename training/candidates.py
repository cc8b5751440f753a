"""What candidates are made of, fitted to interactions: similar items, popular and trending ones, and own histories."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.linalg import lapack  # type: ignore[import-untyped]
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.hashing import hash_texts
from features.recommendation import CandidateTables, SparseRows
from training.dataset import Interactions
from training.settings import TrainingSettings

Floats = NDArray[np.float64]
Int64s = NDArray[np.int64]
TREND_SPANS = 20
"""Popularity that is this many times younger than the history is what trends are measured by."""
MINUTE_MS, WEEK_MS = 60_000, 7 * 86_400_000


def fit_candidates(
    history: Interactions, target: tuple[str, ...], as_of: int, settings: TrainingSettings
) -> CandidateTables:
    """Everything that retrieval needs, from the interactions that were known before as_of (ms).

    The items and users are those of the interactions that are engaged or the target; the items' places are their order
    in the pool.
    """
    target_kinds = history.of(target)
    liked = history.of((*settings.engaged, *target)) & (history.known_at < as_of)
    history, weight = history.only(liked), np.where(target_kinds, 1.0, settings.engaged_weight)[liked]
    codes, item = np.unique(history.item, return_inverse=True)
    popular = decayed_counts(item, weight, as_of - history.known_at, settings.popular_half_life_ms, len(codes))
    rows = _pairs(history.user, item, weight, history.known_at)
    users, starts = np.unique(rows.user, return_index=True)
    hashes = hash_texts(history.users.take(pa.array(users)))
    own = _own(rows, np.append(starts, len(rows.user)), settings.own_items, np.argsort(hashes))
    return CandidateTables(
        items=tuple(history.items.take(pa.array(codes)).to_pylist()),
        neighbours=_neighbours(rows, popular, len(users), settings),
        popular=popular.astype(np.float32),
        trending=trends(item, weight, as_of - history.known_at, popular, settings).astype(np.float32),
        users=np.sort(hashes),
        histories=own[0],
        own_count=own[0].weight,
        own_last_ms=own[1],
    )


# --- similar items --------------------------------------------------------------------------------------------------


def ease(taken: csr_array, l2: float) -> Floats:
    """(items, items) weights B such that taken @ B predicts taken, with a zero diagonal.

    The closed form of Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (WWW 2019), equation 8:
    P = (XᵀX + λI)⁻¹, B = I − P / diag(P). It takes the time of
    inverting a dense (items, items) matrix, and the memory of four.

    Args:
        taken: (users, items), 1 where the user took the item.
        l2: λ, above 0.
    """
    inverse = _inverse_gram(csr_array(taken), l2)
    weights: Floats = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def _inverse_gram(taken: csr_array, l2: float) -> Floats:
    """(items, items) (XᵀX + λI)⁻¹; of fewer users than items by (XXᵀ + λI)⁻¹, which is smaller (Woodbury)."""
    users, items = taken.shape
    if users >= items:
        return _inverse((taken.T @ taken).toarray(), l2)
    kernel = np.ascontiguousarray(taken.T @ _inverse((taken @ taken.T).toarray(), l2))
    inverse: Floats = np.asarray(taken.T @ kernel.T) / -l2
    inverse[np.diag_indices(items)] += 1 / l2
    return inverse


def _inverse(gram: Floats, l2: float) -> Floats:
    """(gram + λI)⁻¹ of a symmetric matrix without negative eigenvalues."""
    gram = gram.astype(np.float64)
    gram[np.diag_indices_from(gram)] += l2
    factor, failed = lapack.dpotrf(gram, lower=True, overwrite_a=True)
    inverse, failed_too = lapack.dpotri(factor, lower=True, overwrite_c=True)
    if failed or failed_too:
        raise np.linalg.LinAlgError("XᵀX + λI is not positive definite")
    whole: Floats = np.tril(inverse) + np.tril(inverse, -1).T
    return whole


def strongest(weights: Floats, keep: int) -> SparseRows:
    """The ``keep`` largest weights of each row by magnitude, largest weight first."""
    n = len(weights)
    keep = min(keep, n)
    column = np.argpartition(-np.abs(weights), keep - 1, axis=1)[:, :keep] if n else np.empty((0, 0), dtype=np.int64)
    value = np.take_along_axis(weights, column, axis=1)
    order = np.argsort(-value, axis=1, kind="stable")
    column, value = np.take_along_axis(column, order, axis=1), np.take_along_axis(value, order, axis=1)
    kept = value != 0
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int64)
    return SparseRows(starts, column[kept].astype(np.int32), value[kept].astype(np.float32))


def _neighbours(rows: _Pairs, popular: Floats, users: int, settings: TrainingSettings) -> SparseRows:
    """EASE over the most popular items; the others have no neighbours."""
    chosen = np.sort(np.argsort(-popular, kind="stable")[: settings.ease_items])
    place = np.full(len(popular), -1)
    place[chosen] = np.arange(len(chosen))
    inside = place[rows.item] >= 0
    user = np.unique(rows.user, return_inverse=True)[1][inside]
    ones = np.ones(int(inside.sum()))
    taken = csr_array((ones, (user, place[rows.item[inside]])), shape=(users, len(chosen)))
    with threadpool_limits(settings.threads):
        kept = strongest(ease(taken, settings.ease_l2), settings.neighbours)
    length = np.zeros(len(popular), dtype=np.int64)
    length[chosen] = np.diff(kept.starts)
    return SparseRows(np.concatenate([[0], np.cumsum(length)]), chosen[kept.column].astype(np.int32), kept.weight)


# --- popularity -----------------------------------------------------------------------------------------------------


def decayed_counts(item: Int64s, weight: Floats, age_ms: Int64s, half_life_ms: float, items: int) -> Floats:
    """(items,) the sum of each item's weights, of which one counts half every half_life_ms."""
    return np.bincount(item, weight * np.exp2(-age_ms / half_life_ms), minlength=items).astype(np.float64)


def trends(item: Int64s, weight: Floats, age_ms: Int64s, popular: Floats, settings: TrainingSettings) -> Floats:
    """(items,) from 0, as popular lately as ever, to 1, popular only lately.

    Lately is a twentieth of the history, but a minute at least and a week at most. Items of a few events are damped.
    """
    span = float(age_ms.max(initial=1))
    lately = min(max(span / TREND_SPANS, MINUTE_MS), WEEK_MS)
    recent = decayed_counts(item, weight, age_ms, lately, len(popular))
    steady = popular * _mass(lately, span) / _mass(settings.popular_half_life_ms, span)
    damping = max(float(recent.mean()), 1e-9) if len(recent) else 1.0
    return np.clip((recent - steady) / (recent + steady + damping), 0.0, 1.0)


def _mass(half_life_ms: float, span_ms: float) -> float:
    """What a steady rate of one event a ms over the span comes to."""
    return half_life_ms / math.log(2) * (1 - 2 ** (-span_ms / half_life_ms))


# --- own histories --------------------------------------------------------------------------------------------------


class _Pairs:
    """Each different (user, item), sorted by both: how much of it there was, and when last."""

    def __init__(self, user: Int64s, item: Int64s, weight: Floats, last_ms: Int64s) -> None:
        self.user, self.item, self.weight, self.last_ms = user, item, weight, last_ms


def _pairs(user: Int64s, item: Int64s, weight: Floats, known_at: Int64s) -> _Pairs:
    order = np.lexsort((item, user))
    user, item, weight, known_at = user[order], item[order], weight[order], known_at[order]
    first = np.ones(len(user), dtype=bool)
    first[1:] = (np.diff(user) != 0) | (np.diff(item) != 0)
    starts = np.flatnonzero(first)
    if not len(starts):
        return _Pairs(user, item, weight, known_at)
    total, last = np.add.reduceat(weight, starts), np.maximum.reduceat(known_at, starts)
    return _Pairs(user[starts], item[starts], total, last)


def _own(pairs: _Pairs, starts: Int64s, most: int, order: Int64s) -> tuple[SparseRows, Int64s]:
    """Each user's most frequent items, the newest of equals first, the users in ``order``; and when each was last."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    row = np.repeat(place, np.diff(starts))
    by_row = np.lexsort((-pairs.last_ms, -pairs.weight, row))
    length = np.diff(starts)[order]
    rank = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    kept = by_row[rank < most]
    ends = np.cumsum(np.minimum(length, most))
    own = SparseRows(
        np.concatenate([[0], ends]).astype(np.int64),
        pairs.item[kept].astype(np.int32),
        pairs.weight[kept].astype(np.float32),
    )
    return own, pairs.last_ms[kept]
