"""Labelled events with their features just before each of them, of the offline store or a file, split by time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS, BaseEventModel, Classifier, FeatureRepo, Regressor, Stream, duration_ms
from features.errors import UsageError
from features.events import integers
from features.history import Span, deduplicated, open_tables
from models.event_model import EventModelColumns, Events, Texts
from training.data.dataset import EventFile
from training.data.event_sources import FoundLabels, InArchive, ReadEvents, event_source
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


class RegressorTrainingSettings(EventTrainingSettings):
    """A regressor's training: there are as many numbers as events, so that larger steps learn no noise."""

    iterations: int = Field(300, gt=0)
    learning_rate: float = Field(0.1, gt=0, le=1)
    scoring_budget_ms: float = Field(100.0, gt=0)


class ClassifierTrainingSettings(EventTrainingSettings):
    """The training of a classifier of several classes; ``least_test_positives`` are the fewest events of each class."""

    iterations: int = Field(30, gt=0)
    """Times that it goes over the examples."""
    scoring_budget_ms: float = Field(500.0, gt=0)


class AnomalyTrainingSettings(EventTrainingSettings):
    """An anomaly model's training; ``least_test_groups`` are the fewest incidents, where labels judge it."""


@dataclass(frozen=True)
class LabelledEvents:
    """n events: time (ms), group (a code), whether positive; and (n, model.needed) the features just before."""

    time: Int64s
    group: Int64s
    positive: Bools
    """Whether it has a label; of a regressor, one that is learned from."""
    matrix: Floats
    sample: SampleSummary | None = None
    """The size of the sample that they are; None where they are all events."""
    value: Floats | None = None
    """A regressor's numbers, or codes of classes; NaN of an event that is not positive."""
    by: Int64s | None = None
    """The code of its values of a regressor's ``by``."""
    known: Int64s | None = None
    """The time at which each label became known, ms."""
    texts: Texts | None = None
    """The texts of a model of one."""
    classes: tuple[str, ...] = ()
    """The classes of a classifier of several: ``value`` are places in them."""

    def __len__(self) -> int:
        return len(self.time)

    @property
    def groups(self) -> int:
        """The number of groups; an event without one (-1) is a group of its own."""
        return len(np.unique(self.group[self.group >= 0])) + int((self.group < 0).sum())

    @property
    def counts_text(self) -> str:
        """The number of events and of positives, in words."""
        events = f"{len(self):,} events"
        return events if self.value is not None else f"{events}, {int(self.positive.sum()):,} of them positive"

    def between(self, start_ms: int, end_ms: int) -> LabelledEvents:
        """Those of [start, end)."""
        return self.where((self.time >= start_ms) & (self.time < end_ms))

    def known_before(self, time_ms: int) -> LabelledEvents:
        """Those whose number is learned from and was known by then; of a classifier all of them."""
        if self.value is None or self.known is None:
            return self
        return self.where(self.positive & (self.known < time_ms))

    def where(self, chosen: Bools) -> LabelledEvents:
        """Those of the mask."""
        value = None if self.value is None else self.value[chosen]
        by, known = (None if part is None else part[chosen] for part in (self.by, self.known))
        time, group, positive = self.time[chosen], self.group[chosen], self.positive[chosen]
        texts = None if self.texts is None else self.texts[chosen]
        return LabelledEvents(time, group, positive, self.matrix[chosen], None, value, by, known, texts, self.classes)


@dataclass(frozen=True)
class EventSplit:
    """Learn from [start, middle), test on [test, end), ms; labels of the first part are known when the test begins."""

    start: int
    middle: int
    test: int
    end: int


def streams_of(columns: EventModelColumns) -> dict[str, Stream]:
    """Every stream that the model's examples are made of, by name."""
    read = [*columns.model.streams, *(stream for view in columns.source.views for stream in view.streams)]
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
    for stream in columns.model.streams:
        if not rows.get(stream.name):
            raise UsageError(where, f"events of stream '{stream.name}'", ", ".join(rows) or "none", next_step)


def split_events(events: ReadEvents, model: BaseEventModel, settings: EventTrainingSettings) -> EventSplit:
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
    group = np.full(len(at), -1) if model.group is None else _group_codes(chosen[model.group])
    found = source.labels(chosen["event_id"], label_columns(model))
    labelled = LabelledEvents(at, group, found.row >= 0, matrix, read.sample)
    if isinstance(model, Classifier):
        return with_classes(replace(labelled, texts=columns.texts(chosen)), model, found)
    return with_numbers(labelled, model, chosen, found) if isinstance(model, Regressor) else labelled


def _group_codes(values: pa.ChunkedArray) -> Int64s:
    """(n,) a code of each value, -1 of none."""
    indices = values.combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


def label_columns(model: BaseEventModel) -> list[str]:
    """The fields of the label events that the labels are made of."""
    return [model.label] if isinstance(model, Regressor | Classifier) and model.label is not None else []


def with_classes(examples: LabelledEvents, model: Classifier, found: FoundLabels) -> LabelledEvents:
    """The examples with the codes of their classes, which are in the order of their names."""
    labels = found.column(model.label)
    classes = tuple(sorted(pc.unique(labels.drop_null()).to_pylist()))
    codes = pc.index_in(labels, value_set=pa.array(classes, pa.string()))
    value = pc.cast(codes, pa.float64()).to_numpy()
    return replace(examples, positive=~np.isnan(value), value=value, known=found.known_at, classes=classes)


def with_numbers(examples: LabelledEvents, model: Regressor, events: pa.Table, found: FoundLabels) -> LabelledEvents:
    """The examples with the regressor's numbers, and the codes of the fields that its baselines go by."""
    if model.label is None:
        seconds = pc.subtract(found.column("event_time"), events["event_time"])
        numbers = pc.divide(pc.cast(seconds, pa.float64()), 1000.0)
    else:
        numbers = pc.cast(found.column(model.label), pa.float64(), safe=False)
    value: Floats = numbers.to_numpy()
    least, most = model.within or (-np.inf, np.inf)
    inside = np.isfinite(value) & (value >= least) & (value <= most)
    by = codes_of(events, model.by)
    return replace(examples, positive=inside, value=np.where(inside, value, np.nan), by=by, known=found.known_at)


def codes_of(events: pa.Table, names: Sequence[str]) -> Int64s:
    """(n,) a code of each event's values of these fields, nulls alike; 0 of no fields."""
    codes = np.zeros(events.num_rows, dtype=np.int64)
    for name in names:
        own = _group_codes(events[name])
        codes = np.unique(codes * (own.max(initial=0) + 2) + own + 1, return_inverse=True)[1].astype(np.int64)
    return codes


def require_both_classes(part: LabelledEvents) -> LabelledEvents:
    """The part as it is. Raises UsageError where it has no positives, or nothing else."""
    if part.positive.all() or not part.positive.any():
        got = f"{len(part)} events, {int(part.positive.sum())} of them positive"
        raise unusable("events, some of them positive and some not", got)
    return part


def unusable(required: str, got: str) -> UsageError:
    """The error of a part that cannot be learned from or tested on."""
    next_step = "Bring in more history, or change train_ms and test_ms."
    return UsageError("a part of the training", required, got, next_step)
