"""The features just before each event of a batch: of its entity's row and earlier events, without the event itself.

The order is the ledger's: batch by batch, and in a batch by known_at, then stream (as the view names them), offset,
partition. The features are those of the entity's stored row and of the earlier events of the batch, as of the
millisecond after the event's known_at (so that an earlier event of the same millisecond counts, wherever tiles start),
or of the row's clock where that is later. Where an entity has two or more events in a batch, each has a copy of the row
with the earlier ones folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s, concatenated
from features.definitions import FeatureView, Stream
from features.errors import UsageError
from features.rows import (
    BatchKey,
    EntityEvents,
    FeatureMatrix,
    Fold,
    PackedRows,
    entity_events,
    event_columns,
    finalize,
    plan_of,
    rows_of_events,
)

MOST_PAIRS = 4_000_000
"""Pairs of an event and an earlier one that are in memory at a time."""

Stored = Callable[[pa.Array], pa.Array]
"""Keys → their stored values, null where there is none: the rows as they were before the batch."""


class Ledger:
    """The events of a batch that concern a view's entities, in the ledger's order.

    Args:
        events: by stream name, the batch's accepted events.
    """

    def __init__(self, view: FeatureView, events: Mapping[str, pa.Table]) -> None:
        self.view = view
        self.columns = event_columns(view, events)
        self.keys, self.rows = rows_of_events(view, self.columns) if self.columns else (pa.array([], pa.string()), [])
        self._index = np.concatenate([np.empty(0, np.int64), *(np.arange(len(stream)) for stream in self.columns)])
        self._source = np.repeat(np.arange(len(self.columns)), [len(stream) for stream in self.columns])
        row = np.concatenate([np.empty(0, np.int64), *self.rows])
        known_at = np.concatenate([np.empty(0, np.int64), *(stream.known_at for stream in self.columns)])
        seq = np.concatenate([np.empty(0, np.int64), *(stream.seq for stream in self.columns)])
        self._order = np.lexsort((seq, self._source, known_at, row))
        self._starts = np.searchsorted(row[self._order], np.arange(len(self.keys)))
        self._position = np.empty(len(row), dtype=np.int64)
        self._position[self._order] = np.arange(len(row))

    def before(self, number: int) -> Int64s:
        """The number of events of its entity before each event of a stream (by its number); 0 without an entity."""
        row = self.rows[number]
        if not len(self.keys):
            return np.zeros(len(row), dtype=np.int64)
        position = self._position[self._source == number]
        return np.where(row >= 0, position - self._starts[np.maximum(row, 0)], 0)

    def copies(self, number: int, chosen: Int64s, counts: Int64s) -> list[EntityEvents]:
        """The events before each of the chosen ones, as those of a row of its own."""
        starts = self._starts[self.rows[number][chosen]]
        which = self._order[concatenated(starts, counts)]
        copy = np.repeat(np.arange(len(chosen)), counts)
        copies = []
        for source, columns in enumerate(self.columns):
            own = self._source[which] == source
            copies.append(entity_events(self.view, columns.take(self._index[which[own]]), copy[own]))
        return copies


class _Copies(Fold):
    """Folds events into rows that are numbered, not keyed."""

    def __init__(self, view: FeatureView, keys: pa.Array, events: list[EntityEvents]) -> None:
        self.view, self.plan, self.keys, self._events = view, plan_of(view), keys, events


def features_before(
    view: FeatureView, stream: Stream, events: Mapping[str, pa.Table], stored: Stored, batch: BatchKey
) -> FeatureMatrix:
    """The features of the entity of each of the stream's events just before it, in the order of the events.

    Args:
        stream: one that the view reads.
        events: by stream name, the accepted events of the batch.
        stored: the rows before the batch.
        batch: as the rows will be written.

    Raises UsageError for a stream that the view does not read.
    """
    if stream not in view.streams:
        where, got = f"feature view '{view.name}'", ", ".join(other.name for other in view.streams)
        raise UsageError(where, f"to read stream '{stream.name}', for whose events it is asked", got)
    ledger = Ledger(view, events)
    number = next(number for number, columns in enumerate(ledger.columns) if columns.stream.name == stream.name)
    columns = ledger.columns[number]
    keys = columns.entity_keys(view.entity)
    base = stored(ledger.keys).cast(pa.binary()).take(pc.index_in(keys, value_set=ledger.keys))
    met = _with_earlier(ledger, number, base, batch)
    return finalize(view, PackedRows(keys, met), columns.known_at + 1, batch.stream_id)


def _with_earlier(ledger: Ledger, number: int, base: pa.Array, batch: BatchKey) -> pa.Array:
    """The row just before each event: as stored, or a copy with the batch's earlier events folded in."""
    counts = ledger.before(number)
    changed: list[tuple[Int64s, pa.Array]] = []
    for chosen in _chunks(np.flatnonzero(counts), counts):
        names = pa.array(np.arange(len(chosen))).cast(pa.string())
        copies = _Copies(ledger.view, names, ledger.copies(number, chosen, counts[chosen]))
        rows = copies.rows(base.take(pa.array(chosen)), batch)
        # An event that is late for the view changes no row: such copies are not among those that come back.
        changed.append((chosen[np.asarray(rows.keys.cast(pa.int64()))], rows.values))
    if not changed:
        return base
    index = np.arange(len(base))
    changed_index = np.concatenate([chosen for chosen, _ in changed])
    index[changed_index] = np.arange(len(changed_index)) + len(base)
    rows_and_copies = pa.concat_arrays([base, *(values.cast(pa.binary()) for _, values in changed)])
    return rows_and_copies.take(pa.array(index))


def _chunks(chosen: Int64s, counts: Int64s) -> Iterator[Int64s]:
    if len(chosen):
        part = np.cumsum(counts[chosen]) // MOST_PAIRS
        yield from np.split(chosen, np.flatnonzero(np.diff(part)) + 1)
