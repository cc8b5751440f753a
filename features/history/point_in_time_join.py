"""Point-in-time join: features of a spine of (entity, as_of) from event columns, as the online store had them then.

An event counts at ``as_of`` when it was known by then (``known_at <= as_of``) and stands in the window. Events are
sorted once by entity and time, so that a window is a run of them; each source's events are lifted to entries and
the finalizers (finalizers.py) compute from the runs. Where some event around as_of was known out of its order, a run
would hold the wrong events: such a spine row gets a copy of the events it may see, as a row of its own.

With ``before`` a spine row gets the features before an event in the ledger's order (within_batch.py) instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Entries, Int64s, concatenated, find, order_by_row_time, row_bounds, running_maximum
from features.definitions import FeatureView, Tiling, Window, floored
from features.events import EventColumns, arrow_type, event_schema
from features.history.finalizers import assembled, finalized
from features.history.ranges import Ranges
from features.rows import (
    Distinct,
    EntityEvents,
    FeatureMatrix,
    Frequencies,
    Histogram,
    Plan,
    Table,
    can_take,
    entity_events,
    plan_of,
    statuses,
    without_unfoldable,
)

MOST_PIECES = 256

PAIRS_AT_ONCE = 16_000_000
"""Bounds memory: how many (spine row, event) pairs are laid out at a time."""


@dataclass(frozen=True)
class LedgerPositions:
    """Positions of n events of a stream in the ledger's order: by known_at (ms), then stream, then sequence."""

    stream: str
    known_at: Int64s
    seq: Int64s

    def take(self, index: Int64s) -> LedgerPositions:
        """Some of them."""
        return LedgerPositions(self.stream, self.known_at[index], self.seq[index])


@dataclass(frozen=True)
class Spine:
    """Entities (key texts, see columns.entity_keys), each with an as_of (ms); n rows in the caller's order.

    Args:
        before: if given, the events before this position count, rather than those that were known by as_of.
    """

    keys: pa.Array
    as_of: Int64s
    before: LedgerPositions | None = None

    def take(self, index: Int64s) -> Spine:
        """Some of its rows."""
        before = None if self.before is None else self.before.take(index)
        return Spine(self.keys.take(pa.array(index)), self.as_of[index], before)


def point_in_time(view: FeatureView, spine: Spine, events: Mapping[str, pa.Table]) -> FeatureMatrix:
    """The view's features for every spine row, in the spine's order.

    Args:
        events: by stream name, the deduplicated events (see events/dedupe.py) of the streams that the view reads; late
            ones may be among them and are passed over.
    """
    keys = pc.unique(spine.keys)
    rows = pc.index_in(spine.keys, value_set=keys).to_numpy(zero_copy_only=False).astype(np.int64)
    timelines, known_by = _timelines(view, spine, _streams(view, keys, events))
    spine_rows = _SpineRows(rows, spine.as_of, known_by)
    order = order_by_row_time(rows, spine.as_of)
    own = np.zeros(len(order), dtype=bool)
    for name, timeline in timelines.items():
        own |= timeline.out_of_order(rows[order], spine.as_of[order], known_by[name][order])
    parts: list[tuple[Int64s, FeatureMatrix]] = []
    for index, copies in ((order[~own], False), (order[own], True)):
        for chunk in _chunks(plan_of(view), timelines, rows, spine.as_of, index, copies=copies):
            features = _features(view, timelines, spine_rows.take(chunk), copies=copies)
            parts.append((chunk, features))
    return in_order(parts, view, spine)


@dataclass(frozen=True)
class _SpineRows:
    """Part of a spine: rows of the timelines, as_of, and for each stream the last known_at (or rank) that counts."""

    row: Int64s
    as_of: Int64s
    known_by: Mapping[str, Int64s]

    def take(self, index: Int64s) -> _SpineRows:
        return _SpineRows(
            self.row[index], self.as_of[index], {name: known[index] for name, known in self.known_by.items()}
        )


