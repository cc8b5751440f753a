"""The time split into half-open parts, and the moments in them at which a user could have had a recommendation.

    [ … history … | learn … | test … ]
                start     middle    end

The ranker learns from moments of [start, middle) about candidates that are made of what was known before start; it is
tested at moments of [middle, end) with candidates that are made of what was known before middle. So no candidate was
made with knowledge of what is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.arrays import Int64s
from features.errors import UsageError
from training.data.dataset import Interactions
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Split:
    """Epoch ms: the ranker learns in [start, middle) and is tested in [middle, end)."""

    start: int
    middle: int
    end: int


def time_split(known_at: Int64s, settings: TrainingSettings) -> Split:
    """The split of these times (rising): both parts last test_ms, or hold test_share of the events each.

    Raises UsageError where that leaves no history before the parts, or nothing in one of them.
    """
    if not len(known_at):
        raise UsageError("training", "events of users with items", "none")
    end = int(known_at[-1]) + 1
    if settings.test_ms is None:
        start, middle = (int(known_at[int(len(known_at) * (1 - n * settings.test_share))]) for n in (2, 1))
    else:
        start, middle = end - 2 * settings.test_ms, end - settings.test_ms
    if not int(known_at[0]) < start < middle < end:
        got = f"{len(known_at)} over {(end - int(known_at[0])) / 1_000:g} s"
        raise UsageError("training", "events in three parts of time, one after the other", got, "Wait for more events.")
    return Split(start, middle, end)


@dataclass(frozen=True)
class Moments:
    """m moments: the user's code, as_of in ms, and the items (codes) that the user then took."""

    user: Int64s
    as_of: Int64s
    starts: Int64s
    items: Int64s

    def __len__(self) -> int:
        return len(self.user)

    def taken(self, moment: int) -> Int64s:
        """The different items that were taken after this moment."""
        return self.items[self.starts[moment] : self.starts[moment + 1]]

    def chosen(self, indices: Int64s) -> Moments:
        """Some of them, in the order of the indices."""
        taken = [self.taken(index) for index in indices.tolist()]
        return _moments(self.user[indices], self.as_of[indices], taken)


def arrivals(part: Interactions, target: NDArray[np.bool_], as_of: int | None = None) -> Moments:
    """One moment for each user who takes something: just before the first event of the part, or at ``as_of``.

    Args:
        target: (n,) whether each of the part's interactions is predicted.
    """
    users, arrival = [], []
    taken = []
    for rows in _by_user(part.user):
        items = np.unique(part.item[rows[target[rows]]])
        if len(items):
            users.append(part.user[rows[0]])
            arrival.append(int(part.known_at[rows[0]]) - 1 if as_of is None else as_of)
            taken.append(items)
    return _moments(np.array(users, dtype=np.int64), np.array(arrival, dtype=np.int64), taken)


def visits(part: Interactions, target: NDArray[np.bool_], per_user: int, rng: np.random.Generator) -> Moments:
    """Each user's arrival, and up to ``per_user`` moments right after an event that a target of theirs follows."""
    users, times, taken = [], [], []
    for rows in _by_user(part.user):
        known = part.known_at[rows]
        last = known[target[rows]].max(initial=-1)
        after = np.unique(known[known < last])
        drawn = rng.choice(after, min(per_user, len(after)), replace=False) if len(after) else after
        arrival = known[:1] - 1 if last >= 0 else known[:0]
        for as_of in [*arrival.tolist(), *np.sort(drawn).tolist()]:
            users.append(part.user[rows[0]])
            times.append(as_of)
            taken.append(np.unique(part.item[rows[target[rows] & (known > as_of)]]))
    return _moments(np.array(users, dtype=np.int64), np.array(times, dtype=np.int64), taken)


def drawn_moments(moments: Moments, most: int, rng: np.random.Generator) -> Moments:
    """At most ``most`` of them, in their order."""
    if len(moments) <= most:
        return moments
    return moments.chosen(np.sort(rng.choice(len(moments), most, replace=False)))


def asked_at(users: Int64s, as_of: int) -> Moments:
    """These users (codes) at one time, without what they then took."""
    return _moments(users, np.full(len(users), as_of), [users[:0]] * len(users))


def joined_moments(first: Moments, second: Moments) -> Moments:
    """The moments of both, one after the other."""
    starts = np.concatenate([first.starts, second.starts[1:] + first.starts[-1]])
    user, as_of = np.concatenate([first.user, second.user]), np.concatenate([first.as_of, second.as_of])
    return Moments(user, as_of, starts, np.concatenate([first.items, second.items]))


def _moments(user: Int64s, as_of: Int64s, taken: list[Int64s]) -> Moments:
    starts = np.concatenate([[0], np.cumsum([len(items) for items in taken])]).astype(np.int64)
    return Moments(user, as_of, starts, np.concatenate([np.empty(0, dtype=np.int64), *taken]))


def _by_user(user: Int64s) -> Iterator[Int64s]:
    """The indices of each user's interactions, in their order, user by user."""
    order = np.argsort(user, kind="stable")
    bounds = np.flatnonzero(np.diff(user[order])) + 1
    yield from (rows for rows in np.split(order, bounds) if len(rows))
