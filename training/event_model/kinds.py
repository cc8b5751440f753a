"""What every kind of event models is to training: what it learns from, is fitted as, and is judged by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from features.arrays import Floats
from features.definitions import BaseEventModel, TopADay
from models.event_model import EventModelColumns, EventScorer, filled
from training.data import EventTrainingSettings, LabelledEvents
from training.event_model.metrics import EventModelResult, threshold_of_top
from training.evidence import Evidence
from training.judging import GateVerdict

M = TypeVar("M", bound=BaseEventModel)


class EventKind(ABC, Generic[M]):
    """One kind of event model: what most kinds do is here, and a kind that differs says how.

    Args:
        model: the definition.
    """

    settings: ClassVar[type[EventTrainingSettings]] = EventTrainingSettings
    """The settings of its training."""

    label: ClassVar[str]
    """The name of the label's column among exported examples."""

    compares_with_learned: ClassVar[bool] = True
    """Whether its baselines are made of what was learned from."""

    calibrates_on_learned: ClassVar[bool] = False
    """Whether the threshold is set on what was learned from, and not on the test."""

    def __init__(self, model: M) -> None:
        self._model = model

    @abstractmethod
    def require(self, part: LabelledEvents) -> LabelledEvents:
        """The events of a part that can be learned from or tested on. Raises UsageError where they are too few."""

    @abstractmethod
    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """A model of the examples."""

    def answers(self, model: EventScorer, inputs: Floats, part: LabelledEvents, scores: Floats) -> Floats:
        """(n,) what the metrics are of: the scores of the part's events, or the codes of their classes."""
        return scores

    @abstractmethod
    def baselines(
        self, columns: EventModelColumns, test: LabelledEvents, learned: LabelledEvents | None
    ) -> Sequence[tuple[str, Floats, float | None]]:
        """The names, scores and thresholds (None for none) of the simple models that one must be better than."""

    @abstractmethod
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
        return None

    @abstractmethod
    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """The sizes of the test, beside the least of each."""

    def threshold(self, test: LabelledEvents, scores: Floats, days: float) -> float | None:
        """The score from which on the model alerts, by its definition and these events; None for none."""
        alert = self._model.alert
        return threshold_of_top(scores, days, alert.count) if isinstance(alert, TopADay) else None

    def alerts(self, test: LabelledEvents, scores: Floats, threshold: float | None, days: float) -> Mapping[str, float]:
        """The metrics of alerting from the threshold on: alerts a day."""
        return {} if threshold is None else {"alerts_a_day": float((scores >= threshold).sum()) / days}

    def labels(self, test: LabelledEvents) -> Any:
        """(n,) the labels, as ``loss`` takes them: whether each event is positive."""
        return test.positive

    @abstractmethod
    def loss(self, scores: Floats, labels: Any) -> float:
        """The loss whose rise is the importance of an input."""

    @abstractmethod
    def pictures(self, rows: Sequence[EventModelResult], test: LabelledEvents, scores: Floats) -> dict[str, bytes]:
        """The pictures of the test as PNG, by the name of the file."""


def boosted_trees(
    trees: Any, inputs: Floats, labels: Any, settings: EventTrainingSettings, **parameters: object
) -> Any:
    """Trees of scikit-learn's histogram gradient boosting, fitted on one thread.

    Args:
        trees: the class of a classifier or a regressor.
        parameters: of the class, besides those of the settings.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    model = trees(
        max_iter=settings.iterations,
        learning_rate=settings.learning_rate,
        early_stopping=False,
        random_state=settings.seed,
        **parameters,
    )
    with threadpool_limits(limits=1, user_api="openmp"):
        return model.fit(filled(inputs), labels)
