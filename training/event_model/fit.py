"""From a stream's events and their labels to a tested, registered model of them, in memory but for the registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.arrays import Floats
from features.definitions import EventModel, TopADay
from models.event_model import (
    EventClassifier,
    EventColumnsOfModel,
    EventManifest,
    filled,
    golden_scores,
    save_event_model,
    views_of,
)
from training.data import (
    DAY_MS,
    EventTrainingSettings,
    Examples,
    Parts,
    Sample,
    Source,
    examples_between,
    parts_of,
    with_both,
)
from training.event_model.gate import MODEL, EventJudge, Judged, differences, gate
from training.event_model.metrics import at_threshold, threshold_at_precision, threshold_of_top
from training.event_model.record import files_of
from training.judging import Ask, Verdict, asked_parity, settle
from training.progress import Say, Stage
from training.registry import Registry, Version

_TOLD = ("promoted", "reason", "rows", "differences", "examples", "threshold")


@dataclass(frozen=True)
class TrainedEvents:
    """What a training came to."""

    version: Version
    promoted: bool
    reason: str
    parts: Parts
    rows: list[dict[str, Any]]
    differences: Mapping[str, Mapping[str, float]]
    examples: Mapping[str, int]
    threshold: float
    alerts: Mapping[str, float]
    sample: Sample | None = None
    """What of the events it was trained and tested on; None for all of them."""

    def report(self) -> dict[str, Any]:
        """The JSON that --json prints."""
        told = {name: getattr(self, name) for name in _TOLD}
        told["alerts"] = {name: None if np.isnan(value) else value for name, value in self.alerts.items()}
        told["sample"] = None if self.sample is None else self.sample.report()
        baseline = {"baseline": self.rows[0]["model"], "split": vars(self.parts)}
        return {"model": self.version.name, "version": self.version.version, **told, **baseline}


def fit(examples: Examples, asked: EventColumnsOfModel, settings: EventTrainingSettings) -> Any:
    """A classifier of the examples."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    made = HistGradientBoostingClassifier(
        max_iter=settings.iterations,
        learning_rate=settings.learning_rate,
        early_stopping=False,
        random_state=settings.seed,
    )
    with threadpool_limits(limits=1, user_api="openmp"):
        return made.fit(filled(asked.inputs(examples.matrix)), examples.positive)


def threshold_of(model: EventModel, test: Examples, scores: Floats, days: float) -> float:
    """Where the model alerts, by its definition and the test."""
    if isinstance(model.alert, TopADay):
        return threshold_of_top(scores, days, model.alert.count)
    return threshold_at_precision(test.positive, scores, model.alert.share)


def train_events(
    events: Source,
    asked: EventColumnsOfModel,
    settings: EventTrainingSettings,
    registry: Registry,
    now_ms: int,
    say: Say = lambda text: None,
    ask_parity: Ask | None = None,
    about: Mapping[str, str] | None = None,
) -> TrainedEvents:
    """A newly trained version stands in the registry, and is the champion when the gate lets it.

    Args:
        ask_parity: whether features are the same online as offline, for a model that would be promoted.
        about: more tags of the version and its run, such as event_record.came_from.

    Raises UsageError when a part has no positives, or nothing else; then nothing is registered.
    """
    on = divided(events, asked, settings, say)
    say(Stage("ranker", f"a classifier from {on.learned.told}"))
    made = EventClassifier(manifest_of(asked, on, settings, now_ms), fit(on.learned, asked, settings))
    return put_forward(made, on, EventJudge(asked, on.test, settings), registry, now_ms, say, ask_parity, about)


@dataclass(frozen=True)
class Divided:
    """The parts of a training, with their examples; those that are learned from may be a sample."""

    parts: Parts
    learned: Examples
    test: Examples
    sample: Sample | None


def divided(events: Source, asked: EventColumnsOfModel, settings: EventTrainingSettings, say: Say) -> Divided:
    """What is learned from and tested on. Raises UsageError when a part has no positives, or nothing else."""
    parts = parts_of(events, asked.model, settings)
    say(Stage("examples", "what was known just before each event"))
    every = examples_between(events, asked, parts.start, parts.end, parts.test)
    if every.sample is not None:
        say(f"{every.sample}, but for the test")
    learned, test = every.between(parts.start, parts.middle), every.between(parts.test, parts.end)
    return Divided(parts, with_both(learned), with_both(test), every.sample)


