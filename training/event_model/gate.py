"""The gate of event models: one may serve that answers in time, and is surely better than simple ones of its kind."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.arrays import Floats
from features.errors import ArtefactError
from models.event_model import EventModelColumns, EventScorer, load_event_model, made_up_texts, try_out
from models.golden import made_up
from models.tags import trusted
from training.data import EventTrainingSettings, LabelledEvents
from training.event_model.kinds import EventKind
from training.event_model.metrics import EventModelResult, advantage, difference
from training.event_model.training import EventTraining, SplitExamples, kind_for
from training.evidence import Evidence, not_enough
from training.judging import GateVerdict, interval_text, least_ms, same_for_all
from training.registry import ModelRegistry, Version

MODEL, CHAMPION = "model", "champion"
"""The names of the rows of the judged model, and of the one that serves now."""

BATCH = 500
"""Events that are scored at once to measure how long it takes."""


def differences(rows: Sequence[EventModelResult]) -> dict[str, dict[str, float]]:
    """By the name of each other row, the interval of the model's metric less that one's."""
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
    learned: LabelledEvents | None = None
    """What baselines are made of, where a kind compares with it."""

    @classmethod
    def of(cls, training: EventTraining) -> EventJudge:
        """The test of the training. Raises UsageError where it cannot be tested on."""
        if not training.kind.compares_with_learned:
            return cls(training.columns, training.test_examples(), training.settings)
        return cls.of_split(training, training.split_examples())

    @classmethod
    def of_split(cls, training: EventTraining, examples: SplitExamples) -> EventJudge:
        """The test of a training whose examples were read."""
        learned = examples.learned if training.kind.compares_with_learned else None
        return cls(training.columns, examples.test, training.settings, learned)

    @classmethod
    def of_newest(cls, training: EventTraining) -> EventJudge:
        """The training's newest events, for questions that wait for no label."""
        return cls(training.columns, training.newest_examples(), training.settings)

    @property
    def kind(self) -> EventKind[Any]:
        """The kind of the model's definition."""
        return kind_for(self.columns.model)

    def scores(self, model: EventScorer) -> Floats:
        """(n,) the scores of the test's events. Raises ArtefactError for a failing model or a wrong score."""
        where = f"model '{model.manifest.name}'"
        try:
            scores = model.scores(self.columns.inputs(self.test.matrix), self.test.texts)
        except Exception as error:  # a model may fail in any way at all
            raise ArtefactError(where, "scores of the test", f"{type(error).__name__}: {error}") from error
        wrong = np.flatnonzero(~model.allowed(scores))
        if len(wrong):
            got = f"{scores[wrong[0]]} of {len(wrong):,} of {len(scores):,} events"
            raise ArtefactError(where, f"scores {model.MAY_BE}", got)
        return scores

    def judged(self, name: str, scores: Floats, threshold: float | None = None) -> EventModelResult:
        """The metrics of the scores on the test and of the threshold; the one that counts with its interval."""
        return self.kind.judged(name, scores, self.test, self.settings, threshold)

    def judged_model(self, name: str, model: EventScorer) -> EventModelResult:
        """The metrics of the model. Raises ArtefactError as ``scores``."""
        inputs = self.columns.inputs(self.test.matrix)
        answers = self.kind.answers(model, inputs, self.test, self.scores(model))
        return self.judged(name, answers, model.manifest.threshold)

    def rows(self, model: EventScorer, champion: EventScorer | None) -> list[EventModelResult]:
        """The baselines, the model, and the champion where there is one. Raises ArtefactError as ``scores``."""
        baselines = self.kind.baselines(self.columns, self.test, self.learned)
        rows = [self.judged(name, scores, threshold) for name, scores, threshold in baselines]
        rows.append(self.judged_model(MODEL, model))
        return rows if champion is None else [*rows, self.judged_model(CHAMPION, champion)]

    def fault_of(self, model: EventScorer) -> str | None:
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

    def champion(self, registry: ModelRegistry, but: str | None = None) -> EventScorer | None:
        """The champion, unless it is this version; None where it must not serve, or cannot."""
        version = registry.find(self.columns.model.name)
        if version is None or version.version == but or version.refusal is not None:
            return None
        try:
            model = self.fetched(registry, version)
        except ArtefactError:
            return None
        return model if self.fault_of(model) is None else None

    def fetched(self, registry: ModelRegistry, version: Version) -> EventScorer:
        """The version's model, whole. Raises ArtefactError."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = registry.download(version, Path(scratch))
            return load_event_model(folder, version.digest, trusted=trusted(version.tags))

    def verdict(self, model: EventScorer, rows: Sequence[EventModelResult]) -> GateVerdict:
        """The gate's, over these rows; refused for a fault of the model."""
        fault = self.fault_of(model)
        return self._gated(rows) if fault is None else GateVerdict(False, fault)

    def _gated(self, rows: Sequence[EventModelResult]) -> GateVerdict:
        lacking = not_enough(self.evidence)
        if lacking is not None:
            return GateVerdict(False, lacking, judged=False)
        return self.kind.verdict(rows) or gate(rows, self.settings)

    @property
    def evidence(self) -> Sequence[Evidence]:
        """The sizes of the test, beside the least of each."""
        return self.kind.evidence(self.test, self.settings)

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
        rows.append(judge.judged_model(version.version, model))
    test, apart, metric = judge.test, difference(*rows), rows[0].metric.name
    return {
        "model": pair[0].name,
        "events": len(test),
        "positives": int(test.positive.sum()),
        "groups": len(np.unique(test.group)),
        "rows": [{"version": row.model, **row.metrics} for row in rows],
        "difference": {"metric": metric, **asdict(apart)},
        "not_judged": not_enough(judge.evidence),
    }


