"""A loaded event model of each kind: what its answers mean and may be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from features.arrays import Bools, Floats
from features.definitions import SCORE, Anomaly, BaseEventModel, Classifier, FeatureView, Regressor
from features.errors import ArtefactError
from models.artefact import check_views
from models.classifier_file import CHANCES, NUMBERS, Scorer, scorer
from models.event_model.columns import EventModelColumns, filled, rounded
from models.event_model.habits import FittedHabits
from models.event_model.manifest import EventManifest
from models.event_model.texts import FittedClasses, Texts
from models.folder import ViewInputs
from models.user_model import OwnRanker


@dataclass(frozen=True)
class Effects:
    """What raised the scores of n events, by columns: the value of each, the usual one, and the effect, (n, names)."""

    names: Sequence[str]
    values: Floats
    usual: Floats
    effects: Floats


@dataclass(frozen=True)
class EventScorer(ABC):
    """A loaded event model: pure functions over arrays in memory, safe to call from several threads.

    Args:
        classifier: what training fitted, or a user's own model.
    """

    manifest: EventManifest
    classifier: Any

    MAY_BE: ClassVar[str]
    """The scores that it may give, in words."""

    ANSWERS: ClassVar[str] = CHANCES
    """The method by which what training fitted answers."""

    @abstractmethod
    def allowed(self, scores: Floats) -> Bools:
        """(n,) whether each score is one that the model may give."""

    @property
    def own(self) -> bool:
        """True for a user's own model: it gets NaN where there is no value, and its files run their own code."""
        return isinstance(self.classifier, OwnRanker)

    @cached_property
    def chances(self) -> Scorer:
        """The fitted model's answers, compiled where training fitted it (see classifier_file.scorer)."""
        return scorer(self.classifier)

    def scores(self, inputs: Floats, texts: Texts | None = None) -> Floats:
        """(n,) the score of each event; ValueError for one of an own model that is not MAY_BE.

        Args:
            inputs: (n, manifest.inputs), NaN for no value.
            texts: (n,) for a model of a text.
        """
        if not len(inputs):
            return np.empty(0)
        if not self.own:
            return self.chances(filled(inputs))
        scores = self.chances(rounded(inputs))
        wrong = ~self.allowed(scores)
        if wrong.any():
            message = f"scores must be {self.MAY_BE}; got {scores[wrong][0]}"
            raise ValueError(message)
        return scores

    def answers(self, scores: Floats) -> Mapping[str, Floats]:
        """What derived columns and rules may name, (n,) each: the score."""
        return {SCORE: scores}

    def make_ready(self) -> None:
        """The first event is scored as fast as any after it."""
        _ = self.chances

    def effects(self, inputs: Floats, usual: Floats, texts: Texts | None = None) -> Effects:
        """Each score less the score with one input at its usual value, for every input."""
        n, width = inputs.shape
        changed = np.repeat(inputs[:, np.newaxis, :], width, axis=1)
        diagonal = np.arange(width)
        changed[:, diagonal, diagonal] = usual
        repeated = None if texts is None else np.repeat(texts, width)
        without = self.scores(changed.reshape(n * width, width), repeated).reshape(n, width)
        return Effects(self.manifest.inputs, inputs, usual, self.scores(inputs, texts)[:, np.newaxis] - without)

    def check(self, columns: EventModelColumns) -> None:
        """Passes when the definitions are those of its training; ArtefactError names the difference."""
        where = f"model '{self.manifest.name}'"
        got = columns.model.input_names
        if (columns.model.stream.name, got) != (self.manifest.stream, self.manifest.inputs):
            required = f"inputs {', '.join(self.manifest.inputs)} of stream '{self.manifest.stream}'"
            raise ArtefactError(where, required, ", ".join(got), "Train anew.")
        if kind_of(columns.model) != self.manifest.kind:
            required = f"a definition of the kind '{self.manifest.kind}', as at training"
            raise ArtefactError(where, required, f"'{kind_of(columns.model)}'", "Train anew.")
        check_views(self.manifest.name, self.manifest.views, {view.name: view for view, _ in input_views(columns)})


