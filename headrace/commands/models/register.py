"""`headrace models examples` and `register`: a model that you fit yourself, on what ours learns from."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from features.errors import UsageError
from headrace.commands.models.models import (
    FORMAT,
    FROM,
    NAME,
    SET,
    judge_of,
    parity_check_of,
    project_of,
    refuse,
    registry_in,
    tell,
)
from headrace.console import JSON, ROOT

if TYPE_CHECKING:
    import pyarrow as pa

    from training.judging import Judge


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@NAME
@FROM
@FORMAT
@SET
@ROOT
def examples(file: Path, name: str, path: str | None, kind: str | None, changed: Sequence[str], root: Path) -> None:
    """Write what a model learns from to FILE (Parquet): its inputs by name, and what came of each row.

    Of a ranker each row is an item that could have been recommended to a user at some moment, with the features of just
    then, and whether it was ``taken``. Of an event model each is an event with what was known just before it, and
    whether it is ``positive``.

    \b
    Examples:
      headrace models examples examples.parquet
      headrace models examples payments.parquet --model cards
    """
    import pyarrow.parquet as pq

    from headrace.commands.models.train_events import EventProject, examples_of_event_model
    from training.user_models import ranker_examples

    events = EventProject.found(root, name, (path, kind), changed)
    if events is not None:
        table = examples_of_event_model(events)
        pq.write_table(table, file)
        _tell_written(table, "positive", file)
        return
    judge = judge_of(root, name, path, kind, changed)
    judge = judge if path is not None else _with_served_log(root, judge)
    table = ranker_examples(judge, lambda text: click.echo(text, err=True))
    pq.write_table(table, file)
    _tell_written(table, "taken", file)


def _tell_written(table: pa.Table, label: str, file: Path) -> None:
    count = sum(table[label].to_pylist())
    click.echo(f"{table.num_rows:,} examples of {table.num_columns - 1} inputs, {count:,} {label}: {file}", err=True)


def _with_served_log(root: Path, judge: Judge) -> Judge:
    """The judge's events with what was served, which a ranker may learn from."""
    from headrace.commands.models.project import RecommenderProject
    from headrace.project import Project

    opened = Project.open(root)
    project = RecommenderProject(root, opened.settings, opened.repo, judge.settings)
    features = judge.run.features
    features = replace(features, events=project.with_served(features.events))
    return replace(judge, run=replace(judge.run, features=features))


@click.command()
@click.argument("uri")
@click.option("--trust", is_flag=True, help="It may run its code: here, and in every service that it answers in.")
@NAME
@FROM
@FORMAT
@SET
@ROOT
@JSON
def register(
    uri: str,
    trust: bool,
    name: str,
    path: str | None,
    kind: str | None,
    changed: Sequence[str],
    root: Path,
    as_json: bool,
) -> None:
    """Register an MLflow model of yours as the ranker or the event model, judge it, and let it serve when it is better.

    URI is of MLflow (runs:/…, models:/…) or a folder. Its signature names inputs of the ranker or the event model, of
    type double or float; 'headrace models examples' writes rows of them. What scores events says from 0 to 1. The
    version has a copy of its files, and --trust is about these bytes alone. Exit 1 where the gate refuses; the reason
    is kept with the version.

    \b
    Examples:
      headrace models register ./my-model --trust
      headrace models register runs:/4c1f…/model --trust --json
      headrace models register ./my-model --trust --model cards
    """
    from headrace.commands.models.train_events import EventProject, register_event_model
    from training.judging import Registration
    from training.user_models import check_inputs, fetched, register_ranker

    if not trust:
        raise UsageError("headrace models register", "--trust, as loading an MLflow model runs what it holds", "none")
    registry = registry_in(root)
    events = EventProject.found(root, name, (path, kind), changed)
    with tempfile.TemporaryDirectory() as scratch:
        model = fetched(registry, uri, Path(scratch))
        if events is not None:
            version, verdict = register_event_model(events, model, uri)
        else:
            project = project_of(root, name, path, kind, changed)
            check_inputs(model, project.domain, project.chosen)
            judge = judge_of(root, name, path, kind, changed)
            check = None if path is not None else parity_check_of(root, judge)
            registration = Registration(registry, int(time.time() * 1000), {"own": uri}, check)
            version, verdict = register_ranker(model, judge, registration)
    refuse(version, verdict)
    tell(version, as_json, f"{name} version {version.version} is the champion: {verdict.reason}")
