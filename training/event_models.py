"""From a stream's events and their labels to a tested, registered model of them, in memory but for the registry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from features.archive_tables import Span, deduplicated, open_table
from features.artefact import CHAMPION
from features.definitions import EventModel, Stream, TopADay
from features.errors import ArtefactError, UsageError
from features.event_artefact import EventClassifier, EventManifest, load_event_model, save_event_model, views_of
from features.event_inputs import Events
from features.event_rules import EventColumnsOfModel, filled
from features.formats import read_events
from features.repo import FeatureRepo
from features.verdicts import CHALLENGER
from features.windows import UNITS_MS, duration_ms
from training.event_metrics import (
    Bools,
    Floats,
    Int64s,
    group_precision,
    ranking_metrics,
    threshold_at_precision,
    threshold_of_top,
)
from training.registry import Registry, Version

DAY_MS = UNITS_MS["d"]
TOP = 100
Say = Callable[[str], None]


class EventTrainingSettings(BaseModel):
    """An event model's training; times in ms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_ms: int = Field(28 * DAY_MS, gt=0)
    """How long the part is that it learns from, at most."""
    test_ms: int = Field(7 * DAY_MS, gt=0)
    """How long the part is that it is tested on: the last whose labels are known."""
    iterations: int = Field(100, gt=0)
    """Trees."""
    tolerance: float = Field(0.02, ge=0)
    """By which share of the champion's average precision a new model may be below it."""
    seed: int = 0
    """Of whatever is random."""


@dataclass(frozen=True)
class Examples:
    """n events: when (ms), of which group (a code), whether positive; (n, model.needed) what was known just before."""

    time: Int64s
    group: Int64s
    positive: Bools
    matrix: Floats

    def __len__(self) -> int:
        return len(self.time)

    def between(self, start_ms: int, end_ms: int) -> Examples:
        """Those of [start, end)."""
        which = (self.time >= start_ms) & (self.time < end_ms)
        return Examples(self.time[which], self.group[which], self.positive[which], self.matrix[which])


@dataclass(frozen=True)
class Parts:
    """Learn from [start, middle), test on [test, end), ms; labels of the first part are known when the test begins."""

    start: int
    middle: int
    test: int
    end: int


@dataclass(frozen=True)
class TrainedEvents:
    """What a training came to."""

    version: Version
    promoted: bool
    reason: str
    parts: Parts
    rows: list[dict[str, Any]]
    examples: Mapping[str, int]
    threshold: float

    def report(self) -> dict[str, Any]:
        """The JSON that --json prints."""
        told = {name: getattr(self, name) for name in ("promoted", "reason", "rows", "examples", "threshold")}
        baseline = {"baseline": self.rows[0]["model"], "split": vars(self.parts)}
        return {"model": self.version.name, "version": self.version.version, **told, **baseline}


# --- events ---------------------------------------------------------------------------------------------------------


def streams_of(asked: EventColumnsOfModel) -> dict[str, Stream]:
    """Every stream that the model's examples are made of, by name."""
    read = [asked.model.stream, asked.model.labels, *(one for view in asked.source.views for one in view.streams)]
    return {one.name: one for one in read}


def read_archive(folder: Path, repo: FeatureRepo, asked: EventColumnsOfModel, end_ms: int | None) -> Events:
    """The model's events that were known before ``end_ms``, of the offline store; UsageError where it has none."""
    found = {}
    for name, stream in streams_of(asked).items():
        table = open_table(folder, stream, repo.horizon_ms(name))
        if table is not None:
            found[name] = deduplicated(table.events(span=Span(None, end_ms)), stream)
    next_step = "Start 'headrace stream', or bring history in with 'headrace import'."
    return _whole(found, asked, f"offline store '{folder}'", next_step)


def read_event_file(path: Path, kind: str, repo: FeatureRepo, asked: EventColumnsOfModel, end_ms: int | None) -> Events:
    """The model's events of a file (see features.formats) that were known before ``end_ms``."""
    streams = streams_of(asked)
    parts: dict[str, list[pa.Table]] = {}
    for name, parsed in read_events(path, kind, repo.streams, repo.horizon_ms):
        if name in streams:
            parts.setdefault(name, []).append(parsed.events)
    tables = {name: pa.concat_tables(several) for name, several in parts.items()}
    if end_ms is not None:
        tables = {name: table.filter(pc.less(table["known_at"], end_ms)) for name, table in tables.items()}
    found = {name: deduplicated(table, streams[name]) for name, table in tables.items()}
    return _whole(found, asked, f"file '{path}'", "")


def _whole(found: Events, asked: EventColumnsOfModel, where: str, next_step: str) -> Events:
    for stream in (asked.model.stream, asked.model.labels):
        if stream.name not in found or not found[stream.name].num_rows:
            raise UsageError(where, f"events of stream '{stream.name}'", ", ".join(found) or "none", next_step)
    return found


def parts_of(events: Events, model: EventModel, settings: EventTrainingSettings) -> Parts:
    """The parts of a training: the test ends where labels are known, and begins when those of the first part were."""
    delay = duration_ms(model.label_delay)
    known = events[model.stream.name]["known_at"]
    end = int(pc.max(known).as_py()) + 1 - delay
    test = end - settings.test_ms
    middle = test - delay
    return Parts(max(middle - settings.train_ms, int(pc.min(known).as_py())), middle, test, end)


