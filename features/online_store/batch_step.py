"""The batch step: a micro-batch of a generation into the rows of its views, in the order that survives crashes.

    decide duplicates ─► publish offsets ─► remember the decision ─► score with the features before ─► rows ─► done

The records are in this process or on executors (BatchWork), each of which writes a shard of the rows; done is published
only if every shard has the token of its writer's last write.

A crash between any two leaves a store from which the same batch, run again, ends the same: a decision is made from
what was remembered before the batch, rows that have the batch are skipped, and a store that lost what a later batch
builds on is refused. Offsets come before the memory of ids, as a batch that was planned anew must not meet its own
old decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.arrays import Int64s
from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureView, Stream, duration_ms
from features.errors import FenceError
from features.events import (
    Decision,
    EventColumns,
    Parsed,
    Verdict,
    accept,
    accepted_events,
    decide,
    encoded_ids,
    integers,
    sequence,
)
from features.online_store.conflicts import REBUILD
from features.online_store.port import BYTES_A_WRITE, Idle, Marker, Offsets, RowStore, Store
from features.rows import BatchKey, Fold, can_take, in_portions, newest_events, without_unfoldable

ROWS_A_WRITE = 4_096


@dataclass(frozen=True)
class Batch:
    """A micro-batch: its number, its offsets [start, end), the parsed records by stream, the time of writing (ms)."""

    batch_id: int
    start: Offsets
    end: Offsets
    parsed: Mapping[str, Parsed]
    written_at: int


@dataclass(frozen=True)
class Counts:
    """The batch's records by outcome; they add up to the records."""

    folded: int
    duplicate: int
    late: int
    dead_letter: int

    @property
    def all(self) -> int:
        """The number of records."""
        return self.folded + self.duplicate + self.late + self.dead_letter

    @classmethod
    def of(cls, batch: Batch, folded: int) -> Counts:
        """The counts of a batch of which so many records were folded."""
        verdicts = np.concatenate([np.empty(0, np.int8), *(parsed.verdicts for parsed in batch.parsed.values())])
        counted = np.bincount(verdicts, minlength=len(Verdict))
        valid, late, dead_letter = (int(counted[verdict]) for verdict in Verdict)
        return cls(folded, valid - folded, late, dead_letter)


@dataclass(frozen=True)
class Ids:
    """The event ids of a stream's valid records, encoded, with when each became known (ms) and its sequence."""

    ids: pa.DictionaryArray
    known_at: Int64s
    seq: Int64s


class BatchWork(Protocol):
    """The records of a batch, on the driver or on executors."""

    def ids(self) -> Mapping[str, Ids]:
        """By stream, what a decision about duplicates needs."""

    def fold(self, decided: Mapping[str, Decision], store: Store, key: BatchKey) -> Mapping[str, str]:
        """Fold the accepted records into the rows of every view; the token of each shard's last write."""

    def counts(self, decided: Mapping[str, Decision]) -> Counts:
        """The records by outcome."""

    def changed(self, view: str) -> Sequence[str] | None:
        """The keys of the view's rows that fold() has changed; None where this process does not know them."""


BeforeFold = Callable[[Batch, Mapping[str, pa.Table]], None]


class OnDriver:
    """A batch whose records are in this process, parsed."""

    def __init__(self, batch: Batch, views: Sequence[FeatureView], before_fold: BeforeFold | None = None) -> None:
        self._batch = batch
        self._views = views
        self._before_fold = before_fold
        self._valid = {name: _valid(parsed) for name, parsed in batch.parsed.items()}
        self._keys: dict[str, pa.Array] = {}

    def ids(self) -> Mapping[str, Ids]:
        return {name: ids_of(events) for name, events in self._valid.items()}

    def fold(self, decided: Mapping[str, Decision], store: Store, key: BatchKey) -> Mapping[str, str]:
        accepted = {name: accepted_events(self._valid[name], decision) for name, decision in decided.items()}
        streams = {stream.name: stream for view in self._views for stream in view.streams}
        columns = {name: EventColumns(events, streams[name]) for name, events in accepted.items()}
        # An event whose content breaks a view breaks it here, while no view has any of the batch: a repetition too, as
        # executors judge each record before anybody knows that it repeats another.
        folds = [Fold(view, columns) for view in self._views]
        for name, decision in decided.items():
            if not decision.accepted.all():
                self._fold_nothing_of(streams[name], self._valid[name].filter(pa.array(~decision.accepted)))
        if self._before_fold is not None:
            self._before_fold(self._batch, accepted)
        for folding in folds:
            _write(store, folding, key)
        self._keys = {folding.view.name: folding.keys for folding in folds}
        return {}

    def _fold_nothing_of(self, stream: Stream, repetitions: pa.Table) -> None:
        """Raises what the content of one of them makes a view raise."""
        columns = {stream.name: EventColumns(repetitions, stream)}
        for view in self._views:
            Fold(view, columns)

    def changed(self, view: str) -> Sequence[str] | None:
        keys: list[str] = self._keys[view].to_pylist()
        return keys

    def counts(self, decided: Mapping[str, Decision]) -> Counts:
        folded = sum(int(decision.accepted.sum()) for decision in decided.values())
        return Counts.of(self._batch, folded)


