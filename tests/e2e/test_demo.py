"""The whole loop, as a person starts it: events through Kafka, Spark, the stores, training and Ray Serve, and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".headrace"
WITHIN_S = 900


@pytest.mark.integration
def test_the_demo_proves_the_loop_and_leaves_nothing_behind() -> None:
    """Five views by somebody new become features, then recommendations of that kind; every check of the demo holds."""
    before = set(HOME.iterdir()) if HOME.exists() else set()
    command = [sys.executable, "-m", "headrace", "demo", "--once", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout)
    assert all(seen["checks"].values()), seen["checks"]
    assert seen["stream"]["counts"]["folded"] == seen["sent"]["events"]
    assert seen["clicks"]["before"]["fallback"] == {"used": True, "reason": "unknown_user"}
    assert seen["clicks"]["after"]["model"]["version"] == "1"
    assert {path for path in set(HOME.iterdir()) - before if path.name != "jars"} == set()
    assert processes_in(str(HOME / "demo-")) == []


def processes_in(folder: str) -> list[str]:
    """The command lines of processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if folder in line and int(process.name) != os.getpid():
            found.append(line)
    return found
