"""The gate of event models: one may serve that answers in time, and is surely better than its first input alone."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.arrays import Floats
from features.errors import ArtefactError
from models.event_model import EventClassifier, EventModelColumns, filled, load_event_model, try_out
from models.golden import made_up
from models.tags import trusted
from training.data import DAY_MS, EventTrainingSettings, LabelledEvents
from training.event_model.metrics import group_precision, precision_draws, ranking_metrics
from training.event_model.training import EventTraining
from training.evidence import Evidence, not_enough
from training.judging import GateVerdict, Interval, interval_of, interval_text, least_ms, same_for_all
from training.registry import ModelRegistry, Version

TOP = 100

MODEL, CHAMPION = "model", "champion"
"""The names of the rows of the judged model, and of the one that serves now."""

BATCH = 500
"""Events that are scored at once to measure how long it takes."""


@dataclass(frozen=True)
class EventModelResult:
    """The result of one model on the test.

    Args:
        scores: (n,) of the test's events.
        draws: average precision in draws of the test's groups (see precision_draws), the same for all models.
    """

    model: str
    metrics: dict[str, float]
    scores: Floats
    draws: Floats

    @property
    def row(self) -> dict[str, Any]:
        """As a row of a report."""
        return {"model": self.model, **self.metrics}


def difference(first: EventModelResult, second: EventModelResult) -> Interval:
    """The interval of the first's average precision less the second's, draw by draw of the same groups."""
    return interval_of(first.metrics["ap"] - second.metrics["ap"], first.draws - second.draws)


def differences(rows: Sequence[EventModelResult]) -> dict[str, dict[str, float]]:
    """By the name of each other row, the interval of the model's average precision less that one's."""
    model = next(row for row in rows if row.model == MODEL)
    return {row.model: asdict(difference(model, row)) for row in rows if row is not model}


@dataclass(frozen=True)
class EventJudge:
    """The newest events whose labels are known: every version is tested on them alike.

    None has learned from them: what a training learns from ends a label's delay before its own test.
    """

    columns: EventModelColumns
    test: LabelledEvents
    settings: EventTrainingSettings

    @classmethod
    def of(cls, training: EventTraining) -> EventJudge:
        """The test of the training. Raises UsageError where it has no positives."""
        return cls(training.columns, training.test_examples(), training.settings)

    @classmethod
    def of_newest(cls, training: EventTraining) -> EventJudge:
        """The training's newest events, for questions that wait for no label."""
        return cls(training.columns, training.newest_examples(), training.settings)

    def scores(self, model: EventClassifier) -> Floats:
        """(n,) the scores of the test's events. Raises ArtefactError for a failing model, or scores beyond 0 to 1."""
        where = f"model '{model.manifest.name}'"
        try:
            scores = model.scores(self.columns.inputs(self.test.matrix))
        except Exception as error:  # a model may fail in any way at all
            raise ArtefactError(where, "scores of the test", f"{type(error).__name__}: {error}") from error
        wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
        if len(wrong):
            got = f"{scores[wrong[0]]} of {len(wrong):,} of {len(scores):,} events"
            raise ArtefactError(where, "scores from 0 to 1", got)
        return scores

    def judged(self, name: str, scores: Floats) -> EventModelResult:
        """AUC, average precision with its interval, and the precision among the groups that there is time for."""
        test = self.test
        draws = precision_draws(test.group, test.positive, scores, self.settings.seed)
        metrics = ranking_metrics(test.positive, scores)
        interval = interval_of(metrics["ap"], draws)
        metrics |= {"ap_low": interval.low, "ap_high": interval.high}
        metrics[f"group_precision_at_{TOP}"] = group_precision(
            test.time // DAY_MS, test.group, test.positive, scores, TOP
        )
        return EventModelResult(name, metrics, scores, draws)

    def rows(self, model: EventClassifier, champion: EventClassifier | None) -> list[EventModelResult]:
        """The first input alone, the model, and the champion where there is one. Raises ArtefactError as ``scores``."""
        first = filled(self.test.matrix)[:, 0]
        rows = [self.judged(self.columns.model.input_names[0], first), self.judged(MODEL, self.scores(model))]
        return rows if champion is None else [*rows, self.judged(CHAMPION, self.scores(champion))]

    def fault_of(self, model: EventClassifier) -> str | None:
        """A fault of a model by itself: its definitions, its answers, its time; None without one."""
        try:
            model.check(self.columns)
            try_out(model)
            self.scores(model)
        except ArtefactError as error:
            return str(error)
        took_ms = scoring_ms(model)
        if took_ms > self.settings.scoring_budget_ms:
            return f"scoring {BATCH} events takes {took_ms:.1f} ms; {self.settings.scoring_budget_ms:g} ms are allowed"
        return None

    def champion(self, registry: ModelRegistry, but: str | None = None) -> EventClassifier | None:
        """The champion, unless it is this version; None where it must not serve, or cannot."""
        version = registry.find(self.columns.model.name)
        if version is None or version.version == but or version.refusal is not None:
            return None
        try:
            model = self.fetched(registry, version)
        except ArtefactError:
            return None
        return model if self.fault_of(model) is None else None

    def fetched(self, registry: ModelRegistry, version: Version) -> EventClassifier:
        """The version's model, whole. Raises ArtefactError."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = registry.download(version, Path(scratch))
            return load_event_model(folder, version.digest, trusted=trusted(version.tags))

    def verdict(self, model: EventClassifier, rows: Sequence[EventModelResult]) -> GateVerdict:
        """The gate's, over these rows; refused for a fault of the model."""
        fault = self.fault_of(model)
        return self._gated(rows) if fault is None else GateVerdict(False, fault)

    def _gated(self, rows: Sequence[EventModelResult]) -> GateVerdict:
        lacking = not_enough(self.evidence)
        return gate(rows, self.settings) if lacking is None else GateVerdict(False, lacking, judged=False)

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """The events and groups of the test, positive ones and others, beside the least of each."""
        test, counts = self.test, list[Evidence]()
        for what, chosen in (("positives", test.positive), ("others", ~test.positive)):
            group = test.group[chosen]
            groups = len(np.unique(group[group >= 0])) + int((group < 0).sum())  # -1: each is a group of its own
            counts.append(Evidence(f"{what} in the test", int(chosen.sum()), self.settings.least_test_positives))
            counts.append(Evidence(f"groups with {what}", groups, self.settings.least_test_groups))
        return tuple(counts)

    def registered(self, registry: ModelRegistry, version: Version) -> GateVerdict:
        """The verdict on a registered version."""
        try:
            model = self.fetched(registry, version)
        except ArtefactError as error:
            return GateVerdict(False, str(error))
        fault = self.fault_of(model)
        if fault is not None:
            return GateVerdict(False, fault)
        return self._gated(self.rows(model, self.champion(registry, version.version)))


