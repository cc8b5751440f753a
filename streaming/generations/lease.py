"""A single driver at a time: the lock of a project, and the lease of a generation in its store."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path

from features.errors import LeaseError
from features.machine import locked
from features.online_store import OnlineStore

LEASE_S = 30.0


class Lease:
    """The lease of a generation, taken when this is made.

    Raises:
        LeaseError: another owner holds it.
    """

    def __init__(self, rows: OnlineStore, stream_id: int, owner: str) -> None:
        self._rows, self._stream_id, self._owner = rows, stream_id, owner
        self._taken_s = float("-inf")
        self.keep()

    def keep(self) -> None:
        """Renew the lease, unless that was done a moment ago."""
        now_s = time.monotonic()
        if now_s > self._taken_s + LEASE_S / 4:
            self._rows.take_lease(self._stream_id, self._owner, LEASE_S)
            self._taken_s = now_s

    def release(self) -> None:
        """Release the lease, so that others may take it."""
        self._rows.release_lease(self._stream_id, self._owner)


def only_driver(home: Path) -> AbstractContextManager[None]:
    """No other process drives the project in ``home`` during the block; the lock ends with the process.

    Raises:
        LeaseError: another process does.
    """

    def refusal(holder: str) -> LeaseError:
        required, next_step = "nobody else to drive its stream", "Stop it, or use another home."
        return LeaseError(f"project {home}", required, f"{holder}, which does", next_step)

    return locked(home / "checkpoints" / "driver.lock", refusal)
