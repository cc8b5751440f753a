"""Event models of the feature repo: `headrace train NAME`, and the judgement of their versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from pydantic import ValidationError

from features.errors import UsageError
from features.times import now_ms
from headrace.commands.models.options import invalid_setting
from headrace.commands.models.project import ModelProject
from headrace.console import print_report, say
from models.event_model import EventModelColumns
from models.user_model import signature_inputs
from training.data import EventFile, EventLimit, EventTrainingSettings, ReadEvents, read_archive, read_event_file
from training.event_model import EventJudge, EventTraining, kind_for, measure_drift, provenance, train_events
from training.event_model.gate import compared
from training.judging import GateVerdict, ParityCheck, Registration, checked_parity
from training.progress import Log, Stage, progress_display, silent
from training.registry import Version
from training.user_models import event_examples, register_event_model

METRIC_TEXTS = {
    "ap": "average precision",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "f1": "F1 over incidents",
    "macro_f1": "macro-F1",
    "alerts_a_week": "alerts a week and group",
}
"""The metrics that kinds are judged by, as a person reads them."""


@dataclass(frozen=True)
class EventProject(ModelProject):
    """An event model of a project.

    Args:
        model_name: its name in the feature repo and in the registry.
        changed: settings of its training, KEY=VALUE.
    """

    model_name: str
    changed: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.model_name

    @cached_property
    def columns(self) -> EventModelColumns:
        """The columns that its definition names."""
        return EventModelColumns.of(self.repo, self.repo.models[self.name])

    @cached_property
    def chosen(self) -> EventTrainingSettings:
        """The settings of its training. Raises UsageError for an invalid one."""
        return event_settings(self.changed, kind_for(self.columns.model).settings)

    def parity_check(self, log: Log = silent) -> ParityCheck | None:
        """See parity_check_of."""
        return self.parity_check_of(self.columns.source.views, self.chosen, log)

    def registration(self, log: Log, **tags: str) -> Registration:
        """The registration of a new version now, with its provenance and these tags."""
        tags = {**provenance(self.columns, self.archive, self.project.root), **tags}
        return Registration(self.registry, now_ms(), tags, self.parity_check(), log)

    def training(self, log: Log = silent) -> EventTraining:
        """The training on its events. Raises UsageError where there are none."""
        return EventTraining(self.events(log), self.columns, self.chosen, log)

    def events(self, log: Log) -> ReadEvents:
        """Its events; rows of a file that are none are logged. Raises UsageError where there are none."""
        path, kind, end_ms = self.source.path, self.source.kind, self.source.end_ms
        bound = EventLimit.of(self.chosen.max_events, self.chosen.seed)
        if path is None:
            return read_archive(self.project.offline, self.repo, self.columns, end_ms, bound)
        if kind is None:
            raise UsageError("option --from", "--format", "none")
        return read_event_file(EventFile(Path(path), kind, self.repo, log), self.columns, end_ms, bound)

    def judge(self) -> EventJudge:
        """The judge of versions on the newest events whose labels are known."""
        return EventJudge.of(self.training())

    # --- what the commands of registered versions do ---

    def examples(self, log: Log) -> tuple[pa.Table, str]:
        training = self.training(log)
        return event_examples(training), training.kind.label

    def register(self, fetched: Path, uri: str) -> tuple[Version, GateVerdict]:
        signature_inputs(fetched, self.columns.model.input_names)  # before the archive is read
        registration = self.registration(say, own=uri)
        training = self.training(say)
        examples = training.split_examples()
        judge = EventJudge.of_split(training, examples)
        done = register_event_model(fetched, examples, judge, registration)
        return done.version, GateVerdict(done.promoted, done.reason)

    def verdict(self, version: Version) -> GateVerdict:
        verdict = self.judge().registered(self.registry, version)
        return checked_parity(verdict, self.parity_check(), self.chosen.parity)

    def compared(self, pair: tuple[Version, Version]) -> dict[str, Any]:
        return compared(self.judge(), self.registry, pair)

    def measured_drift(self, champion: Version) -> dict[str, Any]:
        return measure_drift(EventJudge.of_newest(self.training()), self.registry, champion)


def train_event_model(project: EventProject, *, when_drifted: bool, as_json: bool) -> None:
    """The event model is trained, tested beside its kind's baselines, registered, and champion where it is better."""
    with progress_display() as log:
        log(Stage("reading", "reading events"))
        training = project.training(log)
        report = _report_if_stable(project, training) if when_drifted else None
        if report is None:
            report = train_events(training, project.registration(log)).report()
    print_report(report, as_json, _lines)


