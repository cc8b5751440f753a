"""Candidate sources fitted to interactions: similar items, popular and trending ones, and own histories."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.linalg import lapack  # type: ignore[import-untyped]
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.arrays import Floats, Int64s
from models.recommender import CandidateTables, SparseRows
from training.data import Interactions, Split, arrivals, drawn_moments
from training.recommender import metrics
from training.recommender.co_occurrence import (
    FactorSettings,
    co_visits,
    factors_of,
    latest_sessions,
    missing_library,
    session_items,
    strongest_of,
)
from training.recommender.user_histories import Counted, Pairs, UserHistories, counted
from training.settings import FADE_LEAST_MS, FADE_SHARE, TrainingSettings

TREND_SPANS = 20
"""Trends are measured by the popularity of this fraction of the history, its newest."""

FIRST_HALF_LIVES_MS = (*(days * 86_400_000.0 for days in (1, 3, 7, 14, 30, 90, 365)), math.inf)
USUAL_MS, ARRIVAL_TIMES = 14 * 86_400_000.0, 50
"""The half-lives that are tried for what new users are recommended; the usual one; and the most times of arrival at
which they are compared."""

MINUTE_MS, WEEK_MS = 60_000, 7 * 86_400_000


def fit_candidates(
    history: Interactions,
    target: tuple[str, ...],
    as_of: int,
    settings: TrainingSettings,
    first_half_life_ms: float | None = None,
) -> CandidateTables:
    """The tables that retrieval reads, of the interactions that were known before as_of (ms).

    The items and users are those of the interactions that count more than 0; an item's index is its order in the pool.
    A return counts less than 0: what a user took and gave back was not taken, and is not popular.

    Args:
        first_half_life_ms: see first_half_life; None leaves out the table ``first``.
    """
    events = counted(history.only(history.known_at < as_of), settings.counted(target), settings.session_gap_ms)
    history, weight, item, items = events.history, events.weight, events.item, len(events.codes)
    age = as_of - history.known_at
    popular = np.maximum(decayed_counts(item, weight, age, settings.popular_half_life_ms, items), 0.0)
    first = None
    if first_half_life_ms is not None:
        first = np.maximum(decayed_counts(item, weight, age, first_half_life_ms, items), 0.0).astype(np.float32)
    rows = Pairs.of(events, target)
    kept = rows.only(rows.weight > 0)
    half_life = settings.fade_half_life_ms or max(FADE_SHARE * float(age.max(initial=0)), FADE_LEAST_MS)
    return CandidateTables(
        items=tuple(history.items.take(pa.array(events.codes)).to_pylist()),
        neighbours=_neighbours(kept, popular, np.exp2(-(as_of - kept.last_ms) / half_life), settings),
        popular=popular.astype(np.float32),
        trending=trends(item, weight, age, popular, settings).astype(np.float32),
        **UserHistories.of(kept, history.users, settings.own_items).tables(),
        category=_newest(item, history.categories, items, -1, np.int32),
        price=_newest(item, history.prices, items, np.nan, np.float32),
        first=first,
        half_life_ms=half_life,
        repeats=_repeat(rows, settings),
        **_further(events, kept, as_of, settings),
    )


def first_half_life(
    history: Interactions, target: tuple[str, ...], split: Split, settings: TrainingSettings
) -> float | None:
    """The half-life (ms) by which popularity ranks best what new users of [start, middle) took; infinite for none.

    Each is asked about by what was known before its arrival (or a little earlier). Of those that are no worse than the
    best by more than two standard errors, the one nearest to USUAL_MS is taken. None where there are fewer than
    settings.least_test_users such users.
    """
    part = history.between(split.start, split.middle)
    part = part.only(~np.isin(part.user, np.unique(history.between(0, split.start).user)))
    moments = drawn_moments(arrivals(part, part.of(target)), settings.test_users, np.random.default_rng(settings.seed))
    if len(moments) < settings.least_test_users:
        return None
    events = counted(history.between(0, split.middle), settings.counted(target), settings.session_gap_ms)
    index = np.full(len(history.items), -1)
    index[events.codes] = np.arange(len(events.codes))
    ndcg = np.zeros((len(moments), len(FIRST_HALF_LIVES_MS)))
    groups = np.array_split(np.argsort(moments.as_of, kind="stable"), min(ARRIVAL_TIMES, len(moments)))
    for group in groups:
        as_of = moments.as_of[group[0]]
        known = events.history.known_at <= as_of
        item, weight, age = events.item[known], events.weight[known], as_of - events.history.known_at[known]
        for column, half_life in enumerate(FIRST_HALF_LIVES_MS):
            popular = decayed_counts(item, weight, age, half_life, len(events.codes))
            top = np.argsort(-popular, kind="stable")[: settings.k]
            taken = [index[moments.taken(moment)] for moment in group.tolist()]
            hits = np.array([metrics.hits_of(top, items[items >= 0], settings.k) for items in taken])
            ndcg[group, column] = metrics.ndcg_at_k(hits, np.array([len(items) for items in taken]))
    best = int(ndcg.mean(axis=0).argmax())
    behind = ndcg[:, [best]] - ndcg
    good = behind.mean(axis=0) <= 2 * behind.std(axis=0) / math.sqrt(len(moments))
    distance = np.abs(np.log(np.minimum(FIRST_HALF_LIVES_MS, 1e15)) - math.log(USUAL_MS))
    return FIRST_HALF_LIVES_MS[int(np.where(good, distance, np.inf).argmin())]


def _further(events: Counted, pairs: Pairs, as_of: int, settings: TrainingSettings) -> dict[str, Any]:
    """The tables of the sources that the settings name; no vectors where their library lacks what it needs."""
    items, sources = len(events.codes), settings.sources
    tables: dict[str, Any] = {}
    liked = events.weight > 0
    if "lasting" in sources:
        counts = np.bincount(events.item, events.weight, minlength=items)
        tables["lasting"] = np.maximum(counts, 0.0).astype(np.float32)
    if "factor" in sources and missing_library(sources) is None:
        users, user = np.unique(pairs.user, return_inverse=True)
        taken = csr_array((np.ones(len(user)), (user, pairs.item)), shape=(len(users), items))
        tables["factors"] = factors_of(taken, _factor_settings(settings))
    if {"together", "session"} & set(sources):
        taken = session_items(events.session[liked], events.item[liked], items, settings.session_items)
    if "together" in sources:
        last = np.zeros(taken.shape[0], dtype=np.int64)
        np.maximum.at(last, events.session[liked], events.history.known_at[liked])
        fade = np.exp2(-(as_of - last) / settings.together_half_life_ms)
        tables["together"] = strongest_of(co_visits(taken, fade, settings.together_shrink), settings.together_items)
    if "session" in sources:
        tables["sessions"] = latest_sessions(taken, settings.sessions)
    return tables


def _factor_settings(settings: TrainingSettings) -> FactorSettings:
    regularization, alpha = settings.factor_regularization, settings.factor_alpha
    return FactorSettings(
        settings.factors, regularization, alpha, settings.factor_iterations, settings.threads, settings.seed
    )


def _newest(item: Int64s, values: NDArray[Any] | None, items: int, absent: float, dtype: Any) -> NDArray[Any] | None:
    """(items,) the last value of each item; ``absent`` for an item without one."""
    if values is None:
        return None
    newest = np.full(items, absent, dtype=dtype)
    there = values >= 0
    newest[item[there]] = values[there]
    return newest


def _repeat(rows: Pairs, settings: TrainingSettings) -> bool:
    """True if users come back to what they took (see TrainingSettings.repeats)."""
    if settings.repeats is not None:
        return settings.repeats
    taken = rows.visits[rows.visits > 0]
    again = (taken - 1).sum()
    return bool(again >= settings.repeat_share * taken.sum())


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
    if not len(gram):  # LAPACK refuses a matrix of nothing
        return gram
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


def _neighbours(rows: Pairs, popular: Floats, fade: Floats, settings: TrainingSettings) -> SparseRows:
    """EASE over the most popular items, of pairs that count what they have faded to; the others have no neighbours."""
    chosen = np.sort(np.argsort(-popular, kind="stable")[: settings.ease_items])
    index = np.full(len(popular), -1)
    index[chosen] = np.arange(len(chosen))
    inside = index[rows.item] >= 0
    users, user = np.unique(rows.user, return_inverse=True)
    taken = csr_array((fade[inside], (user[inside], index[rows.item[inside]])), shape=(len(users), len(chosen)))
    l2 = settings.ease_l2 * float((taken.data**2).mean()) if taken.nnz else settings.ease_l2
    with threadpool_limits(settings.threads):
        kept = strongest(ease(taken, l2), settings.neighbours)
    length = np.zeros(len(popular), dtype=np.int64)
    length[chosen] = np.diff(kept.starts)
    return SparseRows(np.concatenate([[0], np.cumsum(length)]), chosen[kept.column].astype(np.int32), kept.weight)


def decayed_counts(item: Int64s, weight: Floats, age_ms: Int64s, half_life_ms: float, items: int) -> Floats:
    """(items,) the sum of each item's weights, of which one counts half every half_life_ms."""
    return np.bincount(item, weight * np.exp2(-age_ms / half_life_ms), minlength=items).astype(np.float64)


def trends(item: Int64s, weight: Floats, age_ms: Int64s, popular: Floats, settings: TrainingSettings) -> Floats:
    """(items,) from 0, as popular lately as ever, to 1, popular only lately.

    "Lately" is a twentieth of the history, but a minute at least and a week at most. Items of a few events are damped.
    """
    span = float(age_ms.max(initial=1))
    recent_ms = min(max(span / TREND_SPANS, MINUTE_MS), WEEK_MS)
    recent = decayed_counts(item, weight, age_ms, recent_ms, len(popular))
    steady = popular * _mass(recent_ms, span) / _mass(settings.popular_half_life_ms, span)
    damping = max(float(recent.mean()), 1e-9) if len(recent) else 1.0
    return np.clip((recent - steady) / (recent + steady + damping), 0.0, 1.0)


def _mass(half_life_ms: float, span_ms: float) -> float:
    """The decayed count of a steady rate of one event a ms over the span."""
    return half_life_ms / math.log(2) * (1 - 2 ** (-span_ms / half_life_ms))