def _valid(parsed: Parsed) -> pa.Table:
    valid = parsed.verdicts[parsed.rows] == Verdict.VALID
    return parsed.events if valid.all() else parsed.events.filter(pa.array(valid))


def ids_of(events: pa.Table) -> Ids:
    """The event ids of these events, as a decision about duplicates needs them."""
    seq = sequence(integers(events["partition"]), integers(events["offset"]))
    return Ids(encoded_ids(events["event_id"]), integers(events["known_at"]), seq)


class BatchStep:
    """Folds batches of a generation (``stream_id``) into the rows of its views, exactly once.

    Args:
        followed: the views whose changed keys are kept for readers (see ``changed``).
    """

    def __init__(
        self,
        store: Store,
        views: Sequence[FeatureView],
        stream_id: int,
        before_fold: BeforeFold | None = None,
        followed: Collection[str] = (),
    ) -> None:
        self._followed = tuple(followed)
        self._store = store
        self._views = tuple(views)
        self._stream_id = stream_id
        self._before_fold = before_fold
        self._streams = {stream.name: stream for view in views for stream in view.streams}

    def run(self, batch: Batch) -> Counts:
        """Fold the batch in this process; run again with the same batch, it changes nothing more.

        Raises:
            FenceError: the store's marker contradicts the batch.
            LeaseError: another driver wrote, or the store lost writes, while the batch ran: run it again.
        """
        return self.run_work(batch, OnDriver(batch, self._views, self._before_fold))

    def run_work(self, batch: Batch, work: BatchWork) -> Counts:
        """As run(), with records that may be on executors: ``batch`` has its number, its offsets and the time."""
        self._store.begin()
        marker = self._checked(batch)
        decided = {name: self._decided(name, ids, batch) for name, ids in work.ids().items()}
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, marker.done))
        self._remember(decided, batch)
        shards = work.fold(decided, self._store, self._key(batch))
        changed = {view: work.changed(view) for view in self._followed}
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, batch.batch_id), shards, changed)
        return work.counts(decided)

    def check_standing(self, committed: int) -> None:
        """Raise FenceError unless the store has all that the checkpoint has committed; called while idle too."""
        self._store.begin()
        marker = self._store.marker()
        if marker is None or marker.done < committed:
            got = (
                "one that does not know the generation"
                if marker is None
                else f"one whose last whole batch is {marker.done}"
            )
            raise FenceError("the generation", f"a store that has done batch {committed}", got, REBUILD)

    def _checked(self, batch: Batch) -> Marker:
        """The generation's marker, if the batch is the next after it, or the same batch again."""
        marker = self._store.marker()
        if marker is None:
            raise _refused(batch, "a store that knows this generation", "one that does not", REBUILD)
        if marker.batch_id > batch.batch_id:
            got = f"one that has published batch {marker.batch_id}: the checkpoint is older than the store"
            raise _refused(batch, "a store that stands at this batch or the one before", got, REBUILD)
        if marker.batch_id == batch.batch_id:
            if (dict(marker.start), dict(marker.end)) != (dict(batch.start), dict(batch.end)):
                raise _refused(batch, f"its offsets {dict(marker.start)} to {dict(marker.end)}", _range(batch), REBUILD)
            return marker
        if marker.done != batch.batch_id - 1:
            got = f"one whose last whole batch is {marker.done}: it lost writes that the checkpoint counts on"
            raise _refused(batch, f"a store that has done batch {batch.batch_id - 1}", got, REBUILD)
        if dict(marker.end) != dict(batch.start):
            raise _refused(batch, f"offsets from {dict(marker.end)} on", _range(batch), REBUILD)
        return marker

    def _remember(self, decided: Mapping[str, Decision], batch: Batch) -> None:
        for name, decision in decided.items():
            self._store.remember(name, decision, batch.batch_id, _idle(self._streams[name], batch))

    def _key(self, batch: Batch) -> BatchKey:
        return BatchKey(self._stream_id, batch.batch_id, batch.written_at)

    def _decided(self, name: str, ids: Ids, batch: Batch) -> Decision:
        prior = self._store.remembered(name, ids.ids.dictionary, batch.batch_id)
        return decide(ids.ids, ids.known_at, ids.seq, duration_ms(self._streams[name].dedupe_horizon), prior)


