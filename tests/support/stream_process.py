"""`headrace stream` as a process, as a user starts it, with waits for its progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from features.definitions.repo import load_repo
from features.online_store.stream_status import read_status
from streaming.fold.crash_points import VARIABLE
from streaming.kafka.watermarks import read_watermarks

DEADLINE_S = 120
POLL_S = 0.1
Process = subprocess.Popen[bytes]


def unfinished(home: Path, query: str) -> int:
    """Number of batches of the query that were planned and not finished, which a restart runs again."""
    folder = home / "checkpoints" / query
    if not (folder / "current.json").exists():
        return 0
    checkpoint = folder / str(json.loads((folder / "current.json").read_text())["stream_id"])
    planned, finished = ({path.name for path in (checkpoint / part).glob("[0-9]*")} for part in ("offsets", "commits"))
    return len(planned - finished)


@dataclass(frozen=True)
class StreamProcess:
    """The stream of the project in ``root`` on the cluster ``bootstrap``."""

    root: Path
    bootstrap: str

    @contextmanager
    def running(self, *within: str, crash_at: str | None = None, options: Sequence[str] = ()) -> Iterator[Process]:
        """The process, started by the command ``within`` if there is one, and killed when the block ends.

        Args:
            options: of the command.
            crash_at: the point at which it kills itself (streaming/fold/crash_points.py).
            options: of the command.
        """
        arguments = [*within, sys.executable, "-m", "headrace", "stream", *options]
        environ = {**os.environ, **({VARIABLE: crash_at} if crash_at else {})}
        with (self.root / "log.txt").open("ab") as log:
            process = subprocess.Popen(arguments, cwd=self.root, env=environ, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(30)

    def wait(self, process: Process, done: Callable[[], object], within_s: float = DEADLINE_S) -> None:
        """Waits until ``done``; fails the test if the process ends or ``within_s`` passes first."""
        deadline = time.monotonic() + within_s
        while not done():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"it ended with {process.poll()} or took too long:\n{self.said()}")
            time.sleep(POLL_S)

    def said(self) -> str:
        """The last 4,000 characters of its log."""
        return (self.root / "log.txt").read_text(encoding="utf-8", errors="replace")[-4_000:]

    def status(self) -> dict[str, Any]:
        """Its last status."""
        return read_status(self.root / ".headrace", 0)

    def queries(self) -> dict[str, Any]:
        """The last status of each query."""
        return dict(self.status().get("queries", {}))

    def is_running(self, process: Process) -> bool:
        """True if the last status was written by this process and is "running"."""
        status = self.status()
        return status.get("pid") == process.pid and status.get("state") == "running"

    def is_drained(self) -> bool:
        """True if both queries have processed every record of the topics."""
        streams = load_repo(self.root / "feature_repo").streams.values()
        topics = [topic for stream in streams for topic in stream.topics]
        high, queries = read_watermarks(self.bootstrap, topics).high, self.queries()
        return bool(queries) and all(query["end"] == high for query in queries.values())

    def is_building(self) -> bool:
        """True if the rows of a new generation were begun and not finished; a restart drops them and begins again."""
        return (self.root / ".headrace" / "checkpoints" / "fold" / "building.json").exists()

    def unfinished(self) -> int:
        """Number of batches of both queries that a restart runs again."""
        return sum(unfinished(self.root / ".headrace", query) for query in ("fold", "archive"))
