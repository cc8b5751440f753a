"""Asking a stream that runs to rebuild: a file in the project's home, which it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from features.errors import StoreError
from features.machine import write_json
from features.online_store import read_status
from features.times import now_ms

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


def is_taken(home: Path) -> bool:
    """Whether the stream has taken what was asked for."""
    return not _path(home).exists()


def rebuilt_by_the_stream(home: Path, say: Callable[[str], None]) -> str | None:
    """The new generation that readers have now, made by the stream that runs; None where none runs.

    Raises:
        StoreError: the stream could not make it, or ended meanwhile.
    """
    status = read_status(home, now_ms())
    if _generation(status) is None:
        return None
    before = {query.get("generation") for query in status["queries"].values()}
    ask_rebuild(home)
    waiting = _Waiting(home, say)
    waiting.until(lambda status: is_taken(home))
    # What is told from now on knows of the build; one from before it may be of another that was just taking over.
    taken_at = now_ms()
    return _generation(
        waiting.until(
            lambda status: (
                status["updated_at"] > taken_at and not _is_underway(status) and _generation(status) not in before
            )
        )
    )


class _Waiting:
    """Looks at the status of a stream again and again, and says now and then how far it is."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self._home, self._say, self._said_s = home, say, time.monotonic()

    def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status of which it is true."""
        while True:
            status = read_status(self._home, now_ms())
            if _generation(status) is None or status.get("build_error"):
                got = status.get("build_error") or "one that has ended"
                raise StoreError("headrace features rebuild", "a stream that runs and can read its archive", got)
            if true(status):
                return status
            if time.monotonic() > self._said_s + SAY_EVERY_S:
                self._said_s = time.monotonic()
                self._say(_progress(status))
            time.sleep(POLL_S)


def _is_underway(status: dict[str, Any]) -> bool:
    """Whether a generation is being made, or catches up."""
    return bool(status.get("building")) or "next" in status["queries"]


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
