"""incidents: alerts about readings beside labelled windows, by the Numenta Anomaly Benchmark's windows and probation.

A series' first 15 % (750 readings at most) are to get to know it: nobody is tested on them. An incident is a run of
labelled readings. Flagged readings that follow one another within the model's quiet time are one alert, at the first of
them; an incident is found by an alert within its window, and an alert outside any window is false. Lavin, Ahmad,
"Evaluating Real-time Anomaly Detection Algorithms", 2015. https://github.com/numenta/NAB
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS, Anomaly
from features.errors import UsageError
from features.events import integers
from models.event_model import EventModelColumns, Events
from training.data import LabelledEvents, examples_between
from training.event_model import kind_for
from training.judging import drawn_weights, interval_of
from training.progress import Log, silent

PROTOCOL = "incidents"

PROBATION, MOST_PROBATION = 0.15, 750
"""The share of a series' readings that nobody is tested on, and the most of them."""

WEEK_MS = 7.0 * UNITS_MS["d"]

SIGMAS = 3.0

CONTAMINATION = 0.001
"""The share of the readings that it was fitted to which the isolation forest flags."""

SIGMA_BAND, FOREST, FOREST_OF_ALL = "three_sigma_band", "isolation_forest", "isolation_forest_of_all"


@dataclass(frozen=True)
class Series:
    """n readings of one series in the order of time (ms): values, and whether each is in a labelled window."""

    name: str
    time: Int64s
    value: Floats
    labelled: Bools

    @property
    def first(self) -> int:
        """The number of the first reading that is tested on."""
        return min(int(PROBATION * len(self.time)), MOST_PROBATION)

    @property
    def weeks(self) -> float:
        """The length of what is tested on."""
        return float(self.time[-1] - self.time[self.first]) / WEEK_MS

    @property
    def windows(self) -> Int64s:
        """(incidents, 2) the times of the first and the last reading of each window that the test reaches."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.labelled.astype(np.int8), [0]]))).reshape(-1, 2)
        edges = edges[edges[:, 1] > self.first]
        return np.stack([self.time[edges[:, 0]], self.time[edges[:, 1] - 1]], axis=1)

    def alerts(self, flagged: Bools, quiet_ms: int) -> Int64s:
        """The times of the alerts of what is tested on.

        Args:
            flagged: (n,) of all readings.
            quiet_ms: flagged readings that follow one another within this are of one alert.
        """
        times = self.time[self.first :][flagged[self.first :]]
        return times[np.diff(times, prepend=times[:1] - quiet_ms - 1) > quiet_ms]


@dataclass(frozen=True)
class IncidentCounts:
    """Counts of one series: incidents, those of them that were found, false alerts."""

    incidents: int
    found: int
    false: int
    weeks: float


def found(series: Series, flagged: Bools, quiet_ms: int) -> IncidentCounts:
    """The incidents of the series that alerts on the flagged readings find, and the alerts outside any."""
    windows, alerts = series.windows, series.alerts(flagged, quiet_ms)
    within = (alerts[:, None] >= windows[:, 0]) & (alerts[:, None] <= windows[:, 1])
    return IncidentCounts(len(windows), int(within.any(axis=0).sum()), int((~within.any(axis=1)).sum()), series.weeks)


def row(model: str, counts: Sequence[IncidentCounts], seed: int = 0) -> dict[str, Any]:
    """The metrics over all series; F1 with its 95 % interval in draws of as many series."""
    table = np.array([[each.incidents, each.found, each.false, each.weeks] for each in counts])
    totals = np.concatenate([drawn @ table for drawn in drawn_weights(len(table), seed)])
    incidents, right, false, weeks = table.sum(axis=0)
    f1 = float(_f1(incidents, right, false))
    interval = interval_of(f1, _f1(*totals.T[:3]))
    return {
        "model": model,
        "f1": f1,
        "f1_low": interval.low,
        "f1_high": interval.high,
        "precision": float(right / (right + false)) if right + false else 0.0,
        "recall": float(right / incidents) if incidents else 0.0,
        "incidents": int(incidents),
        "found": int(right),
        "false_alerts": int(false),
        "false_alerts_a_week": float(false / weeks),
        "most_false_alerts_a_week": float(max(each.false / each.weeks for each in counts)),
    }


def _f1(incidents: Any, right: Any, false: Any) -> Any:
    """The harmonic mean of precision and recall; 0 without incidents and alerts."""
    return 2 * right / np.maximum(incidents + right + false, 1)


def three_sigma_band(series: Series) -> Bools:
    """(n,) readings outside the mean ± 3 standard deviations of the series' first ones."""
    known = series.value[: max(series.first, 1)]
    flagged: Bools = np.abs(series.value - known.mean()) > SIGMAS * known.std()
    return flagged


