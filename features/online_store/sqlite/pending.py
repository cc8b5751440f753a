"""Pending events in a SQLite file of their own, beside the rows: a post never waits for the write of a batch."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from features.errors import StoreError
from features.online_store.pending import MOST_BYTES, MOST_ENTRIES, SESSION_ITEMS
from features.online_store.port import Offsets, Pending, PendingEvent
from features.online_store.sqlite.connecting import connected
from features.times import now_ms

SCHEMA = """
CREATE TABLE IF NOT EXISTS pending (
    view TEXT, key TEXT, place TEXT, position INTEGER, known_at INTEGER, value BLOB, expires_ms INTEGER,
    PRIMARY KEY (view, key, place, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending_by_place ON pending (place, position);
CREATE INDEX IF NOT EXISTS pending_by_time ON pending (expires_ms);
CREATE TABLE IF NOT EXISTS pending_size (id INTEGER PRIMARY KEY CHECK (id = 0), entries INTEGER, bytes INTEGER);
CREATE TRIGGER IF NOT EXISTS pending_in AFTER INSERT ON pending BEGIN
    UPDATE pending_size SET entries = entries + 1, bytes = bytes + length(NEW.value);
END;
CREATE TRIGGER IF NOT EXISTS pending_out AFTER DELETE ON pending BEGIN
    UPDATE pending_size SET entries = entries - 1, bytes = bytes - length(OLD.value);
END;
CREATE TABLE IF NOT EXISTS sessions (session TEXT PRIMARY KEY, items TEXT, expires_ms INTEGER);
CREATE INDEX IF NOT EXISTS sessions_by_time ON sessions (expires_ms);
"""

SELECT = "SELECT view, key, place, position, known_at, value FROM pending WHERE view = ? AND expires_ms > ?"

EXPIRED = """
DELETE FROM pending WHERE (view, key, place, position) IN (
    SELECT view, key, place, position FROM pending WHERE expires_ms <= ? LIMIT ?
)
"""

COUNTED = "INSERT OR IGNORE INTO pending_size SELECT 0, count(*), coalesce(sum(length(value)), 0) FROM pending"

ADD_TO_SESSION = "INSERT INTO sessions VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET items = ?, expires_ms = ?"

KEYS_A_QUERY = 32
"""For more keys than these, all entries of the view are read, which are those of the last moment."""

EXPIRED_AT_ONCE = 2_000

BUSY_TIMEOUT_S = 0.5


def pending_file(rows: Path) -> Path:
    """The file of the pending events, beside that of the rows."""
    return rows.with_name(f"{rows.name}.pending")


class SqlitePending(Pending):
    """Pending events in the SQLite file ``path``, which is made when missing; may be shared by threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    @contextmanager
    def _answering(self) -> Iterator[sqlite3.Connection]:
        try:
            if not hasattr(self._local, "connection"):
                self._local.connection = self._connected()
            yield self._local.connection
        except sqlite3.Error as error:
            got = f"{type(error).__name__}: {error}"
            raise StoreError(f"pending events {self._path}", "a SQLite database that answers", got) from error

    def _connected(self) -> sqlite3.Connection:
        connection = connected(self._path, SCHEMA, BUSY_TIMEOUT_S)
        connection.execute("PRAGMA synchronous=OFF")  # Kafka has them; what is lost here comes by the stream
        return connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._answering() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection

    def put(self, entries: Sequence[PendingEvent], ttl_ms: int) -> int:
        now = now_ms()
        rows = [
            (entry.view, entry.key, entry.topic_partition, entry.offset, entry.known_at, entry.value, now + ttl_ms)
            for entry in entries
        ]
        with self._writing() as connection:
            connection.execute(EXPIRED, (now, EXPIRED_AT_ONCE))
            connection.execute("DELETE FROM sessions WHERE expires_ms <= ?", (now,))
            fitting = _fitting(rows, *_size(connection))
            connection.executemany("INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?, ?, ?, ?)", fitting)
        return len(rows) - len(fitting)

    def size(self) -> tuple[int, int]:
        with self._answering() as connection:
            return connection.execute("SELECT entries, bytes FROM pending_size").fetchone() or (0, 0)

    def of(self, view: str, keys: Sequence[str]) -> list[PendingEvent]:
        few = len(keys) <= KEYS_A_QUERY
        query = f"{SELECT} AND key IN ({','.join('?' * len(keys))})" if few else SELECT
        with self._answering() as connection:
            rows = connection.execute(query, [view, now_ms(), *(keys if few else ())]).fetchall()
        wanted = set(keys)
        return [PendingEvent(*row) for row in rows if row[1] in wanted]

    def prune(self, ends: Offsets) -> None:
        now = now_ms()
        with self._answering() as connection:  # nearly always there is nothing, and a read is all that it takes
            stale = any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in TABLES)
        if not stale:
            return
        with self._writing() as connection:
            connection.executemany("DELETE FROM pending WHERE place = ? AND position < ?", ends.items())
            connection.execute("DELETE FROM pending WHERE expires_ms <= ?", [now])
            connection.execute("DELETE FROM sessions WHERE expires_ms <= ?", [now])

    def add_to_session(self, session: str, items: Sequence[str], ttl_ms: int) -> None:
        with self._writing() as connection:
            newest = json.dumps([*items, *_session(connection, session)][:SESSION_ITEMS])
            expires = now_ms() + ttl_ms
            connection.execute(ADD_TO_SESSION, [session, newest, expires, newest, expires])

    def session(self, session: str) -> tuple[str, ...]:
        with self._answering() as connection:
            return _session(connection, session)


TABLES = ("pending", "sessions")

VALUE = 5
"""The column of an entry's value."""


def _size(connection: sqlite3.Connection) -> tuple[int, int]:
    """The entries and their bytes; counted once in a file that an earlier version made."""
    size = "SELECT entries, bytes FROM pending_size"
    found: tuple[int, int] | None = connection.execute(size).fetchone()
    if found is None:
        connection.execute(COUNTED)
        found = connection.execute(size).fetchone()
    return found or (0, 0)


def _fitting(rows: Sequence[tuple[Any, ...]], entries: int, taken: int) -> Sequence[tuple[Any, ...]]:
    """The rows, up to the first that finds no room."""
    ends = accumulate((len(row[VALUE]) for row in rows), initial=taken)
    fit = sum(1 for end in islice(ends, 1, None) if end <= MOST_BYTES)
    return rows[: max(0, min(fit, MOST_ENTRIES - entries))]


def _session(connection: sqlite3.Connection, session: str) -> tuple[str, ...]:
    query = "SELECT items FROM sessions WHERE session = ? AND expires_ms > ?"
    row = connection.execute(query, [session, now_ms()]).fetchone()
    return () if row is None else tuple(json.loads(row[0]))
