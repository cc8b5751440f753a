"""Output of commands: data on stdout, as JSON or for a person, and all else on stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from features.machine import without_nan
from features.redaction import inert_json, inert_styled, redacted

R = TypeVar("R")

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


ROOT = click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="The project's folder."
)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """The text is on stdout or stderr; no character of it steers the terminal, but for styles."""
    click.echo(inert_styled(text), err=err, nl=nl)


def say(text: str) -> None:
    """The line is on stderr, without secrets."""
    echo(redacted(text), err=True)


def print_json(value: object) -> None:
    """The value is on stdout as JSON, null for each NaN and infinity, which JSON lacks."""
    echo(inert_json(json.dumps(without_nan(value), indent=2, ensure_ascii=False)))


def print_report(report: R, as_json: bool, as_text: Callable[[R], str | Iterable[str]]) -> None:
    """The report is on stdout, as JSON (see print_json) or the text or lines of ``as_text``."""
    if as_json:
        print_json(report)
        return
    text = as_text(report)
    echo(text if isinstance(text, str) else "\n".join(text))


def figure(value: float | None) -> str:
    """The number with four digits; a dash for one that could not be computed."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def aligned(names: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> list[str]:
    """Lines of a table: the names, then the rows; columns in ``right`` are right-aligned, others left-aligned."""
    from tabulate import tabulate

    aligns = ["right" if name in right else "left" for name in names]
    lines = [
        [inert_styled(cell.replace("\n", r"\n")) for cell in row] for row in (names, *rows)
    ]  # names are aligned as their columns
    table: str = tabulate(lines, tablefmt="plain", colalign=aligns, disable_numparse=True)
    return [line.rstrip() for line in table.split("\n")]


def metrics_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of a table of metrics; columns with text in the first row are left-aligned."""
    names = list(rows[0])
    cells = [[figure(row[name]) if isinstance(row[name], float) else str(row[name]) for name in names] for row in rows]
    return aligned(names, cells, [name for name in names if not isinstance(rows[0][name], str)])
