"""The result of a model on a test, by the metric that its kind is judged by, and differences of two with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from features.arrays import Floats
from training.judging import Interval, interval_of


@dataclass(frozen=True)
class JudgedMetric:
    """A metric by which models are compared.

    Args:
        name: among the metrics of a row.
        text: in words.
        of_baseline: the words that name a baseline's, with {} for the baseline.
    """

    name: str
    text: str
    of_baseline: str
    lower_is_better: bool = False


AVERAGE_PRECISION = JudgedMetric("ap", "average precision", "that of {} alone")


@dataclass(frozen=True)
class EventModelResult:
    """The result of one model on the test.

    Args:
        scores: (n,) of the test's events.
        draws: the metric in draws of the test's groups (see precision_draws), the same for all models.
    """

    model: str
    metrics: dict[str, float]
    scores: Floats
    draws: Floats
    metric: JudgedMetric = AVERAGE_PRECISION

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a report."""
        return {"model": self.model, **self.metrics}

    @property
    def value(self) -> float:
        """The metric that it is judged by."""
        return self.metrics[self.metric.name]


def difference(first: EventModelResult, second: EventModelResult) -> Interval:
    """The interval of the first's metric less the second's, draw by draw of the same groups."""
    return interval_of(first.value - second.value, first.draws - second.draws)


def advantage(first: EventModelResult, second: EventModelResult) -> Interval:
    """The interval of how much better the first is: the difference, or of a metric of errors its opposite."""
    if first.metric.lower_is_better:
        first, second = second, first
    return difference(first, second)
