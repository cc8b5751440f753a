"""TODO: docstring."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from features.errors import UsageError
from headrace.console import say
from headrace.loop import Loop, interrupts_end_it, own_repo, temporary_home

if TYPE_CHECKING:
    from headrace.project import Project


@click.group()
def bench() -> None:
    """Measure Headrace on this machine; where a peer exists, the peer in the same run.

    \b
    Examples:
      headrace bench core --json
      headrace bench freshness --json
      headrace bench throughput --json
    """


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
    """The parts of a loop by the project's settings and definitions, to be started, in a folder that ends with it.

    Args:
        where: the command that asks.
        port: of the service.
    """
    from headrace.project import Project

    project = own_broker(Project.open(), where)
    with ended_by_ctrl_c(), temporary_home(project.home, "bench-") as home:
        repo = own_repo(project.definitions, home)
        with Loop(project.root, project.settings, home, repo, port, f"sqlite:///{home / 'mlflow.db'}") as loop:
            yield loop


def own_broker(project: Project, where: str) -> Project:
    """The project with a broker on a free port; UsageError where it has a cluster, in which others would see us.

    Args:
        where: the command that asks.
    """
    settings = project.settings
    if settings.kafka.bootstrap_servers:
        required = "no kafka.bootstrap_servers, as it sends made-up events"
        hint = "Run it with HEADRACE_KAFKA__BOOTSTRAP_SERVERS= (nothing) for a broker of its own."
        raise UsageError(where, required, f"'{settings.kafka.bootstrap_servers}'", hint)
    broker = settings.broker.model_copy(update={"port": 0})
    return replace(project, settings=settings.model_copy(update={"broker": broker}))


def machine() -> str:
    """What this is measured on."""
    return f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
