"""Binary classifiers: positives and others, judged by average precision beside the first input alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Bools, Floats
from features.definitions import AtPrecision, EventModel
from models.event_model import EventModelColumns, filled
from training.data import DAY_MS, EventTrainingSettings, LabelledEvents, require_both_classes
from training.event_model.kinds import EventKind, boosted_trees
from training.event_model.metrics import (
    EventModelResult,
    at_threshold,
    group_precision,
    precision_draws,
    ranking_metrics,
    threshold_at_precision,
)
from training.evidence import Evidence
from training.judging import interval_of, log_loss, png
from training.recommender import calibration, calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP = 100


class RankingKind(EventKind[EventModel]):
    """The training and the judgement of binary classifiers (see EventKind)."""

    label = "positive"
    compares_with_learned = False

    def require(self, part: LabelledEvents) -> LabelledEvents:
        """See EventKind: both classes."""
        return require_both_classes(part)

    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """See EventKind."""
        from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]

        inputs = columns.inputs(examples.matrix)
        return boosted_trees(HistGradientBoostingClassifier, inputs, examples.positive, settings)

    def baselines(
        self, columns: EventModelColumns, test: LabelledEvents, learned: LabelledEvents | None
    ) -> Sequence[tuple[str, Floats, float | None]]:
        """See EventKind: the first input alone."""
        return [(columns.model.input_names[0], filled(test.matrix)[:, 0], None)]

    def judged(
        self,
        name: str,
        scores: Floats,
        test: LabelledEvents,
        settings: EventTrainingSettings,
        threshold: float | None = None,
    ) -> EventModelResult:
        """See EventKind: AUC, average precision, and the precision among the groups that there is time for."""
        draws = precision_draws(test.group, test.positive, scores, settings.seed)
        metrics = ranking_metrics(test.positive, scores)
        interval = interval_of(metrics["ap"], draws)
        metrics |= {"ap_low": interval.low, "ap_high": interval.high}
        metrics[f"group_precision_at_{TOP}"] = group_precision(
            test.time // DAY_MS, test.group, test.positive, scores, TOP
        )
        return EventModelResult(name, metrics, scores, draws)

    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """See EventKind: the events and groups of the test, positive ones and others."""
        counts = list[Evidence]()
        for what, chosen in (("positives", test.positive), ("others", ~test.positive)):
            counts.append(Evidence(f"{what} in the test", int(chosen.sum()), settings.least_test_positives))
            counts.append(Evidence(f"groups with {what}", test.where(chosen).groups, settings.least_test_groups))
        return counts

    def threshold(self, test: LabelledEvents, scores: Floats, days: float) -> float | None:
        """See EventKind."""
        if isinstance(self._model.alert, AtPrecision):
            return threshold_at_precision(test.positive, scores, self._model.alert.share)
        return super().threshold(test, scores, days)

    def alerts(self, test: LabelledEvents, scores: Floats, threshold: float | None, days: float) -> Mapping[str, float]:
        """See EventKind: alerts a day, the share of them that was right, the share of the positives found."""
        return at_threshold(test.positive, scores, np.inf if threshold is None else threshold, days)

    def loss(self, scores: Floats, labels: Any) -> float:
        """See EventKind: the log loss."""
        return log_loss(scores, labels)

    def pictures(self, rows: Sequence[EventModelResult], test: LabelledEvents, scores: Floats) -> dict[str, bytes]:
        """See EventKind."""
        return {
            "precision_recall.png": png(lambda axes: _precision_recall(axes, rows, test.positive)),
            "calibration.png": png(lambda axes: _calibration(axes, scores, test.positive)),
        }


def _precision_recall(axes: Axes, rows: Sequence[EventModelResult], positive: Bools) -> None:
    from sklearn.metrics import precision_recall_curve  # type: ignore[import-untyped]

    for row in rows:
        precision, recall, _ = precision_recall_curve(positive, row.scores)
        about = f"{row.model}: {row.metrics['ap']:.3f}, {row.metrics['ap_low']:.3f} … {row.metrics['ap_high']:.3f}"
        axes.plot(recall, precision, label=about, lw=2 if row.model == "model" else 1, drawstyle="steps-post")
    axes.set(xlabel="share of the positives found", ylabel="share of the found that is positive", ylim=(0, 1.02))
    axes.legend(title="average precision, 95 % interval")


def _calibration(axes: Axes, scores: Floats, positive: Bools) -> None:
    mean, share = calibration(scores, positive)
    axes.plot(mean, share, "o-", label=f"error {calibration_error(scores, positive):.4f}")
    highest = float(np.max([*mean, *share]))
    axes.plot([0, highest], [0, highest], "k:", lw=1)
    axes.set(xlabel="score", ylabel="share that was positive")
    axes.legend()
