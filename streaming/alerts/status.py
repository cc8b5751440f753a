"""How deliveries of alerts do, in a file of the project's home that tells others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.online_store import ABSENT_AFTER_MS

NUMBERS = {
    "delivered": "headrace_alerts_delivered_total",
    "refused": "headrace_alerts_refused_total",
    "waiting": "headrace_alerts_waiting",
}


def delivery_file(home: Path) -> Path:
    """Where it is."""
    return home / "status" / "alerts.json"


def read_delivery(home: Path, now_ms: int) -> dict[str, Any] | None:
    """What was told last, with ``state`` 'absent' where nothing was told for a while; None where nothing ever was."""
    try:
        found: dict[str, Any] = json.loads(delivery_file(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    silent = now_ms - found["updated_at"] > ABSENT_AFTER_MS
    return found | ({"state": "absent"} if silent and found["state"] != "stopped" else {})


def delivery_metrics(told: Mapping[str, Any]) -> str:
    """The same in Prometheus' text format."""
    lines = [f"headrace_alerts_up {int(told['state'] == 'running')}"]
    for name, sink in told["sinks"].items():
        label = f'{{sink="{name}"}}'
        lines += [f"{metric}{label} {sink[key]}" for key, metric in NUMBERS.items() if sink[key] is not None]
        lines.append(f"headrace_alerts_sink_up{label} {int(sink['state'] == 'delivering')}")
    return "\n".join(lines) + "\n"


def delivery_lines(told: Mapping[str, Any]) -> list[str]:
    """For a person: what each sink got, what waits for it, and what is wrong, or was last."""
    if told["state"] in ("absent", "stopped"):
        head = f"alerts: not delivered ({told['state']}). Start it with 'headrace alerts deliver'."
    else:
        head = f"alerts: {told['state']} · process {told['pid']} · topic {told['topic']}"
    return [head, *(line for name, sink in told["sinks"].items() for line in _sink_lines(name, sink))]


def _sink_lines(name: str, sink: Mapping[str, Any]) -> list[str]:
    waiting = "an unknown number" if sink["waiting"] is None else f"{sink['waiting']:,}"
    counts = f"{sink['delivered']:,} delivered, {sink['refused']:,} refused, {waiting} waiting"
    lines = [f"  {name}: {sink['state']} · {counts}"]
    if sink["last_error"]:
        when = "" if sink["state"] == "retrying" else "mended: "
        lines.append(f"    {when}{sink['last_error']['text']}")
    return lines