def scoring_ms(model: EventScorer) -> float:
    """The least processor time of scoring BATCH events."""
    rows = np.arange(BATCH)
    inputs, texts = made_up(rows, len(model.manifest.inputs)), made_up_texts(rows)
    return least_ms(lambda: model.scores(inputs, texts))


def gate(rows: Sequence[EventModelResult], settings: EventTrainingSettings) -> GateVerdict:
    """Let through when surely better than every baseline, and surely not worse than the champion by more than allowed.

    Surely is by the 95 % interval of the paired difference of the metric in draws of groups; allowed is
    settings.tolerance of the champion's.

    Args:
        rows: of the baselines, of MODEL, and of CHAMPION where there is one.
    """
    names = [row.model for row in rows]
    baselines, model = rows[: names.index(MODEL)], rows[names.index(MODEL)]
    champion = rows[names.index(CHAMPION)] if CHAMPION in names else None
    about = ""
    for first in sorted(baselines, key=lambda row: advantage(model, row).mean, reverse=True):
        over, text = difference(model, first), _beside(model, first)
        if not advantage(model, first).low > 0:
            return GateVerdict(False, f"{text.format('not surely ')}: {interval_text(over)}")
        if over.is_point:
            return same_for_all("draw of groups", over)
        about = text.format("")
    if champion is None:
        return GateVerdict(True, f"{about}; there is no champion yet")
    return _beside_champion(model, champion, about, settings)


def _beside(model: EventModelResult, first: EventModelResult) -> str:
    """How the model stands beside a baseline, with {} for 'not surely '."""
    metric, side = model.metric, "below" if model.metric.lower_is_better else "above"
    own = f"{metric.text} {model.value:.4f} is {{}}{side} {first.value:.4f}"
    return f"{own}, {metric.of_baseline.format(first.model)}"


def _beside_champion(
    model: EventModelResult, champion: EventModelResult, about: str, settings: EventTrainingSettings
) -> GateVerdict:
    beside, other, metric = difference(model, champion), champion.value, model.metric
    if beside.is_point and beside.mean:
        return same_for_all("draw of groups", beside)
    allowed = settings.tolerance * other
    if not advantage(model, champion).low >= -allowed:
        side = "above" if metric.lower_is_better else "below"
        reason = f"{metric.text} {model.value:.4f} may be {side} the champion's {other:.4f} by more than {allowed:.4f}"
        return GateVerdict(False, f"{reason}: {interval_text(beside)}")
    return GateVerdict(True, f"{about}; the champion has {other:.4f}, {interval_text(beside)}")
