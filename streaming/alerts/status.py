"""The status of the deliveries of alerts, in a file of the project's home."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.online_store import ABSENT_AFTER_MS

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def delivery_file(home: Path) -> Path:
    """The path of the file."""
    return home / "status" / "alerts.json"


def read_delivery(home: Path, now_ms: int) -> dict[str, Any] | None:
    """The last status, with ``state`` 'absent' if it is old; None before the first."""
    try:
        status: dict[str, Any] = json.loads(delivery_file(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    is_old = now_ms - status["updated_at"] > ABSENT_AFTER_MS
    return status | ({"state": "absent"} if is_old and status["state"] != "stopped" else {})


def delivery_metrics(status: Mapping[str, Any]) -> list[Metric]:
    """The status as Prometheus' metric families."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["sink"]
    up = GaugeMetricFamily("headrace_alerts_up", "1 while alerts are delivered.", int(status["state"] == "running"))
    sink_up = GaugeMetricFamily("headrace_alerts_sink_up", "1 while the sink takes alerts.", labels=labels)
    numbers: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        "delivered": CounterMetricFamily("headrace_alerts_delivered_total", "Delivered alerts.", labels=labels),
        "refused": CounterMetricFamily("headrace_alerts_refused_total", "Alerts that the sink refused.", labels=labels),
        "expired": CounterMetricFamily(
            "headrace_alerts_expired_total", "Alerts that their topic lost before they were delivered.", labels=labels
        ),
        "waiting": GaugeMetricFamily("headrace_alerts_waiting", "Alerts that wait in their topic.", labels=labels),
    }
    for name, sink in status["sinks"].items():
        sink_up.add_metric([name], int(sink["state"] == "delivering"))
        for key, family in numbers.items():
            if sink.get(key) is not None:
                family.add_metric([name], sink[key])
    return [up, *numbers.values(), sink_up]


def delivery_lines(status: Mapping[str, Any]) -> list[str]:
    """The status in words: the counts of each sink, and its present or last error."""
    if status["state"] in ("absent", "stopped"):
        head = f"alerts: not delivered ({status['state']}). Start it with 'headrace alerts deliver'."
    else:
        head = f"alerts: {status['state']} · process {status['pid']} · topic {status['topic']}"
    return [head, *(line for name, sink in status["sinks"].items() for line in _sink_lines(name, sink))]


def _sink_lines(name: str, sink: Mapping[str, Any]) -> list[str]:
    waiting = "an unknown number" if sink["waiting"] is None else f"{sink['waiting']:,}"
    counts = f"{sink['delivered']:,} delivered, {sink['refused']:,} refused, {waiting} waiting"
    counts += f", {sink['expired']:,} EXPIRED before they were delivered" if sink.get("expired") else ""
    lines = [f"  {name}: {sink['state']} · {counts}"]
    if sink["last_error"]:
        when = "" if sink["state"] == "retrying" else "mended: "
        lines.append(f"    {when}{sink['last_error']['text']}")
    return lines
