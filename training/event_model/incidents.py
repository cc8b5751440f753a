"""Anomaly models: fitted to how far events are from habits, judged by alerts a week and, with labels, by incidents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS, Anomaly, FalseAlerts
from models.event_model import EventModelColumns, FittedHabit, FittedHabits, RarityCurve
from training.data import AnomalyTrainingSettings, EventTrainingSettings, LabelledEvents, unusable
from training.event_model.kinds import EventKind
from training.event_model.metrics import EventModelResult, JudgedMetric, clusters_of
from training.evidence import Evidence
from training.judging import GateVerdict, drawn_weights, interval_of, interval_text, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WEEK_MS = 7 * UNITS_MS["d"]

F1 = JudgedMetric("f1", "F1 over incidents", "that of {}")
RATE = JudgedMetric("alerts_a_week", "alerts a week and group", "that of {}", lower_is_better=True)

THREE_SIGMA, FOREST = "three_sigma", "isolation_forest"

POINTS = 256
"""The most points of a curve."""

TAIL, LEAST_TAIL = 0.005, 10
"""The share of the distances, and the least number of them, that the power law is fitted to."""

MOST_EXPONENT = 10.0

MORE = 2.0
"""An alert of the newest events may be a true one, so that there may be so many times the stated rate of false ones."""

NEAREST = 1e-3
"""The least distance between two points of a curve, in widths of the habit: it bounds how steep the curve is."""


@dataclass(frozen=True)
class AlertCounts:
    """The alerts and incidents of each cluster of events, (clusters,) each.

    Args:
        alerts: alerts, one a quiet time, of events in no incident; of all events without labels.
        found, missed: incidents with an alert, and without.
        weeks: from the first to the last event.
    """

    alerts: Floats
    found: Floats
    missed: Floats
    weeks: Floats

    def drawn(self, weights: Floats) -> AlertCounts:
        """The sums over clusters that are drawn so many times: (draws,) each for (draws, clusters)."""
        return AlertCounts(weights @ self.alerts, weights @ self.found, weights @ self.missed, weights @ self.weeks)


class AnomalyKind(EventKind[Anomaly]):
    """The training and the judgement of an anomaly model (see EventKind)."""

    settings = AnomalyTrainingSettings
    label = "in_incident"
    calibrates_on_learned = True

    def require(self, part: LabelledEvents) -> LabelledEvents:
        """See EventKind: events of several times."""
        if len(np.unique(part.time)) < 2:  # noqa: PLR2004  # two times make a length of time
            raise unusable("events of several times", f"{len(part)} events")
        return part

    def fitted(self, examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
        """See EventKind."""
        names, inputs = columns.model.input_names, columns.inputs(examples.matrix)
        place = {name: column for column, name in enumerate(names)}
        least = tuple((place[name], float(number)) for name, number in self._model.checked_least.items())
        empty = RarityCurve(distances=(0.0,), rarities=(0.0,), exponent=0.0)
        habits = []
        for habit in self._model.habits:
            ends = {part: None if (name := getattr(habit, part)) is None else place[name] for part in _PARTS}
            habits.append(FittedHabit(of=place[habit.of or self._model.value], curve=empty, **ends))
        unfitted = FittedHabits(inputs=len(names), habits=tuple(habits), least=least)
        judged = inputs[unfitted.judged(inputs)]
        curves = [curve_of(habit.distances(judged)) for habit in habits]
        done = [habit.model_copy(update={"curve": curve}) for habit, curve in zip(habits, curves, strict=True)]
        return unfitted.model_copy(update={"habits": tuple(done)})

    def baselines(
        self, columns: EventModelColumns, test: LabelledEvents, learned: LabelledEvents | None
    ) -> Sequence[tuple[str, Floats, float | None]]:
        """See EventKind: a fixed band of three standard deviations by group, and a forest on the value alone."""
        if learned is None:
            return []
        values = (columns.inputs(part.matrix)[:, 0] for part in (learned, test))
        before, now = (np.nan_to_num(part, nan=0.0) for part in values)
        deviations = _deviations(before, learned.group, now, test.group)
        return [(THREE_SIGMA, deviations, 3.0), (FOREST, _forest(before, now), np.nextafter(0.0, 1.0))]

    def judged(
        self,
        name: str,
        scores: Floats,
        test: LabelledEvents,
        settings: EventTrainingSettings,
        threshold: float | None = None,
    ) -> EventModelResult:
        """See EventKind: alerts a week; with labels F1 over incidents with its interval, precision and recall."""
        counts = counts_of(test, scores >= (np.inf if threshold is None else threshold), self._model.alert.quiet_ms)
        drawn = list(drawn_weights(len(counts.weeks), settings.seed))
        is_labelled = bool(test.positive.any())
        measured, metric = (_f1, F1) if is_labelled else (_rate, RATE)
        draws = np.concatenate([measured(counts.drawn(weights)) for weights in drawn])
        total = counts.drawn(np.ones((1, len(counts.weeks))))
        value = float(measured(total)[0])
        interval = interval_of(value, draws)
        metrics = {metric.name: value, f"{metric.name}_low": interval.low, f"{metric.name}_high": interval.high}
        if is_labelled:
            found, alerts, missed = (float(part[0]) for part in (total.found, total.alerts, total.missed))
            metrics |= {"precision": found / max(found + alerts, 1.0), "recall": found / max(found + missed, 1.0)}
            metrics[RATE.name] = float(_rate(total)[0])
        return EventModelResult(name, metrics, scores, draws, metric)

    def verdict(self, rows: Sequence[EventModelResult]) -> GateVerdict | None:
        """See EventKind: without labels one may serve that does not surely alert MORE times as often as is stated."""
        row = next(row for row in rows if row.model == "model")
        if row.metric is not RATE:
            return None
        allowed, interval = self._model.alert.a_week, interval_of(row.value, row.draws)
        about = f"{row.value:.3f} alerts a week and group where {allowed:g} are stated, without labels to judge by"
        if interval.low > MORE * allowed:
            return GateVerdict(False, f"{about}: {interval_text(interval).replace('difference', 'rate')}")
        return GateVerdict(True, about)

    def evidence(self, test: LabelledEvents, settings: EventTrainingSettings) -> Sequence[Evidence]:
        """See EventKind: the events of the test; with labels the incidents too."""
        found = [Evidence("events in the test", len(test), settings.least_test_positives)]
        if test.positive.any():
            counts = counts_of(test, np.zeros(len(test), dtype=bool), self._model.alert.quiet_ms)
            found.append(Evidence("incidents in the test", int(counts.missed.sum()), settings.least_test_groups))
        return found

    def threshold(self, test: LabelledEvents, scores: Floats, days: float) -> float | None:
        """See EventKind: by the rate of alerts on what was learned from."""
        return threshold_of_rate(test, scores, self._model.alert)

    def alerts(self, test: LabelledEvents, scores: Floats, threshold: float | None, days: float) -> Mapping[str, float]:
        """See EventKind: alerts a day, one a quiet time of a group."""
        if threshold is None:
            return {}
        started = firsts_of(test, scores >= threshold, self._model.alert.quiet_ms)
        return {"alerts_a_day": float(len(started)) / days}

    def loss(self, scores: Floats, labels: Any) -> float:
        """See EventKind: the mean score, as events with a shuffled input look unusual."""
        return float(np.mean(scores))

    def pictures(self, rows: Sequence[EventModelResult], test: LabelledEvents, scores: Floats) -> dict[str, bytes]:
        """See EventKind."""
        return {"scores.png": png(lambda axes: _ranked(axes, scores))}


_PARTS = ("low", "high", "middle", "spread")


def curve_of(distances: Floats) -> RarityCurve:
    """The curve of these distances; NaN among them are left out."""
    known = np.sort(distances[np.isfinite(distances)])
    count, apart = len(known), int((known > NEAREST).sum())
    if apart == 0:  # whatever is farther is rarer than one of them all
        return RarityCurve(distances=(0.0, NEAREST), rarities=(0.0, float(np.log10(count + 1))), exponent=1.0)
    tail = min(max(LEAST_TAIL, int(TAIL * count)), max(apart // 2, 1))
    counts = np.unique(np.geomspace(tail, count, POINTS).astype(np.int64))[::-1]
    at = known[count - counts]
    reached = count - np.searchsorted(known, at, side="left")
    rarity = -np.log10((reached + 1) / (count + 1))
    points = [(0.0, 0.0)]
    for distance, value in zip(at.tolist(), rarity.tolist(), strict=True):
        if distance >= points[-1][0] + NEAREST and value > points[-1][1]:
            points.append((distance, value))
    last, top = points[-1][0], known[count - tail :]
    exponent = 1.0
    if tail >= LEAST_TAIL and last > 0:
        exponent = min(MOST_EXPONENT, 1 / max(float(np.mean(np.log(np.maximum(top, last) / last))), 1 / MOST_EXPONENT))
    return RarityCurve(
        distances=tuple(distance for distance, _ in points),
        rarities=tuple(value for _, value in points),
        exponent=exponent,
    )


def firsts_of(part: LabelledEvents, alerting: Bools, quiet_ms: int) -> Int64s:
    """The places of the events that begin an alert: the first of a group, and the next after each quiet time."""
    order, key = _ordered(part, quiet_ms)
    return order[_firsts(key, alerting[order], quiet_ms)]


def _firsts(key: Int64s, alerting: Bools, quiet_ms: int) -> Int64s:
    """The places of those that begin an alert, among events by their keys (see ``_ordered``)."""
    rows = np.flatnonzero(alerting)
    keys = key[rows]
    following = np.searchsorted(keys, keys + quiet_ms)
    firsts, at = list[int](), 0
    while at < len(rows):
        firsts.append(int(rows[at]))
        at = int(following[at])
    return np.array(firsts, dtype=np.int64)


def counts_of(part: LabelledEvents, alerting: Bools, quiet_ms: int) -> AlertCounts:
    """The alerts, incidents and weeks of each group."""
    cluster = clusters_of(part.group)
    size = int(cluster.max(initial=-1)) + 1
    order, _ = _ordered(part, quiet_ms)
    own, positive, told = cluster[order], part.positive[order], alerting[order]
    begins = positive & ~(np.r_[False, positive[:-1]] & np.r_[False, own[1:] == own[:-1]])
    number = np.cumsum(begins) - 1
    told_of = np.bincount(number[positive], weights=told[positive], minlength=int(begins.sum())) > 0
    home = own[begins]
    false = firsts_of(part, alerting & ~part.positive, quiet_ms)
    latest = np.full(size, -np.inf)
    earliest = np.full(size, np.inf)
    np.maximum.at(latest, cluster, part.time)
    np.minimum.at(earliest, cluster, part.time)
    return AlertCounts(
        alerts=np.bincount(cluster[false], minlength=size).astype(np.float64),
        found=np.bincount(home[told_of], minlength=size).astype(np.float64),
        missed=np.bincount(home[~told_of], minlength=size).astype(np.float64),
        weeks=(latest - earliest) / WEEK_MS,
    )


def threshold_of_rate(part: LabelledEvents, scores: Floats, alert: FalseAlerts) -> float:
    """The lowest score with at most so many alerts a week and group; above all of them where none is such."""
    weeks = counts_of(part, np.zeros(len(part), dtype=bool), alert.quiet_ms).weeks.sum()
    order, key = _ordered(part, alert.quiet_ms)
    levels, ordered = np.unique(scores[scores > 0])[::-1], scores[order]
    low, high, found = 0, len(levels) - 1, float(np.nextafter(scores.max(initial=0.0), np.inf))
    while low <= high:
        middle = (low + high) // 2
        if len(_firsts(key, ordered >= levels[middle], alert.quiet_ms)) <= alert.a_week * weeks:
            found, low = float(levels[middle]), middle + 1
        else:
            high = middle - 1
    return found


def _ordered(part: LabelledEvents, quiet_ms: int) -> tuple[Int64s, Int64s]:
    """The events' places by group and time; and their times, those of two groups more than a quiet time apart."""
    cluster = clusters_of(part.group)
    since = part.time - part.time.min()
    key = cluster * (since.max(initial=0) + quiet_ms + 1) + since
    order = np.argsort(key, kind="stable")
    return order, key[order]


