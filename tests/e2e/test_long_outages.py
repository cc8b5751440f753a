"""Parts that are away for minutes, and disks that are full for a while: the stream goes on, and nothing is lost.

Each part is the real one. A full disk is a small file system of its own (tmpfs) with a file that takes the rest of it,
so these tests need the right to mount one.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from full_disk import fill
from mixed_traffic import DEAD_LETTER, DUPLICATE, FOLDED, LATE, Sending, traffic
from mortal_loop import MortalLoop, mortal_loop
from stream_process import Process

from features.times import now_ms

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).resolve().parents[2]
OUTAGE_S = 330
"""Longer than Kafka's and librdkafka's five minutes, after which clients give up what they wait for."""
FULL_S = 40
SETTLED_S = 300
DISK_MB = 96
PLACES = {"archive": "offline", "checkpoints": "checkpoints", "store": "store", "broker": "../broker"}
ENDS = (FOLDED, DUPLICATE, LATE, DEAD_LETTER)


@pytest.fixture
def loop(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[MortalLoop]:
    store, full = request.param
    with ExitStack() as stack:
        if full is not None:
            folder = tmp_path / ".headrace" / PLACES[full]
            folder.mkdir(parents=True)
            stack.enter_context(small_disk(folder.resolve()))
        repo, jars = ROOT / "feature_repo", ROOT / ".headrace"
        yield stack.enter_context(mortal_loop(tmp_path, repo, jars, "cards", store, 1_000, seed))


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of DISK_MB in the folder."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("loop", "part"), [(("sqlite", None), "broker"), (("redis", None), "store")], indirect=["loop"]
)
def test_a_part_that_is_away_for_minutes_costs_nothing_but_time(loop: MortalLoop, part: str, seed: int) -> None:
    sent = traffic("cards", loop.repo, now_ms(), seed)
    sending = Sending(loop.broker.bootstrap_servers, sent, 200.0)
    with loop.stream.running() as process:
        sending.release(len(sent) // 2)
        settled(loop, process, sending)
        server = loop.broker if part == "broker" else loop.redis
        assert server is not None
        server.kill()
        if part == "store":
            sending.release(len(sent) // 4)
        time.sleep(OUTAGE_S)
        server.start()
        sending.finish()
        settled(loop, process, sending)
        recount(loop, sending)
    verified(loop)


@pytest.mark.parametrize(("loop", "full"), [(("sqlite", one), one) for one in PLACES], indirect=["loop"], ids=PLACES)
def test_a_full_disk_stops_what_needs_it_until_there_is_room_again(loop: MortalLoop, full: str, seed: int) -> None:
    """A broker ends when its disk is full, and is started again; the stream goes on by itself, or when it is."""
    sent = traffic("cards", loop.repo, now_ms(), seed)
    sending = Sending(loop.broker.bootstrap_servers, sent, 200.0)
    with loop.stream.running() as process:
        sending.release(len(sent) // 2)
        settled(loop, process, sending)
        ballast = (loop.root / ".headrace" / PLACES[full]).resolve() / "ballast"
        fill(ballast)
        sending.release(len(sent) // 4)
        time.sleep(FULL_S)
        ballast.unlink()
        if full == "broker":
            loop.broker.kill()
            loop.broker.start()
        if process.poll() is None:
            sending.finish()
            settled(loop, process, sending)
            recount(loop, sending)
    if process.returncode not in (None, 0, -9):
        with loop.stream.running() as again:
            sending.finish()
            settled(loop, again, sending)
            recount(loop, sending)
    verified(loop)


def settled(loop: MortalLoop, process: Process, sending: Sending) -> None:
    loop.stream.wait(process, sending.is_answered, SETTLED_S)
    loop.stream.wait(process, lambda: loop.stream.is_running(process) and loop.stream.is_drained(), SETTLED_S)


def recount(loop: MortalLoop, sending: Sending) -> None:
    """Every message ended once, as what it was made to be."""
    assert sending.errors == []
    ends = Counter(one.end for one in sending.sent)
    assert loop.counts() == {end: ends[end] for end in ENDS}


def verified(loop: MortalLoop) -> None:
    """Every row is what the archive's events come to."""
    command = [ROOT / ".venv" / "bin" / "python", "-m", "headrace", "features", "verify"]
    done = subprocess.run(command, cwd=loop.root, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
