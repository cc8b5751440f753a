"""A project with the definitions of feature_repo/cards.py on its own topics, and its stream as a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from features.definitions.repo import load_repo
from features.online_store.stream_status import read_status
from streaming.kafka.watermarks import read_watermarks

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120
POLL_S = 0.1


class Project:
    """A project with the definitions of feature_repo/cards.py on topics that begin with ``topic``.

    Args:
        edited: changes the text of the definitions.
    """

    def __init__(
        self, root: Path, bootstrap: str, jars: Path, topic: str, edited: Callable[[str], str] = lambda text: text
    ) -> None:
        self.root, self.bootstrap, self.topic = root, bootstrap, topic
        (root / ".headrace").mkdir(parents=True)
        (root / ".headrace" / "jars").symlink_to(jars)
        (root / "feature_repo").mkdir()
        definitions = edited((ROOT / "feature_repo" / "cards.py").read_text(encoding="utf-8"))
        (root / "feature_repo" / "cards.py").write_text(definitions.replace('"cards.', f'"{topic}.'), encoding="utf-8")
        shutil.copy(ROOT / "feature_repo" / "feature_store.yaml", root / "feature_repo")
        stream = "[stream]\nspark_memory = '512m'\narchive_trigger_s = 0.5\n"
        (root / "settings.toml").write_text(f"[kafka]\nbootstrap_servers = '{bootstrap}'\n{stream}", encoding="utf-8")
        self.repo = load_repo(root / "feature_repo")

    def run(self, *arguments: str) -> dict[str, Any]:
        """The JSON that a command prints; fails the test if the command fails."""
        command = [sys.executable, "-m", "headrace", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, check=False, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr.decode()
        return dict(json.loads(done.stdout))

    def stream(self) -> subprocess.Popen[bytes]:
        with (self.root / "log.txt").open("ab") as log:
            command = [sys.executable, "-m", "headrace", "stream"]
            return subprocess.Popen(command, cwd=self.root, env=dict(os.environ), stdout=log, stderr=log)

    def wait(self, process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.root / "log.txt").read_text(encoding="utf-8", errors="replace")
                pytest.fail(f"it ended with {process.poll()} or took too long:\n{log[-4_000:]}")
            time.sleep(POLL_S)

    def fold(self) -> dict[str, Any]:
        return dict(read_status(self.root / ".headrace", 0).get("queries", {}).get("fold", {}))

    def is_drained(self) -> bool:
        topics = [topic for stream in self.repo.streams.values() for topic in stream.topics]
        high = read_watermarks(self.bootstrap, topics).high
        queries = read_status(self.root / ".headrace", 0).get("queries", {})
        return bool(queries) and all(query["end"] == high for query in queries.values())
