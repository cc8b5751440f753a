"""The whole loop, as a person starts it: events through Kafka, Spark, the stores, training and Ray Serve, and back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

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
    own, model = (
        next(row for row in seen["model"]["rows"] if row["model"] == name) for name in ("own_frequent", "model")
    )
    over = seen["model"]["differences"]["own_frequent"]
    assert over["mean"] == pytest.approx(model["ndcg_at_10"] - own["ndcg_at_10"])
    assert "of everybody's own most frequent items" in done.stderr
    assert "values agree" in seen["model"]["reason"], "features online and offline, as the gate asked"
    assert seen["stream"]["counts"]["folded"] == seen["sent"]["events"]
    assert seen["clicks"]["before"]["fallback"] == {"used": True, "reason": "unknown_user"}
    assert seen["clicks"]["after"]["model"]["version"] == "1"
    assert {path for path in set(HOME.iterdir()) - before if path.name != "jars"} == set()
    assert processes_in(str(HOME / "demo-")) == []


STEPS = ("", "broker", "broker", "events", "stream", "archive", "training", "newcomer")
"""The step after which the demo is interrupted; twice after the broker's, as Spark starts meanwhile."""


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("instant", range(len(STEPS)))
def test_a_demo_that_is_interrupted_leaves_no_process_port_or_lock(instant: int, seed: int) -> None:
    """Ctrl-C at a seeded moment after a step; every third time it is pressed twice."""
    before = set(HOME.iterdir())
    delay_s = Random(f"{seed}/{instant}").uniform(0, 4)
    command = [sys.executable, "-m", "headrace", "demo"]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    with demo, demo.stderr as said:
        for line in said if STEPS[instant] else ():
            if line.split()[2] == STEPS[instant]:
                break
        with suppress(subprocess.TimeoutExpired):
            demo.wait(delay_s)
        ours = {path for path in set(HOME.iterdir()) - before if path.name != "jars"}
        ports = listening(ours)
        demo.send_signal(signal.SIGINT)
        if instant % 3 == 2:
            demo.send_signal(signal.SIGINT)
        rest = said.read()
        assert demo.wait(60) == 0, rest
    assert rest.splitlines()[-1] == "stopped; everything that was started has ended"
    assert {path for path in set(HOME.iterdir()) - before if path.name != "jars"} == set()
    assert [line for path in ours for line in processes_in(str(path))] == []
    assert [port for port in ports if is_taken(port)] == []


def listening(homes: set[Path]) -> list[int]:
    """The ports that the broker and the service of these homes were given so far."""
    return [int(path.read_text().strip().rpartition(":")[2]) for home in homes for path in home.glob("kafka/bootstrap")]


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


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