def compared(judge: EventJudge, registry: ModelRegistry, pair: tuple[Version, Version]) -> dict[str, Any]:
    """Both versions on the judge's test, and the difference of their average precision.

    Raises ArtefactError for a version that is damaged, of other definitions, or fails.
    """
    rows = []
    for version in pair:
        model = judge.fetched(registry, version)
        model.check(judge.columns)
        rows.append(judge.judged(version.version, judge.scores(model)))
    test, apart = judge.test, difference(*rows)
    return {
        "model": pair[0].name,
        "events": len(test),
        "positives": int(test.positive.sum()),
        "groups": len(np.unique(test.group)),
        "rows": [{"version": row.model, **row.metrics} for row in rows],
        "difference": {"metric": "ap", **asdict(apart)},
        "not_judged": not_enough(judge.evidence),
    }


def scoring_ms(model: EventClassifier) -> float:
    """The least processor time of scoring BATCH events."""
    inputs = made_up(np.arange(BATCH), len(model.manifest.inputs))
    return least_ms(lambda: model.scores(inputs))


def gate(rows: Sequence[EventModelResult], settings: EventTrainingSettings) -> GateVerdict:
    """Let through when surely above its first input alone, and surely not below the champion by more than allowed.

    Surely is by the 95 % interval of the paired difference of average precision in draws of groups; allowed is
    settings.tolerance of the champion's.
    """
    by_name = {row.model: row for row in rows[1:]}
    first, model, champion = rows[0], by_name[MODEL], by_name.get(CHAMPION)
    over, precision = difference(model, first), model.metrics["ap"]
    about = f"average precision {precision:.4f} is {{}}above {first.metrics['ap']:.4f}, that of {first.model} alone"
    if not over.low > 0:
        return GateVerdict(False, f"{about.format('not surely ')}: {interval_text(over)}")
    if over.is_point:
        return same_for_all("draw of groups", over)
    if champion is None:
        return GateVerdict(True, f"{about.format('')}; there is no champion yet")
    beside, other = difference(model, champion), champion.metrics["ap"]
    if beside.is_point and beside.mean:
        return same_for_all("draw of groups", beside)
    allowed = settings.tolerance * other
    if not beside.low >= -allowed:
        reason = f"average precision {precision:.4f} may be below the champion's {other:.4f} by more than {allowed:.4f}"
        return GateVerdict(False, f"{reason}: {interval_text(beside)}")
    return GateVerdict(True, f"{about.format('')}; the champion has {other:.4f}, {interval_text(beside)}")
