"""The status file of the stream in the project's home, as others read it; streaming/status.py writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.times import moment_text

ABSENT_AFTER_MS = 10_000

STUCK_AFTER = 3
"""A query does not get on when it has failed so often in a row."""

HANGS_AFTER_MS = 300_000
"""A query that runs does not get on when it has done nothing for so long."""


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


def stuck(status: Mapping[str, Any]) -> dict[str, str]:
    """Query → since when and why it does not get on: it failed for good or STUCK_AFTER times in a row, or it hangs."""
    queries = {} if status["state"] == "absent" else status.get("queries", {})
    found = {}
    for name, query in queries.items():
        moved_at = query.get("moved_at")
        if query.get("failing_since") and (query["state"] == "failed" or query["failures"] >= STUCK_AFTER):
            found[name] = _not_since(name, query["failing_since"], query["error"])
        elif query["state"] == "running" and moved_at and status["updated_at"] - moved_at > HANGS_AFTER_MS:
            found[name] = _not_since(name, moved_at, "it hangs, without an error; end the stream and start it again")
    return found


def _not_since(name: str, since: int, reason: str) -> str:
    return f"query '{name}' has not got on since {moment_text(since)}: {reason}"


def progress_text(status: Mapping[str, Any]) -> str:
    """'ok' where every query gets on; else which does not, since when and why, or that no stream runs."""
    return "; ".join(stuck(status).values()) or ("ok" if status["state"] == "running" else "not running")
