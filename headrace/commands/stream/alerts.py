"""`headrace alerts`: the alerts of event models and rules, as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import click

from features.redaction import inert_json, inert_line
from headrace.console import echo

REMEMBERED = 200_000
"""Alerts remembered: repeats are of the last batch, and a batch has fewer."""


@click.group()
def alerts() -> None:
    """Show the alerts of event models and rules, and deliver them to a table, PostgreSQL and a webhook.

    \b
    Examples:
      headrace alerts tail
      headrace alerts deliver
    """


@alerts.command()
@click.option("--from-beginning", is_flag=True, help="Also those that are in the topic already.")
@click.option("--limit", default=0, help="Stop after so many; 0 for never.")
@click.option("--seconds", type=float, default=0.0, help="Stop after so long; 0 for never.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line each.")
def tail(from_beginning: bool, limit: int, seconds: float, as_json: bool) -> None:
    """Show alerts as they come, each once, until Ctrl-C.

    \b
    Examples:
      headrace alerts tail
      headrace alerts tail --from-beginning --seconds 5 --json
    """
    from headrace.cluster import cluster
    from headrace.project import Project
    from streaming.kafka import follow_topic

    project = Project.open()
    deadline_s = time.monotonic() + seconds if seconds else float("inf")
    topic, client = project.settings.stream.alerts_topic, project.settings.kafka.client
    with cluster(project.settings, project.root) as servers:
        followed = follow_topic(servers, topic, deadline_s, client, from_beginning=from_beginning)
        for alert in islice(each_once(record.value for record in followed), limit or None):
            echo(inert_json(json.dumps(alert)) if as_json else inert_line(line_of(alert)))


def each_once(values: Iterator[bytes | None]) -> Iterator[dict[str, Any]]:
    """The alerts of the messages, each once, also where it was sent again after a crash."""
    seen: dict[str, None] = {}
    for value in values:
        alert = json.loads(value or b"{}")
        if alert.get("alert_id") and alert["alert_id"] not in seen:
            seen[alert["alert_id"]] = None
            if len(seen) > REMEMBERED:
                del seen[next(iter(seen))]
            yield alert


def line_of(alert: Mapping[str, Any]) -> str:
    """An alert as a line for a person."""
    reasons = ", ".join(_reason(reason) for reason in alert["reasons"])
    return f"{alert['event_id']}  {alert['source']}{_score(alert)}  {reasons}".rstrip()


def _score(alert: Mapping[str, Any]) -> str:
    if alert["score"] is None:
        return ""
    return f" {alert['score']:.3f} (from {alert['threshold']:.3f}, version {alert['version']})"


def _reason(reason: Mapping[str, Any]) -> str:
    usual = "" if reason["usual"] is None else f" (usual {reason['usual']:g})"
    value = "nothing" if reason["value"] is None else f"{reason['value']:g}"
    return f"{reason['feature']} {value}{usual}"
