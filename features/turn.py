"""One training of a project at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import HeadraceError


class BusyError(HeadraceError):
    """Raised when another training of the project goes on."""


@contextmanager
def turn(home: Path) -> Iterator[None]:
    """No other training of this home begins until the block ends; BusyError names the process where one goes on.

    A training that is killed leaves nothing that the next one must clean up: a version is registered in one call, after
    its files are whole, and until then no alias names anything of it. What it had finished is kept (kept_stages.py).
    """
    path = home / "train.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"training in '{home}'", "no other one", f"process {_holder(path)} at it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _holder(path: Path) -> str:
    return path.read_text().strip() or "another"
