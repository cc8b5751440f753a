"""`headrace features plan`: what the definitions of today mean for the rows and models that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import DefinitionError
from headrace.console import JSON, print_report

if TYPE_CHECKING:
    from features.definitions import FeatureRepo, FeatureView, StreamHistory, ViewPlan
    from features.online_store import OnlineStore

ROWS_PER_S = 100_000.0
"""Records that a rebuild reads and folds in a second for a view, on one processor: half of what was measured."""


@click.command()
@JSON
def plan(as_json: bool) -> None:
    """Say what the definitions mean for what runs: features new, removed, renamed or changed, and what is rebuilt.

    Exit 0 where there is nothing to do, and 1 where the next 'headrace stream' makes a new generation.

    \b
    Examples:
      headrace features plan
      headrace features plan --json
    """
    from features.definitions import plan_changes, rebuild_of
    from features.online_store import store_of
    from features.times import now_ms
    from headrace.project import Project
    from models.needs import model_needs

    project = Project.open()
    repo = project.repo
    rows = store_of(repo.path, project.home).open()
    plans = plan_changes(stored_views(rows, repo), repo.views)
    histories = histories_of(repo, project.offline)
    rebuilt = [repo.views[one.view] for one in plans if one.rebuild]
    rebuilds = [rebuild_of(view, histories, now_ms(), ROWS_PER_S) for view in rebuilt]
    current = {(view.name, view.schema_hash) for view in repo.views.values()}
    needs = [
        one
        for one in model_needs(project.settings.mlflow.tracking_uri, project.root)
        if (one.view, one.schema_hash) not in current
    ]
    found = {
        "todo": any(one.rebuild or one.status == "removed" for one in plans),
        "views": [asdict(one) for one in plans],
        "rebuilds": [asdict(one) for one in rebuilds],
        "models": [asdict(one) | {"schema_hash": f"{one.schema_hash:016x}"} for one in needs],
    }
    print_report(found, as_json, lambda report: _lines(report, plans))
    click.get_current_context().exit(1 if found["todo"] else 0)


def stored_views(rows: OnlineStore, repo: FeatureRepo) -> dict[str, FeatureView]:
    """The definitions of the generations that readers of today's views read, with all that stands beside those there.

    Where no view of today has rows, all that is stored: those views are gone, or are called something else now.
    """
    from features.definitions import views_of_text

    found: dict[str, FeatureView] = {}
    of_today = {rows.current(name) for name in repo.views} - {None}
    for stream_id in of_today or {rows.current(name) for name in rows.views()}:
        text = rows.generation(int(stream_id or 0)).described()
        try:
            views = views_of_text(text) if text is not None else ()
        except DefinitionError:
            views = ()  # of another version of headrace: its rows are made anew
        found |= {view.name: view for view in views if rows.current(view.name) == stream_id}
    return found


def histories_of(repo: FeatureRepo, offline: Path) -> dict[str, StreamHistory]:
    """What the archive has of each stream that has a table, by the tables' own statistics."""
    from features.definitions import StreamHistory
    from features.history import open_table

    found = {}
    for name, stream in repo.streams.items():
        table = open_table(offline, stream)
        if table is not None:
            found[name] = StreamHistory(tuple(table.columns()), table.rows(), *table.known_between())
    return found


def _lines(found: Mapping[str, Any], plans: list[ViewPlan]) -> Iterator[str]:
    for one in plans:
        how = "its rows are made anew" if one.rebuild else "its rows stay" if one.status != "removed" else "its rows go"
        yield f"{one.view}: {one.status}" + ("" if one.status == "same" else f" · {how}")
        if one.status != "new":
            yield from (f"    + {name}" for name in one.new)
        yield from (f"    - {name}" for name in one.removed)
        yield from (f"    {old} is called {new} now" for old, new in one.renamed.items())
        yield from (f"    ~ {change.feature}: {'; '.join(change.parts)}" for change in one.changed)
        yield from (f"    {note}" for note in one.notes)
    for rebuild in found["rebuilds"]:
        yield f"rebuild of {rebuild['view']}: {rebuild['rows']:,} records, about {rebuild['seconds']:g} s"
        yield from (f"    {line}" for line in rebuild["lacking"])
    for model in found["models"]:
        name = f"{model['model']} {model['version']} ({', '.join(model['aliases'])})"
        yield f"{name} needs {model['view']} of schema {model['schema_hash']}: its rows are kept"
