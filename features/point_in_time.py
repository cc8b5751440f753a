"""Features of a spine of (entity, as_of) from event columns: what the online store would have said then.

An event counts at ``as_of`` when it was known by then (``known_at <= as_of``) and stands in the window. Events are
sorted once by entity and time, so that a window is a run of them; each lane's events are lifted to entries and the
finalizers of aggregations.py answer from the runs. Where some event around as_of was known out of its order, a run
would hold the wrong events: such a spine row gets a copy of the events it may see, as a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.aggregations import Plan, plan_of
from features.columns import EventColumns, arrow_type
from features.definitions import FeatureView
from features.entries import Entries, concatenated, find, order_by_row_time, row_bounds
from features.events import event_schema
from features.ranges import Ranges
from features.state import EntityEvents, FeatureMatrix, assembled, entity_events, statuses
from features.tables import Distinct, Histogram, Table
from features.windows import Int64s, Tiling, Window

MOST_PIECES = 256
PAIRS_AT_ONCE = 16_000_000
"""Bounds memory: how many (spine row, event) pairs are laid out at a time."""


@dataclass(frozen=True)
class Spine:
    """Which entity (key text, see columns.entity_keys) is asked about as of when (ms); n rows in the caller's order."""

    keys: pa.Array
    as_of: Int64s


def point_in_time(view: FeatureView, spine: Spine, events: Mapping[str, pa.Table]) -> FeatureMatrix:
    """The view's features for every spine row, in the spine's order.

    Args:
        events: by stream name, the deduplicated events (see duplicates.py) of the streams that the view reads; late
        ones
            may be among them and are passed over.
    """
    keys = pc.unique(spine.keys)
    rows = pc.index_in(spine.keys, value_set=keys).to_numpy(zero_copy_only=False).astype(np.int64)
    timelines = {one.columns.stream.name: Timeline(view.tiling, one) for one in _streams(view, keys, events)}
    order = order_by_row_time(rows, spine.as_of)
    own = np.zeros(len(order), dtype=bool)
    for timeline in timelines.values():
        own |= timeline.out_of_order(rows[order], spine.as_of[order])
    answered: list[tuple[Int64s, FeatureMatrix]] = []
    for places, copies in ((order[~own], False), (order[own], True)):
        for chunk in _chunks(plan_of(view), timelines, rows, spine.as_of, places, copies=copies):
            asked = _Asked(rows[chunk], spine.as_of[chunk])
            answered.append((chunk, _answered(view, timelines, asked, copies=copies)))
    return in_order(answered, view, spine)


@dataclass(frozen=True)
class _Asked:
    """Part of a spine: rows of the timelines, and as_of."""

    row: Int64s
    as_of: Int64s


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
    newest = np.maximum.reduce([timeline.newest(asked.row, asked.as_of, lowest) for timeline in timelines.values()])
    known = newest != lowest
    newest = np.where(known, newest, 0)
    if copies:
        timelines = {name: timeline.copied(asked.row, asked.as_of) for name, timeline in timelines.items()}
        asked = _Asked(np.arange(len(asked.row)), asked.as_of)
    plan = plan_of(view)
    answers = plan.answer(_HistorySource(timelines, asked))
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

    ``complete`` says that every event of a row was known when it is asked about (the rows are copies made for that);
    else what was not known at as_of are the events after it (out_of_order tells the rows where this is not so).
    """

    def __init__(self, tiling: Tiling, events: EntityEvents, *, complete: bool = False) -> None:
        self.tiling = tiling
        self._complete = complete
        self._lifted: dict[Table, tuple[Entries, Int64s]] = {}
        self.events = events

    @cached_property
    def base(self) -> Entries:
        """The events' rows and times, to look up bounds in."""
        return Entries(self.events.row, self.events.time, {})

    @cached_property
    def _by_known(self) -> tuple[Entries, Int64s]:
        """Rows and known_at in the order of becoming known, and the newest event time so far in each row."""
        order = order_by_row_time(self.events.row, self.events.known_at)
        row = self.events.row[order]
        return Entries(row, self.events.known_at[order], {}), running_maximum(row, self.events.time[order])

    def newest(self, row: Int64s, as_of: Int64s, none: int) -> Int64s:
        """The newest event time that was known at as_of; ``none`` where no event was."""
        known, newest = self._by_known
        if not len(known):
            return np.full(len(row), none)
        end = find(known, row, as_of + 1)
        start = find(known, row, np.full(len(row), known.time.min()))
        return np.where(end > start, newest[np.maximum(end - 1, 0)], none)

    def run(self, row: Int64s, as_of: Int64s, window: Window) -> tuple[Int64s, Int64s]:
        """[lo, hi) among the events: those of the row inside the window that were known."""
        bounds = self.tiling.bounds(window)
        right = bounds.right(as_of)
        if not self._complete:
            right = np.minimum(right, as_of + 1)
        lo = find(self.base, row, bounds.left(as_of))
        return lo, np.maximum(lo, find(self.base, row, right))

    def widest(self, tiling: Tiling, row: Int64s, as_of: Int64s) -> tuple[Int64s, Int64s]:
        """[lo, hi) among the events: what all of the tiling's windows together may hold."""
        left, right = tiling.widest(as_of)
        return find(self.base, row, left), find(self.base, row, right)

    def out_of_order(self, row: Int64s, as_of: Int64s) -> NDArray[np.bool_]:
        """Where an event before a window's end was not known at as_of, or one after as_of was."""
        wrong = np.zeros(len(row), dtype=bool)
        if not len(self.base):
            return wrong
        events = self.events
        bounds = row_bounds(events.row, int(max(events.row.max(), row.max(initial=0))) + 1)
        latest_known = running_maximum(events.row, events.known_at)
        for delayed, right in self._ends(as_of):
            end = find(self.base, row, right)
            wrong |= (end > bounds[row]) & (latest_known[np.maximum(end - 1, 0)] > as_of)
            if not delayed:
                first_known = -running_maximum(-events.row[::-1], -events.known_at[::-1])[::-1]
                wrong |= (end < bounds[row + 1]) & (first_known[np.minimum(end, len(first_known) - 1)] <= as_of)
        return wrong

    def _ends(self, as_of: Int64s) -> Iterator[tuple[bool, Int64s]]:
        """The different right ends of the windows: just after as_of without a delay, each delayed one's own."""
        if any(not window.delay_ms for window in self.tiling.windows):
            yield False, as_of + 1
        delayed = {(w.delay_ms, self.tiling.bounds(w).tile_ms): w for w in self.tiling.windows if w.delay_ms}
        for window in delayed.values():
            yield True, self.tiling.bounds(window).right(as_of)

    def copied(self, row: Int64s, as_of: Int64s) -> Timeline:
        """A timeline with a row of its own for each of these, which holds the events that were known at its as_of."""
        lo, hi = self.widest(self.tiling, row, as_of)
        length = np.maximum(hi - lo, 0)
        places, copy = concatenated(lo, length), np.repeat(np.arange(len(lo)), length)
        known = self.events.known_at[places] <= as_of[copy]
        places, copy = places[known], copy[known]
        events = self.events
        arrays = (array[places] for array in (events.time, events.known_at, events.seq))
        return Timeline(self.tiling, EntityEvents(events.columns, events.place[places], copy, *arrays), complete=True)

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
            self._runs[stream, window] = self._timelines[stream].run(self._asked.row, self._asked.as_of, window)
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
