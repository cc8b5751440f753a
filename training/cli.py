"""`headrace train`. Only click is imported here: the rest is when a command runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError

if TYPE_CHECKING:
    from features.repo import FeatureRepo
    from features.settings import Settings
    from training.dataset import Domain, Events
    from training.registry import Registry
    from training.search import Trial
    from training.settings import TrainingSettings

ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="The project's folder."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("name", required=False)
@click.option("--as-of", "as_of", metavar="T", help="As if it were then: RFC 3339 or epoch ms.")
@click.option("--from", "path", metavar="FILE", help="Train on a file instead of the offline store.")
@click.option("--format", "kind", metavar="FORMAT", help="Of the file, such as online-retail or jsonl.")
@click.option(
    "--set", "changed", multiple=True, metavar="KEY=VALUE", help="A setting, such as weights.view=0.1; over [training]."
)
@click.option("--when-drifted", is_flag=True, help="Only where the events have moved away from the champion's.")
@click.option(
    "--search",
    "trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="Try N settings of the ranker first, on the part of time before the newest, and take the best.",
)
@click.option(
    "--impressions",
    type=click.Choice(["auto", "served", "split"]),
    help="Learn from what was shown: where there is enough of it, only from it, or not.",
)
@ROOT
@JSON
def train(  # noqa: PLR0913, PLR0917  # one parameter an option
    name: str | None,
    as_of: str | None,
    path: str | None,
    kind: str | None,
    changed: Sequence[str],
    when_drifted: bool,
    trials: int | None,
    impressions: str | None,
    root: Path,
    as_json: bool,
) -> None:
    """Train a recommender on the offline store, test it, register it, and let it serve when it is better.

    NAME is the registered model's, shop-recommender unless given. Better is: surely above popularity, and surely not
    below the model that serves now by more than the tolerance, in NDCG on the newest part of the events. One training
    of a project goes on at a time; one that is killed leaves nothing behind, and the next starts anew.

    Where the feature repo has an event model of that name, that is trained: better is surely above its first input
    alone, and surely not below the model that serves now by more than the tolerance, in average precision on the newest
    part whose labels are known.

    \b
    Examples:
      headrace train
      headrace train --as-of 2011-11-09T00:00:00Z --json
      headrace train --when-drifted
      headrace train --search 8
      headrace train cards
      headrace train retail --from online-retail.parquet --format online-retail --set test_ms=2592000000
    """
    from features.repo import load_repo
    from features.settings import read_settings
    from training.dataset import Domain
    from training.events_cli import train_event_model
    from training.turn import turn

    settings = read_settings(root, os.environ)
    repo = load_repo(root / settings.stream.repo)
    if name is not None and name in repo.models:
        with turn(root / settings.home):
            train_event_model(root, settings, repo, name, (path, kind), as_of, changed, as_json=as_json)
        return
    changed = [*changed, *([] if impressions is None else [f"impressions={impressions}"])]
    chosen = training_settings(name, changed, settings.training)
    domain = Domain.of(repo, chosen)
    with turn(root / settings.home):
        source = (path, kind, as_of)
        report = _refreshed(root, settings, repo, domain, chosen, source, trials, when_drifted=when_drifted)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_lines(report)))


def _refreshed(
    root: Path,
    settings: Settings,
    repo: FeatureRepo,
    domain: Domain,
    chosen: TrainingSettings,
    source: tuple[str | None, str | None, str | None],
    trials: int | None,
    *,
    when_drifted: bool,
) -> dict[str, Any]:
    """The report of a refresh, which stands in the status file too; that of the drift where none was needed."""
    from training.drifted import needless
    from training.judging import Judge
    from training.parity import asked_of
    from training.record import came_from
    from training.refresh import refresh, write_status
    from training.search import search

    file, as_of = source[:2], source[2]
    events = read_the_events(root, settings, repo, domain, file, as_of)
    now_ms = int(time.time() * 1_000)
    about = came_from(domain, root / settings.offline.path if file[0] is None else None, root)
    if file[0] is None and chosen.impressions != "split":
        events = {**events, **served_log(root, settings, repo, chosen, as_of)}
    registry = registry_of(root, settings)
    if when_drifted:
        judge = Judge.of_events(events, domain, chosen)
        found = needless(judge, registry, root / settings.home, now_ms, _say)
        if found is not None:
            return {**found, "trained": False}
    tried: Sequence[Trial] = ()
    if trials is not None:
        chosen, tried = search(events, domain, chosen, trials, _say)
    views = (domain.user, domain.item)
    ask = None if file[0] is not None else asked_of(root, settings, repo, views, chosen, lambda _: None)
    done = refresh(events, domain, chosen, registry, now_ms, _say, about, ask)
    registry.log_trials(done.version, tried, f"ndcg_at_{chosen.k}")
    report = {**done.report(), "search": [asdict(trial) for trial in tried]}
    write_status(root / settings.home / "status" / "train.json", report)
    return report


def _say(text: str) -> None:
    click.echo(text, err=True)


def training_settings(
    name: str | None, changed: Sequence[str], written: Mapping[str, Any] | None = None
) -> TrainingSettings:
    """The settings as they are written, with these KEY=VALUE over them; UsageError names the one that cannot be.

    Args:
        written: the section [training] of the project's settings.
    """
    from pydantic import ValidationError

    from training.settings import TrainingSettings

    values: dict[str, Any] = {**(written or {}), **({} if name is None else {"name": name})}
    for text in changed:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise UsageError("--set", "KEY=VALUE, such as iterations=200", repr(text))
        section, dot, inner = key.partition(".")
        values[section] = {**values.get(section, {}), inner: value} if dot else _listed(key, value)
    try:
        return TrainingSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"training setting '{'.'.join(map(str, first['loc']))}'"
        raise UsageError(where, first["msg"], repr(first.get("input"))) from error


def _listed(key: str, value: str) -> str | list[str]:
    """The value of a setting that is a list as one."""
    return [one for one in value.split(",") if one] if key in ("targets", "sources") else value


def read_the_events(
    root: Path,
    settings: Settings,
    repo: FeatureRepo,
    domain: Domain,
    file: tuple[str | None, str | None],
    as_of: str | None,
) -> Events:
    """Every event that was known before as_of, of the file if there is one, else of the offline store."""
    from features.inspection import parsed_time
    from training.dataset import read_file, read_offline

    end_ms = None if as_of is None else parsed_time(as_of)
    path, kind = file
    if path is None:
        return read_offline(root / settings.offline.path, domain, end_ms=end_ms)
    if kind is None:
        raise UsageError("headrace train --from", "--format", "none")
    return read_file(Path(path), kind, repo, domain, end_ms)


def served_log(
    root: Path, settings: Settings, repo: FeatureRepo, chosen: TrainingSettings, as_of: str | None
) -> Events:
    """What was served before as_of, by the name of its stream; nothing where it is not logged."""
    from features.archive_tables import Span
    from features.inspection import parsed_time
    from training.served import read_served

    stream = repo.streams.get(chosen.served_stream)
    if stream is None:
        return {}
    end_ms = None if as_of is None else parsed_time(as_of)
    try:
        return {stream.name: read_served(root / settings.offline.path, stream, Span(None, end_ms))}
    except UsageError:  # nothing was ever logged
        return {}


def registry_of(root: Path, settings: Settings) -> Registry:
    """The registry that the project's settings name."""
    from training.registry import Registry

    return Registry(settings.mlflow.tracking_uri, root)


def _lines(report: Mapping[str, Any]) -> list[str]:
    if report.get("trained") is False:
        most = max(report["psi"].values(), default=0.0)
        return [f"{report['model']} version {report['version']} stays: no input has drifted (PSI at most {most:.2f})"]
    names = [key for key in report["rows"][0] if key not in ("model", "took_s")]
    lines = [f"{'':14}" + "".join(f"{name:>17}" for name in names)]
    for row in report["rows"]:
        values = ("-" if row[name] is None else f"{row[name]:.4f}" for name in names)
        lines.append(f"{row['model']:14}" + "".join(f"{value:>17}" for value in values))
    verdict = click.style("champion", fg="green") if report["promoted"] else click.style("not promoted", fg="yellow")
    took = sum(report["took_s"].values())
    about = f"{report['model']} version {report['version']} · {verdict} · {report['reason']} · {took:.0f} s"
    return [*lines, "", about]
