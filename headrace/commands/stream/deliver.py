"""`headrace alerts deliver`: alerts from their topic to a table, PostgreSQL and a webhook, as the settings say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.console import say

if TYPE_CHECKING:
    from features.definitions import FeatureRepo
    from headrace.settings import AlertsSettings, Settings
    from streaming.alerts import Delivery
    from streaming.alerts.sinks import Sink


@click.command()
def deliver() -> None:
    """Take alerts from their topic to where the settings name: a Delta table, PostgreSQL, a webhook; until Ctrl-C.

    Each has its own place in the topic, so that one that is down holds up no other, and has each alert once. What a
    sink refuses is among the dead letters of the topic. 'headrace status' tells how they do.

    \b
    Examples:
      headrace alerts deliver
      HEADRACE_ALERTS__WEBHOOK=https://example.com/hook headrace alerts deliver
    """
    from headrace.cluster import cluster
    from headrace.commands.stream.stream import until_signalled
    from headrace.project import Project
    from streaming.alerts import deliver_all
    from streaming.supervisor import Patience

    project = Project.open()
    sinks = sinks_of(project.settings.alerts, project.offline, project.repo)
    with until_signalled() as stop, _only_one(project.home), cluster(project.settings, project.root) as bootstrap:
        deliveries = _deliveries(project.settings, bootstrap, sinks)
        say(f"alerts of '{project.settings.stream.alerts_topic}' to {', '.join(one.name for one in sinks)}")
        tell = partial(_tell, project.home, project.settings.stream.alerts_topic, stop.is_set)
        patience = Patience(say)  # what others are told is no reason to stop, such as on a disk without room
        deliver_all(deliveries, lambda sinks: patience(partial(tell, sinks)), stop)


def sinks_of(settings: AlertsSettings, offline: Path, repo: FeatureRepo) -> list[Sink]:
    """The sinks that the settings name, not connected. UsageError where they name none, or one that cannot be."""
    from features.times import now_ms
    from streaming.alerts.sinks import DeltaSink, PostgresSink, WebhookSink

    sinks: list[Sink] = []
    if settings.table:
        if settings.table in repo.streams:
            raise UsageError("setting 'alerts.table'", "a name that no stream has", f"'{settings.table}'")
        sinks.append(DeltaSink(offline / settings.table, settings.table_every_s, now_ms))
    if settings.postgres:
        password = settings.postgres_password.get_secret_value()
        sinks.append(PostgresSink(settings.postgres, password, settings.postgres_table))
    if settings.webhook:
        token = settings.webhook_token.get_secret_value()
        sinks.append(WebhookSink(settings.webhook, token, settings.webhook_timeout_s))
    if not sinks:
        next_step = "Set alerts.table, alerts.postgres or alerts.webhook in settings.toml."
        raise UsageError("headrace alerts deliver", "somewhere to take alerts to", "none", next_step)
    return sinks


def _deliveries(settings: Settings, bootstrap: str, sinks: Sequence[Sink]) -> list[Delivery]:
    from streaming.alerts import AlertTopic, Delivery, Letters
    from streaming.fold import crash_point
    from streaming.kafka import EventProducer

    topic, client = settings.stream.alerts_topic, settings.kafka.client
    letters, reached = Letters(EventProducer(bootstrap, client)), crash_point(os.environ) or (lambda place: None)
    return [
        Delivery(
            sink,
            AlertTopic(bootstrap, topic, f"{settings.alerts.group}-{sink.name}", client),
            letters,
            say,
            reached,
        )
        for sink in sinks
    ]


def _tell(home: Path, topic: str, is_over: Callable[[], bool], sinks: Mapping[str, Any]) -> None:
    from features.machine import write_json
    from features.times import now_ms
    from streaming.alerts import delivery_file

    state = "stopped" if is_over() else "running"
    told = {"state": state, "pid": os.getpid(), "topic": topic, "updated_at": now_ms(), "sinks": dict(sinks)}
    write_json(delivery_file(home), told)


def _only_one(home: Path) -> AbstractContextManager[None]:
    """No other process of this project delivers meanwhile: two would read one place."""
    from features.machine import LEAVING_S, locked

    refusal = partial(UsageError, "headrace alerts deliver", "no other of this project")
    return locked(home / "status" / "alerts.lock", refusal, LEAVING_S)
