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
from training.event_models import EventTrainingSettings, read_archive, read_event_file, train_events
from training.registry import Registry


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
    path, kind = file
    chosen = event_settings(changed)
    if path is None:
        events = read_archive(root / settings.offline.path, repo, asked, end_ms)
    elif kind is None:
        raise UsageError("headrace train --from", "--format", "none")
    else:
        events = read_event_file(Path(path), kind, repo, asked, end_ms)
    registry = Registry(settings.mlflow.tracking_uri, root)
    now_ms = int(time.time() * 1_000)
    done = train_events(events, asked, chosen, registry, now_ms, lambda text: click.echo(text, err=True))
    report = done.report()
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


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
    names = [key for key in report["rows"][0] if key != "model"]
    lines = [f"{'':14}" + "".join(f"{name:>24}" for name in names)]
    lines += [f"{row['model']:14}" + "".join(f"{row[name]:>24.4f}" for name in names) for row in report["rows"]]
    verdict = click.style("champion", fg="green") if report["promoted"] else click.style("not promoted", fg="yellow")
    about = f"{report['model']} version {report['version']} · {verdict} · {report['reason']}"
    return [*lines, "", f"{about} · alerts from {report['threshold']:.4f} on"]
