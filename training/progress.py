"""The progress of a training: a bar on a terminal, plain lines anywhere else; both on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Log = Callable[[str], None]
"""Takes a line about what a training does; a Stage begins one."""


def silent(text: str) -> None:
    """Drops the line."""


SHARES: Mapping[str, float] = {
    "reading": 5,
    "search": 20,
    "dataset": 2,
    "candidates": 8,
    "examples": 17,
    "ranker": 12,
    "test": 26,
    "final": 8,
    "champion": 10,
    "parity": 2,
    "registering": 10,
}
"""Stage → its share of a training's time, as a million interactions take it; in order. The bar is as exact as that."""


class Stage(str):
    """A line about a stage that begins; ``name`` is one of SHARES, and ``done`` the share of it that is over."""

    __slots__ = ("done", "name")

    def __new__(cls, name: str, text: str, done: float = 0.0) -> Stage:
        stage = super().__new__(cls, text)
        stage.name, stage.done = name, done
        return stage

    name: str
    done: float


class StageTimer:
    """Logs each stage as it begins, and keeps how long it took."""

    def __init__(self, log: Log = silent) -> None:
        self.log = log
        self._since: tuple[str, float] | None = None
        self.took_s: dict[str, float] = {}

    def begin(self, name: str, text: str) -> None:
        """Ends the stage that was going on, and begins this one."""
        self.end()
        self.log(Stage(name, text))
        self._since = name, perf_counter()

    def end(self) -> None:
        """Ends the stage that was going on."""
        if self._since is not None:
            name, started = self._since
            self.took_s[name] = round(perf_counter() - started, 3)


def reached(stage: Stage) -> float:
    """The share of a training that is over when the stage begins, 0 to 1; stages that are left out count as over."""
    names = list(SHARES)
    before = sum(SHARES[name] for name in names[: names.index(stage.name)])
    return (before + stage.done * SHARES[stage.name]) / sum(SHARES.values())


@contextmanager
def progress_display(console: Console | None = None) -> Iterator[Log]:
    """Shows the lines that a training logs, and on a terminal a bar below them until the block ends."""
    if console is None and not sys.stderr.isatty():
        yield lambda text: click.echo(str(text), err=True)
        return
    with _bar(console) as progress:
        task = progress.add_task("", total=1.0)

        def log(text: str) -> None:
            progress.console.print(str(text), markup=False, highlight=False)
            if isinstance(text, Stage):
                progress.update(task, completed=reached(text), description=text.name)

        yield log


def _bar(console: Console | None) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description:11}"), BarColumn(), TaskProgressColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console or Console(stderr=True), transient=True)
