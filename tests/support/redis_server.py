"""A Redis server of a test's own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from redis import ConnectionError as NotReadyError
from redis import Redis

READY_WITHIN_S = 10


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The address of a server on a free loopback port, which ends with the block; skips where none is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    port = _free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, server)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(READY_WITHIN_S)


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    with closing(Redis(port=port)) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                client.ping()
            except NotReadyError:
                continue
            return
    pytest.fail("redis-server did not answer")
