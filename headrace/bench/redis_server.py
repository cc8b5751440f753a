"""A Redis server for the length of a bench."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from features.errors import StoreError
from features.machine import find_program, free_port

WITHIN_S = 10

IN_MEMORY = ("--save", "", "--appendonly", "no")

DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


@contextmanager
def redis_server(folder: Path, *, durable: bool = False) -> Iterator[str | None]:
    """host:port of a server that ends with the block; None where no redis-server is installed.

    Args:
        folder: where the server writes.
        durable: whether it is run as in production: a write is on the disk a second later. Else it keeps none there.

    Raises:
        StoreError: it does not listen within WITHIN_S.
    """
    binary = find_program("redis-server")
    if binary is None:
        yield None
        return
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *(DURABLE if durable else IN_MEMORY)]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(WITHIN_S)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while server.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise StoreError("the bench's Redis server", f"an answer within {WITHIN_S} s", "none")
