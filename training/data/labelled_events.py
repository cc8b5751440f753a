"""Labelled events with their features just before each of them, of the offline store or a file, split by time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS, EventModel, FeatureRepo, Stream, duration_ms
from features.errors import UsageError
from features.events import integers
from features.history import Span, deduplicated, open_tables
from models.event_model import EventModelColumns, Events
from training.data.dataset import EventFile
from training.data.event_sources import InArchive, ReadEvents, event_source
from training.data.sampling import EventLimit, SampleSummary, WholeArchive

DAY_MS = UNITS_MS["d"]

BRING_IN = "Start 'headrace stream', or bring history in with 'headrace import'."


class EventTrainingSettings(BaseModel):
    """An event model's training; times in ms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_ms: int = Field(28 * DAY_MS, gt=0)
    """The longest part that it learns from."""
    test_ms: int = Field(7 * DAY_MS, gt=0)
    """The length of the part that it is tested on: the last whose labels are known."""
    iterations: int = Field(100, gt=0)
    """Trees."""
    learning_rate: float = Field(0.03, gt=0, le=1)
    """The weight of each tree: with so few positives, trees of a weight of 0.1 learn noise."""
    tolerance: float = Field(0.03, ge=0, lt=1)
    """The allowed loss against the champion, as a share of its average precision: the lower end of the
    difference's interval must be above that."""
    least_test_positives: int = Field(30, ge=1)
    """The fewest positives of the test, and the fewest others: with fewer of either there is not enough to judge, and
    nothing is promoted."""
    least_test_groups: int = Field(10, ge=1)
    """The fewest groups (such as cards) that have a positive, and that have another: events of a group are much
    alike."""
    scoring_budget_ms: float = Field(50.0, gt=0)
    """The time that scoring 500 events may take."""
    parity: Literal["require", "ask", "skip"] = "ask"
    """Promotion needs that a sample of the features is the same online as offline, or asks for it; see [training]."""
    parity_entities: int = Field(100, ge=1)
    """Entities of each view in that sample."""
    max_events: int | None = Field(None, ge=1)
    """More events than these are not read into memory: then it learns from those of some groups, drawn by the seed, and
    is tested on everybody's, half as many at most. None takes what half of the machine's memory has room for."""
    seed: int = 0
    """The seed of whatever is random."""


@dataclass(frozen=True)
class LabelledEvents:
    """n events: time (ms), group (a code), whether positive; and (n, model.needed) the features just before."""

    time: Int64s
    group: Int64s
    positive: Bools
    matrix: Floats
    sample: SampleSummary | None = None
    """The size of the sample that they are; None where they are all events."""

    def __len__(self) -> int:
        return len(self.time)

    @property
    def counts_text(self) -> str:
        """The number of events and of positives, in words."""
        return f"{len(self):,} events, {int(self.positive.sum()):,} of them positive"

    def between(self, start_ms: int, end_ms: int) -> LabelledEvents:
        """Those of [start, end)."""
        inside = (self.time >= start_ms) & (self.time < end_ms)
        return LabelledEvents(self.time[inside], self.group[inside], self.positive[inside], self.matrix[inside])


@dataclass(frozen=True)
class EventSplit:
    """Learn from [start, middle), test on [test, end), ms; labels of the first part are known when the test begins."""

    start: int
    middle: int
    test: int
    end: int


def streams_of(columns: EventModelColumns) -> dict[str, Stream]:
    """Every stream that the model's examples are made of, by name."""
    read = [
        columns.model.stream,
        columns.model.labels,
        *(stream for view in columns.source.views for stream in view.streams),
    ]
    return {stream.name: stream for stream in read}


def read_archive(
    folder: Path, repo: FeatureRepo, columns: EventModelColumns, end_ms: int | None, bound: EventLimit | None = None
) -> ReadEvents:
    """The model's events that were known before ``end_ms``, of the offline store; UsageError where it has none.

    Where they are more than the bound allows, none of them is read yet.
    """
    tables = open_tables(folder, streams_of(columns).values(), repo)
    span = Span(None, end_ms)
    whole = WholeArchive(tables, span, bound or EventLimit(0))
    where = f"offline store '{folder}'"
    _require_events({name: table.rows(span) for name, table in tables.items()}, columns, where, BRING_IN)
    if bound is not None and whole.rows() > bound.events:
        return InArchive(whole, columns.model)
    events = {name: deduplicated(table.events(span=span), table.stream) for name, table in tables.items()}
    _require_events({name: table.num_rows for name, table in events.items()}, columns, where, BRING_IN)
    return events


def read_event_file(
    file: EventFile, columns: EventModelColumns, end_ms: int | None, bound: EventLimit | None = None
) -> Events:
    """The model's events of a file that became known before ``end_ms`` (see ``EventFile.read``).

    Raises UsageError as EventFile.read, and for a file without events of the model's stream or labels.
    """
    events = file.read(streams_of(columns), end_ms, bound)
    _require_events({name: table.num_rows for name, table in events.items()}, columns, f"file '{file.path}'", "")
    return events


def _require_events(rows: Mapping[str, int], columns: EventModelColumns, where: str, next_step: str) -> None:
    for stream in (columns.model.stream, columns.model.labels):
        if not rows.get(stream.name):
            raise UsageError(where, f"events of stream '{stream.name}'", ", ".join(rows) or "none", next_step)


def split_events(events: ReadEvents, model: EventModel, settings: EventTrainingSettings) -> EventSplit:
    """The split of a training: the test ends where labels are known, and begins when those of the first part were."""
    delay = duration_ms(model.label_delay)
    first, last = event_source(events, model).known_between()
    end = last + 1 - delay
    test = end - settings.test_ms
    middle = test - delay
    return EventSplit(max(middle - settings.train_ms, first), middle, test, end)


def examples_between(
    events: ReadEvents, columns: EventModelColumns, start_ms: int, end_ms: int, whole_from_ms: int | None = None
) -> LabelledEvents:
    """The events of [start, end) with their features just before each of them became known.

    Args:
        whole_from_ms: from then on all of them, and before as many as fit into memory; all unless given.
    """
    model, source = columns.model, event_source(events, columns.model)
    read = source.between(start_ms, end_ms, start_ms if whole_from_ms is None else whole_from_ms)
    chosen, at = read.events, integers(read.events["known_at"])
    matrix = columns.source.matrix_before(chosen, source.features)
    group = chosen[model.group].combine_chunks().dictionary_encode()
    codes = pc.fill_null(group.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return LabelledEvents(at, codes, source.positive(chosen["event_id"]), matrix, read.sample)


def require_both_classes(part: LabelledEvents) -> LabelledEvents:
    """The part as it is. Raises UsageError where it has no positives, or nothing else."""
    if part.positive.all() or not part.positive.any():
        got = f"{len(part)} events, {int(part.positive.sum())} of them positive"
        next_step = "Bring in more history, or change train_ms and test_ms."
        required = "events, some of them positive and some not"
        raise UsageError("a part of the training", required, got, next_step)
    return part
