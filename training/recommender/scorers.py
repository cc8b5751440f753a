"""Scorers of every item for a user, from what the user took: one contract for all models.

A recommender is a typed configuration whose ``fit`` makes a ``Scorer`` of what was taken; a scorer answers for any
users, also for those who came after the fit, as it is asked with what they took until then (fold-in). Nothing here
knows of events or stores: users and items are codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, diags_array  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from features.arrays import Floats, Int64s
from training.data import Interactions
from training.recommender.candidates import decayed_counts, ease
from training.recommender.co_occurrence import FactorSettings, fitted_factors, strongest_entries

Scorer = Callable[["Taken"], Floats]
"""Interactions of m users → (m, items) scores, higher is better; 0 for an item without a score."""

DAY_MS = 86_400_000

NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Taken:
    """n interactions: user, item, time, and weight (negative for a return or a dislike)."""

    users: int
    items: int
    user: Int64s
    item: Int64s
    weight: Floats
    time_ms: Int64s
    codes: Int64s | None = None
    """(users,) the codes of the users before ``of`` renumbered them; None without renumbering."""

    def __len__(self) -> int:
        return len(self.user)

    def only(self, keep: NDArray[np.bool_]) -> Taken:
        """The interactions where the mask is true, of the same users and items."""
        columns = {name: getattr(self, name)[keep] for name in ("user", "item", "weight", "time_ms")}
        return replace(self, **columns)

    def of(self, users: Int64s) -> Taken:
        """The interactions of these users (rising codes), who are the users 0, 1, … of the answer."""
        index = np.searchsorted(users, self.user)
        index = np.minimum(index, max(len(users) - 1, 0))
        mine = users[index] == self.user if len(users) else np.zeros(len(self), dtype=bool)
        codes = users if self.codes is None else self.codes[users]
        return replace(self.only(mine), users=len(users), user=index[mine], codes=codes)

    @cached_property
    def weights(self) -> csr_array:
        """(users, items) the sum of the weights, without items whose weights cancel."""
        sums = csr_array((self.weight, (self.user, self.item)), shape=(self.users, self.items), dtype=np.float64)
        sums.sum_duplicates()
        sums.data[sums.data < 0] = 0.0
        sums.eliminate_zeros()
        return sums

    @cached_property
    def had(self) -> NDArray[np.bool_]:
        """(users, items) a mask of the items that the user ever took, including returned ones."""
        had = np.zeros((self.users, self.items), dtype=bool)
        had[self.user, self.item] = True
        return had

    @cached_property
    def ones(self) -> csr_array:
        """(users, items) 1 where the user took the item, and the weights did not cancel."""
        ones = self.weights.copy()
        ones.data[:] = 1.0
        return ones


def taken_of(history: Interactions, weights: dict[str, float]) -> Taken:
    """The interactions of the kinds that have a weight."""
    of_kind = np.array([weights.get(kind, 0.0) for kind in history.kinds], dtype=np.float64)
    weight = of_kind[history.kind] if len(of_kind) else np.zeros(0)
    every = Taken(len(history.users), len(history.items), history.user, history.item, weight, history.known_at)
    return every.only(weight != 0)


class RankingMethod(Protocol):
    """A configuration that fits."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        """A scorer made of what was taken before as_of_ms."""


@dataclass(frozen=True)
class Popular:
    """The most taken items, the same for every user."""

    half_life_days: float = field(default=float("inf"))
    """The half-life of an event's weight; a short one gives trending items."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        counts = decayed_counts(
            taken.item, taken.weight, as_of_ms - taken.time_ms, self.half_life_days * DAY_MS, taken.items
        )
        return lambda profiles: np.repeat(np.maximum(counts, 0.0)[None], profiles.users, axis=0)


@dataclass(frozen=True)
class UserFrequency:
    """The user's most frequent items, the newest first among equals."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        first = int(taken.time_ms.min(initial=as_of_ms))

        def scores(profiles: Taken) -> Floats:
            newest = np.full((profiles.users, profiles.items), first - 1, dtype=np.int64)
            np.maximum.at(newest, (profiles.user, profiles.item), profiles.time_ms)
            counts: Floats = profiles.weights.toarray()
            # Less than any weight of a whole event, so that it orders only equal counts.
            return np.where(counts > 0, counts + 1e-3 * (newest - first) / max(as_of_ms - first, 1), 0.0)

        return scores


@dataclass(frozen=True)
class Ease:
    """Similar items in closed form (see candidates.ease)."""

    l2: float = 300.0
    """Regularisation: more for more users."""
    most_items: int = 20_000
    """The number of items, those that most users took; the time is that of inverting a matrix of them."""
    threads: int = 1
    """The threads of the linear algebra."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        users_of = taken.ones.sum(axis=0)
        chosen = np.sort(np.argsort(-users_of, kind="stable")[: self.most_items])
        with threadpool_limits(self.threads):
            weights = ease(csr_array(taken.ones[:, chosen]), self.l2)

        def scores(profiles: Taken) -> Floats:
            every = np.zeros((profiles.users, profiles.items))
            every[:, chosen] = profiles.ones[:, chosen] @ weights
            return every

        return scores


