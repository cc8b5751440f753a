"""Upkeep of the offline store's tables beside a stream, now and then, in a process of its own.

A process, as compaction takes memory and processors that a driver needs, and as what goes wrong there is nothing to it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

COMMAND = (sys.executable, "-m", "headrace", "tables", "compact", "--json")

POLL_S = 0.2

STOP_S = 10.0
"""How long one that is told to end may take: a compaction is a single commit at its end, or none."""

Say = Callable[[str], object]


@contextmanager
def kept_up_every(every_s: float, root: Path, say: Say, command: Sequence[str] = COMMAND) -> Iterator[None]:
    """While the block lasts, the command runs in ``root`` so long after its last end, and at first after the start.

    Args:
        every_s: 0 for never.
        say: is told of a run that failed.
    """
    if not every_s:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_keep_up, args=(every_s, root, say, command, stop), name="upkeep")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _keep_up(every_s: float, root: Path, say: Say, command: Sequence[str], stop: threading.Event) -> None:
    while not stop.wait(every_s):
        status = _run(command, root, stop)
        if status and not stop.is_set():
            say(f"upkeep of the tables failed (exit {status}); by hand: headrace tables compact")


def _run(command: Sequence[str], root: Path, stop: threading.Event) -> int:
    """How the command ended, which is told to when we are."""
    process = subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the stream
    )
    while process.poll() is None:
        if stop.wait(POLL_S):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()
    return int(process.returncode)
