"""`headrace tables`: the offline store's tables and their compaction. Only click is imported before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from headrace.console import JSON, aligned, print_report, say

if TYPE_CHECKING:
    from headrace.project import Project


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
def tables(context: click.Context, as_json: bool) -> None:
    """Show the offline store's tables: rows, files, bytes and version of each.

    \b
    Examples:
      headrace tables
      headrace tables --json
      headrace tables compact
    """
    if context.invoked_subcommand is not None:
        return
    from streaming.archive import state_of, tables_of

    states = [asdict(state_of(name, table)) for name, table in tables_of(_project().offline)]
    _show(states, as_json)


@tables.command()
@click.option("--keep-hours", type=click.IntRange(min=1), help="Keep older versions so long, if not the settings'.")
@JSON
def compact(keep_hours: int | None, as_json: bool) -> None:
    """Merge small files to large ones, and delete the files of old versions; the stream may run meanwhile.

    \b
    Examples:
      headrace tables compact
      headrace tables compact --keep-hours 24 --json
    """
    from streaming.archive import maintain, tables_of

    project = _project()
    keep = project.settings.offline.keep_versions_h if keep_hours is None else keep_hours
    _show([asdict(maintain(name, table, keep)) for name, table in tables_of(project.offline)], as_json)


def _project() -> Project:
    from headrace.project import Project

    return Project.open()


def _show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if not rows and not as_json:
        say("no tables yet: 'headrace stream' or 'headrace import' makes them")
        return
    print_report(rows, as_json, _lines)


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    cells = [[row["table"], *(f"{row[name]:,}" for name in names[1:])] for row in rows]
    return aligned(names, cells, names[1:])
