"""Connections to SQLite files that several processes may make at the same moment."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

RETRY_S = 0.01


def connected(path: Path, schema: str, timeout_s: float, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """A connection to ``path`` in WAL mode with the tables of ``schema``, in autocommit; its folder is made.

    SQLite refuses the change to WAL at once while another connection makes the same change, whatever its timeout,
    so the opening is tried again for up to ``timeout_s`` seconds. Raises sqlite3.Error after that.

    Args:
        check_same_thread: whether only the thread that opened it may use it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + timeout_s
    connection = sqlite3.connect(path, timeout_s, isolation_level=None, check_same_thread=check_same_thread)
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(schema)
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or time.monotonic() > until:
                connection.close()
                raise
            time.sleep(RETRY_S)
        else:
            return connection