def _f1(counts: AlertCounts) -> Floats:
    """The F1 over incidents: each counts once, and each alert in none is a false one; NaN without either."""
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * counts.found / (2 * counts.found + counts.missed + counts.alerts))


def _rate(counts: AlertCounts) -> Floats:
    """Alerts a week and group."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts.alerts / counts.weeks)


def _deviations(before: Floats, group_before: Int64s, now: Floats, group: Int64s) -> Floats:
    """How many standard deviations each value is from the mean of its group before; of all of a group that is new."""
    groups, place = np.unique(group_before, return_inverse=True)
    count = np.bincount(place)
    mean = np.bincount(place, weights=before) / count
    spread = np.sqrt(np.maximum(np.bincount(place, weights=(before - mean[place]) ** 2) / count, 0.0))
    at = np.minimum(np.searchsorted(groups, group), len(groups) - 1)
    is_known = groups[at] == group
    middle, width = np.where(is_known, mean[at], before.mean()), np.where(is_known, spread[at], before.std())
    return np.asarray(np.abs(now - middle) / np.maximum(width, 1e-12))


def _forest(before: Floats, now: Floats) -> Floats:
    """scikit-learn's isolation forest on the value alone: above 0 is an outlier."""
    from sklearn.ensemble import IsolationForest  # type: ignore[import-untyped]

    forest = IsolationForest(random_state=0).fit(before[:, np.newaxis])
    return np.asarray(-forest.decision_function(now[:, np.newaxis]), dtype=np.float64)


def _ranked(axes: Axes, scores: Floats) -> None:
    ranked = np.sort(scores)[::-1]
    axes.plot(np.arange(1, len(ranked) + 1), ranked)
    axes.set(xscale="log", xlabel="events of the test, the most unusual first", ylabel="score")
