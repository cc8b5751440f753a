"""A loop for the length of a bench: its own broker, folder and definitions, ended by Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from features.errors import UsageError
from headrace.console import say
from headrace.loop import Loop, interrupts_end_it, own_repo, temporary_home

if TYPE_CHECKING:
    from headrace.project import Project


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C in the block ends the command with 130, once what the block had started has ended."""
    try:
        with interrupts_end_it():
            yield
    except KeyboardInterrupt:
        say("stopped; everything that was started has ended")
        sys.exit(130)


@contextmanager
def own_loop(where: str, port: int = 0) -> Iterator[Loop]:
    """A loop by the project's settings and definitions, nothing of it started, in a folder that is gone afterwards.

    Args:
        where: the command, for error messages.
        port: the service's.
    """
    from headrace.project import Project

    project = own_broker(Project.open(), where)
    with ended_by_ctrl_c(), temporary_home(project.home, "bench-") as home:
        repo = own_repo(project.definitions, home)
        with Loop(project.root, project.settings, home, repo, port, f"sqlite:///{home / 'mlflow.db'}") as loop:
            yield loop


def own_broker(project: Project, where: str) -> Project:
    """The project with a broker on a free port. Raises UsageError where its settings name a cluster that others use.

    Args:
        where: the command, for error messages.
    """
    settings = project.settings
    if settings.kafka.bootstrap_servers:
        required = "no kafka.bootstrap_servers, as it sends made-up events"
        hint = "Run it with HEADRACE_KAFKA__BOOTSTRAP_SERVERS= (nothing) for a broker of its own."
        raise UsageError(where, required, f"'{settings.kafka.bootstrap_servers}'", hint)
    broker = settings.broker.model_copy(update={"port": 0})
    return replace(project, settings=settings.model_copy(update={"broker": broker}))
