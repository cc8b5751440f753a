"""`headrace train NAME` where NAME is an event model of the feature repo."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from features.errors import UsageError
from features.event_rules import EventColumnsOfModel
from features.inspection import parsed_time
from features.repo import FeatureRepo
from features.settings import Settings
from training.bounds import Bound
from training.event_examples import EventTrainingSettings, read_archive, read_event_file
from training.event_gate import EventJudge
from training.event_models import train_events
from training.event_sources import Source
from training.gate import Verdict
from training.parity import asked_of, asked_parity
from training.progress import Stage, told
from training.registry import Registry, Version


def train_event_model(
    root: Path,
    settings: Settings,
    repo: FeatureRepo,
    name: str,
    file: tuple[str | None, str | None],
    as_of: str | None,
    changed: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """The event model is trained, tested beside its first input alone, registered, and champion where it is better."""
    asked = EventColumnsOfModel.of(repo, repo.models[name])
    end_ms = None if as_of is None else parsed_time(as_of)
    chosen = event_settings(changed)
    registry = Registry(settings.mlflow.tracking_uri, root)
    now_ms = int(time.time() * 1_000)
    ask = None if file[0] is not None else asked_of(root, settings, repo, asked.source.views, chosen, lambda _: None)
    with told() as say:
        say(Stage("reading", "reading events"))
        events = _events(root, settings, repo, asked, chosen, file, end_ms)
        report = train_events(events, asked, chosen, registry, now_ms, say, ask).report()
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


def verdict_on_event_model(
    root: Path,
    settings: Settings,
    repo: FeatureRepo,
    version: Version,
    file: tuple[str | None, str | None],
    changed: Sequence[str],
) -> Verdict:
    """What the gate says of a registered version of an event model, by the newest events whose labels are known."""
    asked = EventColumnsOfModel.of(repo, repo.models[version.name])
    chosen = event_settings(changed)
    judge = EventJudge.of_events(_events(root, settings, repo, asked, chosen, file, None), asked, chosen)
    ask = None if file[0] is not None else asked_of(root, settings, repo, asked.source.views, chosen, lambda _: None)
    verdict = judge.registered(Registry(settings.mlflow.tracking_uri, root), version)
    return asked_parity(verdict, ask, chosen.parity)


def _events(
    root: Path,
    settings: Settings,
    repo: FeatureRepo,
    asked: EventColumnsOfModel,
    chosen: EventTrainingSettings,
    file: tuple[str | None, str | None],
    end_ms: int | None,
) -> Source:
    bound = Bound.of(chosen.max_events, chosen.seed)
    path, kind = file
    if path is None:
        return read_archive(root / settings.offline.path, repo, asked, end_ms, bound)
    if kind is None:
        raise UsageError("option --from", "--format", "none")
    return read_event_file(Path(path), kind, repo, asked, end_ms, bound)


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
    lines = [*table_of(report["rows"]), ""]
    lines += [f"average precision, {told_beside(name, apart)}" for name, apart in report["differences"].items()]
    verdict = click.style("champion", fg="green") if report["promoted"] else click.style("not promoted", fg="yellow")
    about = f"{report['model']} version {report['version']} · {verdict} · {report['reason']}"
    alerts = report["alerts"]
    told = f"alerts from {report['threshold']:.4f} on: {alerts['alerts_a_day']:.1f} a day"
    right = "" if alerts["alert_precision"] is None else f", {100 * alerts['alert_precision']:.0f} % of them right"
    return [*lines, "", f"{about} · {told}{right}, which finds {100 * alerts['alert_recall']:.0f} % of the positives"]
