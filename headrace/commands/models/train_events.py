"""`headrace train NAME`, and of `headrace models` what differs, where NAME is an event model of the feature repo."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import click
import pyarrow as pa
from pydantic import ValidationError

from features.definitions import FeatureRepo
from features.errors import UsageError
from features.events import parsed_time
from headrace.console import print_report, say
from headrace.project import Project
from headrace.settings import Settings
from models.event_model import EventModelColumns
from models.user_model import signature_inputs
from training.data import Bound, EventTrainingSettings, ReadEvents, read_archive, read_event_file
from training.event_model import EventJudge, EventTraining, measure_drift, provenance, train_events
from training.judging import (
    GateVerdict,
    ParityCheck,
    Registration,
    StoreParity,
    checked_parity,
    skip_if_stable,
    write_drift,
)
from training.progress import Log, Stage, progress_display, silent
from training.registry import ModelRegistry, Version


@dataclass(frozen=True)
class EventProject:
    """An event model of a project, and what its commands were given.

    Args:
        file: a file and its format instead of the archive.
        changed: settings, KEY=VALUE.
    """

    root: Path
    settings: Settings
    repo: FeatureRepo
    name: str
    file: tuple[str | None, str | None] = (None, None)
    changed: Sequence[str] = ()

    @classmethod
    def found(cls, root: Path, name: str, file: tuple[str | None, str | None], changed: Sequence[str]) -> Self | None:
        """The event model of this name of the project in this folder; None where the name is no event model's."""
        project = Project.open(root)
        repo = project.repo
        return cls(root, project.settings, repo, name, file, changed) if name in repo.models else None

    @cached_property
    def asked(self) -> EventModelColumns:
        """Its definition."""
        return EventModelColumns.of(self.repo, self.repo.models[self.name])

    @cached_property
    def chosen(self) -> EventTrainingSettings:
        """How it is trained. Raises UsageError for a setting that cannot be."""
        return event_settings(self.changed)

    @cached_property
    def registry(self) -> ModelRegistry:
        """Where its versions are."""
        return ModelRegistry(self.settings.mlflow.tracking_uri, self.root)

    @property
    def home(self) -> Path:
        """Where the project keeps what commands tell each other."""
        return self.root / self.settings.home

    @property
    def archive(self) -> Path | None:
        """The offline store; None where a file is read instead."""
        return self.root / self.settings.offline.path if self.file[0] is None else None

    @property
    def parity_check(self) -> ParityCheck | None:
        """The gate's comparison of features online with the archive's; None where a file is read instead."""
        if self.archive is None:
            return None
        return StoreParity(self.home, self.archive, self.repo, self.asked.source.views, self.chosen)

    def registration(self, now_ms: int, log: Log, **tags: str) -> Registration:
        """The registration of a new version, with where it came from and these tags."""
        tags = {**provenance(self.asked, self.archive, self.root), **tags}
        return Registration(self.registry, now_ms, tags, self.parity_check, log)

    def training(self, log: Log = silent, end_ms: int | None = None) -> EventTraining:
        """The training on its events that were known before ``end_ms``. Raises UsageError where there are none."""
        return EventTraining(self.events(end_ms), self.asked, self.chosen, log)

    def events(self, end_ms: int | None = None) -> ReadEvents:
        """Its events that were known before ``end_ms``. Raises UsageError where there are none."""
        path, kind = self.file
        bound = Bound.of(self.chosen.max_events, self.chosen.seed)
        if path is None:
            return read_archive(self.root / self.settings.offline.path, self.repo, self.asked, end_ms, bound)
        if kind is None:
            raise UsageError("option --from", "--format", "none")
        return read_event_file(Path(path), kind, self.repo, self.asked, end_ms, bound)

    def judge(self) -> EventJudge:
        """The newest events whose labels are known, to test versions on."""
        return EventJudge.of(self.training())


def train_event_model(project: EventProject, as_of: str | None, *, when_drifted: bool, as_json: bool) -> None:
    """The event model is trained, tested beside its first input alone, registered, and champion where it is better."""
    now_ms = int(time.time() * 1_000)
    with progress_display() as log:
        log(Stage("reading", "reading events"))
        training = project.training(log, None if as_of is None else parsed_time(as_of))
        report = _skipped_if_stable(project, training, now_ms) if when_drifted else None
        if report is None:
            report = train_events(training, project.registration(now_ms, log)).report()
    print_report(report, as_json, _lines)


