"""Co-occurrence of items: items of the same sessions, items as vectors, and the latest sessions themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, csr_matrix  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.arrays import Floats, Int64s
from features.errors import UsageError
from models.recommender import Factors, Sessions, SparseRows


def sessions_of(user: Int64s, time_ms: Int64s, gap_ms: int) -> Int64s:
    """(n,) the number of each event's session, rising with the time of the session's last event.

    A session is a user's events of which none is more than gap_ms after the one before.
    """
    order = np.lexsort((time_ms, user))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(user[order]) != 0) | (np.diff(time_ms[order]) > gap_ms)
    number = np.cumsum(new) - 1
    last = np.zeros(int(new.sum()), dtype=np.int64)
    np.maximum.at(last, number, time_ms[order])
    rank = np.empty(len(last), dtype=np.int64)
    rank[np.argsort(last, kind="stable")] = np.arange(len(last))
    session = np.empty(len(order), dtype=np.int64)
    session[order] = rank[number]
    return session


def session_items(session: Int64s, item: Int64s, items: int, longest: int) -> csr_array:
    """(sessions, items) 1 for the different items of each session, at most the last ``longest`` of them.

    Args:
        session: (n,) in the order of the events.
    """
    count = int(session.max(initial=-1)) + 1
    last = np.unique((session * items + item)[::-1], return_index=True)[1]
    newest = len(session) - 1 - last
    order = newest[np.lexsort((-newest, session[newest]))]
    starts = np.searchsorted(session[order], session[order])
    kept = order[np.arange(len(order)) - starts < longest]
    return csr_array((np.ones(len(kept)), (session[kept], item[kept])), shape=(count, items))


def co_visits(taken: csr_array, fade: Floats, shrink: float) -> csr_array:
    """(items, items) the co-occurrence of items in the same rows: the cosine of the fading counts; 0 with itself.

    Args:
        taken: (rows, items) 1 where the row has the item.
        fade: (rows,) the weight of each row.
        shrink: added to the norms, so that pairs of few rows are not called similar.
    """
    faded = csr_array(taken.multiply(fade[:, None]))
    counts = csr_array(faded.T @ taken)
    norms = np.sqrt(counts.diagonal())
    counts.setdiag(0.0)
    counts.eliminate_zeros()
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    counts.data /= norms[rows] * norms[counts.indices] + shrink
    return counts


def strongest_of(rows: csr_array, keep: int) -> SparseRows:
    """The ``keep`` largest values of each row, the largest first."""
    row, entry = strongest_entries(rows, keep)
    starts = np.searchsorted(row, np.arange(rows.shape[0] + 1))
    return SparseRows(
        starts.astype(np.int64), rows.indices[entry].astype(np.int32), rows.data[entry].astype(np.float32)
    )


def strongest_entries(rows: csr_array, keep: int) -> tuple[Int64s, Int64s]:
    """The row and the position of each of the ``keep`` largest values of each row, the largest first."""
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((-rows.data, row))
    entry = order[np.arange(len(order)) - np.repeat(rows.indptr[:-1], np.diff(rows.indptr)) < keep]
    return row[entry], entry


def latest_sessions(taken: csr_array, keep: int) -> Sessions:
    """The last ``keep`` rows of two items or more."""
    rows = np.flatnonzero(np.diff(taken.indptr) > 1)[-keep:]
    chosen = csr_array(taken[rows])
    starts, column = chosen.indptr.astype(np.int64), chosen.indices.astype(np.int32)
    return Sessions.of(SparseRows(starts, column, chosen.data.astype(np.float32)), taken.shape[1])


@dataclass(frozen=True)
class FactorSettings:
    """The settings of implicit-feedback matrix factorisation (Hu, Koren and Volinsky, ICDM 2008)."""

    factors: int = 32
    """The width of a user and an item."""
    regularization: float = 5.0
    """The regularisation of both vectors, for each user and item alike."""
    alpha: float = 5.0
    """The weight of a taken item over that of one that was not taken."""
    iterations: int = 15
    """Rounds over users and items."""
    threads: int = 1
    """The threads of the solver."""
    seed: int = 0
    """The seed of the first vectors."""


def missing_library(sources: Collection[str]) -> UsageError | None:
    """The error of a missing library for items as vectors; None where it is there, or where no source needs it."""
    if "factor" not in sources:
        return None
    try:
        import implicit.cpu.als  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:  # its wheel wants a library of the system
        next_step = "Install it: sudo apt-get install libgomp1"
        return UsageError("recommender 'als'", "the library libgomp.so.1", str(error), next_step)
    return None


def fitted_factors(taken: csr_array, settings: FactorSettings) -> Any:
    """The library's model, fitted by alternating least squares.

    Args:
        taken: (users, items), 1 where the user took the item.

    Raises UsageError where the library lacks what it needs of the system.
    """
    if (missing := missing_library(["factor"])) is not None:
        raise missing
    from implicit.cpu.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings.factors,
            regularization=settings.regularization,
            alpha=settings.alpha,
            iterations=settings.iterations,
            num_threads=settings.threads,
            random_state=settings.seed,
        )
        model.fit(csr_matrix(taken, dtype=np.float32), show_progress=False)
    return model


def factors_of(taken: csr_array, settings: FactorSettings) -> Factors:
    """The items as vectors, of what users took (see fitted_factors)."""
    items = np.asarray(fitted_factors(taken, settings).item_factors, dtype=np.float32)
    return Factors(items, settings.regularization, settings.alpha)