def isolation_forest(series: Series) -> Bools:
    """(n,) readings whose value an isolation forest of the series' first ones finds unusual."""
    return _forest_of(series, max(series.first, 1))


def isolation_forest_of_all(series: Series) -> Bools:
    """(n,) the same of all its readings, those to come included, which nobody has in time."""
    return _forest_of(series, len(series.value))


def _forest_of(series: Series, count: int) -> Bools:
    from sklearn.ensemble import IsolationForest  # type: ignore[import-untyped]

    known = series.value[:count, None]
    forest = IsolationForest(contamination=CONTAMINATION, random_state=0, n_jobs=1).fit(known)
    flagged: Bools = forest.predict(series.value[:, None]) < 0
    return flagged


BASELINES: Mapping[str, Callable[[Series], Bools]] = {
    SIGMA_BAND: three_sigma_band,
    FOREST: isolation_forest,
    FOREST_OF_ALL: isolation_forest_of_all,
}
"""Name → what flags the readings of a series by its values alone."""


def series_of(sensor: NDArray[Any], time: Int64s, value: Floats, labelled: Bools) -> list[tuple[Series, Int64s]]:
    """Each series, in the order of their names, and where its readings are; those without a value are left out.

    Raises UsageError without a series that has something to be tested on.
    """
    parts = []
    for name in np.unique(sensor):
        rows = np.flatnonzero((sensor == name) & np.isfinite(value))
        rows = rows[np.argsort(time[rows], kind="stable")]
        one = Series(str(name), time[rows], value[rows], labelled[rows])
        if len(rows) > 1 and one.weeks > 0:
            parts.append((one, rows))
    if not parts:
        raise UsageError("the readings", "a series of two readings or more", "none")
    return parts


def run(events: Events, columns: EventModelColumns, trained: Events | None, log: Log = silent) -> Mapping[str, Any]:
    """The protocol's report: a row for each baseline, and one for the model.

    The model learns from the first readings of all series, which nobody is tested on, or from those of another file;
    labels it never sees.

    Args:
        events: of the file that is tested on.
        trained: of the file that is learned from, where it is another.
    """
    model, kind = columns.model, kind_for(columns.model)
    if not isinstance(model, Anomaly):
        raise UsageError("headrace evaluate incidents", "an Anomaly of the definitions", type(model).__name__)
    settings, quiet_ms = kind.settings.model_validate({}), model.alert.quiet_ms
    log("what was known just before each reading")
    every, values, names = _examples(events, columns)
    parts = series_of(names, every.time, values, every.positive)
    tested = np.zeros(len(every), dtype=bool)
    for series, rows in parts:
        tested[rows[series.first :]] = True
    learned = kind.require(every.where(~tested) if trained is None else _examples(trained, columns)[0])
    log(f"fitting {model.name} to {len(learned):,} readings")
    began = perf_counter()
    fitted = kind.fitted(learned, columns, settings)
    fit_s = perf_counter() - began
    scores, known = (fitted.scores(columns.inputs(part.matrix)) for part in (every, learned))
    level = kind.threshold(learned, known, 0.0)
    flagged = scores >= (np.inf if level is None else level)
    table = list[dict[str, Any]]()
    for name, flags in BASELINES.items():
        log(f"{name} of {len(parts)} series")
        table.append({**row(name, [found(series, flags(series), quiet_ms) for series, _ in parts]), "fit_s": 0.0})
    ours = row(model.name, [found(series, flagged[places], quiet_ms) for series, places in parts])
    table.append({**ours, "fit_s": round(fit_s, 3)})
    best = max(baseline["f1"] for baseline in table[:-1])
    about = {"protocol": PROTOCOL, "baseline": SIGMA_BAND, "metric": "f1", "threshold": level}
    counts = {"series": len(parts), "readings": {"train": len(learned), "test": int(tested.sum())}}
    return {**about, **counts, "f1_to_best_baseline": ours["f1"] / best if best else None, "rows": table}


def _examples(events: Events, columns: EventModelColumns) -> tuple[LabelledEvents, Floats, NDArray[Any]]:
    """The examples of all readings, their values, and the names of their series."""
    model = columns.model
    stream = events[model.stream.name]
    time = integers(stream["known_at"])
    examples = examples_between(events, columns, int(time.min()), int(time.max()) + 1)
    values = columns.by_name(examples.matrix)[model.input_names[0]]
    return examples, values, np.asarray(stream[model.group].fill_null("").to_pylist(), dtype=object)
