"""Training on more events than fit into memory: whole histories of some users, and item features of everybody's events.

Users are drawn by a seeded hash, so that the same events and seed draw the same users. Item features are computed from
the archive, which is read a part at a time (features.history) by the same kernels, as a model has them when it serves.
The limit is of the settings, or of the machine's memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import RESERVED, Entity, FeatureView
from features.events import entity_keys, event_schema
from features.hashing import hash_texts, mix
from features.history import SPARE, ArchiveReader, Span, Spine, SpineRequest, Tables, history, without
from features.rows import FeatureMatrix

EVENT_BYTES = 1_200
"""Memory of a training for each event, at its peak (docs/adr/0029 has the measurement)."""

MEMORY_SHARE = 0.5
"""The share of the memory that a training takes: on a laptop, stream, store and service need the rest."""

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""The memory limit of a container, in Linux."""

BUCKET_BITS = 16
"""Users are drawn in 2^16 buckets of about as many."""

ODDLY_BUSY = 0.1
"""A bucket of more than this share of the bound is passed over: one such user (a robot) would keep all others out."""

A_PART = 0.25
"""The share of the bound that a part of the archive may have which is read beside the sample."""


@dataclass(frozen=True)
class EventLimit:
    """The most events that are read into memory; of more, users are drawn by this seed."""

    events: int
    seed: int = 0

    @classmethod
    def of(cls, events: int | None, seed: int) -> EventLimit:
        """The configured limit, or an estimate from the machine's memory if none is set."""
        return cls(events_in(machine_bytes()) if events is None else events, seed)


def events_in(memory: int) -> int:
    """The events that a training may hold on a machine of so many bytes."""
    return max(int(memory * MEMORY_SHARE / EVENT_BYTES), 1)