class EventClassifier(EventScorer):
    """A binary classifier: the score is the probability that an event is a positive."""

    MAY_BE = "from 0 to 1"

    def allowed(self, scores: Floats) -> Bools:
        """See EventScorer."""
        return (scores >= 0) & (scores <= 1)


class EventRegressor(EventScorer):
    """A regressor: the score is the predicted number."""

    MAY_BE, ANSWERS = "finite numbers", NUMBERS

    def allowed(self, scores: Floats) -> Bools:
        """See EventScorer."""
        return np.isfinite(scores)


class AnomalyScorer(EventScorer):
    """An anomaly model: the score is the mean rarity of the event over the habits (see FittedHabits)."""

    MAY_BE = "finite numbers from 0 on"

    def allowed(self, scores: Floats) -> Bools:
        """See EventScorer."""
        return np.isfinite(scores) & (scores >= 0)

    def scores(self, inputs: Floats, texts: Texts | None = None) -> Floats:
        """See EventScorer."""
        return super().scores(inputs) if self.own else self._fitted.scores(inputs)

    def effects(self, inputs: Floats, usual: Floats, texts: Texts | None = None) -> Effects:
        """The share of the score that is each habit's, with the number and the nearest usual one."""
        if self.own:
            return super().effects(inputs, usual)
        habits, names = self._fitted.habits, self.manifest.inputs
        return Effects(
            names=[names[habit.of] for habit in habits],
            values=np.column_stack([inputs[:, habit.of] for habit in habits]),
            usual=np.column_stack([habit.usual(inputs) for habit in habits]),
            effects=self._fitted.rarities(inputs) / len(habits),
        )

    @property
    def _fitted(self) -> FittedHabits:
        fitted: FittedHabits = self.classifier
        return fitted


class ClassesScorer(EventScorer):
    """A classifier of several classes: the score is the probability of the definition's target."""

    MAY_BE = "from 0 to 1"

    def allowed(self, scores: Floats) -> Bools:
        """See EventScorer."""
        return (scores >= 0) & (scores <= 1)

    def scores(self, inputs: Floats, texts: Texts | None = None) -> Floats:
        """See EventScorer."""
        if self.own:
            return super().scores(inputs)
        return self.fitted.probabilities(inputs, texts)[:, self.fitted.target]

    @property
    def fitted(self) -> FittedClasses:
        """What training fitted."""
        fitted: FittedClasses = self.classifier
        return fitted


SCORERS: Mapping[str, type[EventScorer]] = {
    "events": EventClassifier,
    "regression": EventRegressor,
    "anomaly": AnomalyScorer,
    "classes": ClassesScorer,
}
"""The kind of a manifest → its scorer."""


def kind_of(model: BaseEventModel) -> Literal["events", "regression", "anomaly", "classes"]:
    """The kind of a definition, as its models' manifests name it."""
    if isinstance(model, Anomaly):
        return "anomaly"
    if isinstance(model, Classifier):
        return "classes"
    return "regression" if isinstance(model, Regressor) else "events"


def views_of(columns: EventModelColumns) -> tuple[ViewInputs, ...]:
    """The views of the model's inputs (those of rules alone can change without training), as they are defined now."""
    return tuple(ViewInputs.of(view, names) for view, names in input_views(columns))


def input_views(columns: EventModelColumns) -> list[tuple[FeatureView, list[str]]]:
    """Each view that an input of the model is a feature of, and those inputs."""
    model: BaseEventModel = columns.model
    features = [name for name in model.input_names if name not in model.stream.dtypes]
    by_view = [(view, [name for name in features if name in view.names]) for view in columns.source.views]
    return [(view, names) for view, names in by_view if names]
