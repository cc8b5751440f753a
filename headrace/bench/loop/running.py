"""A loop for the length of a bench: its own broker, folder and definitions, ended by Ctrl-C."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from features.errors import UsageError
from features.machine import find_program
from headrace.bench.redis_server import redis_server
from headrace.client import access_headers
from headrace.console import say
from headrace.loop import OWN_STORE, Loop, LoopError, interrupts_end_it, own_repo, temporary_home

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.project import Project

STORES = ("sqlite", "redis")

REDIS_STORE = OWN_STORE.replace("Sqlite", "Redis").replace("path: ../online.db", "url: {url}")


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
    """The loop of the project in the current folder, with a broker of its own, ended by Ctrl-C: see loop_of().

    Args:
        where: the command, for error messages.
        port: the service's.
    """
    from headrace.project import Project

    project = own_broker(Project.open(), where)
    with ended_by_ctrl_c(), loop_of(project, port) as loop:
        yield loop


DOMAINS = ("shop", "cards")
"""The files of definitions that are measured; those of other domains would only add their topics."""


@contextmanager
def loop_of(project: Project, port: int = 0, store: str = "sqlite") -> Iterator[Loop]:
    """A loop by the project's settings and definitions, nothing of it started, in a folder that is gone afterwards.

    Args:
        port: the service's.
        store: one of STORES, for the loop alone.
    """
    with temporary_home(project.home, "bench-") as home, store_yaml(store, home) as yaml:
        repo = own_repo(project.definitions, home, yaml, DOMAINS)
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


def check_stores(stores: Collection[str], where: str) -> None:
    """Passes where what these stores need is installed; UsageError otherwise.

    Args:
        where: the command, for error messages.
    """
    if "redis" in stores and find_program("redis-server") is None:
        got = "no such program on the PATH"
        raise UsageError(where, "redis-server", got, "Install it, or measure --store sqlite alone.")


@contextmanager
def store_yaml(store: str, home: Path) -> Iterator[str]:
    """The feature_store.yaml of a new, empty store; a server that it needs runs during the block."""
    if store == "sqlite":
        yield OWN_STORE
        return
    with redis_server(home, durable=True) as address:
        yield REDIS_STORE.format(url=f"redis://{address}/0")


def asked(address: tuple[str, int], method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer over a connection of its own, as a load balancer would spread requests over the replicas.

    Raises:
        LoopError: any status but 200 and 202.
    """
    with closing(http.client.HTTPConnection(*address, timeout=10)) as connection:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json", **access_headers()})
        answer = connection.getresponse()
        content: dict[str, Any] = json.loads(answer.read())
    if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.ACCEPTED):
        raise LoopError(f"{method} {path}", "200 or 202", f"{answer.status}: {content}")
    return content