def _skipped_if_stable(project: EventProject, training: EventTraining, now_ms: int) -> dict[str, Any] | None:
    """The drift of the champion where it is no reason to train anew; None where it is, or cannot be measured."""
    judge = EventJudge.of_newest(training)

    def measure(champion: Version) -> dict[str, Any]:
        report = measure_drift(judge, project.registry, champion)
        write_drift(project.home, report, now_ms)
        return report

    report = skip_if_stable(project.name, project.registry, measure, training.log)
    return None if report is None else {**report, "trained": False}


def examples_of_event_model(project: EventProject) -> pa.Table:
    """The examples that the event model's own classifier learns from (see user_models)."""
    from training.user_models import event_examples

    return event_examples(project.training(say))


def register_event_model(project: EventProject, model: Path, uri: str) -> tuple[Version, GateVerdict]:
    """The MLflow model in the folder is a version of the event model, judged, and champion where that passed."""
    from training.user_models import register_event_model as register

    signature_inputs(model, project.asked.model.input_names)  # before the archive is read
    registration = project.registration(int(time.time() * 1_000), say, own=uri)
    examples = project.training(say).split_examples()
    done = register(model, examples, EventJudge(project.asked, examples.test, project.chosen), registration)
    return done.version, GateVerdict(done.promoted, done.reason)


def verdict_on_event_model(project: EventProject, version: Version) -> GateVerdict:
    """What the gate says of a registered version, by the newest events whose labels are known."""
    verdict = project.judge().registered(project.registry, version)
    return checked_parity(verdict, project.parity_check, project.chosen.parity)


def drift_of_event_model(project: EventProject, champion: Version) -> dict[str, Any]:
    """How far the newest events are from those that the champion was tested on; the status shows it from now on."""
    judge = EventJudge.of_newest(project.training())
    report = measure_drift(judge, project.registry, champion)
    if project.archive is not None:
        write_drift(project.home, report, int(time.time() * 1_000))
    return report


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of metrics for a person; between what the average precision lies stands beside it."""
    names = [key for key in rows[0] if key not in ("model", "ap_low", "ap_high")]
    lines = [f"{'':14}" + "".join(f"{name:>24}" for name in names)]
    for row in rows:
        shown = {**row, "ap": f"{row['ap_low']:.3f} … {row['ap_high']:.3f}  {row['ap']:.4f}"}
        cells = (shown[name] if isinstance(shown[name], str) else f"{shown[name]:.4f}" for name in names)
        lines.append(f"{row['model']:14}" + "".join(f"{cell:>24}" for cell in cells))
    return lines


def told_beside(name: str, apart: Mapping[str, float]) -> str:
    """A difference and its interval in words."""
    return f"less that of {name}: {apart['mean']:+.4f}, between {apart['low']:+.4f} and {apart['high']:+.4f}"


def event_settings(changed: Sequence[str]) -> EventTrainingSettings:
    """The settings with these KEY=VALUE; UsageError names the one that cannot be."""
    pairs = [text.partition("=") for text in changed]
    try:
        return EventTrainingSettings.model_validate({key: value for key, _, value in pairs})
    except ValidationError as error:
        first = error.errors()[0]
        where = f"training setting '{'.'.join(map(str, first['loc']))}'"
        raise UsageError(where, first["msg"], repr(first.get("input"))) from error


def _lines(report: Mapping[str, Any]) -> list[str]:
    if report.get("trained") is False:
        most = max(report["psi"].values(), default=0.0)
        return [f"{report['model']} version {report['version']} stays: no input has drifted (PSI at most {most:.2f})"]
    lines = [*table_of(report["rows"]), ""]
    lines += [f"average precision, {told_beside(name, apart)}" for name, apart in report["differences"].items()]
    verdict = click.style("champion", fg="green") if report["promoted"] else click.style("not promoted", fg="yellow")
    about = f"{report['model']} version {report['version']} · {verdict} · {report['reason']}"
    alerts = report["alerts"]
    told = f"alerts from {report['threshold']:.4f} on: {alerts['alerts_a_day']:.1f} a day"
    right = "" if alerts["alert_precision"] is None else f", {100 * alerts['alert_precision']:.0f} % of them right"
    return [*lines, "", f"{about} · {told}{right}, which finds {100 * alerts['alert_recall']:.0f} % of the positives"]
