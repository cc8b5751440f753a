"""When each key of a name came last, in a SQLite file with an index by time.

A time never goes back, so that writing the same again, or something earlier, changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from features.online_store.sqlite import connected

WAIT_S = 30.0
"""How long a writer waits for another process's write."""

TABLES = """
PRAGMA synchronous=FULL;
PRAGMA secure_delete=ON;
CREATE TABLE IF NOT EXISTS last (
    name TEXT NOT NULL, key TEXT NOT NULL, at_ms INTEGER NOT NULL, is_told INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS untold ON last (name, at_ms) WHERE is_told = 0;
CREATE INDEX IF NOT EXISTS by_time ON last (name, at_ms);
"""

ADVANCE = """
INSERT INTO last (name, key, at_ms) VALUES (?, ?, ?) ON CONFLICT (name, key) DO UPDATE
SET at_ms = excluded.at_ms, is_told = 0 WHERE excluded.at_ms > at_ms
"""


class LastTimes:
    """The last time (epoch ms) of each key of a name; a key may be marked as told until its time advances.

    Used by several threads one at a time; other processes may have it open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = connected(self._path, TABLES, WAIT_S, check_same_thread=False)
        return self._opened

    def of(self, name: str, keys: Iterable[str]) -> dict[str, tuple[int, bool]]:
        """Key → its last time and whether it is told, of those of the keys that are known."""
        query = "SELECT key, at_ms, is_told FROM last WHERE name = ? AND key IN (SELECT value FROM json_each(?))"
        rows = self._connection.execute(query, (name, json.dumps(list(keys))))
        return {key: (at_ms, bool(is_told)) for key, at_ms, is_told in rows}

    def advance(self, name: str, times: Iterable[tuple[str, int]]) -> None:
        """Each key came at this time, or later; durable, all or none."""
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(ADVANCE, ((name, key, at_ms) for key, at_ms in times))

    def untold_before(self, name: str, before_ms: int, most: int) -> list[tuple[str, int]]:
        """The keys that came last before this time and are not told, with their times, the earliest first."""
        query = "SELECT key, at_ms FROM last WHERE name = ? AND at_ms < ? AND is_told = 0 ORDER BY at_ms LIMIT ?"
        return self._connection.execute(query, (name, before_ms, most)).fetchall()

    def newest(self, name: str) -> int:
        """The newest time of a key of the name; 0 without one."""
        rows = self._connection.execute("SELECT max(at_ms) FROM last WHERE name = ?", (name,))
        return int(rows.fetchone()[0] or 0)

    def tell(self, name: str, times: Sequence[tuple[str, int]]) -> None:
        """Mark the keys whose time is still this one as told."""
        mark = "UPDATE last SET is_told = 1 WHERE name = ? AND key = ? AND at_ms = ?"
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(mark, ((name, key, at_ms) for key, at_ms in times))

    def forget_before(self, name: str, before_ms: int) -> None:
        """Delete the keys of the name that came last before this time."""
        self._connection.execute("DELETE FROM last WHERE name = ? AND at_ms < ?", (name, before_ms))

    def forget(self, name: str, key: str) -> int:
        """Delete a key; the number of deleted ones."""
        return self._connection.execute("DELETE FROM last WHERE name = ? AND key = ?", (name, key)).rowcount

    def keep_only(self, names: Iterable[str]) -> None:
        """Delete the keys of all other names."""
        others = "DELETE FROM last WHERE name NOT IN (SELECT value FROM json_each(?))"
        self._connection.execute(others, (json.dumps(list(names)),))

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
