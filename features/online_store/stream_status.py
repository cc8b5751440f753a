"""What the stream tells of itself in a file of the project's home, as others read it; streaming/status.py writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABSENT_AFTER_MS = 10_000


def status_file(home: Path) -> Path:
    """Where it is."""
    return home / "status" / "stream.json"


def read_status(home: Path, now: int) -> dict[str, Any]:
    """What the stream told last, with ``state`` 'absent' where it has not told anything for a while, or never."""
    path = status_file(home)
    if not path.exists():
        return {"state": "absent"}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    silent = now - found["updated_at"] > ABSENT_AFTER_MS
    return found | ({"state": "absent"} if silent and found["state"] != "stopped" else {})


def age_ms(status: Mapping[str, Any], now: int) -> int | None:
    """How long ago the fold had all that Kafka has; None where it does not run, or is behind."""
    fold = status.get("queries", {}).get("fold", {})
    caught_up = status["state"] == "running" and fold.get("lag") == 0
    return max(0, now - int(status["updated_at"])) if caught_up else None


def sentence(status: Mapping[str, Any], now: int) -> str:
    """How far the online store is behind, for a person."""
    fold, age = status.get("queries", {}).get("fold", {}), age_ms(status, now)
    if age is not None:
        return f"the stream had folded all of Kafka {age:,} ms ago"
    if status["state"] != "running":
        return "the stream does not run: nothing newer is here"
    lag = "an unknown number of" if fold.get("lag") is None else f"{fold['lag']:,}"
    return f"the stream is {lag} records behind ({fold.get('state', 'starting')})"