def _idle(stream: Stream, batch: Batch) -> Idle:
    """The stream's partitions of which the batch has no offsets: Spark takes some of every partition that has more."""
    names = [(f"{part.topic}/", number * PARTITIONS_OF_A_TOPIC) for number, part in enumerate(stream.parts)]
    idle = [
        first + int(place.removeprefix(topic))
        for place, end in batch.end.items()
        for topic, first in names
        if place.startswith(topic) and place.removeprefix(topic).isdecimal() and batch.start.get(place, 0) == end
    ]
    return Idle(frozenset(idle), batch.written_at)


def _refused(batch: Batch, required: str, got: str, next_step: str) -> FenceError:
    return FenceError(f"batch {batch.batch_id}", required, got, next_step)


def _range(batch: Batch) -> str:
    return f"{dict(batch.start)} to {dict(batch.end)}"


def write_rows(
    store: RowStore, view: FeatureView, events: Mapping[str, pa.Table], key: BatchKey, seen_since: int | None = None
) -> None:
    """Fold the events into the view's stored rows, in reads and writes of a bounded number of rows and bytes.

    Args:
        seen_since: rows whose newest event is older than this (ms) are not written; None: all are.
    """
    _write(store, Fold(view, events), key, seen_since)


def _write(store: RowStore, folding: Fold, key: BatchKey, seen_since: int | None = None) -> None:
    view = folding.view

    def write(start: int, length: int) -> int:
        stored = store.rows(view.name, folding.keys.slice(start, length))
        changed = folding.rows_from(start, stored, key)
        size = int(max(stored.nbytes, changed.values.nbytes))
        if seen_since is not None:
            changed = changed.filter(newest_events(changed.values) >= seen_since)
        for piece in changed.pieces(ROWS_A_WRITE, BYTES_A_WRITE):
            store.put_rows(view.name, piece)
        return size

    in_portions(view, len(folding.keys), write)


def build_generation(
    store: Store,
    views: Sequence[FeatureView],
    stream_id: int,
    archive: Mapping[str, pa.Table],
    marker: Marker,
    written_at: int,
    seen_since: Mapping[str, int] | None = None,
) -> None:
    """Make a generation's rows and memory of ids from the archive's events up to ``marker.end``; the marker comes last.

    The generation can be folded on from the batch after ``marker.batch_id``. A build that crashed left no marker, so
    that the store does not know its generation; the next build takes a new stream_id, as rows of the first may remain.

    Args:
        seen_since: by view, the time (ms) before which rows' newest events make them not worth writing; None: all are.
    """
    store.begin()
    columns: dict[str, EventColumns] = {}
    for stream in {stream.name: stream for view in views for stream in view.streams}.values():
        readers, events = [view for view in views if stream in view.streams], archive[stream.name]
        accepted, decision = accept(events, duration_ms(stream.dedupe_horizon))
        columns[stream.name] = EventColumns(accepted, stream)
        if not can_take(readers, columns[stream.name]):
            # Events that an earlier definition could fold, and this one cannot: as dead letters they would have no id.
            accepted, decision = accept(without_unfoldable(events, stream, readers), duration_ms(stream.dedupe_horizon))
            columns[stream.name] = EventColumns(accepted, stream)
        store.remember(stream.name, decision, marker.batch_id)
    for view in views:
        since = (seen_since or {}).get(view.name)
        _write(store, Fold(view, columns), BatchKey(stream_id, marker.batch_id, written_at), since)
    store.publish(marker)


def added(counts: Counts, other: Counts) -> Counts:
    """The sum of both."""
    return Counts(
        counts.folded + other.folded,
        counts.duplicate + other.duplicate,
        counts.late + other.late,
        counts.dead_letter + other.dead_letter,
    )
