"""Binary classifiers: positives and others, judged by average precision beside the first input alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Bools, Floats
from features.definitions import BaseEventModel, TopADay
from models.event_model import EventModelColumns, EventScorer, filled
from training.data import DAY_MS, EventTrainingSettings, LabelledEvents, require_both_classes
from training.event_model.metrics import (
    EventModelResult,
    at_threshold,
    group_precision,
    precision_draws,
    ranking_metrics,
    threshold_at_precision,
    threshold_of_top,
)
from training.evidence import Evidence
from training.judging import GateVerdict, interval_of, log_loss, png
from training.recommender import calibration, calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP = 100


class RankingKind:
    """The training and the judgement of binary classifiers (see EventKind)."""

    settings = EventTrainingSettings
    label = "positive"
    compares_with_learned = False
    calibrates_on_learned = False

    def require(self, part: LabelledEvents) -> LabelledEvents:
        """See EventKind: both classes."""
        return require_both_classes(part)

    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """See EventKind."""
        from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        classifier = HistGradientBoostingClassifier(
            max_iter=settings.iterations,
            learning_rate=settings.learning_rate,
            early_stopping=False,
            random_state=settings.seed,
        )
        with threadpool_limits(limits=1, user_api="openmp"):
            return classifier.fit(filled(columns.inputs(examples.matrix)), examples.positive)

    def answers(self, model: EventScorer, inputs: Floats, part: LabelledEvents, scores: Floats) -> Floats:
        """See EventKind: the scores."""
        return scores

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

    def verdict(self, rows: Sequence[EventModelResult]) -> GateVerdict | None:
        """See EventKind: that of the gate."""
        return None

    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """See EventKind: the events and groups of the test, positive ones and others."""
        counts = list[Evidence]()
        for what, chosen in (("positives", test.positive), ("others", ~test.positive)):
            counts.append(Evidence(f"{what} in the test", int(chosen.sum()), settings.least_test_positives))
            counts.append(Evidence(f"groups with {what}", test.where(chosen).groups, settings.least_test_groups))
        return counts

    def threshold(self, model: BaseEventModel, test: LabelledEvents, scores: Floats, days: float) -> float | None:
        """See EventKind."""
        if isinstance(model.alert, TopADay):
            return threshold_of_top(scores, days, model.alert.count)
        return threshold_at_precision(test.positive, scores, model.alert.share)

    def alerts(self, test: LabelledEvents, scores: Floats, threshold: float | None, days: float) -> Mapping[str, float]:
        """See EventKind: alerts a day, the share of them that was right, the share of the positives found."""
        return at_threshold(test.positive, scores, np.inf if threshold is None else threshold, days)

    def labels(self, test: LabelledEvents) -> Any:
        """See EventKind: whether each is positive."""
        return test.positive

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
