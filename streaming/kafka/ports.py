"""Free and used ports of the loopback address."""

from __future__ import annotations

import socket
import time
from contextlib import closing

from features.machine import LOOPBACK

POLL_S = 0.05


def is_free(port: int) -> bool:
    """True when a server of ours could listen on this port of the loopback address."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def becomes_free(port: int, within_s: float) -> bool:
    """True when the port is free within ``within_s``: a process that was killed may still hold it for a moment."""
    deadline = time.monotonic() + within_s
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def accepts(port: int) -> bool:
    """True when a server listens on this port of the loopback address."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
