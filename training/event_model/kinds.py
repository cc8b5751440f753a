"""The kinds of event models, as training sees them: what each learns from, is fitted as, and is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from features.arrays import Floats
from features.definitions import Anomaly, BaseEventModel, Classifier, Regressor
from models.event_model import EventModelColumns, EventScorer
from training.data import EventTrainingSettings, LabelledEvents
from training.event_model.classes import ClassesKind
from training.event_model.incidents import AnomalyKind
from training.event_model.metrics import EventModelResult
from training.event_model.ranking import RankingKind
from training.event_model.regression import RegressionKind
from training.evidence import Evidence
from training.judging import GateVerdict


class EventKind(Protocol):
    """One kind of event model."""

    @property
    def settings(self) -> type[EventTrainingSettings]:
        """The settings of its training."""

    @property
    def label(self) -> str:
        """The name of the label's column among exported examples."""

    @property
    def compares_with_learned(self) -> bool:
        """Whether its baselines are made of what was learned from."""

    @property
    def calibrates_on_learned(self) -> bool:
        """Whether the threshold is set on what was learned from, and not on the test."""

    def require(self, part: LabelledEvents) -> LabelledEvents:
        """The events of a part that can be learned from or tested on. Raises UsageError where they are too few."""

    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """A model of the examples."""

    def answers(self, model: EventScorer, inputs: Floats, part: LabelledEvents, scores: Floats) -> Floats:
        """(n,) what the metrics are of: the scores of the part's events, or the codes of their classes."""

    def baselines(
        self, columns: EventModelColumns, test: LabelledEvents, learned: LabelledEvents | None
    ) -> Sequence[tuple[str, Floats, float | None]]:
        """The names, scores and thresholds (None for none) of the simple models that one must be better than."""

    def judged(
        self,
        name: str,
        scores: Floats,
        test: LabelledEvents,
        settings: EventTrainingSettings,
        threshold: float | None = None,
    ) -> EventModelResult:
        """The metrics of the scores, and of alerting from the threshold on; the one that counts with its interval."""

    def verdict(self, rows: Sequence[EventModelResult]) -> GateVerdict | None:
        """The verdict on these rows where they cannot be compared; None for the gate's."""

    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """The sizes of the test, beside the least of each."""

    def threshold(self, model: BaseEventModel, test: LabelledEvents, scores: Floats, days: float) -> float | None:
        """The score from which on the model alerts, by its definition and these events; None for none."""

    def alerts(self, test: LabelledEvents, scores: Floats, threshold: float | None, days: float) -> Mapping[str, float]:
        """The metrics of alerting from the threshold on."""

    def labels(self, test: LabelledEvents) -> Any:
        """(n,) the labels, as ``loss`` takes them."""

    def loss(self, scores: Floats, labels: Any) -> float:
        """The loss whose rise is the importance of an input."""

    def pictures(self, rows: Sequence[EventModelResult], test: LabelledEvents, scores: Floats) -> dict[str, bytes]:
        """The pictures of the test as PNG, by the name of the file."""


def kind_for(model: BaseEventModel) -> EventKind:
    """The kind of the definition."""
    if isinstance(model, Anomaly):
        return AnomalyKind(model)
    if isinstance(model, Classifier):
        return ClassesKind(model)
    return RegressionKind(model) if isinstance(model, Regressor) else RankingKind()
