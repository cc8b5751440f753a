"""A PostgreSQL server for tests, which can be stopped at once and started again with its data."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis_server import free_port, until

READY_WITHIN_S = 20
INSTALLED = "/usr/lib/postgresql"
"""The folder of each version's programs on Debian and its derivatives, which is not on the PATH."""
# The tests do not depend on durability after a power cut; memory is kept small.
SETTINGS = ("fsync=off", "shared_buffers=16MB", "max_connections=20", "listen_addresses=127.0.0.1")
ACCOUNTS = ("postgres", "nobody")


def program(name: str) -> str:
    """Path of a program of PostgreSQL's server; skips the test if it is not installed."""
    versions = sorted(Path(INSTALLED).glob("*/bin"), reverse=True)
    folders = os.pathsep.join([os.environ.get("PATH", ""), *map(str, versions)])
    path = shutil.which(name, path=folders)
    if path is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    return path


def account() -> str | None:
    """The account that runs the server, which refuses to run as root; None for the present user."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    account_name = next((name for name in ACCOUNTS if name in names), None)
    if account_name is None:
        pytest.skip("PostgreSQL's server does not run as root, and there is no account 'postgres' or 'nobody'")
    return account_name


@dataclass
class PostgresServer:
    """A server on a free loopback port, with a superuser ``postgres`` that needs no password."""

    folder: Path
    user: str | None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres"

    def make(self) -> None:
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        command = [program("initdb"), "--pgdata", str(self.folder / "data"), *options]
        done = subprocess.run(command, user=self.user, cwd=self.folder, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        options = [part for setting in SETTINGS for part in ("-c", setting)]
        options += ["-c", f"unix_socket_directories={self.folder}", "-p", str(self.port)]
        command = [program("postgres"), "-D", str(self.folder / "data"), *options]
        log = subprocess.DEVNULL
        self.process = subprocess.Popen(command, user=self.user, cwd=self.folder, stdout=log, stderr=log)
        until(self._answers, "postgres answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "postgres ended"
        try:
            psycopg.connect(self.conninfo, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stops the server at once, without notice to its clients."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(READY_WITHIN_S)
            self.process = None

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server with an empty database until the block ends; skips the test if none is installed."""
    program("initdb")
    user = account()
    # Not in pytest's folder, which the account cannot enter.
    with tempfile.TemporaryDirectory(prefix="headrace-pg-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder), user)
        server.make()
        try:
            server.start()
            yield server
        finally:
            server.stop()
