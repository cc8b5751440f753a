"""What a client of the running service sends to be let in."""

from __future__ import annotations

import os

from features.errors import UsageError
from features.machine import EVERY, LOOPBACK
from features.secret_files import secret

KEY = "HEADRACE_KEY"
"""The variable, or secret file, of a key of the service."""


def reached_at(host: str) -> str:
    """Where a client on this machine reaches the service of that host."""
    return LOOPBACK if host in EVERY else f"[{host}]" if ":" in host else host


def access_headers() -> dict[str, str]:
    """The headers of a request with the key of KEY; none without one. Raises UsageError for what can be no key."""
    key = secret(KEY, os.environ).strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the variable {KEY}", "a key of 'headrace keys add'", "another text")
    return {"Authorization": f"Bearer {key}"} if key else {}
