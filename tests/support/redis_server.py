"""Redis servers for tests: in memory, on disk, or a cluster of three."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import ConnectionError as NotReadyError
from redis import Redis

from features.machine import find_program, free_port

READY_WITHIN_S = 20
NODES, SLOTS = 3, 16_384
IN_MEMORY = ("--save", "", "--appendonly", "no")
ON_DISK = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


def binary() -> str:
    """Path of redis-server, from the PATH or the set-up's folder; skips the test if there is none."""
    path = find_program("redis-server")
    if path is None:
        pytest.skip("redis-server is not installed (make setup, or apt-get install redis-server)")
    return path


@dataclass
class RedisServer:
    """A server on a free loopback port, which can be killed, frozen, and started again with the data on its disk."""

    folder: Path
    options: tuple[str, ...] = IN_MEMORY
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    password: str | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *self.options]
        log = subprocess.DEVNULL
        self.process = subprocess.Popen([binary(), *options], stdout=log, stderr=log)
        until(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "redis-server ended"
        with closing(Redis(port=self.port, password=self.password)) as client:
            try:
                client.ping()
            except NotReadyError:
                return False
        return True

    def signal(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kills the server with SIGKILL and waits for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(READY_WITHIN_S)
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(READY_WITHIN_S)
            self.process = None


@contextmanager
def running(server: RedisServer) -> Iterator[RedisServer]:
    """The server runs until the block ends."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """The URL of a server that runs until the block ends; skips the test if none is installed."""
    with running(RedisServer(folder)) as server:
        yield server.url


@contextmanager
def running_cluster(folder: Path) -> Iterator[list[RedisServer]]:
    """Three servers that form a cluster, each with a third of the slots."""
    with ExitStack() as stack:
        buses = [free_port() for _ in range(NODES)]
        options = [(*IN_MEMORY, "--cluster-enabled", "yes", "--cluster-port", str(bus)) for bus in buses]
        servers = [RedisServer(folder / str(number), arguments) for number, arguments in enumerate(options)]
        for server in servers:
            stack.enter_context(running(server))
        clients = [stack.enter_context(closing(Redis(port=server.port))) for server in servers]
        for number, client in enumerate(clients):
            bounds = (SLOTS * number // NODES, SLOTS * (number + 1) // NODES - 1)
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *bounds)
            for other, bus in zip(servers, buses, strict=True):
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        for client in clients:
            until(lambda client=client: knows_all(client), "the cluster is whole")
        yield servers


def knows_all(client: Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == NODES


def until(condition, what: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {READY_WITHIN_S} s: {what}")
        time.sleep(0.01)
