"""One training of a recommender as a value: its data, how it is split, and where it reports and resumes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from features.arrays import Int64s
from features.history import Spine, point_in_time
from features.rows import FeatureMatrix
from training.data import Domain, Events, Interactions, SampledEvents, Split, first_known, interactions_of, time_split
from training.progress import Log, StageTimer, silent
from training.resume import NOWHERE, Stages
from training.settings import TrainingSettings


@dataclass(frozen=True)
class Features:
    """The source of point-in-time features: events, and the definitions that they are read by."""

    events: Events
    domain: Domain

    @cached_property
    def catalogued(self) -> tuple[pa.Array, Int64s] | None:
        """The catalogue's items, and when each became known (see first_known); None without a catalogue."""
        catalogue = self.domain.catalogue
        return None if catalogue is None else first_known(self.events, catalogue)

    def of_items(self, spine: Spine) -> FeatureMatrix:
        """The item view's features of the spine: of everybody's events, also where the users are a sample."""
        if isinstance(self.events, SampledEvents):
            return self.events.whole.features(self.domain.item, spine)
        return point_in_time(self.domain.item, spine, self.events)


@dataclass(frozen=True)
class TrainingRun:
    """The input of every step of a training: interactions and features, target, split and settings.

    The ranker learns in [split.start, split.middle) and is tested in [split.middle, split.end).
    """

    features: Features
    settings: TrainingSettings
    history: Interactions
    target: tuple[str, ...]
    """The event types that are predicted."""
    split: Split
    stages: Stages = field(default=NOWHERE, compare=False)
    """Finished stages are taken from here, and the others are left here."""
    timer: StageTimer = field(default_factory=StageTimer, compare=False)
    """Logs each stage as it begins, and times it."""

    @classmethod
    def of(
        cls,
        events: Events,
        domain: Domain,
        settings: TrainingSettings,
        log: Log = silent,
        stages: Stages = NOWHERE,
    ) -> TrainingRun:
        """The training on these events, split as the settings say. Raises UsageError for too few to split."""
        timer = StageTimer(log)
        timer.begin("dataset", "reading who did what")
        history = interactions_of(events, domain)
        target = target_of(history, settings)
        split = time_split(split_times(history, target, settings), settings)
        timer.end()
        return cls(Features(events, domain), settings, history, target, split, stages, timer)

    @property
    def domain(self) -> Domain:
        """The definitions that the model is of."""
        return self.features.domain

    @property
    def log(self) -> Log:
        """Takes a line about the training's progress."""
        return self.timer.log

    def before_test(self) -> TrainingRun:
        """The training that ends where this one's test begins. Raises UsageError for too little to split again."""
        history = self.history.between(0, self.split.middle)
        split = time_split(split_times(history, self.target, self.settings), self.settings)
        return replace(self, history=history, split=split)


def target_of(history: Interactions, settings: TrainingSettings) -> tuple[str, ...]:
    """The predicted event type: the first of settings.targets that is frequent enough, else the most frequent one."""
    counts = {kind: int(history.of((kind,)).sum()) for kind in settings.targets}
    enough = [kind for kind in settings.targets if counts[kind] >= settings.target_events]
    return (enough[0] if enough else max(settings.targets, key=lambda kind: counts[kind]),)


def split_times(history: Interactions, target: tuple[str, ...], settings: TrainingSettings) -> Int64s:
    """(n,) ms, rising: when the events became known whose number divides the history."""
    return history.known_at[history.of((*settings.engaged, *target))]
