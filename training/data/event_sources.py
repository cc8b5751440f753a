"""The sources of an event model's examples: events in memory, or an archive that does not fit into it.

Of an archive that does not fit, a training learns from the events of some groups (all events of each) and is tested on
everybody's; the features of an event are computed from everybody's in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools
from features.definitions import RESERVED, Entity, EventModel, FeatureView
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


class EventSource(Protocol):
    """A model's events, each once."""

    def known_between(self) -> tuple[int, int]:
        """The known-at times of the first and the last of the stream's events, ms."""

    def between(self, start_ms: int, end_ms: int, whole_from_ms: int) -> EventSelection:
        """The stream's events that became known in [start, end), all from whole_from on and at least some before."""

    def positive(self, ids: pa.ChunkedArray) -> Bools:
        """(n,) whether each of these events (event_id) has a label."""

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """The view's features of the spine."""


@dataclass(frozen=True)
class InMemory:
    """Events that are all in memory."""

    events: Events
    model: EventModel

    def known_between(self) -> tuple[int, int]:
        """See EventSource."""
        known = integers(self.events[self.model.stream.name]["known_at"])
        return int(known.min()), int(known.max())

    def between(self, start_ms: int, end_ms: int, whole_from_ms: int) -> EventSelection:  # whole at all times
        """See EventSource."""
        every = self.events[self.model.stream.name]
        known = integers(every["known_at"])
        return EventSelection(every.filter(pa.array((known >= start_ms) & (known < end_ms))))

    def positive(self, ids: pa.ChunkedArray) -> Bools:
        """See EventSource."""
        return np.asarray(pc.is_in(ids, value_set=pc.unique(self.events[self.model.labels.name]["event_id"])))

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """See EventSource."""
        return point_in_time(view, spine, self.events)


@dataclass(frozen=True)
class InArchive:
    """Events of an archive that does not fit into memory."""

    whole: WholeArchive
    model: EventModel

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

    def positive(self, ids: pa.ChunkedArray) -> Bools:
        """See EventSource."""
        wanted, labelled = ids.combine_chunks(), np.zeros(len(ids), dtype=bool)
        for batch in self.whole.batches(self.model.labels.name, RESERVED):
            labelled |= np.asarray(pc.is_in(wanted, value_set=batch["event_id"].combine_chunks()))
        return labelled

    def features(self, view: FeatureView, spine: Spine) -> FeatureMatrix:
        """See EventSource."""
        return self.whole.features(view, spine)

    @property
    def _group(self) -> Entity:
        return Entity(self.model.group, keys={self.model.group: self.model.stream.dtypes[self.model.group]})

    def _read(self, span: Span, who: UserSample | None) -> pa.Table:
        columns = event_schema(self.model.stream).names
        return self.whole.of(who, self.model.stream.name, self._group, columns, span)


ReadEvents = Mapping[str, pa.Table] | InArchive
"""Events as they were read."""


def event_source(events: ReadEvents, model: EventModel) -> EventSource:
    """The source of a model's examples that these events are."""
    return events if isinstance(events, InArchive) else InMemory(events, model)
