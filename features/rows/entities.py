"""TODO: docstring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s, order_by_row_time
from features.definitions import FeatureView
from features.events import EventColumns, Values
from features.rows.tables import Lane, LaneEvents


@dataclass(frozen=True)
class EntityEvents:
    """One stream's events that concern the view's entity, sorted by row, time, sequence.

    ``row`` is the place of the entity's key; ``place`` the event's place in its columns.
    """

    columns: EventColumns
    place: Int64s
    row: Int64s
    time: Int64s
    known_at: Int64s
    seq: Int64s
    lanes: dict[Lane, tuple[LaneEvents, NDArray[np.bool_]]] = field(default_factory=dict, init=False, compare=False)

    def lane(self, lane: Lane) -> tuple[LaneEvents, NDArray[np.bool_]]:
        """The lane's events, and which of these events they are; picked once, however many tables are of the lane."""
        if lane not in self.lanes:
            self.lanes[lane] = self._picked(lane)
        return self.lanes[lane]

    def _picked(self, lane: Lane) -> tuple[LaneEvents, NDArray[np.bool_]]:
        inside = lane.mask(self.columns)[self.place]
        values = self.columns.values(lane.column) if lane.column else None
        if values is not None:
            chosen = self.place[inside]
            values = Values(values.numbers[chosen], values.valid[chosen], values.pool)
        return LaneEvents(self.row[inside], self.time[inside], self.seq[inside], values), inside


def entity_events(view: FeatureView, columns: EventColumns, row: Int64s) -> EntityEvents:
    """The events with a row (-1 has none) that are not late for the view, sorted by row, time, sequence."""
    timely = columns.time >= columns.known_at - view.horizon_ms
    place = np.flatnonzero((row >= 0) & timely)
    order = order_by_row_time(row[place], columns.time[place])
    rising = bool((np.diff(columns.seq) >= 0).all())
    place = place[order]
    events = EntityEvents(columns, place, row[place], columns.time[place], columns.known_at[place], columns.seq[place])
    return events if rising else _ties_by_sequence(events)


def _ties_by_sequence(events: EntityEvents) -> EntityEvents:
    """The events, sorted by row and time, with those of the same row and time by sequence: few are."""
    same = (events.row[1:] == events.row[:-1]) & (events.time[1:] == events.time[:-1])
    tied = np.zeros(len(events.row), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    if not len(places):
        return events
    order = np.arange(len(events.row))
    order[places] = places[np.lexsort((events.seq[places], events.time[places], events.row[places]))]
    arrays = (events.place, events.row, events.time, events.known_at, events.seq)
    return EntityEvents(events.columns, *(array[order] for array in arrays))


def rows_of_events(view: FeatureView, events: Sequence[EventColumns]) -> tuple[pa.Array, list[Int64s]]:
    """The different keys of the entity in these streams' events, and each event's place among them (-1: none)."""
    texts = [columns.entity_keys(view.entity) for columns in events]
    encoded = pa.chunked_array(texts, type=pa.string()).combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary, np.split(codes, np.cumsum([len(text) for text in texts])[:-1])


def event_columns(view: FeatureView, events: Mapping[str, pa.Table]) -> list[EventColumns]:
    """The columns of those of the streams that the view reads."""
    return [EventColumns(events[stream.name], stream) for stream in view.streams if stream.name in events]
