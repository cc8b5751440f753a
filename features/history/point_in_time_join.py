"""Features of a spine of (entity, as_of) from event columns: what the online store would have said then.

An event counts at ``as_of`` when it was known by then (``known_at <= as_of``) and stands in the window. Events are
sorted once by entity and time, so that a window is a run of them; each lane's events are lifted to entries and the
finalizers of aggregations.py answer from the runs. Where some event around as_of was known out of its order, a run
would hold the wrong events: such a spine row gets a copy of the events it may see, as a row of its own.

A spine may ask instead what stood before an event in the ledger's order (before_events.py): what the stream met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Entries, Int64s, concatenated, find, order_by_row_time, row_bounds
from features.definitions import FeatureView, Tiling, Window, floored
from features.events import EventColumns, arrow_type, event_schema
from features.history.finalizers import assembled, finalized
from features.history.ranges import Ranges
from features.rows import (
    Distinct,
    EntityEvents,
    FeatureMatrix,
    Histogram,
    Plan,
    Table,
    entity_events,
    plan_of,
    statuses,
)

MOST_PIECES = 256

PAIRS_AT_ONCE = 16_000_000
"""Bounds memory: how many (spine row, event) pairs are laid out at a time."""


@dataclass(frozen=True)
class Places:
    """Where n events of a stream stand in the ledger's order: by known_at (ms), then stream, then sequence."""

    stream: str
    known_at: Int64s
    seq: Int64s

    def take(self, places: Int64s) -> Places:
        """Some of them."""
        return Places(self.stream, self.known_at[places], self.seq[places])


@dataclass(frozen=True)
class Spine:
    """Which entity (key text, see columns.entity_keys) is asked about as of when (ms); n rows in the caller's order.

    Args:
        before: where there is one, an event counts that stands before this place, not one that was known by as_of.
    """

    keys: pa.Array
    as_of: Int64s
    before: Places | None = None

    def take(self, places: Int64s) -> Spine:
        """Some of its rows."""
        before = None if self.before is None else self.before.take(places)
        return Spine(self.keys.take(pa.array(places)), self.as_of[places], before)


def point_in_time(view: FeatureView, spine: Spine, events: Mapping[str, pa.Table]) -> FeatureMatrix:
    """The view's features for every spine row, in the spine's order.

    Args:
        events: by stream name, the deduplicated events (see duplicates.py) of the streams that the view reads; late
        ones
            may be among them and are passed over.
    """
    keys = pc.unique(spine.keys)
    rows = pc.index_in(spine.keys, value_set=keys).to_numpy(zero_copy_only=False).astype(np.int64)
    timelines, known_by = _timelines(view, spine, _streams(view, keys, events))
    every = _Asked(rows, spine.as_of, known_by)
    order = order_by_row_time(rows, spine.as_of)
    own = np.zeros(len(order), dtype=bool)
    for name, timeline in timelines.items():
        own |= timeline.out_of_order(rows[order], spine.as_of[order], known_by[name][order])
    answered: list[tuple[Int64s, FeatureMatrix]] = []
    for places, copies in ((order[~own], False), (order[own], True)):
        for chunk in _chunks(plan_of(view), timelines, rows, spine.as_of, places, copies=copies):
            found = _answered(view, timelines, every.take(chunk), copies=copies)
            answered.append((chunk, found))
    return in_order(answered, view, spine)


@dataclass(frozen=True)
class _Asked:
    """Part of a spine: rows of the timelines, as_of, and for each stream up to where what is known counts."""

    row: Int64s
    as_of: Int64s
    known_by: Mapping[str, Int64s]

    def take(self, places: Int64s) -> _Asked:
        return _Asked(self.row[places], self.as_of[places], {name: one[places] for name, one in self.known_by.items()})


def _timelines(
    view: FeatureView, spine: Spine, streams: list[EntityEvents]
) -> tuple[dict[str, Timeline], dict[str, Int64s]]:
    """Each stream's timeline, and for each up to where what is known counts, row by row of the spine."""
    names = [one.columns.stream.name for one in streams]
    known = [_known(names, number, one, spine) for number, one in enumerate(streams)]
    timelines = {
        name: Timeline(view.tiling, one, when) for name, one, (when, _) in zip(names, streams, known, strict=True)
    }
    return timelines, {name: by for name, (_, by) in zip(names, known, strict=True)}


