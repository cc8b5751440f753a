"""A request to a running stream to rebuild: a file in the project's home, which the stream takes."""

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

LOG_EVERY_S = 5.0


def _path(home: Path) -> Path:
    return home / "requests" / "rebuild.json"


def ask_rebuild(home: Path) -> None:
    """Ask the running stream to build a new generation."""
    write_json(_path(home), {})


def take_rebuild(home: Path) -> bool:
    """True if a rebuild was requested; the request is removed."""
    try:
        _path(home).unlink()
    except FileNotFoundError:
        return False
    return True


def is_taken(home: Path) -> bool:
    """True once the stream has taken the request."""
    return not _path(home).exists()


def rebuilt_by_the_stream(home: Path, log: Callable[[str], None]) -> str | None:
    """The new generation that the running stream built and readers now read; None where no stream runs.

    Raises:
        StoreError: the stream could not build it, or ended meanwhile.
    """
    status = read_status(home, now_ms())
    if _generation(status) is None:
        return None
    before = {query.get("generation") for query in status["queries"].values()}
    ask_rebuild(home)
    waiting = _Waiting(home, log)
    waiting.until(lambda status: is_taken(home))
    # A status from now on includes the build; an earlier one may be of another build that was just taking over.
    taken_at = now_ms()
    return _generation(
        waiting.until(
            lambda status: (
                status["updated_at"] > taken_at and not _is_underway(status) and _generation(status) not in before
            )
        )
    )


class _Waiting:
    """Polls the status of a stream, and logs its progress now and then."""

    def __init__(self, home: Path, log: Callable[[str], None]) -> None:
        self._home, self._log, self._logged_s = home, log, time.monotonic()

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status for which ``holds`` is true."""
        while True:
            status = read_status(self._home, now_ms())
            if _generation(status) is None or status.get("build_error"):
                got = status.get("build_error") or "one that has ended"
                raise StoreError("headrace features rebuild", "a stream that runs and can read its archive", got)
            if holds(status):
                return status
            if time.monotonic() > self._logged_s + LOG_EVERY_S:
                self._logged_s = time.monotonic()
                self._log(_progress(status))
            time.sleep(POLL_S)


def _is_underway(status: dict[str, Any]) -> bool:
    """True while a generation is being built or catches up."""
    return bool(status.get("building")) or "next" in status["queries"]


def _generation(status: dict[str, Any]) -> str | None:
    """The generation that the stream's readers read; None where no stream runs."""
    if status["state"] != "running":
        return None
    generation: str | None = status["queries"]["fold"].get("generation")
    return generation


def _progress(status: dict[str, Any]) -> str:
    if "next" in status["queries"]:
        return f"the new rows catch up with Kafka: {status['queries']['next']['lag']} records behind"
    return "the rows are made from the archive"