@dataclass(frozen=True)
class Als(FactorSettings):
    """Implicit-feedback matrix factorisation, never rating prediction (see co_occurrence.fitted_factors)."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        model = fitted_factors(taken.ones, self)

        def scores(profiles: Taken) -> Floats:
            with threadpool_limits(1, "blas"):
                users = model.recalculate_user(np.arange(profiles.users), csr_matrix(profiles.ones, dtype=np.float32))
                return np.asarray(users @ model.item_factors.T, dtype=np.float64)

        return scores


@dataclass(frozen=True)
class CoVisited:
    """Items that the same users took, the more the nearer in time (cosine of the counts)."""

    half_life_days: float = 180.0
    """The half-life of an event's weight."""
    shrink: float = 20.0
    """Added to the norms, so that pairs of few users are not called similar."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        fade = np.exp2(-(as_of_ms - taken.time_ms) / (self.half_life_days * DAY_MS))
        faded = replace(taken, weight=np.where(taken.weight > 0, taken.weight * fade, taken.weight)).weights
        faded.data = np.minimum(faded.data, 1.0)
        counts = csr_array(faded.T @ faded)
        norms = np.sqrt(counts.diagonal())
        counts.setdiag(0.0)
        rows = np.repeat(np.arange(taken.items), np.diff(counts.indptr))
        counts.data /= norms[rows] * norms[counts.indices] + self.shrink
        return lambda profiles: np.asarray((profiles.ones @ counts).toarray(), dtype=np.float64)


@dataclass(frozen=True)
class SessionNeighbours:
    """The items of users with the most similar baskets: V-SKNN (Ludewig and Jannach, UMUAI 2018), every user a session.

    The user's items count by how late they came, linearly; a neighbour's by how late the last common one came.
    """

    neighbours: int = 100
    """The number of neighbours that count."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        known = taken.ones
        lengths = np.maximum(known.sum(axis=1), 1.0)
        frequency = known.sum(axis=0)
        rarity = np.log(max(taken.users, 1) / np.maximum(frequency, 1.0))

        def scores(profiles: Taken) -> Floats:
            recency = _recency(profiles)
            similarity = csr_array(csr_array(recency @ known.T) @ diags_array(1 / np.sqrt(lengths)))
            return np.asarray((_strongest(similarity, self.neighbours) @ known).toarray() * (1.0 + rarity))

        return scores


def _recency(profiles: Taken) -> csr_array:
    """(users, items) from above 0 for what a user took first to 1 for what was taken last."""
    order = np.lexsort((profiles.time_ms, profiles.user))
    user, item = profiles.user[order][::-1], profiles.item[order][::-1]
    first = np.unique(user * profiles.items + item, return_index=True)[1]
    first.sort()
    user, item = user[first], item[first]  # newest first, each item once
    starts = np.concatenate([[0], np.flatnonzero(np.diff(user)) + 1, [len(user)]])
    length = np.diff(starts)[: len(starts) - 1 if len(user) else 0]
    rank = np.arange(len(user)) - np.repeat(starts[:-1], length) if len(user) else np.empty(0, dtype=np.int64)
    size = np.repeat(length, length) if len(user) else np.empty(0, dtype=np.int64)
    return csr_array((1.0 - rank / np.maximum(size, 1), (user, item)), shape=(profiles.users, profiles.items))


def _strongest(rows: csr_array, keep: int) -> csr_array:
    """The ``keep`` largest values of each row."""
    row, entry = strongest_entries(rows, keep)
    return csr_array((rows.data[entry], (row, rows.indices[entry])), shape=rows.shape)


@dataclass(frozen=True)
class Blend:
    """The weighted sum of recommenders, each as a share of the user's best score."""

    parts: tuple[tuple[RankingMethod, float], ...]
    """Recommenders and their weights."""
    only_new: bool = False
    """Items that the user took score 0, and the user's best is among the others."""

    def fit(self, taken: Taken, as_of_ms: int) -> Scorer:
        fitted = [(recommender.fit(taken, as_of_ms), weight) for recommender, weight in self.parts]

        def scores(profiles: Taken) -> Floats:
            listed = 1.0 - profiles.had if self.only_new else 1.0
            return np.asarray(np.sum([weight * shares(listed * scorer(profiles)) for scorer, weight in fitted], axis=0))

        return scores


def shares(scores: Floats) -> Floats:
    """Each row as a share of its best, which is 1; scores below 0, and rows without one above it, are 0."""
    above = np.maximum(scores, 0.0)
    top = above.max(axis=1, initial=0.0, keepdims=True)
    parts: Floats = np.divide(above, top, out=np.zeros_like(above), where=top > 0)
    return parts
