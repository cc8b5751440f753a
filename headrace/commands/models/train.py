"""`headrace train`. Only click is imported before the command runs."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import BusyError, UsageError
from features.redaction import redacted_values
from headrace.console import JSON, ROOT, figure, print_report

if TYPE_CHECKING:
    from headrace.commands.models.project import RecommenderProject
    from training.data import Events
    from training.progress import Log
    from training.recommender import Trial
    from training.resume import Stages
    from training.settings import TrainingSettings


NEAR = 0.75
"""Similarity (difflib) from which on a new name may be a slip of a known one: one letter of five."""


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
@click.option("--anew", is_flag=True, help="Do not go on with a training that was killed.")
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
    anew: bool,
    impressions: str | None,
    root: Path,
    as_json: bool,
) -> None:
    """Train a recommender on the offline store, test it, register it, and let it serve when it is better.

    NAME is that of a recommender of the feature repo, which has a registered model of that name: the default one unless
    given. A new name is for a model of the default one's definition; one that is nearly a known name is refused.
    Better is: surely above popularity, and surely not below the champion by more than the tolerance, in NDCG on the
    newest part of the events. With fewer than 30 test users or 50 items taken by them (least_test_users,
    least_test_positives) there is not enough to judge, and nothing is promoted: popularity or the champion serves on.
    What can be computed is shown, and for what cannot the reason.

    One training of a project runs at a time. After one that was killed, the next of the same settings and code resumes
    from its finished stages, on the events of then, for six hours.

    Of more events than fit into memory (max_events) it reads all those of some users, and says so; item features are
    of everybody's events.

    Where the feature repo has an event model of that name, that is trained: better is surely above its first input
    alone, and surely not below the model that serves now by more than the tolerance, in average precision on the newest
    part whose labels are known. There it takes 30 positives and 30 others, each in at least 10 groups, such as cards
    (least_test_positives, least_test_groups). A Regressor is better by its mean absolute (or squared) error, beside
    the mean and the median of the groups that its definition names. An Anomaly must keep its stated rate of alerts;
    with labels, it is better by F1 over incidents. A Classifier of several classes is better by macro-F1.

    \b
    Examples:
      headrace train
      headrace train --as-of 2011-11-09T00:00:00Z --json
      headrace train --when-drifted
      headrace train --search 8
      headrace train cards
      headrace train retail --from online-retail.parquet --format online-retail --set test_ms=2592000000
    """
    from headrace.commands.models.project import RecommenderProject, Source
    from headrace.commands.models.train_events import EventProject, train_event_model
    from headrace.project import Project
    from training.progress import progress_display
    from training.registry import ModelRegistry

    opened, source = Project.open(root), Source(path, kind, as_of)
    settings, definitions = opened.settings, opened.repo
    registry = ModelRegistry(settings.mlflow.tracking_uri, root)
    registry.reach()  # now, and not after the training
    if name is not None and name in definitions.models:
        with training_lock(opened.home):
            train_event_model(EventProject(opened, source, name, changed), when_drifted=when_drifted, as_json=as_json)
        return
    if name is not None:
        recommenders = definitions.chosen_recommenders(settings.training).by_name
        check_name(name, {*definitions.models, *recommenders, *registry.names()})
    changed = [*changed, *([] if impressions is None else [f"impressions={impressions}"])]
    project = RecommenderProject.of(opened, source, name, changed)
    with training_lock(opened.home), progress_display() as log:
        if anew:
            project.unfinished.forget()
        report = _refreshed(project, trials, log, when_drifted=when_drifted)
    print_report(report, as_json, _lines)


def training_lock(home: Path) -> AbstractContextManager[None]:
    """No other training of this home begins during the block. Raises BusyError with the process of a running one.

    A training that is killed leaves nothing that the next one must clean up: a version is registered in one call, after
    its files are whole, and until then no alias names it. Its finished stages are kept: training/resume.py.
    """
    from features.machine import locked

    return locked(
        home / "train.lock", lambda holder: BusyError(f"training in '{home}'", "no other one", f"{holder} at it")
    )


def _refreshed(project: RecommenderProject, trials: int | None, log: Log, *, when_drifted: bool) -> dict[str, Any]:
    """The report of a refresh, which is in the status file too; that of the drift where none was needed."""
    from features.machine import write_json
    from headrace.commands.models.project import begins
    from training.judging import Registration
    from training.refresh import refresh
    from training.run import TrainingRun

    now_ms = int(time.time() * 1_000)
    about, resumed = project.begin(trials, now_ms)
    log(begins(resumed))
    with project.unfinished.begun(about, resumed, log) as stages:
        events = project.events(log, about.tables)
        stable = _report_if_stable(project, events, now_ms, log) if when_drifted and not resumed else None
        if stable is not None:
            return stable
        events = project.with_served(events, about.tables)
        registration = Registration(
            project.registry, now_ms, project.provenance(about.tables), project.parity_check(), log
        )
        chosen, tried = _searched(project, events, trials, stages, log)
        done = refresh(TrainingRun.of(events, project.domain, chosen, log, stages), registration)
        project.registry.log_trials(done.version, tried, f"ndcg_at_{chosen.k}")
        report = {**done.report(), "search": [asdict(trial) for trial in tried], "resumed": resumed}
        file = "train.json" if project.is_default else f"train/{project.name}.json"
        write_json(project.project.home / "status" / file, redacted_values(report))
    return report


def _report_if_stable(project: RecommenderProject, events: Events, now_ms: int, log: Log) -> dict[str, Any] | None:
    from training.judging import Judge, measure_drift

    judge = Judge.of_events(events, project.domain, project.chosen)
    return project.report_if_stable(lambda champion: measure_drift(judge, project.registry, champion), now_ms, log)


def _searched(
    project: RecommenderProject, events: Events, trials: int | None, stages: Stages, log: Log
) -> tuple[TrainingSettings, Sequence[Trial]]:
    """The settings of the best trial, and the trials; without trials the project's settings."""
    from training.recommender import search
    from training.run import TrainingRun

    if trials is None:
        return project.chosen, ()
    return search(TrainingRun.of(events, project.domain, project.chosen, stages=stages), trials, log)


def check_name(name: str, known: Collection[str]) -> None:
    """Nothing for a known name, or a new one unlike any. Raises UsageError with the known name that is nearest."""
    near = get_close_matches(name, sorted(known), n=1, cutoff=NEAR)
    if name not in known and near:
        next_step = f"Did you mean '{near[0]}'? For a new recommender: headrace train --set name={name}."
        raise UsageError("headrace train", "the name of a model, or one unlike any", f"'{name}'", next_step)


def _lines(report: Mapping[str, Any]) -> list[str]:
    if report.get("trained") is False:
        most = max(report["psi"].values(), default=0.0)
        return [f"{report['model']} version {report['version']} stays: no input has drifted (PSI at most {most:.2f})"]
    names = [key for key in report["rows"][0] if key not in ("model", "took_s")]
    lines = [f"{'':14}" + "".join(f"{name:>17}" for name in names)]
    for row in report["rows"]:
        values = (figure(row[name]) for name in names)
        lines.append(f"{row['model']:14}" + "".join(f"{value:>17}" for value in values))
    verdict = click.style("champion", fg="green") if report["promoted"] else click.style("not promoted", fg="yellow")
    took = sum(report["took_s"].values())
    about = f"{report['model']} version {report['version']} · {verdict} · {report['reason']} · {took:.0f} s"
    absent = [f"{name}: not computed, as {reason}" for name, reason in report["not_computed"].items()]
    return [*lines, *absent, "", about]