def machine_bytes(limit: Path = CGROUP) -> int:
    """The machine's memory, or the container's where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else ""
    return min(physical, int(text)) if text.isdecimal() else physical


@dataclass(frozen=True)
class SampleSummary:
    """The events that were read, of how many (by the tables' statistics), and of which share of the users."""

    events: int
    of_events: int
    of_users: float
    seed: int

    def __str__(self) -> str:
        share, known = 100 * self.of_users, f"{self.events:,} of {self.of_events:,} events"
        return f"a sample: {known}, all those of {share:.1f} % of the users, drawn by seed {self.seed}"

    def report(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class UserSample:
    """The buckets of users that are in a sample."""

    buckets: NDArray[np.bool_]
    seed: int

    def has(self, keys: pa.Array) -> NDArray[np.bool_]:
        """(n,) whether each user (key text, see columns.entity_keys) is in the sample; null is nobody."""
        has: NDArray[np.bool_] = self.buckets[buckets_of(keys, self.seed)] & np.asarray(keys.is_valid())
        return has

    @property
    def share(self) -> float:
        """About the share of the users that is in it."""
        return float(self.buckets.mean())


def buckets_of(keys: pa.Array, seed: int) -> Int64s:
    """(n,) the bucket of each key text."""
    hashes = mix(hash_texts(keys) ^ mix(np.array([seed], dtype=np.int64).view(np.uint64)))
    return (hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def drawn(counts: Int64s, most: int, seed: int) -> UserSample:
    """The first buckets that have ``most`` events at most together, but for those that are oddly busy.

    Args:
        counts: (2^BUCKET_BITS,) how many events each bucket has.
    """
    usual = counts <= max(most * ODDLY_BUSY, 1)
    return UserSample(usual & (np.cumsum(np.where(usual, counts, 0)) <= most), seed)


class WholeArchive:
    """All events of these tables, of which a bounded number is in memory at once.

    Args:
        span: nothing of other times is read.
    """

    def __init__(self, tables: Tables, span: Span, bound: EventLimit) -> None:
        self.tables = tables
        self.span = span
        self.bound = bound
        self._reading = ArchiveReader(tables, span, max(int(bound.events * A_PART), 1))

    @cached_property
    def repeated(self) -> Mapping[str, Int64s]:
        """By stream, the events that repeat another (see ArchiveReader.repeated): found once."""
        return self._reading.repeated()

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """The view's features of the spine, of everything that was known at each of its times."""
        (answer,) = history([SpineRequest(view, spine)], self._reading, self.repeated)
        return answer

    def rows(self) -> int:
        """The number of events, at most."""
        return sum(table.rows(self.span) for table in self.tables.values())

    @property
    def parts(self) -> int:
        """The number of parts that they are cut into, so that one fits."""
        return max(-(-SPARE * self.rows() // self._reading.rows_in_memory), 1)

    def batches(self, stream: str, columns: Sequence[str], span: Span | None = None) -> Iterator[pa.Table]:
        """The stream's events, each once, a bounded number at a time."""
        for batch in self.tables[stream].batches(columns, self.span if span is None else span):
            yield without(batch, self.repeated[stream])

    def counted(self, streams: Sequence[str], entity: Entity, seed: int, span: Span | None = None) -> Int64s:
        """(2^BUCKET_BITS,) how many events of these streams each bucket of the entity's keys has."""
        counts = np.zeros(1 << BUCKET_BITS, dtype=np.int64)
        for name in streams:
            for batch in self.batches(name, [*RESERVED, *entity.keys], span):
                keys = _keys(batch, entity)
                counts += np.bincount(buckets_of(keys, seed)[np.asarray(keys.is_valid())], minlength=len(counts))
        return counts

    def of(
        self, who: UserSample | None, stream: str, entity: Entity, columns: Sequence[str], span: Span | None = None
    ) -> pa.Table:
        """The events of the stream that are of these users; of everybody for None."""
        nothing = event_schema(self.tables[stream].stream).empty_table().select(list(columns))
        read = self.batches(stream, columns, span)
        if who is not None:
            read = (batch.filter(pa.array(who.has(_keys(batch, entity)))) for batch in read)
        return pa.concat_tables([nothing, *read]).combine_chunks()


def _keys(events: pa.Table, entity: Entity) -> pa.Array:
    return entity_keys({name: events[name] for name in entity.keys}, entity)


class SampledEvents(Mapping[str, pa.Table]):
    """Stream name → the events of the drawn users; ``whole`` has everybody's."""

    def __init__(
        self, tables: Mapping[str, pa.Table], whole: WholeArchive, who: UserSample, sample: SampleSummary
    ) -> None:
        self._tables = dict(tables)
        self.whole = whole
        self.who = who
        self.sample = sample

    @classmethod
    def drawn(cls, whole: WholeArchive, entity: Entity, columns: Mapping[str, Sequence[str]]) -> SampledEvents:
        """As many of the entities as fit into the bound, with all their events.

        Args:
            columns: the columns of each stream that is read, the entity's keys among them.
        """
        seed, most = whole.bound.seed, whole.bound.events
        who = drawn(whole.counted(list(columns), entity, seed), most, seed)
        tables = {name: whole.of(who, name, entity, wanted) for name, wanted in columns.items()}
        there = sum(whole.tables[name].rows(whole.span) for name in columns)
        read = sum(table.num_rows for table in tables.values())
        return cls(tables, whole, who, SampleSummary(read, there, who.share, seed))

    def __getitem__(self, stream: str) -> pa.Table:
        return self._tables[stream]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def with_tables(events: Mapping[str, pa.Table], more: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
    """The events with further tables."""
    if isinstance(events, SampledEvents):
        return SampledEvents({**events, **more}, events.whole, events.who, events.sample)
    return {**events, **more}


def sample_of(events: object) -> SampleSummary | None:
    """The size of the sample that the events are; None where they are all."""
    return events.sample if isinstance(events, SampledEvents) else None


def drawn_of(events: object) -> UserSample | None:
    """The users whose events these are; None where they are everybody's."""
    return events.who if isinstance(events, SampledEvents) else None
