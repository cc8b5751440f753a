"""How far events have moved from those that a model was tested on, as training told it last, for others to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 3
"""So many inputs are named in a line."""


def drift_file(home: Path, event_model: str | None = None) -> Path:
    """Where it is: of a recommender, or of the event model of this name."""
    folder = home / "status"
    return folder / "drift.json" if event_model is None else folder / "drift" / f"{event_model}.json"


def read_drift(home: Path) -> dict[str, Any] | None:
    """What training told last (models drift --json, with ``at_ms``); None where it never told anything."""
    return _read(drift_file(home))


def read_event_drift(home: Path) -> dict[str, dict[str, Any]]:
    """The same of each event model, by name."""
    files = sorted(drift_file(home, "any").parent.glob("[!.]*.json"))
    return {path.stem: found for path in files if (found := _read(path)) is not None}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def drift_line(found: Mapping[str, Any], now_ms: int) -> str:
    """It for a person."""
    psi, alarming = found["psi"], found["alarming"]
    minutes = (now_ms - found["at_ms"]) / 60_000
    head = f"model: {found['model']} version {found['version']} · drift measured {minutes:,.0f} min ago"
    if not alarming:
        return f"{head} · none (PSI at most {max(psi.values(), default=0.0):.2f})"
    named = ", ".join(f"{name} {psi[name]:.2f}" for name in alarming[:SHOWN])
    more = f" and {len(alarming) - SHOWN} more" if len(alarming) > SHOWN else ""
    return f"{head} · drifted: {named}{more}. Train anew: {_command(found)}"


def _command(found: Mapping[str, Any]) -> str:
    return f"headrace train {found['model']}" if found.get("kind") == "events" else "headrace train"


def drift_metrics(found: Mapping[str, Any]) -> str:
    """It in Prometheus' text format: whether it alarms, the largest PSI, and that of each input that alarms."""
    of = f'model="{found["model"]}",version="{found["version"]}"'
    psi = found["psi"]
    lines = [
        f"headrace_model_drift_alarm{{{of}}} {int(bool(found['alarming']))}",
        f"headrace_model_drift_psi_max{{{of}}} {max(psi.values(), default=0.0):g}",
        *(f'headrace_model_drift_psi{{{of},input="{name}"}} {psi[name]:g}' for name in found["alarming"]),
    ]
    return "".join(f"{line}\n" for line in lines)
