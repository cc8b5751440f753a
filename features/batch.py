"""The batch step: one micro-batch of a generation into the rows of its views, in the order that survives crashes.

    decide duplicates ─► publish offsets ─► remember the decision ─► what needs the features before ─► rows ─► done

A crash between any two leaves a store from which the same batch, run again, ends the same: a decision is made from
what was remembered before the batch, rows that have the batch are skipped, and a store that lost what a later batch
builds on is refused. Offsets come before the memory of ids, as a batch that was planned anew must not meet its own
old decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.definitions import FeatureView
from features.duplicates import Decision, Prior, accept, encoded_ids
from features.errors import FenceError
from features.events import Parsed, Verdict
from features.state import BatchKey, Fold, PackedRows
from features.windows import duration_ms

Offsets = Mapping[str, int]
"""'topic/partition' → the first offset that is not in the batch."""

ROWS_A_WRITE = 4_096


@dataclass(frozen=True)
class Marker:
    """What a store says of a generation: the last batch whose offsets were published, and the last that was done."""

    batch_id: int
    start: Offsets
    end: Offsets
    done: int


@dataclass(frozen=True)
class Batch:
    """One micro-batch: its number, its offsets [start, end), the parsed records by stream, the time of writing (ms)."""

    batch_id: int
    start: Offsets
    end: Offsets
    parsed: Mapping[str, Parsed]
    written_at: int


@dataclass(frozen=True)
class Counts:
    """How the batch's records ended; they add up to the records."""

    folded: int
    duplicate: int
    late: int
    dead_letter: int

    @classmethod
    def of(cls, batch: Batch, accepted: Mapping[str, pa.Table]) -> Counts:
        """The counts of a batch of which these events were folded."""
        verdicts = np.concatenate([np.empty(0, np.int8), *(parsed.verdicts for parsed in batch.parsed.values())])
        counted = np.bincount(verdicts, minlength=len(Verdict))
        folded = sum(table.num_rows for table in accepted.values())
        valid, late, dead_letter = (int(counted[verdict]) for verdict in Verdict)
        return cls(folded, valid - folded, late, dead_letter)


class Store(Protocol):
    """What the step needs of an online store, within one generation.

    A generation has a version. Every write is one transaction that applies only when the version is the one that this
    handle's begin() or last write left, and moves it on; else it raises LeaseError. So a driver whose lease was taken
    (taking it is a write) stops at its next effect, and so does one whose store has lost writes and come back: what a
    store may lose is its last writes, and their versions with them.
    """

    def begin(self) -> None:
        """Take the generation's version as it is now.

        Raises:
            FenceError: a part of the store has lost writes that the generation knows of.
        """

    def marker(self) -> Marker | None:
        """The generation's marker; None when the store does not know the generation."""

    def publish(self, marker: Marker) -> None:
        """Durably replace the marker."""

    def remembered(self, stream: str, ids: pa.Array, batch_id: int) -> Prior:
        """What was accepted for each id before this batch (a batch's own decisions do not count for itself)."""

    def remember(self, stream: str, decision: Decision, batch_id: int) -> None:
        """Keep what was accepted last for each id, and what was before it, until the stream's horizon has passed."""

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        """The stored value of each key, null where there is none."""

    def put_rows(self, view: str, rows: PackedRows) -> None:
        """Durably replace rows; a crash may leave some of them written, each whole."""


BeforeFold = Callable[[Batch, Mapping[str, pa.Table]], None]


class BatchStep:
    """Folds batches of one generation (``stream_id``) into the rows of its views, exactly once."""

    def __init__(
        self, store: Store, views: Sequence[FeatureView], stream_id: int, before_fold: BeforeFold | None = None
    ) -> None:
        self._store = store
        self._views = tuple(views)
        self._stream_id = stream_id
        self._before_fold = before_fold
        self._streams = {stream.name: stream for view in views for stream in view.streams}

    def run(self, batch: Batch) -> Counts:
        """Fold the batch; run again with the same batch, it changes nothing more.

        Raises:
            FenceError: the store's marker contradicts the batch.
            LeaseError: another driver wrote, or the store lost writes, while the batch ran: run it again.
        """
        self._store.begin()
        marker = self._checked(batch)
        decided = {name: self._decided(name, parsed, batch) for name, parsed in batch.parsed.items()}
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, marker.done))
        self._remember(decided, batch)
        accepted = {name: events for name, (events, _) in decided.items()}
        if self._before_fold is not None:
            self._before_fold(batch, accepted)
        self._write(batch, accepted)
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, batch.batch_id))
        return Counts.of(batch, accepted)

    def check_standing(self, committed: int) -> None:
        """Raise FenceError unless the store has all that the checkpoint has committed; to be asked while idle too."""
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
        """The generation's marker, when the batch is the next after it or the last one again."""
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

    def _decided(self, name: str, parsed: Parsed, batch: Batch) -> tuple[pa.Table, Decision]:
        """The stream's valid events without duplicates, and the decision."""
        valid = parsed.verdicts[parsed.rows] == Verdict.VALID
        events = parsed.events if valid.all() else parsed.events.filter(pa.array(valid))
        ids = encoded_ids(events["event_id"])
        prior = self._store.remembered(name, ids.dictionary, batch.batch_id)
        return accept(events, duration_ms(self._streams[name].dedupe_horizon), prior, ids)

    def _remember(self, decided: Mapping[str, tuple[pa.Table, Decision]], batch: Batch) -> None:
        for name, (_, decision) in decided.items():
            self._store.remember(name, decision, batch.batch_id)

    def _write(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        for view in self._views:
            write_rows(self._store, view, accepted, BatchKey(self._stream_id, batch.batch_id, batch.written_at))


REBUILD = "Run 'headrace features rebuild' to make the rows anew from the offline store."


def _refused(batch: Batch, required: str, got: str, next_step: str) -> FenceError:
    return FenceError(f"batch {batch.batch_id}", required, got, next_step)


def _range(batch: Batch) -> str:
    return f"{dict(batch.start)} to {dict(batch.end)}"


def write_rows(store: Store, view: FeatureView, events: Mapping[str, pa.Table], key: BatchKey) -> None:
    """Fold the events into the view's stored rows, in writes of a bounded number of rows."""
    folding = Fold(view, events)
    if not len(folding.keys):
        return
    changed = folding.rows(store.rows(view.name, folding.keys), key)
    for start in range(0, len(changed), ROWS_A_WRITE):
        store.put_rows(view.name, changed.slice(start, ROWS_A_WRITE))


def build_generation(
    store: Store,
    views: Sequence[FeatureView],
    stream_id: int,
    archive: Mapping[str, pa.Table],
    at: Marker,
    written_at: int,
) -> None:
    """Make a generation's rows and memory of ids from the archive's events up to ``at.end``; the marker comes last.

    The generation can be folded on from the batch after ``at.batch_id``. A build that crashed left no marker, so that
    the store does not know its generation; the next build takes a new stream_id, as rows of the first may be there.
    """
    store.begin()
    accepted: dict[str, pa.Table] = {}
    for stream in {stream.name: stream for view in views for stream in view.streams}.values():
        accepted[stream.name], decision = accept(archive[stream.name], duration_ms(stream.dedupe_horizon))
        store.remember(stream.name, decision, at.batch_id)
    for view in views:
        write_rows(store, view, accepted, BatchKey(stream_id, at.batch_id, written_at))
    store.publish(at)
