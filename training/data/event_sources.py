"""The sources of an event model's examples: events in memory, or an archive that does not fit into it.

Of an archive that does not fit, a training learns from the events of some groups (all events of each) and is tested on
everybody's; the features of an event are computed from everybody's in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import RESERVED, BaseEventModel, Entity, FeatureView
from features.errors import UsageError
from features.events import event_schema, integers
from features.history import Span, Spine, point_in_time
from features.rows import FeatureMatrix
from models.event_model import Events
from training.data.sampling import SampleSummary, UserSample, WholeArchive, drawn

MOST_TESTED = 0.5
"""The share of the events that fit which the test may have."""


@dataclass(frozen=True)
class EventSelection:
    """Some of the stream's events; and the size of the sample, where they are one."""

    events: pa.Table
    sample: SampleSummary | None = None


NEVER = np.iinfo(np.int64).max
"""The known-at time of a label that no event gives."""


@dataclass(frozen=True)
class FoundLabels:
    """The labels of n events, of several for one event the first that became known.

    Args:
        known_at: (n,) when each became known, ms; NEVER of an event without.
        row: (n,) the place of each in ``events``; -1 of an event without.
        events: label events, among them those that were found.
    """

    known_at: Int64s
    row: Int64s
    events: pa.Table

    def column(self, name: str) -> pa.ChunkedArray:
        """(n,) the column of each event's label event, null without one."""
        return self.events[name].take(pa.array(self.row, mask=self.row < 0))

    @classmethod
    def of(cls, ids: pa.ChunkedArray, labels: pa.Table) -> FoundLabels:
        """The labels of the events of these ids, among label events."""
        ordered = labels.take(pa.array(np.argsort(integers(labels["known_at"]), kind="stable")))
        distinct = pc.unique(ordered["event_id"])
        first = np.full(len(distinct), -1, dtype=np.int64)
        place = pc.index_in(ordered["event_id"], value_set=distinct).to_numpy()
        first[place[::-1]] = np.arange(len(place) - 1, -1, -1)
        found = pc.fill_null(pc.index_in(ids, value_set=distinct), -1).to_numpy()
        row = np.where(found < 0, -1, first[found] if len(first) else -1)
        known = integers(ordered["known_at"])
        return cls(np.where(row < 0, NEVER, known[row] if len(known) else NEVER), row, ordered)


class EventSource(Protocol):
    """A model's events, each once."""

    def known_between(self) -> tuple[int, int]:
        """The known-at times of the first and the last of the stream's events, ms."""

    def between(self, start_ms: int, end_ms: int, whole_from_ms: int) -> EventSelection:
        """The stream's events that became known in [start, end), all from whole_from on and at least some before."""

    def labels(self, ids: pa.ChunkedArray, columns: Sequence[str] = ()) -> FoundLabels:
        """The labels of these events (event_id), with these columns; of a model without labels no event has one."""

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """The view's features of the spine."""


@dataclass(frozen=True)
class InMemory:
    """Events that are all in memory."""

    events: Events
    model: BaseEventModel

    def known_between(self) -> tuple[int, int]:
        """See EventSource."""
        known = integers(self.events[self.model.stream.name]["known_at"])
        return int(known.min()), int(known.max())

    def between(self, start_ms: int, end_ms: int, whole_from_ms: int) -> EventSelection:  # whole at all times
        """See EventSource."""
        every = self.events[self.model.stream.name]
        known = integers(every["known_at"])
        return EventSelection(every.filter(pa.array((known >= start_ms) & (known < end_ms))))

    def labels(self, ids: pa.ChunkedArray, columns: Sequence[str] = ()) -> FoundLabels:
        """See EventSource."""
        stream = self.model.labels
        if stream is None or stream.name not in self.events:
            return FoundLabels.of(ids, event_schema(stream or self.model.stream).empty_table())
        return FoundLabels.of(ids, self.events[stream.name].select(list(dict.fromkeys([*RESERVED, *columns]))))

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """See EventSource."""
        return point_in_time(view, spine, self.events)


@dataclass(frozen=True)
class InArchive:
    """Events of an archive that does not fit into memory."""

    whole: WholeArchive
    model: BaseEventModel

    def known_between(self) -> tuple[int, int]:
        """See EventSource."""
        times = [integers(batch["known_at"]) for batch in self.whole.batches(self.model.stream.name, RESERVED)]
        times = [known for known in times if len(known)]
        return min(int(known.min()) for known in times), max(int(known.max()) for known in times)

    def between(self, start_ms: int, end_ms: int, whole_from_ms: int) -> EventSelection:
        """See EventSource; UsageError where the events from whole_from on are more than half of what fits."""
        seed, most, name = self.whole.bound.seed, self.whole.bound.events, self.model.stream.name
        whole, part = Span(whole_from_ms, end_ms), Span(start_ms, whole_from_ms)
        tested = int(self.whole.counted([name], self._group, seed, whole).sum())
        if tested > most * MOST_TESTED:
            required = f"at most {int(most * MOST_TESTED):,} events to test on, half of max_events"
            raise UsageError(f"training '{self.model.name}'", required, f"{tested:,}", "Set a shorter test_ms.")
        counts = self.whole.counted([name], self._group, seed, part)
        who = drawn(counts, most - tested, seed)
        events = pa.concat_tables([self._read(part, who), self._read(whole, None)])
        if start_ms >= whole_from_ms:
            return EventSelection(events)
        return EventSelection(events, SampleSummary(events.num_rows, int(counts.sum()) + tested, who.share, seed))

    def labels(self, ids: pa.ChunkedArray, columns: Sequence[str] = ()) -> FoundLabels:
        """See EventSource; label events of other events are passed over as they are read."""
        stream, wanted = self.model.labels, ids.combine_chunks()
        if stream is None:
            return FoundLabels.of(ids, event_schema(self.model.stream).empty_table())
        read = list(dict.fromkeys([*RESERVED, *columns]))
        found = [event_schema(stream).empty_table().select(read)]
        batches = self.whole.batches(stream.name, read)
        found += [batch.filter(pc.is_in(batch["event_id"], value_set=wanted)) for batch in batches]
        return FoundLabels.of(ids, pa.concat_tables(found))

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """See EventSource."""
        return self.whole.features(view, spine)

    @property
    def _group(self) -> Entity:
        group, dtypes = self.model.group, self.model.stream.dtypes
        keys = {"event_id": "string"} if group is None else {group: dtypes[group]}
        return Entity(group or "event", keys=keys)

    def _read(self, span: Span, who: UserSample | None) -> pa.Table:
        columns = event_schema(self.model.stream).names
        return self.whole.of(who, self.model.stream.name, self._group, columns, span)


ReadEvents = Mapping[str, pa.Table] | InArchive
"""Events as they were read."""


def event_source(events: ReadEvents, model: BaseEventModel) -> EventSource:
    """The source of a model's examples that these events are."""
    return events if isinstance(events, InArchive) else InMemory(events, model)
