"""File locks, atomic file replacement, JSON, free ports and programs, for processes of the same machine."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from features.errors import HeadraceError

LOOPBACK = "127.0.0.1"

EVERY = ("", "*", "0.0.0.0", "::")
"""Hosts of a service that listens on every address of its machine."""

POLL_S = 0.05

LEAVING_S = 1.0
"""Seconds to wait for an owner that is alive: somebody may only have looked whether the lock is held."""

ORPHANS_S = 20.0
"""Seconds to wait for the children of an owner that died."""


class FileLock:
    """A lock file that names its owner; the lock ends with the processes that hold it, however they end.

    Children that inherit the file hold the lock, too.

    Args:
        path: the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def take(self, wait_s: float = LEAVING_S, orphans_s: float = ORPHANS_S) -> bool:
        """Take the lock: True when it is ours now, False when an owner that is alive, or its children, hold it.

        Args:
            wait_s: how long to wait for an owner that is alive.
            orphans_s: how long to wait for the children of one that is not.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        began = time.monotonic()
        while not _locks(file):
            if time.monotonic() - began >= (wait_s if _is_alive(self.owner()) else orphans_s):
                file.close()
                return False
            time.sleep(POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return True

    def release(self) -> None:
        """The lock is free, but for children that still hold it. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def is_taken(self) -> bool:
        """True between take() and release()."""
        return self._file is not None

    def descriptors(self) -> tuple[int, ...]:
        """The file descriptors that a child inherits to hold the lock."""
        return () if self._file is None else (self._file.fileno(),)

    def owner(self) -> int | None:
        """The process that took the lock last; None where nobody ever did."""
        try:
            return int(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def is_held(self) -> bool:
        """True while anybody holds the lock."""
        try:
            with self.path.open("r+", encoding="utf-8") as file:
                return not _locks(file)
        except OSError:
            return False


@contextmanager
def locked(path: Path, refusal: Callable[[str], HeadraceError], wait_s: float = 0.0) -> Iterator[None]:
    """The block runs while no other process holds the lock file; if one does, raises ``refusal`` of its name.

    Args:
        refusal: makes the error from the holder: 'process 4711'.
        wait_s: how long to wait for the holder.
    """
    lock = FileLock(path)
    if not lock.take(wait_s, wait_s):
        raise refusal(f"process {lock.owner() or 'unknown'}")
    try:
        yield
    finally:
        lock.release()


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_alive(process: int | None) -> bool:
    if process is None:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def replaced(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Replace a file at once by the content that the block writes to the path that it gets, unless the block raises.

    A reader, or a crash, finds the old content or the new, never half of it.

    Args:
        path: its folder is made.
        durable: whether the new content is on the disk when the block has ended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield fresh
        if durable:
            _sync(fresh)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace the file by this text, at once."""
    with replaced(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Replace the file by this value as JSON, at once."""
    write_text(path, json.dumps(value))


def without_nan(value: Any) -> Any:
    """The JSON value with null for each NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Different ports of the host that nobody has now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_port(host: str = LOOPBACK) -> int:
    """A port of the host that nobody has now."""
    return free_ports(1, host)[0]


def find_program(name: str) -> str | None:
    """Path of the program, on the PATH or beside this Python, where `make setup` links it; None where there is none."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
