"""One training of an event model as a value: its events, its definition's kind and settings, and where it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.definitions import BaseEventModel
from models.event_model import EventModelColumns, kind_of
from training.data import (
    EventSplit,
    EventTrainingSettings,
    LabelledEvents,
    ReadEvents,
    SampleSummary,
    event_source,
    examples_between,
    split_events,
)
from training.event_model.classes import ClassesKind
from training.event_model.incidents import AnomalyKind
from training.event_model.kinds import EventKind
from training.event_model.ranking import RankingKind
from training.event_model.regression import RegressionKind
from training.progress import Log, Stage, silent

KINDS: Mapping[str, type[EventKind[Any]]] = {
    "events": RankingKind,
    "regression": RegressionKind,
    "anomaly": AnomalyKind,
    "classes": ClassesKind,
}
"""The kind of a manifest → what it is to training."""


def kind_for(model: BaseEventModel) -> EventKind[Any]:
    """The kind of the definition."""
    return KINDS[kind_of(model)](model)


@dataclass(frozen=True)
class SplitExamples:
    """The examples of a training's parts; those that are learned from may be a sample."""

    split: EventSplit
    learned: LabelledEvents
    test: LabelledEvents
    sample: SampleSummary | None


@dataclass(frozen=True)
class EventTraining:
    """The events that an event model is trained and tested on, and how."""

    events: ReadEvents
    columns: EventModelColumns
    settings: EventTrainingSettings
    log: Log = silent

    @property
    def split(self) -> EventSplit:
        """The parts of time that are learned from and tested on."""
        return split_events(self.events, self.columns.model, self.settings)

    @property
    def kind(self) -> EventKind[Any]:
        """The kind of the model's definition."""
        return kind_for(self.columns.model)

    def split_examples(self) -> SplitExamples:
        """The examples to learn from and to test on. Raises UsageError for a part that cannot be.

        A number that a regressor learns from was known when the test begins.
        """
        split = self.split
        self.log(Stage("examples", "what was known just before each event"))
        every = examples_between(self.events, self.columns, split.start, split.end, split.test)
        if every.sample is not None:
            self.log(f"{every.sample}, but for the test")
        learned = every.between(split.start, split.middle).known_before(split.test)
        test = every.between(split.test, split.end)
        return SplitExamples(split, self.kind.require(learned), self.kind.require(test), every.sample)

    def test_examples(self) -> LabelledEvents:
        """The examples to test on alone. Raises UsageError where they cannot be tested on."""
        split = self.split
        return self.kind.require(examples_between(self.events, self.columns, split.test, split.end))

    def newest_examples(self) -> LabelledEvents:
        """The last ``test_ms`` of the events; their labels are not known yet."""
        end_ms = event_source(self.events, self.columns.model).known_between()[1] + 1
        return examples_between(self.events, self.columns, end_ms - self.settings.test_ms, end_ms)