def put_forward(
    made: EventClassifier,
    on: Divided,
    judge: EventJudge,
    registry: Registry,
    now_ms: int,
    say: Say,
    ask_parity: Ask | None,
    about: Mapping[str, str] | None,
) -> TrainedEvents:
    """The model is tested, registered (trusted where somebody brought it), judged, and champion where the gate lets it.

    Raises ArtefactError for one that does not answer; then nothing is registered.
    """
    say(Stage("test", "testing it beside the champion"))
    rows = judge.rows(made, judge.champion(registry))
    verdict = asked_parity(verdict_on(judge, made, rows), ask_parity, judge.settings.parity)
    made, alerts = with_threshold(judge, made, rows)
    say(Stage("registering", "registering"))
    told = {**(about or {}), **({} if on.sample is None else {"sample": json.dumps(on.sample.report())})}
    version = registered(registry, made, judge.settings, told, files_of(judge, made, rows))
    version = settle(registry, registry.trust(version) if made.own else version, verdict, now_ms)
    positive = int(on.learned.positive.sum() + on.test.positive.sum())
    return TrainedEvents(
        version=version,
        promoted=verdict.promoted,
        reason=verdict.reason,
        parts=on.parts,
        rows=[row.row for row in rows],
        differences=differences(rows),
        examples={"learned": len(on.learned), "tested": len(on.test), "positive": positive},
        threshold=made.manifest.threshold,
        alerts=alerts,
        sample=on.sample,
    )


def verdict_on(judge: EventJudge, made: EventClassifier, rows: Sequence[Judged]) -> Verdict:
    """The gate's, over these rows; refused for a fault of the model."""
    fault = judge.fault_of(made)
    return gate(rows, judge.settings) if fault is None else Verdict(False, fault)


def with_threshold(
    judge: EventJudge, made: EventClassifier, rows: Sequence[Judged]
) -> tuple[EventClassifier, dict[str, float]]:
    """The model as it is registered: with its threshold, metrics and golden scores; and what alerting came to."""
    scores, days = judge.scores(made), judge.settings.test_ms / DAY_MS
    threshold = threshold_of(judge.asked.model, judge.test, scores, days)
    alerts = at_threshold(judge.test.positive, scores, threshold, days)
    metrics = {**metrics_of(rows), **{name: value for name, value in alerts.items() if not np.isnan(value)}}
    found = {"threshold": threshold, "metrics": metrics, "golden": golden_scores(made)}
    return EventClassifier(made.manifest.model_copy(update=found), made.classifier), alerts


def registered(
    registry: Registry,
    made: EventClassifier,
    settings: EventTrainingSettings,
    about: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Version:
    """A new version of the model that it is named after; without a verdict, so that nobody asks it.

    Args:
        about: more tags.
        files: its record.
    """
    tags = {"stream": made.manifest.stream, **(about or {})}
    return registry.keep(
        made.manifest, lambda folder: save_event_model(made, folder), settings.model_dump(), tags, files
    )


def manifest_of(asked: EventColumnsOfModel, on: Divided, settings: EventTrainingSettings, now_ms: int) -> EventManifest:
    """What is known of the model before it was tested: it alerts on nothing."""
    return EventManifest(
        name=asked.model.name,
        created_ms=now_ms,
        as_of_ms=on.parts.end,
        stream=asked.model.stream.name,
        inputs=asked.model.input_names,
        typical=tuple(np.median(filled(asked.inputs(on.learned.matrix)), axis=0).tolist()),
        views=views_of(asked),
        threshold=1.0,
        settings=settings.model_dump(mode="json"),
    )


def metrics_of(rows: Sequence[Judged]) -> dict[str, float]:
    """The model's metrics under their own names, the others' with their name before them."""
    return {
        name if row.model == MODEL else f"{row.model}_{name}": value
        for row in rows
        for name, value in row.metrics.items()
        if not np.isnan(value)
    }