def _timelines(
    view: FeatureView, spine: Spine, streams: list[EntityEvents]
) -> tuple[dict[str, Timeline], dict[str, Int64s]]:
    """Each stream's timeline, and the last known_at (or rank) that counts for each row of the spine."""
    names = [events.columns.stream.name for events in streams]
    known = [_known(names, number, events, spine) for number, events in enumerate(streams)]
    timelines = {
        name: Timeline(view.tiling, events, when) for name, events, (when, _) in zip(names, streams, known, strict=True)
    }
    return timelines, {name: by for name, (_, by) in zip(names, known, strict=True)}


def _known(names: list[str], number: int, events: EntityEvents, spine: Spine) -> tuple[Int64s, Int64s]:
    """The known_at (or rank in the ledger's order) of each event, and the last that counts for each row of the spine.

    For a stream that is not that of ``spine.before``, known_at alone separates the events before it from the rest.
    """
    before = spine.before
    if before is None:
        return events.known_at, spine.as_of
    if names[number] != before.stream:
        own_number = names.index(before.stream) if before.stream in names else len(names)
        return events.known_at, before.known_at - int(number > own_number)
    # Stable: a position comes before the event that has it.
    known_at, seq = (np.concatenate(both) for both in ((before.known_at, events.known_at), (before.seq, events.seq)))
    rank = np.empty(len(seq), dtype=np.int64)
    rank[np.lexsort((seq, known_at))] = np.arange(len(seq))
    return rank[len(before.seq) :], rank[: len(before.seq)]


