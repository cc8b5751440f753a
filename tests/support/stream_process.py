"""`headrace stream` as the process that a user starts, and how to wait for what it does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from features.repo import load_repo
from features.stream_status import read_status
from streaming.watermarks import read_watermarks

DEADLINE_S = 120
POLL_S = 0.1
Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class StreamProcess:
    """The stream of the project in ``root`` on the cluster ``bootstrap``."""

    root: Path
    bootstrap: str

    @contextmanager
    def running(self, *within: str) -> Iterator[Process]:
        """It runs, started by the command ``within`` where one is given; whatever happens, it is gone afterwards."""
        arguments = [*within, sys.executable, "-m", "headrace", "stream"]
        with (self.root / "log.txt").open("ab") as log:
            process = subprocess.Popen(arguments, cwd=self.root, env=dict(os.environ), stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(30)

    def wait(self, process: Process, done: Callable[[], object]) -> None:
        """Until it is done; fails the test when the process ends before, or the time does."""
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"it ended with {process.poll()} or took too long:\n{self.said()}")
            time.sleep(POLL_S)

    def said(self) -> str:
        """The end of what it wrote."""
        return (self.root / "log.txt").read_text(encoding="utf-8", errors="replace")[-4_000:]

    def queries(self) -> dict[str, Any]:
        """What it told last of each query."""
        return dict(read_status(self.root / ".headrace", 0).get("queries", {}))

    def is_drained(self) -> bool:
        """Whether both queries have finished all that the topics have."""
        topics = [stream.topic for stream in load_repo(self.root / "feature_repo").streams.values()]
        high, queries = read_watermarks(self.bootstrap, topics).high, self.queries()
        return bool(queries) and all(query["end"] == high for query in queries.values())