def _known(names: list[str], number: int, events: EntityEvents, spine: Spine) -> tuple[Int64s, Int64s]:
    """When each event became known, as a number, and the last such number that counts for each row of the spine.

    Of a stream that the asked events are not of, known_at alone parts what stands before them from the rest.
    """
    before = spine.before
    if before is None:
        return events.known_at, spine.as_of
    if names[number] != before.stream:
        asked = names.index(before.stream) if before.stream in names else len(names)
        return events.known_at, before.known_at - int(number > asked)
    # Stable: of a place and the event that stands there the place is first.
    known_at, seq = (np.concatenate(both) for both in ((before.known_at, events.known_at), (before.seq, events.seq)))
    rank = np.empty(len(seq), dtype=np.int64)
    rank[np.lexsort((seq, known_at))] = np.arange(len(seq))
    return rank[len(before.seq) :], rank[: len(before.seq)]


def _streams(view: FeatureView, keys: pa.Array, events: Mapping[str, pa.Table]) -> list[EntityEvents]:
    """Each stream's events of the spine's entities; a stream without events is one with none."""
    streams = []
    for stream in view.streams:
        columns = EventColumns(events.get(stream.name, event_schema(stream).empty_table()), stream)
        texts = columns.entity_keys(view.entity)
        places = pc.if_else(texts.is_valid(), pc.index_in(texts, value_set=keys), None)
        row = pc.fill_null(places, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        streams.append(entity_events(view, columns, row))
    return streams


def _chunks(
    plan: Plan, timelines: Mapping[str, Timeline], rows: Int64s, as_of: Int64s, places: Int64s, *, copies: bool
) -> Iterator[Int64s]:
    """The places, in parts for which a bounded number of (spine row, event) pairs is laid out.

    Copies lay out everything in the longest window; else only sketches do, and for the rest a run is in few pieces.
    """
    if not len(places):
        return
    seen = np.full(len(places), MOST_PIECES)
    for name, timeline in timelines.items():
        spread = [
            k.tiling for k in plan.kept if k.table.lane.stream == name and isinstance(k.table, Distinct | Histogram)
        ]
        for tiling in [timeline.tiling] if copies else spread:
            lo, hi = timeline.widest(tiling, rows[places], as_of[places])
            seen += hi - lo
    part = np.cumsum(seen) // PAIRS_AT_ONCE
    yield from np.split(places, np.flatnonzero(np.diff(part)) + 1)


def _answered(view: FeatureView, timelines: Mapping[str, Timeline], asked: _Asked, *, copies: bool) -> FeatureMatrix:
    lowest = np.iinfo(np.int64).min
    newest = np.maximum.reduce(
        [timeline.newest(asked.row, asked.known_by[name], lowest) for name, timeline in timelines.items()]
    )
    known = newest != lowest
    newest = np.where(known, newest, 0)
    if copies:
        timelines = {
            name: timeline.copied(asked.row, asked.as_of, asked.known_by[name]) for name, timeline in timelines.items()
        }
        asked = _Asked(np.arange(len(asked.row)), asked.as_of, asked.known_by)
    plan = plan_of(view)
    answers = finalized(plan, _HistorySource(timelines, asked))
    return assembled(view, answers, statuses(view, newest, asked.as_of, known), asked.as_of, newest)


def in_order(answered: list[tuple[Int64s, FeatureMatrix]], view: FeatureView, spine: Spine) -> FeatureMatrix:
    """The answers to parts of a spine (the places of each, and its matrix) as one, in the spine's order."""
    order = np.concatenate([chunk for chunk, _ in answered]) if answered else np.empty(0, dtype=np.int64)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    parts = [matrix.columns for _, matrix in answered]
    columns = tuple(
        pa.chunked_array([part[number] for part in parts], type=arrow_type(feature.dtype))
        .combine_chunks()
        .take(pa.array(back))
        for number, feature in enumerate(view.features)
    )
    status = np.concatenate([np.empty(0, np.int8), *(matrix.status for _, matrix in answered)])[back]
    newest = np.concatenate([np.empty(0, np.int64), *(matrix.newest_event for _, matrix in answered)])[back]
    return FeatureMatrix(view.names, columns, status, spine.as_of, newest)


class Timeline:
    """One stream's events of the spine's entities, sorted by row and time, and what has been lifted from them.

    ``known`` says when each became known (known_at, or its rank in the ledger's order). ``complete`` says that every
    event of a row was known when it is asked about (the rows are copies made for that); else what was not known are
    the last events of the row (out_of_order tells the rows where this is not so).
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
        """Rows and when known in the order of becoming known, and the newest event time so far in each row."""
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
        """Where the row's known events end: there are as many in the order of time as in that of becoming known."""
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
        """[lo, hi) among the events: what all of the tiling's windows together may hold."""
        left, right = tiling.widest(as_of)
        return find(self.base, row, left), find(self.base, row, right)

    def out_of_order(self, row: Int64s, as_of: Int64s, known_by: Int64s) -> NDArray[np.bool_]:
        """Where what is known is not the first of the row, or, of delayed windows alone, not all before an end."""
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
        """Where events that must all be known end: as many as are known, or each different end of a delayed window."""
        if any(not window.delay_ms for window in self.tiling.windows):
            yield self.known_end(row, known_by)
            return
        bounds = {self.tiling.bounds(window) for window in self.tiling.windows}
        for delay_ms, tile_ms in {(one.delay_ms, one.tile_ms) for one in bounds}:
            yield find(self.base, row, floored(as_of - delay_ms, tile_ms))

    def copied(self, row: Int64s, as_of: Int64s, known_by: Int64s) -> Timeline:
        """A timeline with a row of its own for each of these, which holds the events that were known by then."""
        lo, hi = self.widest(self.tiling, row, as_of)
        length = np.maximum(hi - lo, 0)
        places, copy = concatenated(lo, length), np.repeat(np.arange(len(lo)), length)
        known = self._known[places] <= known_by[copy]
        places, copy = places[known], copy[known]
        events = self.events
        arrays = (array[places] for array in (events.time, events.known_at, events.seq))
        own = EntityEvents(events.columns, events.place[places], copy, *arrays)
        return Timeline(self.tiling, own, self._known[places], complete=True)

    def lifted(self, table: Table) -> tuple[Entries, Int64s]:
        """The table's lifted events, and how many of them stand before each of the events."""
        if table not in self._lifted:
            lane, inside = self.events.lane(table.lane)
            self._lifted[table] = table.lift(lane), np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
        return self._lifted[table]


def running_maximum(row: Int64s, values: Int64s) -> Int64s:
    """The largest value so far within each row (rows sorted ascending)."""
    if not len(values):
        return values
    low = int(values.min())
    lift = (row - int(row[0])) * (int(values.max()) - low + 1)
    return np.maximum.accumulate(values - low + lift) - lift + low


class _HistorySource:
    """Finds each spine row's lifted events inside a window (see aggregations.Source)."""

    def __init__(self, timelines: Mapping[str, Timeline], asked: _Asked) -> None:
        self._timelines = timelines
        self._asked = asked
        self._known_ends = {
            name: timeline.known_end(asked.row, asked.known_by[name]) for name, timeline in timelines.items()
        }
        self._runs: dict[tuple[str, Window], tuple[Int64s, Int64s]] = {}
        self._ranges: dict[tuple[Table, Window], Ranges] = {}
        self.as_of = asked.as_of

    def ranges(self, table: Table, window: Window) -> Ranges:
        key = (table, window)
        if key not in self._ranges:
            entries, before = self._timelines[table.lane.stream].lifted(table)
            lo, hi = self._run(table.lane.stream, window)
            self._ranges[key] = Ranges(entries, before[lo], before[hi])
        return self._ranges[key]

    def distinct(self, table: Distinct, window: Window) -> tuple[Int64s, NDArray[np.uint64]]:
        ranges = self.ranges(table, window)
        first = previous_same(ranges.entries)[ranges.index] < np.repeat(ranges.lo, ranges.length)
        return ranges.owner[first], ranges.entries.columns["hash"][ranges.index[first]]

    def _run(self, stream: str, window: Window) -> tuple[Int64s, Int64s]:
        if (stream, window) not in self._runs:
            asked, end = self._asked, self._known_ends[stream]
            self._runs[stream, window] = self._timelines[stream].run(asked.row, asked.as_of, end, window)
        return self._runs[stream, window]


def previous_same(entries: Entries) -> Int64s:
    """For each entry, the place of the entry before it of the same row and hash; -1 for none."""
    if "previous" not in entries.cache:
        row, hashes = entries.row, entries.columns["hash"]
        order = np.lexsort((hashes, row))
        same = (row[order][1:] == row[order][:-1]) & (hashes[order][1:] == hashes[order][:-1])
        previous = np.full(len(entries), -1, dtype=np.int64)
        previous[order[1:][same]] = order[:-1][same]
        entries.cache["previous"] = previous
    return np.asarray(entries.cache["previous"])
