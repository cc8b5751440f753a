"""The events of a view's entities, sorted by entity and time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s, order_by_row_time
from features.definitions import FeatureView
from features.events import EventColumns, Values
from features.rows.tables import FilteredEvents, FilteredStream, Table


@dataclass(frozen=True)
class EntityEvents:
    """A stream's events that have a key of the view's entity, sorted by row, time, sequence.

    ``row`` is the index of the entity's key; ``index`` the event's index in its columns.
    """

    columns: EventColumns
    index: Int64s
    row: Int64s
    time: Int64s
    known_at: Int64s
    seq: Int64s
    _filtered: dict[FilteredStream, tuple[FilteredEvents, NDArray[np.bool_]]] = field(
        default_factory=dict, init=False, compare=False
    )

    def filtered(self, source: FilteredStream) -> tuple[FilteredEvents, NDArray[np.bool_]]:
        """The source's events, and which of these events they are; made once, however many tables have the source."""
        if source not in self._filtered:
            self._filtered[source] = self._picked(source)
        return self._filtered[source]

    def _picked(self, source: FilteredStream) -> tuple[FilteredEvents, NDArray[np.bool_]]:
        inside = source.mask(self.columns)[self.index]
        values = self.columns.values(source.column) if source.column else None
        if values is not None:
            chosen = self.index[inside]
            values = Values(values.numbers[chosen], values.valid[chosen], values.pool)
        return FilteredEvents(self.row[inside], self.time[inside], self.seq[inside], values), inside


def entity_events(view: FeatureView, columns: EventColumns, row: Int64s) -> EntityEvents:
    """The events with a row (-1 has none) that are not late for the view, sorted by row, time, sequence."""
    timely = columns.time >= columns.known_at - view.horizon_ms
    index = np.flatnonzero((row >= 0) & timely)
    order = order_by_row_time(row[index], columns.time[index])
    rising = bool((np.diff(columns.seq) >= 0).all())
    index = index[order]
    events = EntityEvents(columns, index, row[index], columns.time[index], columns.known_at[index], columns.seq[index])
    return events if rising else _ties_by_sequence(events)


def _ties_by_sequence(events: EntityEvents) -> EntityEvents:
    """The events, sorted by row and time, with those of the same row and time by sequence: few are."""
    same = (events.row[1:] == events.row[:-1]) & (events.time[1:] == events.time[:-1])
    tied = np.zeros(len(events.row), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    ties = np.flatnonzero(tied)
    if not len(ties):
        return events
    order = np.arange(len(events.row))
    order[ties] = ties[np.lexsort((events.seq[ties], events.time[ties], events.row[ties]))]
    arrays = (events.index, events.row, events.time, events.known_at, events.seq)
    return EntityEvents(events.columns, *(array[order] for array in arrays))


def convert(tables: Iterable[Table], columns: EventColumns) -> None:
    """Compute the masks and values that the tables take of the stream's events; each is kept, and computed once.

    Whatever an event's content makes Arrow raise is raised here, before anything is made of the events.
    """
    for source in dict.fromkeys(table.source for table in tables if table.source.stream == columns.stream.name):
        source.mask(columns)


def rows_of_events(view: FeatureView, events: Sequence[EventColumns]) -> tuple[pa.Array, list[Int64s]]:
    """The different keys of the entity in these streams' events, and the index of each event's key (-1: none)."""
    texts = [columns.entity_keys(view.entity) for columns in events]
    encoded = pa.chunked_array(texts, type=pa.string()).combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary, np.split(codes, np.cumsum([len(text) for text in texts])[:-1])


Events = Mapping[str, pa.Table | EventColumns]
"""Stream name → its events, in the columns of event_schema()."""


def event_columns(view: FeatureView, events: Events) -> list[EventColumns]:
    """The columns of those of the streams that the view reads."""
    given = [(events[stream.name], stream) for stream in view.streams if stream.name in events]
    return [one if isinstance(one, EventColumns) else EventColumns(one, stream) for one, stream in given]
