"""`headrace features plan`: the effects of today's definitions on stored rows and registered models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import DefinitionError
from headrace.console import JSON, print_report

if TYPE_CHECKING:
    from features.definitions import FeatureRepo, FeatureView, Retyped, StreamHistory, ViewPlan
    from features.online_store import OnlineStore

ROWS_PER_S = 100_000.0
"""Records a second that a rebuild reads and folds for a view, on one processor: half of the measured rate."""


@click.command()
@JSON
def plan(as_json: bool) -> None:
    """Show new, removed, renamed and changed features, and the rebuilds that they cause.

    Exit 0 where there is nothing to do, and 1 where the next 'headrace stream' makes a new generation.

    \b
    Examples:
      headrace features plan
      headrace features plan --json
    """
    from features.definitions import plan_changes, rebuild_of
    from features.online_store import store_of
    from features.rows import large_rows
    from features.times import now_ms
    from headrace.project import Project
    from models.needs import model_needs

    project = Project.open()
    repo = project.repo
    rows = store_of(repo.path, project.home).open()
    plans = plan_changes(stored_views(rows, repo), repo.views)
    histories = histories_of(repo, project.offline)
    rebuilt = [repo.views[change.view] for change in plans if change.rebuild]
    retyped = [field for name, history in histories.items() for field in history.retyped(repo.streams[name])]
    rebuilds = [rebuild_of(view, histories, now_ms(), ROWS_PER_S) for view in rebuilt]
    current = {(view.name, view.schema_hash) for view in repo.views.values()}
    needs = [
        need
        for need in model_needs(project.settings.mlflow.tracking_uri, project.root)
        if (need.view, need.schema_hash) not in current
    ]
    report = {
        "todo": any(change.rebuild or change.status == "removed" for change in plans),
        "views": [asdict(change) for change in plans],
        "rebuilds": [asdict(rebuild) for rebuild in rebuilds],
        "retyped": [asdict(field) for field in retyped],
        "large_rows": large_rows(repo.views.values()),
        "models": [asdict(need) | {"schema_hash": f"{need.schema_hash:016x}"} for need in needs],
    }
    print_report(report, as_json, lambda report: _lines(report, plans, retyped))
    click.get_current_context().exit(1 if report["todo"] else 0)


def stored_views(rows: OnlineStore, repo: FeatureRepo) -> dict[str, FeatureView]:
    """View name → stored definition, of all views in the generations that readers of today's views read.

    Where no view of today has rows, of all generations: those views are removed or renamed.
    """
    from features.definitions import views_of_text

    stored: dict[str, FeatureView] = {}
    of_today = {rows.current(name) for name in repo.views} - {None}
    for stream_id in of_today or {rows.current(name) for name in rows.views()}:
        text = rows.generation(int(stream_id or 0)).described()
        try:
            views = views_of_text(text) if text is not None else ()
        except DefinitionError:
            views = ()  # of another version of headrace: its rows are rebuilt
        stored |= {view.name: view for view in views if rows.current(view.name) == stream_id}
    return stored


def histories_of(repo: FeatureRepo, offline: Path) -> dict[str, StreamHistory]:
    """The archive's history of each stream that has a table, by the tables' statistics."""
    from features.definitions import StreamHistory
    from features.history import open_table

    histories = {}
    for name, stream in repo.streams.items():
        table = open_table(offline, stream)
        if table is not None:
            dtypes = {field: tuple(table.stored.dtypes(field)) for field in table.stored.fields()}
            histories[name] = StreamHistory(tuple(dtypes), table.rows(), *table.known_between(), dtypes)
    return histories


def _lines(report: Mapping[str, Any], plans: list[ViewPlan], retyped: list[Retyped]) -> Iterator[str]:
    from features.rows import large_row_line

    for change in plans:
        kept = "its rows stay" if change.status != "removed" else "its rows go"
        how = "its rows are rebuilt" if change.rebuild else kept
        yield f"{change.view}: {change.status}" + ("" if change.status == "same" else f" · {how}")
        if change.status != "new":
            yield from (f"    + {name}" for name in change.new)
        yield from (f"    - {name}" for name in change.removed)
        yield from (f"    {old} is called {new} now" for old, new in change.renamed.items())
        yield from (f"    ~ {part.feature}: {'; '.join(part.parts)}" for part in change.changed)
        yield from (f"    {note}" for note in change.notes)
    for rebuild in report["rebuilds"]:
        yield f"rebuild of {rebuild['view']}: {rebuild['rows']:,} records, about {rebuild['seconds']:g} s"
        yield from (f"    {line}" for line in rebuild["lacking"])
    yield from (str(field) for field in retyped)
    yield from (large_row_line(*each) for each in report["large_rows"].items())
    for model in report["models"]:
        name = f"{model['model']} {model['version']} ({', '.join(model['aliases'])})"
        yield f"{name} needs {model['view']} of schema {model['schema_hash']}: its rows are kept"
