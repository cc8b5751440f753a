"""Regressors: numbers, judged by the error that they minimise beside the mean and the median of their group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Floats, Int64s
from features.definitions import Regressor
from models.event_model import EventModelColumns
from training.data import EventTrainingSettings, LabelledEvents, RegressorTrainingSettings, unusable
from training.event_model.kinds import EventKind, boosted_trees
from training.event_model.metrics import EventModelResult, JudgedMetric, clusters_of
from training.evidence import Evidence
from training.judging import drawn_weights, interval_of, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEAN, MEDIAN = "mean", "median"
"""The names of the baselines; with _by_ and the fields that they go by after them."""

METRICS = {
    "absolute": JudgedMetric("mae", "mean absolute error", "that of {}", lower_is_better=True),
    "squared": JudgedMetric("rmse", "root mean squared error", "that of {}", lower_is_better=True),
}

SHOWN = 2_000
"""Events of the test in a picture."""


class RegressionKind(EventKind[Regressor]):
    """The training and the judgement of a regressor (see EventKind)."""

    settings = RegressorTrainingSettings
    label = "number"

    def __init__(self, model: Regressor) -> None:
        super().__init__(model)
        self._metric = METRICS[model.error]

    def require(self, part: LabelledEvents) -> LabelledEvents:
        """See EventKind: events with numbers, which are not all the same."""
        kept = part.where(part.positive)
        if not len(kept) or np.ptp(numbers_of(kept)) == 0:
            got = f"{len(kept)} of {len(part)} events with one" + (", all the same" if len(kept) else "")
            raise unusable(f"events with a number by stream '{self._model.labels.name}', not all the same", got)
        return kept

    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """See EventKind."""
        from sklearn.ensemble import HistGradientBoostingRegressor  # type: ignore[import-untyped]

        inputs, loss = columns.inputs(examples.matrix), f"{self._model.error}_error"
        return boosted_trees(HistGradientBoostingRegressor, inputs, numbers_of(examples), settings, loss=loss)

    def baselines(
        self, columns: EventModelColumns, test: LabelledEvents, learned: LabelledEvents | None
    ) -> Sequence[tuple[str, Floats, float | None]]:
        """See EventKind: the mean and the median of what was learned from, by the fields that the definition names."""
        if learned is None or learned.by is None or test.by is None:
            return []
        by = "_".join(["_by", *self._model.by]) if self._model.by else ""
        numbers = numbers_of(learned)
        middles = ((f"{MEAN}{by}", np.mean), (f"{MEDIAN}{by}", np.median))
        return [(name, _by_group(middle, learned.by, numbers, test.by), None) for name, middle in middles]

    def judged(
        self,
        name: str,
        scores: Floats,
        test: LabelledEvents,
        settings: EventTrainingSettings,
        threshold: float | None = None,
    ) -> EventModelResult:
        """See EventKind: mean absolute error, root mean squared error and R²; the first or second with its interval."""
        numbers, cluster = numbers_of(test), clusters_of(test.group)
        errors = scores - numbers
        squared = float(np.mean(errors**2))
        metrics = {"mae": float(np.mean(np.abs(errors))), "rmse": squared**0.5}
        is_absolute = self._metric.name == "mae"
        draws = _mean_draws(np.abs(errors) if is_absolute else errors**2, cluster, settings.seed)
        draws = draws if is_absolute else np.sqrt(draws)
        interval = interval_of(metrics[self._metric.name], draws)
        metrics |= {f"{self._metric.name}_low": interval.low, f"{self._metric.name}_high": interval.high}
        metrics["r2"] = 1.0 - squared / float(np.var(numbers))
        return EventModelResult(name, metrics, scores, draws, self._metric)

    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """See EventKind: the events and groups of the test."""
        return [
            Evidence("events with a number in the test", len(test), settings.least_test_positives),
            Evidence("groups in the test", test.groups, settings.least_test_groups),
        ]

    def labels(self, test: LabelledEvents) -> Any:
        """See EventKind: the numbers."""
        return numbers_of(test)

    def loss(self, scores: Floats, labels: Any) -> float:
        """See EventKind: the mean absolute error."""
        return float(np.mean(np.abs(scores - labels)))

    def pictures(self, rows: Sequence[EventModelResult], test: LabelledEvents, scores: Floats) -> dict[str, bytes]:
        """See EventKind."""
        return {"predicted.png": png(lambda axes: _predicted(axes, scores, numbers_of(test)))}


def numbers_of(examples: LabelledEvents) -> Floats:
    """(n,) the numbers of a regressor's examples."""
    return np.full(len(examples), np.nan) if examples.value is None else examples.value


def _by_group(middle: Any, group: Int64s, numbers: Floats, of: Int64s) -> Floats:
    """(len(of),) the middle of the numbers of each's group; of all where none has it."""
    order = np.argsort(group, kind="stable")
    groups, starts = np.unique(group[order], return_index=True)
    known = np.array([middle(part) for part in np.split(numbers[order], starts[1:])])
    place = np.minimum(np.searchsorted(groups, of), len(groups) - 1)
    return np.where(groups[place] == of, known[place], middle(numbers))


def _mean_draws(values: Floats, cluster: Int64s, seed: int) -> Floats:
    """(DRAWS,) the mean of the values of the clusters that are drawn, as many as there are."""
    sums, counts = (np.bincount(cluster, weights=weights) for weights in (values, np.ones(len(values))))
    return np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in drawn_weights(len(sums), seed)])


def _predicted(axes: Axes, scores: Floats, numbers: Floats) -> None:
    step = max(1, len(scores) // SHOWN)
    axes.plot(scores[::step], numbers[::step], ".", ms=3, alpha=0.4)
    low, high = float(min(scores.min(), numbers.min())), float(max(scores.max(), numbers.max()))
    axes.plot([low, high], [low, high], "k:", lw=1)
    axes.set(xlabel="predicted", ylabel="what it was")
