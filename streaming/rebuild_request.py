"""Asking a stream that runs to rebuild: a file in the project's home, which it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.errors import StoreError
from features.stream_status import read_status
from streaming.generations import write_json
from streaming.online_sink import now_ms

POLL_S = 0.2
SAY_EVERY_S = 5.0


def _path(home: Path) -> Path:
    return home / "requests" / "rebuild.json"


def ask_rebuild(home: Path) -> None:
    """The stream that runs makes a new generation soon."""
    write_json(_path(home), {})


def take_rebuild(home: Path) -> bool:
    """Whether a rebuild was asked for; it is taken, and has to be asked for again."""
    try:
        _path(home).unlink()
    except FileNotFoundError:
        return False
    return True


def rebuilt_by_the_stream(home: Path, say: Callable[[str], None]) -> str | None:
    """The new generation that readers have now, made by the stream that runs; None where none runs.

    Raises:
        StoreError: the stream could not make it, or ended meanwhile.
    """
    before = _generation(read_status(home, now_ms()))
    if before is None:
        return None
    ask_rebuild(home)
    said_s = time.monotonic()
    while True:
        status = read_status(home, now_ms())
        found = _generation(status)
        if found != before and found is not None:
            return found
        if found is None or status.get("build_error"):
            got = status.get("build_error") or "one that has ended"
            raise StoreError("headrace features rebuild", "a stream that runs and can read its archive", got)
        if time.monotonic() > said_s + SAY_EVERY_S:
            said_s = time.monotonic()
            say(_progress(status))
        time.sleep(POLL_S)


def _generation(status: dict[str, Any]) -> str | None:
    """The generation that the stream's readers read; None where no stream runs."""
    if status["state"] != "running":
        return None
    found: str | None = status["queries"]["fold"].get("generation")
    return found


def _progress(status: dict[str, Any]) -> str:
    if "next" in status["queries"]:
        return f"the new rows catch up with Kafka: {status['queries']['next']['lag']} records behind"
    return "the rows are made from the archive"
