"""`headrace features check`: the laws of every path, checked on a file. Only click is imported before it runs."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from features.errors import UsageError
from headrace.commands.features.show import (
    REPO,
    VIEW,
    File,
    Read,
    file_options,
    options,
    repo_of_settings,
    views_of_file,
)
from headrace.console import JSON, echo, print_json, say

if TYPE_CHECKING:
    from features.checks import Report, Sizes
    from features.definitions import FeatureRepo, FeatureView
    from features.events import Parsed
    from features.formats import Refused

OTHER_CHUNK_ROWS = 7_919
"""Rows of a chunk in the second reading: any number other than the first's."""

COLOURS = {"ok": "green", "none": "yellow", "FAILED": "red"}


@click.command()
@options(file_options, REPO, VIEW, JSON)
@click.option("--entities", default=100, show_default=True, type=click.IntRange(1), help="How many of each view.")
@click.option("--times", default=20, show_default=True, type=click.IntRange(1), help="At how many times each.")
@click.option("--seed", type=click.IntRange(0), help="Chooses entities, times and batches; a new one unless given.")
def check(
    file: File, folder: str | None, view_name: str | None, entities: int, times: int, seed: int | None, as_json: bool
) -> None:
    """Check on a file that every path gives the same numbers; exit 1 where one does not.

    A naive oracle recomputes some entities; history and stream (in random batches, shuffled, torn and folded again)
    must agree with it. The file's events are held in memory.

    \b
    Examples:
      headrace features check --from online-retail.parquet --format online-retail
      headrace features check --from my.csv --format csv --stream activity --entities 500 --seed 7
    """
    from features.checks import Sizes
    from features.formats import Refused
    from features.rows import large_row_line, large_rows

    repo = repo_of_settings(folder)
    read = file.reader(repo, "headrace features check")
    views = views_of_file(repo, view_name, None, file.fills(repo))
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    large = large_rows(views)
    for each in large.items():
        say(large_row_line(*each))
    echo(f"seed {seed} (--seed {seed} checks the same again)", err=True)
    reports, refused = [], Refused()
    for report in _checked(repo, read, views, Sizes(entities, times), seed, refused):
        reports.append(report)
        if not as_json:
            echo("\n".join(_law(report)))
    ok = all(report.mismatches == 0 for report in reports)
    if as_json:
        laws = [asdict(report) for report in reports]
        print_json({"ok": ok, "seed": seed, "laws": laws, "file": refused.as_json(), "large_rows": large})
    click.get_current_context().exit(0 if ok else 1)


def _checked(
    repo: FeatureRepo, read: Read, views: Sequence[FeatureView], sizes: Sizes, seed: int, refused: Refused
) -> Iterator[Report]:
    from numpy.random import default_rng

    from features.checks import check_view, valid_events, verdicts_add_up, verdicts_are_the_records_own

    echo("reading the file twice, in chunks of two sizes", err=True)
    first, second = _by_stream(refused.watched(read(), say)), _by_stream(read(chunk_rows=OTHER_CHUNK_ROWS))
    if not first:
        raise UsageError("the file", "at least one record of a stream of the feature repo", "none")
    for name in first:
        yield verdicts_add_up(repo.streams[name], first[name])
        yield verdicts_are_the_records_own(name, first[name], second.pop(name))
    events = {name: valid_events(parsed) for name, parsed in first.items()}
    for view in views:
        yield from check_view(view, events, sizes, default_rng(seed), lambda text: echo(text, err=True))


def _by_stream(read: Iterator[tuple[str, Parsed]]) -> dict[str, list[Parsed]]:
    parsed_by_stream: dict[str, list[Parsed]] = {}
    for name, parsed in read:
        parsed_by_stream.setdefault(name, []).append(parsed)
    return parsed_by_stream


def _law(report: Report) -> Iterator[str]:
    status = "FAILED" if report.mismatches else "ok" if report.compared else "none"
    notes = [f"{report.compared:,} compared"]
    notes += [f"{report.mismatches:,} differ"] if report.mismatches else []
    notes += [report.note] if report.note else []
    word = click.style(f"{status:6}", fg=COLOURS[status])
    yield f"{word}  {report.view or 'file':20}  {report.law:46}  {' · '.join(notes)}"
    for example in report.worst:
        yield f"{'':8}{example}"