def examples_between(events: Events, asked: EventColumnsOfModel, start_ms: int, end_ms: int) -> Examples:
    """The events of [start, end) with what was known just before each of them became known."""
    model = asked.model
    every = events[model.stream.name]
    known = every["known_at"].to_numpy()
    chosen = every.filter(pa.array((known >= start_ms) & (known < end_ms)))
    at = chosen["known_at"].to_numpy()
    matrix = asked.source.matrix(chosen, at - 1, events)
    labels = pc.unique(events[model.labels.name]["event_id"])
    positive = np.asarray(pc.is_in(chosen["event_id"], value_set=labels))
    group = chosen[model.group].combine_chunks().dictionary_encode()
    codes = pc.fill_null(group.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Examples(at, codes, positive, matrix)


# --- a model ---------------------------------------------------------------------------------------------------------


def fit(examples: Examples, asked: EventColumnsOfModel, settings: EventTrainingSettings) -> Any:
    """A classifier of the examples."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    made = HistGradientBoostingClassifier(
        max_iter=settings.iterations, early_stopping=False, random_state=settings.seed
    )
    with threadpool_limits(limits=1, user_api="openmp"):
        return made.fit(filled(asked.inputs(examples.matrix)), examples.positive)


def judged(test: Examples, scores: Floats) -> dict[str, float]:
    """AUC, average precision, and the precision among the groups that there is time for."""
    precision = group_precision(test.time // DAY_MS, test.group, test.positive, scores, TOP)
    return {**ranking_metrics(test.positive, scores), f"group_precision_at_{TOP}": precision}


def threshold_of(model: EventModel, test: Examples, scores: Floats, days: float) -> float:
    """Where the model alerts, by its definition and the test."""
    if isinstance(model.alert, TopADay):
        return threshold_of_top(scores, days, model.alert.count)
    return threshold_at_precision(test.positive, scores, model.alert.share)


def train_events(
    events: Events,
    asked: EventColumnsOfModel,
    settings: EventTrainingSettings,
    registry: Registry,
    now_ms: int,
    say: Say = lambda text: None,
) -> TrainedEvents:
    """A newly trained version stands in the registry, and is the champion when the gate lets it.

    Raises UsageError when a part has no positives, or nothing else; then nothing is registered.
    """
    model, parts = asked.model, parts_of(events, asked.model, settings)
    say("what was known just before each event")
    every = examples_between(events, asked, parts.start, parts.end)
    learned, test = _checked(every.between(parts.start, parts.middle)), _checked(every.between(parts.test, parts.end))
    say(f"a classifier from {len(learned):,} events, {int(learned.positive.sum()):,} of them positive")
    made = EventClassifier(_manifest(asked, learned, parts, settings, now_ms), fit(learned, asked, settings))
    scores = made.scores(asked.inputs(test.matrix))
    baseline = {"model": model.input_names[0], **judged(test, filled(test.matrix)[:, 0])}
    rows = [baseline, {"model": "model", **judged(test, scores)}, *_champion_rows(registry, asked, test)]
    promoted, reason = gate(rows, settings)
    threshold = threshold_of(model, test, scores, settings.test_ms / DAY_MS)
    manifest = made.manifest.model_copy(update={"threshold": threshold, "metrics": metrics_of(rows)})
    made = EventClassifier(manifest, made.classifier)
    say("registering")
    tags = {"stream": model.stream.name, "reason": reason}
    version = registry.keep(manifest, lambda folder: save_event_model(made, folder), settings.model_dump(), tags)
    registry.set_alias(version, CHAMPION if promoted else CHALLENGER)
    count = {"learned": len(learned), "tested": len(test), "positive": int(every.positive.sum())}
    return TrainedEvents(version, promoted, reason, parts, rows, count, threshold)


def _checked(part: Examples) -> Examples:
    if part.positive.all() or not part.positive.any():
        got = f"{len(part)} events, {int(part.positive.sum())} of them positive"
        next_step = "Bring in more history, or change train_ms and test_ms."
        raise UsageError("a part of the training", "events, some of them positive", got, next_step)
    return part


def _manifest(
    asked: EventColumnsOfModel, learned: Examples, parts: Parts, settings: EventTrainingSettings, now_ms: int
) -> EventManifest:
    """What is known of the model before it was tested: it alerts on nothing."""
    return EventManifest(
        name=asked.model.name,
        created_ms=now_ms,
        as_of_ms=parts.end,
        stream=asked.model.stream.name,
        inputs=asked.model.input_names,
        typical=tuple(np.median(filled(asked.inputs(learned.matrix)), axis=0).tolist()),
        views=views_of(asked),
        threshold=1.0,
        settings=settings.model_dump(mode="json"),
    )


def metrics_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The model's metrics under their own names, the others' with the model's name before them."""
    return {
        name if row["model"] == "model" else f"{row['model']}_{name}": value
        for row in rows
        for name, value in row.items()
        if name != "model"
    }


def gate(rows: list[dict[str, Any]], settings: EventTrainingSettings) -> tuple[bool, str]:
    """Whether the model serves, and why: above its first input alone, not below the champion but for a tolerance."""
    by_name = {row["model"]: row["ap"] for row in rows[1:]}
    baseline, model, champion = rows[0]["ap"], by_name["model"], by_name.get("champion")
    if not model > baseline:
        return False, f"average precision {model:.4f} is not above {baseline:.4f}, that of {rows[0]['model']} alone"
    if champion is not None and not model >= champion * (1 - settings.tolerance):
        return False, f"average precision {model:.4f} is below the champion's {champion:.4f}"
    return True, f"average precision {model:.4f} is above {baseline:.4f}, that of {rows[0]['model']} alone"


def _champion_rows(registry: Registry, asked: EventColumnsOfModel, test: Examples) -> list[dict[str, Any]]:
    """The champion on the same test; none where there is none, or it is of other definitions, or damaged."""
    champion = registry.find(asked.model.name)
    if champion is None:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            old = load_event_model(registry.download(champion, Path(scratch)), champion.digest)
            old.check(asked)
        except ArtefactError:
            return []
    return [{"model": "champion", **judged(test, old.scores(asked.inputs(test.matrix)))}]
