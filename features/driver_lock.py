"""One driver a project: a lock that the system takes away when the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import LeaseError


@contextmanager
def only_driver(home: Path) -> Iterator[None]:
    """No other process drives the project in ``home`` meanwhile; the system ends this when the process does.

    Raises:
        LeaseError: one does.
    """
    path = home / "checkpoints" / "driver.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            got = f"process {file.read().strip() or 'unknown'}, which does"
            required = "nobody else to drive its stream"
            raise LeaseError(f"project {home}", required, got, "Stop it, or use another home.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
