"""The status file of the stream in the project's home, as others read it; streaming/status.py writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABSENT_AFTER_MS = 10_000


def status_file(home: Path) -> Path:
    """Path of the status file."""
    return home / "status" / "stream.json"


def read_status(home: Path, now: int) -> dict[str, Any]:
    """The last status of the stream, with ``state`` 'absent' if it was written a while ago, or never."""
    path = status_file(home)
    if not path.exists():
        return {"state": "absent"}
    status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    silent = now - status["updated_at"] > ABSENT_AFTER_MS
    return status | ({"state": "absent"} if silent and status["state"] != "stopped" else {})


def age_ms(status: Mapping[str, Any], now: int) -> int | None:
    """Milliseconds since the fold had all that Kafka has; None if it does not run, or is behind."""
    fold = status.get("queries", {}).get("fold", {})
    caught_up = status["state"] == "running" and fold.get("lag") == 0
    return max(0, now - int(status["updated_at"])) if caught_up else None


def sentence(status: Mapping[str, Any], now: int) -> str:
    """The lag of the online store, for a person."""
    fold, age = status.get("queries", {}).get("fold", {}), age_ms(status, now)
    if age is not None:
        return f"the stream had folded all of Kafka {age:,} ms ago"
    if status["state"] != "running":
        return "the stream does not run: nothing newer is here"
    lag = "an unknown number of" if fold.get("lag") is None else f"{fold['lag']:,}"
    return f"the stream is {lag} records behind ({fold.get('state', 'starting')})"
