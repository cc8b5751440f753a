"""A folder for one owner: a lock that ends with the processes that hold it, however they end."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

POLL_S = 0.05

LEAVING_S = 1.0
"""How long a living owner is waited for: somebody may only have looked whether the lock is held."""

REMAINS_S = 20.0
"""How long the children of an owner that died are waited for."""


class FolderLock:
    """A lock file that says who its owner is. Children that inherit the file hold the lock, too.

    Args:
        path: the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """True when the lock is ours now; False when an owner that is alive, or what is left of one, keeps it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        began = time.monotonic()
        while not _locks(file):
            if time.monotonic() - began > (LEAVING_S if _is_alive(self.owner()) else REMAINS_S):
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
        """What a child inherits to hold the lock."""
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


def write_arrow(path: Path, table: pa.Table) -> None:
    """The table stands in the file, whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_arrow(path: Path) -> pa.Table:
    """What write_arrow() wrote."""
    with path.open("rb") as file:
        return pa.ipc.open_file(file).read_all()


def write_json(path: Path, value: object) -> None:
    """Replace the file at once: a reader, or a crash, sees the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value), encoding="utf-8")
    fresh.replace(path)


def write_status(path: Path, report: dict[str, Any]) -> None:
    """The report stands in a file, whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(report))
    part.replace(path)
