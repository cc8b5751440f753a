"""The users' histories in a model: of those it learnt from, and of everybody where these were a sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from features.definitions import RESERVED
from features.events import entity_keys
from features.hashing import hash_texts
from features.history import HashPartitions
from models.recommender import CandidateTables, SparseRows
from training.data import Domain, Interactions, SampledEvents, interactions_of
from training.recommender.co_occurrence import sessions_of
from training.run import TrainingRun


@dataclass(frozen=True)
class Counted:
    """Interactions with their weight, item index and session; and the code of each item index in the pool."""

    history: Interactions
    weight: Floats
    item: Int64s
    session: Int64s
    codes: Int64s


def counted(
    history: Interactions, by_kind: Mapping[str, float], gap_ms: int, index: Mapping[str, int] | None = None
) -> Counted:
    """The interactions whose type has a weight, of the items that have one above 0.

    Args:
        index: item → its index; in the order of the pool unless given.
    """
    of_kind = np.array([by_kind.get(kind, 0.0) for kind in history.kinds], dtype=np.float64)
    weight = of_kind[history.kind] if len(of_kind) else np.empty(0)
    codes = np.unique(history.item[weight > 0])
    index_of_code = np.full(len(history.items), -1)
    index_of_code[codes] = np.arange(len(codes))
    if index is not None:
        index_of_code = np.array([index.get(item, -1) for item in history.items.to_pylist()], dtype=np.int64)
    keep = (weight != 0) & (index_of_code[history.item] >= 0)
    history = history.only(keep)
    session = sessions_of(history.user, history.known_at, gap_ms)
    return Counted(history, weight[keep], index_of_code[history.item], session, codes)


@dataclass(frozen=True)
class Pairs:
    """Each different (user, item), sorted by both: its weight, its first and last time, and its visits.

    Args:
        visits: the number of sessions in which it was taken as the target.
    """

    user: Int64s
    item: Int64s
    weight: Floats
    first_ms: Int64s
    last_ms: Int64s
    visits: Int64s

    @classmethod
    def of(cls, events: Counted, target: tuple[str, ...]) -> Pairs:
        """The pairs of these events."""
        history = events.history
        session = np.where(history.of(target), events.session, -1)
        order = np.lexsort((session, events.item, history.user))
        user, item, known_at = history.user[order], events.item[order], history.known_at[order]
        session, weight = session[order], events.weight[order]
        first = np.ones(len(user), dtype=bool)
        first[1:] = (np.diff(user) != 0) | (np.diff(item) != 0)
        visit = (session >= 0) & (first | (np.diff(session, prepend=-1) != 0))
        starts = np.flatnonzero(first)
        if not len(starts):
            return cls(user, item, weight, known_at, known_at, session)
        add, least, most = np.add.reduceat, np.minimum.reduceat, np.maximum.reduceat
        total, visits = add(weight, starts), add(visit.astype(np.int64), starts)
        return cls(user[starts], item[starts], total, least(known_at, starts), most(known_at, starts), visits)

    def only(self, keep: NDArray[Any]) -> Pairs:
        """Some of them."""
        return Pairs(*(getattr(self, column.name)[keep] for column in fields(self)))


@dataclass(frozen=True)
class UserHistories:
    """The items of each user (hashes, rising), the most frequent first and the newest of equals."""

    users: NDArray[np.uint64]
    histories: SparseRows
    last_ms: Int64s
    visits: NDArray[np.float32]
    first_ms: Int64s

    @classmethod
    def of(cls, pairs: Pairs, pool: pa.Array, most: int) -> UserHistories:
        """At most so many items of each user of these pairs."""
        users, starts = np.unique(pairs.user, return_index=True)
        hashes = hash_texts(pool.take(pa.array(users)))
        row_starts, order = _rows(pairs, np.append(starts, len(pairs.user)), most, np.argsort(hashes))
        own = pairs.only(order)
        histories = SparseRows(row_starts, own.item.astype(np.int32), own.weight.astype(np.float32))
        return cls(np.sort(hashes), histories, own.last_ms, own.visits.astype(np.float32), own.first_ms)

    @classmethod
    def joined(cls, parts: list[UserHistories]) -> UserHistories:
        """Those of all parts; no user is in two of them."""
        users = np.concatenate([part.users for part in parts])
        lengths = np.concatenate([np.diff(part.histories.starts) for part in parts])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        columns = [np.concatenate([getattr(part.histories, name) for part in parts]) for name in ("column", "weight")]
        order = np.argsort(users)
        at, ordered = SparseRows(starts, *columns).at(order)
        histories = SparseRows(np.concatenate([[0], np.cumsum(ordered)]), *(column[at] for column in columns))
        last, visits, first = (
            np.concatenate([getattr(part, name) for part in parts])[at] for name in ("last_ms", "visits", "first_ms")
        )
        return cls(users[order], histories, last, visits, first)

    def tables(self) -> dict[str, Any]:
        """As CandidateTables has them."""
        return {
            "users": self.users,
            "histories": self.histories,
            "own_count": self.histories.weight,
            "own_last_ms": self.last_ms,
            "own_visits": self.visits,
            "own_first_ms": self.first_ms,
        }


def _rows(pairs: Pairs, starts: Int64s, most: int, order: Int64s) -> tuple[Int64s, Int64s]:
    """The start of each user's rows, the users in ``order``; and the pairs that are the rows, the most frequent first.

    Of equally frequent ones the newest is first.
    """
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    row = np.repeat(position, np.diff(starts))
    by_row = np.lexsort((-pairs.last_ms, -pairs.weight, row))
    length = np.diff(starts)[order]
    rank = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    ends = np.cumsum(np.minimum(length, most))
    return np.concatenate([[0], ends]).astype(np.int64), by_row[rank < most]


def with_everybody(tables: CandidateTables, events: SampledEvents, run: TrainingRun) -> CandidateTables:
    """The tables with what the users outside the sample took until the split's end, of the items that the tables know.

    Else a service would know nobody's past but that of the sample. At most as many pairs of user and item are added as
    events fit into memory; how many users are left out is logged.
    """
    settings, parts, left_out, most = run.settings, [_own_of(tables)], 0, events.whole.bound.events
    for history in _others(events, run.domain):
        known = history.only(history.known_at < run.split.end)
        some = counted(known, settings.counted(run.target), settings.session_gap_ms, tables.index)
        pairs = Pairs.of(some, run.target)
        own = UserHistories.of(pairs.only(pairs.weight > 0), history.users, settings.own_items)
        most -= len(own.last_ms)
        left_out += len(own.users) if most < 0 else 0
        parts += [own] if most >= 0 else []
    if left_out:
        run.log(f"without the histories of {left_out:,} users: more than fit into memory (max_events)")
    return replace(tables, **UserHistories.joined(parts).tables())


def _own_of(tables: CandidateTables) -> UserHistories:
    visits = np.zeros(0, np.float32) if tables.own_visits is None else tables.own_visits
    first = np.zeros(0, np.int64) if tables.own_first_ms is None else tables.own_first_ms
    return UserHistories(tables.users, tables.histories, tables.own_last_ms, visits, first)


def _others(events: SampledEvents, domain: Domain) -> Iterator[Interactions]:
    """The interactions of the users outside the sample, some users at a time, with all of each."""
    stream, whole = domain.stream.name, events.whole
    kind = () if domain.recommender.kind is None else (domain.recommender.kind,)
    columns = list(dict.fromkeys([*RESERVED, *kind, *domain.user.entity.keys, *domain.item.entity.keys]))
    with TemporaryDirectory(prefix="headrace-") as folder:
        with HashPartitions(Path(folder) / "others", whole.parts) as buckets:
            for batch in whole.batches(stream, columns):
                users = entity_keys({name: batch[name] for name in domain.user.entity.keys}, domain.user.entity)
                other = np.asarray(users.is_valid()) & ~events.who.has(users)
                if other.any():
                    buckets.add(batch.filter(pa.array(other)), hash_texts(users.filter(pa.array(other))))
        for events_of_bucket in map(buckets.read, range(len(buckets))):
            if events_of_bucket is not None:
                yield interactions_of({stream: events_of_bucket}, replace(domain, category=None, price=None))
