"""A PostgreSQL server of a test's own, which can be stopped as by a power cut and started again with what it has."""

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
"""Where Debian and its like have each version's programs, off the PATH."""
# What a power cut may cost is no matter of these tests, nor is memory.
SETTINGS = ("fsync=off", "shared_buffers=16MB", "max_connections=20", "listen_addresses=127.0.0.1")
ACCOUNTS = ("postgres", "nobody")


def program(name: str) -> str:
    """A program of PostgreSQL's server; skips the test where none is installed."""
    versions = sorted(Path(INSTALLED).glob("*/bin"), reverse=True)
    folders = os.pathsep.join([os.environ.get("PATH", ""), *map(str, versions)])
    found = shutil.which(name, path=folders)
    if found is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    return found


def account() -> str | None:
    """Who runs it: its server refuses to run as root, who then lends it an account that has no rights."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    found = next((name for name in ACCOUNTS if name in known), None)
    if found is None:
        pytest.skip("PostgreSQL's server does not run as root, and there is no account 'postgres' or 'nobody'")
    return found


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
        how = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        command = [program("initdb"), "--pgdata", str(self.folder / "data"), *how]
        done = subprocess.run(command, user=self.user, cwd=self.folder, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        options = [part for one in SETTINGS for part in ("-c", one)]
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
        """At once, without a word to those that are connected."""
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
    """A server with an empty database, which ends with the block; skips where none is installed."""
    program("initdb")
    user = account()
    # Not in pytest's own folder, which the account could not enter.
    with tempfile.TemporaryDirectory(prefix="headrace-pg-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder), user)
        server.make()
        try:
            server.start()
            yield server
        finally:
            server.stop()