def _streams(view: FeatureView, keys: pa.Array, events: Mapping[str, pa.Table]) -> list[EntityEvents]:
    """Each stream's events of the spine's entities; empty for a stream without events."""
    streams = []
    for stream in view.streams:
        table = events.get(stream.name, event_schema(stream).empty_table())
        columns = EventColumns(table, stream)
        if not can_take([view], columns):
            columns = EventColumns(without_unfoldable(table, stream, [view]), stream)
        texts = columns.entity_keys(view.entity)
        index = pc.if_else(texts.is_valid(), pc.index_in(texts, value_set=keys), None)
        row = pc.fill_null(index, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        streams.append(entity_events(view, columns, row))
    return streams


def _chunks(
    plan: Plan, timelines: Mapping[str, Timeline], rows: Int64s, as_of: Int64s, index: Int64s, *, copies: bool
) -> Iterator[Int64s]:
    """The index of spine rows, in parts for which a bounded number of (spine row, event) pairs is laid out.

    Copies lay out everything in the longest window; else only sketches do, and for the rest a run is in few pieces.
    """
    if not len(index):
        return
    seen = np.full(len(index), MOST_PIECES)
    for name, timeline in timelines.items():
        spread = [
            spec.tiling
            for spec in plan.tables
            if spec.table.source.stream == name and isinstance(spec.table, Distinct | Histogram | Frequencies)
        ]
        for tiling in [timeline.tiling] if copies else spread:
            lo, hi = timeline.widest(tiling, rows[index], as_of[index])
            seen += hi - lo
    part = np.cumsum(seen) // PAIRS_AT_ONCE
    yield from np.split(index, np.flatnonzero(np.diff(part)) + 1)


def _features(
    view: FeatureView, timelines: Mapping[str, Timeline], spine_rows: _SpineRows, *, copies: bool
) -> FeatureMatrix:
    lowest = np.iinfo(np.int64).min
    newest = np.maximum.reduce(
        [timeline.newest(spine_rows.row, spine_rows.known_by[name], lowest) for name, timeline in timelines.items()]
    )
    known = newest != lowest
    newest = np.where(known, newest, 0)
    if copies:
        timelines = {
            name: timeline.copied(spine_rows.row, spine_rows.as_of, spine_rows.known_by[name])
            for name, timeline in timelines.items()
        }
        spine_rows = _SpineRows(np.arange(len(spine_rows.row)), spine_rows.as_of, spine_rows.known_by)
    plan = plan_of(view)
    answers = finalized(plan, _HistorySource(timelines, spine_rows))
    return assembled(view, answers, statuses(view, newest, spine_rows.as_of, known), spine_rows.as_of, newest)


def in_order(parts: list[tuple[Int64s, FeatureMatrix]], view: FeatureView, spine: Spine) -> FeatureMatrix:
    """The matrices of parts of a spine (each with the index of its rows) joined, in the spine's order."""
    order = np.concatenate([chunk for chunk, _ in parts]) if parts else np.empty(0, dtype=np.int64)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    columns_of_parts = [matrix.columns for _, matrix in parts]
    columns = tuple(
        pa.chunked_array([columns[number] for columns in columns_of_parts], type=arrow_type(feature.dtype))
        .combine_chunks()
        .take(pa.array(back))
        for number, feature in enumerate(view.features)
    )
    status = np.concatenate([np.empty(0, np.int8), *(matrix.status for _, matrix in parts)])[back]
    newest = np.concatenate([np.empty(0, np.int64), *(matrix.newest_event for _, matrix in parts)])[back]
    return FeatureMatrix(view.names, columns, status, spine.as_of, newest)


class Timeline:
    """A stream's events of the spine's entities, sorted by row and time, and the entries lifted from them.

    ``known`` is the known_at of each event, or its rank in the ledger's order. Where ``complete``, every event of a row
    was known at its as_of (the rows are copies made for that); else those that were not are the last of the row
    (out_of_order() finds the rows where this is not so).
    """

    def __init__(self, tiling: Tiling, events: EntityEvents, known: Int64s, *, complete: bool = False) -> None:
        self.tiling = tiling
        self._known = known
        self._complete = complete
        self._lifted: dict[Table, tuple[Entries, Int64s]] = {}
        self.events = events

    @cached_property
    def base(self) -> Entries:
        """The events' rows and times, to look up bounds in."""
        return Entries(self.events.row, self.events.time, {})

    @cached_property
    def _by_known(self) -> tuple[Entries, Int64s]:
        """Rows and known_at in the order of known_at, and the newest event time so far in each row."""
        order = order_by_row_time(self.events.row, self._known)
        row = self.events.row[order]
        return Entries(row, self._known[order], {}), running_maximum(row, self.events.time[order])

    def newest(self, row: Int64s, known_by: Int64s, none: int) -> Int64s:
        """The newest event time that was known by then; ``none`` where no event was."""
        known, newest = self._by_known
        if not len(known):
            return np.full(len(row), none)
        end = self.known_end(row, known_by)
        start = find(known, row, np.full(len(row), known.time.min()))
        return np.where(end > start, newest[np.maximum(end - 1, 0)], none)

    def known_end(self, row: Int64s, known_by: Int64s) -> Int64s:
        """The end of the row's known events: there are as many in the order of time as in that of known_at."""
        if self._complete:
            return np.full(len(row), len(self.base), dtype=np.int64)
        return find(self._by_known[0], row, known_by + 1)

    def run(self, row: Int64s, as_of: Int64s, known_end: Int64s, window: Window) -> tuple[Int64s, Int64s]:
        """[lo, hi) among the events: those of the row inside the window, of those that were known."""
        bounds = self.tiling.bounds(window)
        lo = find(self.base, row, bounds.left(as_of))
        hi = np.minimum(find(self.base, row, bounds.right(as_of)), known_end)
        return lo, np.maximum(lo, hi)

    def widest(self, tiling: Tiling, row: Int64s, as_of: Int64s) -> tuple[Int64s, Int64s]:
        """[lo, hi) among the events: all that the tiling's windows together may hold."""
        left, right = tiling.widest(as_of)
        return find(self.base, row, left), find(self.base, row, right)

    def out_of_order(self, row: Int64s, as_of: Int64s, known_by: Int64s) -> NDArray[np.bool_]:
        """True where the known events are not the first of the row, or, with delayed windows alone, before an end."""
        wrong = np.zeros(len(row), dtype=bool)
        if not len(self.base):
            return wrong
        events = self.events
        bounds = row_bounds(events.row, int(max(events.row.max(), row.max(initial=0))) + 1)
        latest_known = running_maximum(events.row, self._known)
        for end in self._ends(row, as_of, known_by):
            wrong |= (end > bounds[row]) & (latest_known[np.maximum(end - 1, 0)] > known_by)
        return wrong

    def _ends(self, row: Int64s, as_of: Int64s, known_by: Int64s) -> Iterator[Int64s]:
        """Ends of events that must all be known: as many as are known, or each different end of a delayed window."""
        if any(not window.delay_ms for window in self.tiling.windows):
            yield self.known_end(row, known_by)
            return
        bounds = {self.tiling.bounds(window) for window in self.tiling.windows}
        for delay_ms, tile_ms in {(bound.delay_ms, bound.tile_ms) for bound in bounds}:
            yield find(self.base, row, floored(as_of - delay_ms, tile_ms))

    def copied(self, row: Int64s, as_of: Int64s, known_by: Int64s) -> Timeline:
        """A timeline with a row of its own for each of these, which holds the events that were known by then."""
        lo, hi = self.widest(self.tiling, row, as_of)
        length = np.maximum(hi - lo, 0)
        index, copy = concatenated(lo, length), np.repeat(np.arange(len(lo)), length)
        known = self._known[index] <= known_by[copy]
        index, copy = index[known], copy[known]
        events = self.events
        arrays = (array[index] for array in (events.time, events.known_at, events.seq))
        own = EntityEvents(events.columns, events.index[index], copy, *arrays)
        return Timeline(self.tiling, own, self._known[index], complete=True)

    def lifted(self, table: Table) -> tuple[Entries, Int64s]:
        """The table's lifted events, and the number of them before each of the events."""
        if table not in self._lifted:
            filtered, inside = self.events.filtered(table.source)
            self._lifted[table] = table.lift(filtered), np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
        return self._lifted[table]


class _HistorySource:
    """The EntrySource of spine rows: their lifted events inside a window."""

    def __init__(self, timelines: Mapping[str, Timeline], spine_rows: _SpineRows) -> None:
        self._timelines = timelines
        self._spine_rows = spine_rows
        self._known_ends = {
            name: timeline.known_end(spine_rows.row, spine_rows.known_by[name]) for name, timeline in timelines.items()
        }
        self._runs: dict[tuple[str, Window], tuple[Int64s, Int64s]] = {}
        self._ranges: dict[tuple[Table, Window], Ranges] = {}
        self.as_of = spine_rows.as_of

    def ranges(self, table: Table, window: Window) -> Ranges:
        key = (table, window)
        if key not in self._ranges:
            entries, before = self._timelines[table.source.stream].lifted(table)
            lo, hi = self._run(table.source.stream, window)
            self._ranges[key] = Ranges(entries, before[lo], before[hi])
        return self._ranges[key]

    def distinct(self, table: Distinct, window: Window) -> tuple[Int64s, NDArray[np.uint64]]:
        ranges = self.ranges(table, window)
        first = previous_same(ranges.entries)[ranges.index] < np.repeat(ranges.lo, ranges.length)
        return ranges.owner[first], ranges.entries.columns["hash"][ranges.index[first]]

    def _run(self, stream: str, window: Window) -> tuple[Int64s, Int64s]:
        if (stream, window) not in self._runs:
            spine_rows, end = self._spine_rows, self._known_ends[stream]
            self._runs[stream, window] = self._timelines[stream].run(spine_rows.row, spine_rows.as_of, end, window)
        return self._runs[stream, window]


def previous_same(entries: Entries) -> Int64s:
    """For each entry, the index of the entry before it of the same row and hash; -1 for none."""
    if "previous" not in entries.cache:
        row, hashes = entries.row, entries.columns["hash"]
        order = np.lexsort((hashes, row))
        same = (row[order][1:] == row[order][:-1]) & (hashes[order][1:] == hashes[order][:-1])
        previous = np.full(len(entries), -1, dtype=np.int64)
        previous[order[1:][same]] = order[:-1][same]
        entries.cache["previous"] = previous
    return np.asarray(entries.cache["previous"])
