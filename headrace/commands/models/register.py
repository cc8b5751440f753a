"""`headrace models examples` and `register`: a model that you fit yourself, on what ours learns from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from features.errors import UsageError
from headrace.commands.models.models import model_of, refuse, tell
from headrace.commands.models.options import FORMAT, FROM, NAME, SET, model_name, opened
from headrace.console import JSON, ROOT, say


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@NAME
@FROM
@FORMAT
@SET
@ROOT
def examples(
    file: Path, name: str | None, path: str | None, kind: str | None, changed: Sequence[str], root: Path
) -> None:
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

    project = opened(root)
    table, label = model_of(project, model_name(project, name), (path, kind), changed).examples(say)
    pq.write_table(table, file)
    count = sum(table[label].to_pylist())
    say(f"{table.num_rows:,} examples of {table.num_columns - 1} inputs, {count:,} {label}: {file}")


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
    name: str | None,
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
    from training.user_models import fetched

    if not trust:
        raise UsageError("headrace models register", "--trust, as loading an MLflow model runs what it holds", "none")
    project = opened(root)
    model = model_of(project, model_name(project, name), (path, kind), changed)
    with tempfile.TemporaryDirectory() as scratch:
        version, verdict = model.register(fetched(model.registry, uri, Path(scratch)), uri)
    refuse(version, verdict)
    tell(version, as_json, f"{version.name} version {version.version} is the champion: {verdict.reason}")
