"""`headrace alerts deliver`: alerts from their topic to the table, PostgreSQL and webhook of the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from features.redaction import redacted_values
from headrace.console import say

if TYPE_CHECKING:
    from features.definitions import FeatureRepo
    from headrace.settings import AlertsSettings, Settings
    from streaming.alerts import Delivery
    from streaming.alerts.sinks import Sink


@click.command()
def deliver() -> None:
    """Deliver alerts to the sinks of the settings: a Delta table, PostgreSQL, a webhook; until Ctrl-C.

    Each sink has its own offsets in the topic, so that one that is down delays no other, and gets each alert once.
    Alerts that a sink refuses are dead letters of the topic. 'headrace status' shows the deliveries.

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
        say(f"alerts of '{project.settings.stream.alerts_topic}' to {', '.join(sink.name for sink in sinks)}")
        write = partial(_write_status, project.home, project.settings.stream.alerts_topic, stop.is_set)
        patience = Patience(say)  # a status that cannot be written, such as on a full disk, is no reason to stop
        deliver_all(deliveries, lambda sinks: patience(partial(write, sinks)), stop)


def sinks_of(settings: AlertsSettings, offline: Path, repo: FeatureRepo) -> list[Sink]:
    """The sinks of the settings, not connected. Raises UsageError where there are none, or an invalid one."""
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
    letters, reached = Letters(EventProducer(bootstrap, client)), crash_point(os.environ) or (lambda _: None)
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


def _write_status(home: Path, topic: str, is_over: Callable[[], bool], sinks: Mapping[str, Any]) -> None:
    from features.machine import write_json
    from features.times import now_ms
    from streaming.alerts import delivery_file

    state = "stopped" if is_over() else "running"
    status = {"state": state, "pid": os.getpid(), "topic": topic, "updated_at": now_ms(), "sinks": dict(sinks)}
    write_json(delivery_file(home), redacted_values(status))


def _only_one(home: Path) -> AbstractContextManager[None]:
    """No other process of this project delivers during the block: two would share the offsets."""
    from features.machine import LEAVING_S, locked

    refusal = partial(UsageError, "headrace alerts deliver", "no other of this project")
    return locked(home / "status" / "alerts.lock", refusal, LEAVING_S)
