"""All cells of a SQLite store, to find and to delete."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from features.errors import StoreError
from features.online_store.port import PendingEvent
from features.online_store.sqlite.connecting import connected
from features.online_store.sqlite.pending import pending_file
from features.online_store.sqlite.rows import table_id_of
from features.online_store.store import Cell, Erasure

TIMEOUT_S = 60.0
"""A batch of a running stream may hold the file that long."""


class SqliteErasure(Erasure):
    """The store in the file ``path``, and the pending events in the file beside it; neither is made."""

    def __init__(self, path: Path) -> None:
        self._path, self._pending = path, pending_file(path)

    @contextmanager
    def _open(self, path: Path) -> Iterator[sqlite3.Connection | None]:
        """A connection in autocommit; None where there is no file."""
        if not path.exists():
            yield None
            return
        try:
            with closing(connected(path, "", TIMEOUT_S)) as connection:
                connection.execute("PRAGMA secure_delete=ON")
                yield connection
        except sqlite3.Error as error:
            got = f"{type(error).__name__}: {error}"
            raise StoreError(f"online store {path}", "a SQLite database that answers", got) from error

    def cells(self) -> Iterator[tuple[Cell, bytes]]:
        with self._open(self._path) as connection:
            if connection is None:
                return
            tables = connection.execute("SELECT id, stream_id, name FROM tables ORDER BY id").fetchall()
            for number, stream_id, table in tables:
                for key, value in connection.execute(f"SELECT key, value FROM cells_{number}"):
                    yield (stream_id, table, key), value

    def delete(self, cells: Sequence[Cell]) -> None:
        with self._open(self._path) as connection:
            if connection is None or not cells:
                return
            connection.execute("BEGIN IMMEDIATE")
            for stream_id, table, key in cells:
                number = table_id_of(connection, stream_id, table)
                if number is not None:  # else a driver has dropped it meanwhile
                    connection.execute(f"DELETE FROM cells_{number} WHERE key = ?", (key,))
            connection.execute("COMMIT")

    def pending(self) -> list[PendingEvent]:
        with self._open(self._pending) as connection:
            query = "SELECT view, key, place, position, known_at, value FROM pending"
            return [] if connection is None else [PendingEvent(*row) for row in connection.execute(query)]

    def delete_pending(self, places: Collection[tuple[str, int]]) -> None:
        self._delete_beside("DELETE FROM pending WHERE place = ? AND position = ?", list(places))

    def sessions(self) -> Iterator[tuple[str, bytes]]:
        with self._open(self._pending) as connection:
            if connection is not None:
                for session, items in connection.execute("SELECT session, items FROM sessions"):
                    yield session, items.encode()

    def delete_sessions(self, sessions: Sequence[str]) -> None:
        self._delete_beside("DELETE FROM sessions WHERE session = ?", [(name,) for name in sessions])

    def _delete_beside(self, statement: str, rows: Sequence[tuple[str | int, ...]]) -> None:
        """Run the statement for each of these in one transaction of the file of the pending events."""
        with self._open(self._pending) as connection:
            if connection is not None and rows:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statement, rows)
                connection.execute("COMMIT")

    def purge(self) -> str:
        busy = [path.name for path in (self._path, self._pending) if not self._rewritten(path)]
        return f"the log of {' and '.join(busy)} until those who read them now are done" if busy else ""

    def _rewritten(self, path: Path) -> bool:
        """The file is written anew without its free pages, and its log is empty; False where a reader holds the log."""
        with self._open(path) as connection:
            if connection is None:
                return True
            connection.execute("VACUUM")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy
