"""Metrics of scores of events, results of models by them, and differences of two with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.arrays import Bools, Floats, Int64s
from training.judging import Interval, drawn_weights, interval_of


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


def group_precision(day: Int64s, group: Int64s, positive: Bools, scores: Floats, top: int) -> float:
    """The mean over the days of the share of positive groups among the ``top`` most suspicious ones; NaN without days.

    A group's score is its highest of the day; a group that was found leaves the days after it. Le Borgne and others,
    2022, chapter 4, "Card Precision top-k".
    """
    known: set[int] = set()
    shares = []
    for date in np.unique(day):
        today = np.flatnonzero((day == date) & ~np.isin(group, list(known)))
        groups, index = np.unique(group[today], return_inverse=True)
        highest, any_positive = np.full(len(groups), -np.inf), np.zeros(len(groups), dtype=bool)
        np.maximum.at(highest, index, scores[today])
        np.logical_or.at(any_positive, index, positive[today])
        first = np.argsort(-highest, kind="stable")[:top]
        hits = groups[first[any_positive[first]]]
        shares.append(len(hits) / top)
        known |= set(hits.tolist())
    return float(np.mean(shares)) if shares else float("nan")


def ranking_metrics(positive: Bools, scores: Floats) -> dict[str, float]:
    """AUC and average precision of the scores; there are positives and others."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped]

    return {"auc": float(roc_auc_score(positive, scores)), "ap": float(average_precision_score(positive, scores))}


def precision_draws(group: Int64s, positive: Bools, scores: Floats, seed: int) -> Floats:
    """(DRAWS,) the average precision in draws of whole groups, as many as there are; NaN of a draw without positives.

    Events of a group (such as a card's) are not independent, so they are drawn together, those without one (-1) each
    by itself. Draws of one seed are of the same groups: differences of two scores' draws are paired.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]

    cluster = clusters_of(group)
    levels = np.unique(scores[positive])
    # Precision counts where a positive comes in: at the highest of the positives' scores that an event reaches.
    level = len(levels) - np.searchsorted(levels, scores, side="right")
    shape = (len(levels) + 1, int(cluster.max()) + 1)
    every, right = (
        coo_array((counts.astype(np.float64), (level, cluster)), shape=shape).tocsr()[: len(levels)]
        for counts in (np.ones(len(level)), positive)
    )
    parts = drawn_weights(shape[1], seed, width=len(levels))
    return np.concatenate([_average_precision(every @ drawn.T, right @ drawn.T) for drawn in parts])


def clusters_of(group: Int64s) -> Int64s:
    """(n,) the cluster that each event is drawn with, from 0 on: one a group, and one an event without a group."""
    alone = group < 0
    own = np.where(alone, group.max(initial=0) + np.cumsum(alone), group)
    return np.unique(own, return_inverse=True)[1].astype(np.int64)


def _average_precision(every: Floats, right: Floats) -> Floats:
    """(draws,) the average precision, by the events and the positives at each level, (levels, draws), highest first."""
    with np.errstate(invalid="ignore"):
        precision = np.cumsum(right, axis=0) / np.cumsum(every, axis=0)
        average: Floats = np.nansum(right * precision, axis=0) / right.sum(axis=0)
    return average


def threshold_of_top(scores: Floats, days: float, a_day: int) -> float:
    """The lowest score that at most ``a_day`` events a day reach, on average over the days; it is never exceeded.

    Events of one score alert together or not at all, as the budget is the time of a person: where too many have the
    highest score, none reaches the threshold.
    """
    budget = int(a_day * days)
    ranked = np.sort(scores)[::-1]
    if len(ranked) <= budget:
        return float(ranked[-1])
    above = ranked[ranked > ranked[budget]]
    return float(above[-1]) if len(above) else float(np.nextafter(ranked[0], np.inf))


def threshold_at_precision(positive: Bools, scores: Floats, share: float) -> float:
    """The lowest score from which on at least this share of the events is positive; above all where none is such."""
    order = np.argsort(-scores, kind="stable")
    ranked: Any = scores[order]
    precision = np.cumsum(positive[order]) / np.arange(1, len(order) + 1)
    last_of_score = np.append(np.diff(ranked) != 0, True)
    enough = np.flatnonzero((precision >= share) & last_of_score)
    return float(ranked[enough[-1]]) if len(enough) else float(np.nextafter(ranked[0], np.inf))


def at_threshold(positive: Bools, scores: Floats, threshold: float, days: float) -> dict[str, float]:
    """The metrics of alerting from this score on: alerts a day, the share of them that was right, of positives found.

    The precision of no alerts is NaN.
    """
    alerted = scores >= threshold
    right = float((alerted & positive).sum())
    count = int(alerted.sum())
    precision = right / count if count else float("nan")
    return {"alerts_a_day": count / days, "alert_precision": precision, "alert_recall": right / positive.sum()}
