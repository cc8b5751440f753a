"""From a stream's events and their labels to a tested, registered model of them, in memory but for the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.event_model import (
    SCORERS,
    EventManifest,
    EventModelColumns,
    EventScorer,
    filled,
    golden_scores,
    kind_of,
    save_event_model,
    views_of,
)
from training.data import DAY_MS, EventSplit, EventTrainingSettings, LabelledEvents, SampleSummary
from training.event_model.gate import MODEL, EventJudge, differences
from training.event_model.metrics import EventModelResult
from training.event_model.record import files_of
from training.event_model.training import EventTraining, SplitExamples, kind_for
from training.judging import Registration
from training.progress import Stage
from training.registry import ModelRegistry, Version

_REPORTED = ("promoted", "reason", "judged", "tested", "rows", "differences", "examples", "threshold")


@dataclass(frozen=True)
class TrainedEvents:
    """The outcome of a training of an event model."""

    version: Version
    promoted: bool
    reason: str
    judged: bool
    """False where there was not enough to judge by."""
    tested: Mapping[str, int]
    """The events of the test, and the positives among them."""
    split: EventSplit
    rows: list[dict[str, Any]]
    differences: Mapping[str, Mapping[str, float]]
    examples: Mapping[str, int]
    threshold: float | None
    alerts: Mapping[str, float]
    sample: SampleSummary | None = None
    """The sample of the events that it was trained and tested on; None for all of them."""

    def report(self) -> dict[str, Any]:
        """The JSON that --json prints."""
        report = {name: getattr(self, name) for name in _REPORTED}
        report["alerts"] = {name: None if np.isnan(value) else value for name, value in self.alerts.items()}
        report["sample"] = None if self.sample is None else self.sample.report()
        baseline = {"baseline": self.rows[0]["model"], "split": vars(self.split)}
        return {"model": self.version.name, "version": self.version.version, **report, **baseline}


def train_events(training: EventTraining, registration: Registration) -> TrainedEvents:
    """A newly trained version stands in the registry, and is the champion when the gate lets it.

    Raises UsageError for a part that cannot be learned from or tested on; then nothing is registered.
    """
    examples = training.split_examples()
    judge = EventJudge.of_split(training, examples)
    training.log(Stage("ranker", f"a model from {examples.learned.counts_text}"))
    manifest = event_manifest(judge, examples, registration.now_ms)
    fitted = fit(examples.learned, training.columns, training.settings)
    model = scorer_of(training.columns)(manifest, fitted)
    return evaluate_and_register(model, examples, judge, registration)


def fit(examples: LabelledEvents, columns: EventModelColumns, settings: EventTrainingSettings) -> Any:
    """A model of the examples, of the kind that the definition has."""
    return kind_for(columns.model).fitted(examples, columns, settings)


def scorer_of(columns: EventModelColumns) -> type[EventScorer]:
    """The class of the definition's loaded models."""
    return SCORERS[kind_of(columns.model)]


def evaluate_and_register(
    model: EventScorer, examples: SplitExamples, judge: EventJudge, registration: Registration
) -> TrainedEvents:
    """The model is tested, registered (trusted where a user brought it), judged, and champion where the gate lets it.

    Raises ArtefactError for one that does not answer; then nothing is registered.
    """
    registry, log = registration.registry, registration.log
    log(Stage("test", "testing it beside the champion"))
    model = calibrated(judge, model)
    rows = judge.rows(model, judge.champion(registry))
    verdict = registration.with_parity(judge.verdict(model, rows), judge.settings.parity)
    model, alerts = with_threshold(judge, model, rows)
    log(Stage("registering", "registering"))
    sampled = {} if examples.sample is None else {"sample": json.dumps(examples.sample.report())}
    files = files_of(judge, model, rows)
    version = registered(registry, model, judge.settings, {**registration.tags, **sampled}, files)
    version = registration.promote_or_challenge(registry.trust(version) if model.own else version, verdict)
    positive = int(examples.learned.positive.sum() + examples.test.positive.sum())
    return TrainedEvents(
        version=version,
        promoted=verdict.promoted,
        reason=verdict.reason,
        judged=verdict.judged,
        tested={"events": len(examples.test), "positives": int(examples.test.positive.sum())},
        split=examples.split,
        rows=[row.row for row in rows],
        differences=differences(rows),
        examples={"learned": len(examples.learned), "tested": len(examples.test), "positive": positive},
        threshold=model.manifest.threshold,
        alerts=alerts,
        sample=examples.sample,
    )


def calibrated(judge: EventJudge, model: EventScorer) -> EventScorer:
    """The model with the threshold that what was learned from sets; as it is where the test sets it.

    Raises ArtefactError for a model that does not answer.
    """
    if not judge.kind.calibrates_on_learned or judge.learned is None:
        return model
    learned = judge.learned
    scores = replace(judge, test=learned).scores(model)
    threshold = judge.kind.threshold(learned, scores, judge.settings.train_ms / DAY_MS)
    return replace(model, manifest=model.manifest.model_copy(update={"threshold": threshold}))


def with_threshold(
    judge: EventJudge, model: EventScorer, rows: Sequence[EventModelResult]
) -> tuple[EventScorer, dict[str, float]]:
    """The model as it is registered: with its threshold, metrics and golden scores; and the alerts it would send."""
    scores, days = judge.scores(model), judge.settings.test_ms / DAY_MS
    is_set = judge.kind.calibrates_on_learned
    threshold = model.manifest.threshold if is_set else judge.kind.threshold(judge.test, scores, days)
    alerts = dict(judge.kind.alerts(judge.test, scores, threshold, days))
    metrics = {**metrics_of(rows), **{name: value for name, value in alerts.items() if not np.isnan(value)}}
    tested = {"threshold": threshold, "metrics": metrics, "golden": golden_scores(model)}
    return replace(model, manifest=model.manifest.model_copy(update=tested)), alerts


def registered(
    registry: ModelRegistry,
    model: EventScorer,
    settings: EventTrainingSettings,
    tags: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Version:
    """A new version of the model that it is named after; without a verdict, so that it does not serve.

    Args:
        tags: besides that of its stream.
        files: its record.
    """
    tags = {"stream": model.manifest.stream, **(tags or {})}
    return registry.keep(
        model.manifest, lambda folder: save_event_model(model, folder), settings.model_dump(), tags, files
    )


def event_manifest(judge: EventJudge, examples: SplitExamples, now_ms: int) -> EventManifest:
    """The manifest of a model that was not tested yet: it alerts on nothing."""
    columns = judge.columns
    return EventManifest(
        kind=kind_of(columns.model),
        name=columns.model.name,
        created_ms=now_ms,
        as_of_ms=examples.split.end,
        stream=columns.model.stream.name,
        inputs=columns.model.input_names,
        typical=tuple(np.median(filled(columns.inputs(examples.learned.matrix)), axis=0).tolist()),
        views=views_of(columns),
        threshold=1.0,
        settings=judge.settings.model_dump(mode="json"),
    )


def metrics_of(rows: Sequence[EventModelResult]) -> dict[str, float]:
    """The model's metrics under their own names, the others' with their name before them."""
    return {
        name if row.model == MODEL else f"{row.model}_{name}": value
        for row in rows
        for name, value in row.metrics.items()
        if not np.isnan(value)
    }