def _report_if_stable(project: EventProject, training: EventTraining) -> dict[str, Any] | None:
    judge = EventJudge.of_newest(training)
    return project.report_if_stable(
        lambda champion: measure_drift(judge, project.registry, champion), now_ms(), training.log
    )


def table_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table of metrics; the one that counts has its interval beside it."""
    (counts,) = (key.removesuffix("_low") for key in rows[0] if key.endswith("_low"))
    names = [key for key in rows[0] if key not in ("model", f"{counts}_low", f"{counts}_high")]
    width = max(14, *(len(row["model"]) + 1 for row in rows))
    lines = [f"{'':{width}}" + "".join(f"{name:>24}" for name in names)]
    for row in rows:
        shown = {**row, counts: f"{row[f'{counts}_low']:.3f} … {row[f'{counts}_high']:.3f}  {row[counts]:.4f}"}
        cells = (shown[name] if isinstance(shown[name], str) else f"{shown[name]:.4f}" for name in names)
        lines.append(f"{row['model']:{width}}" + "".join(f"{cell:>24}" for cell in cells))
    return lines


def in_words(name: str, apart: Mapping[str, float]) -> str:
    """A difference and its interval in words."""
    return f"less that of {name}: {apart['mean']:+.4f}, between {apart['low']:+.4f} and {apart['high']:+.4f}"


def event_settings(
    changed: Sequence[str], kind: type[EventTrainingSettings] = EventTrainingSettings
) -> EventTrainingSettings:
    """The settings of this kind with these KEY=VALUE. Raises UsageError for an invalid one."""
    pairs = [text.partition("=") for text in changed]
    try:
        return kind.model_validate({key: value for key, _, value in pairs})
    except ValidationError as error:
        raise invalid_setting(error) from error


def _lines(report: Mapping[str, Any]) -> list[str]:
    if report.get("trained") is False:
        most = max(report["psi"].values(), default=0.0)
        return [f"{report['model']} version {report['version']} stays: no input has drifted (PSI at most {most:.2f})"]
    lines = [*table_of(report["rows"]), ""]
    metric = METRIC_TEXTS[next(key for key in METRIC_TEXTS if f"{key}_low" in report["rows"][0])]
    lines += [f"{metric}, {in_words(name, apart)}" for name, apart in report["differences"].items()]
    verdict = click.style("champion", fg="green") if report["promoted"] else click.style("not promoted", fg="yellow")
    about = f"{report['model']} version {report['version']} · {verdict} · {report['reason']}"
    return [*lines, "", " · ".join([about, *_alerts(report)])]


def _alerts(report: Mapping[str, Any]) -> list[str]:
    """What comes of alerting from the threshold on; nothing for a model without one."""
    alerts = report["alerts"]
    if report["threshold"] is None:
        return []
    rate = f"alerts from {report['threshold']:.4f} on: {alerts['alerts_a_day']:.1f} a day"
    if "alert_recall" not in alerts:
        return [rate]
    right = "" if alerts["alert_precision"] is None else f", {100 * alerts['alert_precision']:.0f} % of them right"
    return [f"{rate}{right}, which finds {100 * alerts['alert_recall']:.0f} % of the positives"]
