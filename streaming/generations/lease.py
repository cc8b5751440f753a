"""A single driver at a time: the lock of a home, the claim of its store, and the lease of a generation there."""

from __future__ import annotations

import secrets
import socket
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Self

from features.errors import LeaseError, StoreError
from features.machine import locked, write_text
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


class Claim:
    """The claim of a store by a home, made when this is; another home is refused until it takes over.

    Raises:
        LeaseError: another home has it.
    """

    def __init__(self, rows: OnlineStore, home: Path, *, take_over: bool = False) -> None:
        self._rows, self._home, self._owner = rows, id_of(home), owner_of(home)
        rows.claim(self._home, self._owner, LEASE_S, take_over=take_over)

    def keep(self) -> None:
        """Renew the claim."""
        self._rows.claim(self._home, self._owner, LEASE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let another driver of the home follow at once; where the store does not answer, when the time is over."""
        with suppress(StoreError):
            self._rows.release_claim(self._owner)


def owner_of(home: Path) -> str:
    """The name of a driver of this home on this machine, for others to read."""
    return f"{socket.gethostname()}:{home.resolve()}"


def id_of(home: Path) -> str:
    """The home's own number, made once, which it keeps when it is moved to another place or machine."""
    path = home / "home_id"
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        write_text(path, secrets.token_hex(16))
        return path.read_text(encoding="utf-8").strip()


def only_driver(home: Path) -> AbstractContextManager[None]:
    """No other process drives the project in ``home`` during the block; the lock ends with the process.

    Raises:
        LeaseError: another process does.
    """

    def refusal(holder: str) -> LeaseError:
        required, next_step = "nobody else to drive its stream", "Stop it, or use another home."
        return LeaseError(f"project {home}", required, f"{holder}, which does", next_step)

    return locked(home / "checkpoints" / "driver.lock", refusal)
