"""State rows in a SQLite file: a single writer at a time, and readers that never wait for it.

WAL lets readers go on while a batch is written. Commits do not wait for the disk (synchronous=NORMAL): a process that
dies loses nothing; a machine that loses power may lose the last commits, whole and in order, which is what the fence of
batch_step.py is for.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa

from features.errors import StoreError
from features.online_store.conflicts import claimed, held, overtaken
from features.online_store.port import (
    NO_CONDITIONS,
    STATE,
    Cursor,
    Put,
    Sweep,
    Version,
    WriteConditions,
    binaries,
    of_schema,
    rows_table,
)
from features.online_store.sqlite.connecting import connected
from features.online_store.sqlite.pending import SqlitePending, pending_file
from features.online_store.store import OnlineStore
from features.times import now_ms

SCHEMA = """
CREATE TABLE IF NOT EXISTS generations (
    stream_id INTEGER PRIMARY KEY, version INTEGER NOT NULL DEFAULT 0, owner TEXT, expires_ms INTEGER
);
CREATE TABLE IF NOT EXISTS tables (
    id INTEGER PRIMARY KEY, stream_id INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (stream_id, name)
);
CREATE TABLE IF NOT EXISTS current (view TEXT PRIMARY KEY, stream_id INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS claim (id INTEGER PRIMARY KEY CHECK (id = 0), home TEXT, owner TEXT, expires_ms INTEGER);
"""

UPSERT = "INSERT INTO cells_{} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

PAGE = "SELECT rowid, substr(value, ?, 8) FROM cells_{} WHERE rowid > ? ORDER BY rowid LIMIT ?"

TIMEOUT_S = 2.0

STEPS_A_LOOK = 20_000
"""SQLite's steps between two looks at the clock: about a millisecond."""

KEYS_A_QUERY = 512

NUL = "\\u0000"

READING = "DEFERRED"

SAMPLED_ROWS = 1_000


class SqliteRows(OnlineStore):
    """The rows of any number of generations and views in the SQLite file ``path``, which the first write makes.

    Args:
        timeout_s: the longest wait for another writer before StoreError.
        deadline_s: the longest that a read may take before StoreError; None for no limit.
    """

    def __init__(self, path: str | Path, timeout_s: float = TIMEOUT_S, deadline_s: float | None = None) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[SqliteRows], tuple[Path, float, float | None]]:
        """Another process opens its own connections."""
        return SqliteRows, (self._path, self._timeout_s, self._deadline_s)

    def pending(self) -> SqlitePending:
        """The pending events, in a file next to this one."""
        return SqlitePending(pending_file(self._path))

    # --- connections and transactions ---

    @property
    def _connection(self) -> sqlite3.Connection:
        """This thread's connection: a SQLite connection has one transaction at a time."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connected()
        connection: sqlite3.Connection = self._local.connection
        return connection

    @contextmanager
    def _connection_for(self, kind: str) -> Iterator[sqlite3.Connection]:
        """This thread's connection; to read without a file, a connection to an empty store that nobody else sees."""
        if kind != READING or hasattr(self._local, "connection") or self._path.exists():
            yield self._connection
            return
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.executescript(SCHEMA)
            yield connection

    def _connected(self) -> sqlite3.Connection:
        # autocommit: transactions are the ones written below, and no others.
        connection = connected(self._path, SCHEMA, self._timeout_s)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cache_size=-65536")
        connection.execute("PRAGMA mmap_size=1073741824")
        # The same hot rows are written batch after batch: 64 MB of log before they are copied into the file.
        connection.execute("PRAGMA wal_autocheckpoint=16384")
        if self._deadline_s is not None:
            connection.set_progress_handler(self._is_late, STEPS_A_LOOK)
        return connection

    def _is_late(self) -> bool:
        """True if this thread's transaction has had its time; SQLite then ends it."""
        began: float = getattr(self._local, "began", 0.0)
        return self._deadline_s is not None and time.monotonic() - began > self._deadline_s

    def close(self) -> None:
        if hasattr(self._local, "connection"):
            self._local.connection.close()
            del self._local.connection

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        """A transaction that any error rolls back; of kind IMMEDIATE, it is the only writer."""
        self._local.began = time.monotonic()
        try:
            with self._connection_for(kind) as connection:
                connection.execute(f"BEGIN {kind}")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # a full disk has ended it already
                        connection.execute("ROLLBACK")
                    raise
        except sqlite3.Error as error:
            where, got = f"online store {self._path}", f"{type(error).__name__}: {error}"
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StoreError(where, "room on its disk", got, "Make room: what waits is written then.") from error
            raise StoreError(where, "a SQLite database that answers", got) from error

    # --- cells ---

    def version(self, stream_id: int, *, whole: bool = True) -> Version:  # one part, which has lost all or nothing
        with self._transaction(READING) as connection:
            return (_version(connection, stream_id),)

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        with self._transaction(READING) as connection:
            return _values(connection, stream_id, table, keys)

    @property
    def takes_shards(self) -> bool:
        return True

    def write(
        self,
        stream_id: int,
        version: Version,
        puts: Mapping[str, Put],
        drop: Sequence[str] = (),
        conditions: WriteConditions = NO_CONDITIONS,
    ) -> Version:
        with self._transaction("IMMEDIATE") as connection:
            _check(connection, stream_id, version)
            tokens = _values(connection, stream_id, STATE, list(conditions.shards))
            if [value or b"" for value in tokens] != list(conditions.shards.values()):
                raise overtaken(stream_id, version[0], version[0])
            if conditions.moves_version:
                _move_on(connection, stream_id)
            for table, put in puts.items():
                cells = zip(put.keys, put.values, strict=True)
                table_id = _made_table_id(connection, stream_id, table)
                connection.executemany(UPSERT.format(table_id), cells)
            for table in drop:
                _drop(connection, stream_id, table)
        return (version[0] + int(conditions.moves_version),)

    def sweep(
        self, stream_id: int, version: Version, table: str, sweep: Sweep, cursor: Cursor
    ) -> tuple[Version, Cursor, int]:
        with self._transaction("IMMEDIATE") as connection:
            _check(connection, stream_id, version)
            table_id = table_id_of(connection, stream_id, table)
            if table_id is None:
                return version, (0, 0), 0
            page = connection.execute(PAGE.format(table_id), (sweep.offset + 1, cursor[1], sweep.cells)).fetchall()
            old = [(rowid,) for rowid, number in page if int.from_bytes(number, "little", signed=True) < sweep.below]
            connection.executemany(f"DELETE FROM cells_{table_id} WHERE rowid = ?", old)
            if old:
                _move_on(connection, stream_id)
        after = (0, page[-1][0]) if len(page) == sweep.cells else (0, 0)
        return (version[0] + bool(old),), after, len(old)

    # --- leases and generations ---

    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        with self._transaction("IMMEDIATE") as connection:
            now, holder, expires = _check_lease(connection, stream_id, owner)
            if holder != owner or expires <= now:
                _move_on(connection, stream_id)
            lease = (owner, now + int(ttl_s * 1000), stream_id)
            connection.execute("UPDATE generations SET owner = ?, expires_ms = ? WHERE stream_id = ?", lease)

    def release_lease(self, stream_id: int, owner: str) -> None:
        with self._transaction("IMMEDIATE") as connection:
            ended = "UPDATE generations SET expires_ms = 0 WHERE stream_id = ? AND owner = ?"
            connection.execute(ended, (stream_id, owner))

    def claim(self, home: str, owner: str, ttl_s: float, *, take_over: bool = False) -> None:
        now = now_ms()
        with self._transaction("IMMEDIATE") as connection:
            row = connection.execute("SELECT home, owner, expires_ms FROM claim").fetchone()
            other, last, expires = row or (home, owner, 0)
            if (other != home and (expires > now or not take_over)) or (last != owner and expires > now):
                raise claimed(f"online store {self._path}", last, expires - now)
            leases = "SELECT owner, expires_ms FROM generations WHERE owner != ? AND expires_ms > ?"
            for holder, expires in connection.execute(leases, (owner, now)):
                raise claimed(f"online store {self._path}", holder, expires - now)
            claim = (home, owner, now + int(ttl_s * 1000))
            connection.execute("REPLACE INTO claim VALUES (0, ?, ?, ?)", claim)

    def release_claim(self, owner: str) -> None:
        with self._transaction("IMMEDIATE") as connection:
            connection.execute("UPDATE claim SET expires_ms = 0 WHERE owner = ?", (owner,))

    def current(self, view: str) -> int | None:
        with self._transaction(READING) as connection:
            return _current(connection, view)

    def views(self) -> list[str]:
        with self._transaction(READING) as connection:
            rows = connection.execute("SELECT view FROM current WHERE view NOT LIKE '%@%' ORDER BY view").fetchall()
        return [view for (view,) in rows]

    def set_current(self, view: str, stream_id: int, owner: str = "") -> None:
        with self._transaction("IMMEDIATE") as connection:
            before = _current(connection, view)
            if before is not None and before != stream_id:
                _check_lease(connection, before, owner)
            connection.execute("REPLACE INTO current VALUES (?, ?)", (view, stream_id))

    def generations(self) -> list[int]:
        with self._transaction(READING) as connection:
            rows = connection.execute("SELECT stream_id FROM generations ORDER BY stream_id").fetchall()
            return [stream_id for (stream_id,) in rows]

    def drop_generation(self, stream_id: int, owner: str = "") -> None:
        with self._transaction("IMMEDIATE") as connection:
            _check_lease(connection, stream_id, owner)
            names = connection.execute("SELECT name FROM tables WHERE stream_id = ?", (stream_id,)).fetchall()
            for (name,) in names:
                _drop(connection, stream_id, name)
            connection.execute("DELETE FROM generations WHERE stream_id = ?", (stream_id,))
            connection.execute("DELETE FROM current WHERE stream_id = ?", (stream_id,))

    # --- readers ---

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        with self._transaction(READING) as connection:
            stream_id = None if schema_hash is None else _current(connection, of_schema(view, schema_hash))
            stream_id = _current(connection, view) if stream_id is None else stream_id
            if stream_id is None:
                return pa.nulls(len(keys), pa.binary()), None
            values = _values(connection, stream_id, rows_table(view), keys.to_pylist())
        return binaries(values), stream_id

    def keys(self, view: str) -> pa.Array:
        with self._transaction(READING) as connection:
            stream_id = _current(connection, view)
            table_id = None if stream_id is None else table_id_of(connection, stream_id, rows_table(view))
            rows = [] if table_id is None else connection.execute(f"SELECT key FROM cells_{table_id}").fetchall()
        return pa.array([key for (key,) in rows], type=pa.string())

    def bytes_per_row(self) -> dict[str, float]:
        with self._transaction(READING) as connection:
            named = "SELECT view, stream_id FROM current WHERE view NOT LIKE '%@%' ORDER BY view"
            views = connection.execute(named).fetchall()
            means = {view: _mean_length(connection, stream_id, rows_table(view)) for view, stream_id in views}
        return {view: mean for view, mean in means.items() if mean is not None}


def _version(connection: sqlite3.Connection, stream_id: int) -> int:
    row = connection.execute("SELECT version FROM generations WHERE stream_id = ?", (stream_id,)).fetchone()
    return int(row[0]) if row else 0


def _check(connection: sqlite3.Connection, stream_id: int, version: Version) -> None:
    actual = _version(connection, stream_id)
    if actual != version[0]:
        raise overtaken(stream_id, version[0], actual)


def _move_on(connection: sqlite3.Connection, stream_id: int) -> None:
    connection.execute("INSERT OR IGNORE INTO generations (stream_id) VALUES (?)", (stream_id,))
    connection.execute("UPDATE generations SET version = version + 1 WHERE stream_id = ?", (stream_id,))


def _lease(connection: sqlite3.Connection, stream_id: int) -> tuple[str, int]:
    lease = "SELECT owner, expires_ms FROM generations WHERE stream_id = ? AND owner IS NOT NULL"
    row = connection.execute(lease, (stream_id,)).fetchone()
    return row or ("", 0)


def _check_lease(connection: sqlite3.Connection, stream_id: int, owner: str) -> tuple[int, str, int]:
    """The time (ms), who had the lease last and until when; raises LeaseError while another holds it."""
    now = now_ms()
    holder, expires = _lease(connection, stream_id)
    if holder != owner and expires > now:
        raise held(stream_id, holder, expires - now)
    return now, holder, expires


def _current(connection: sqlite3.Connection, view: str) -> int | None:
    row = connection.execute("SELECT stream_id FROM current WHERE view = ?", (view,)).fetchone()
    return int(row[0]) if row else None


def table_id_of(connection: sqlite3.Connection, stream_id: int, table: str) -> int | None:
    """The id of the table; None if nothing was ever put into it."""
    row = connection.execute("SELECT id FROM tables WHERE stream_id = ? AND name = ?", (stream_id, table)).fetchone()
    return int(row[0]) if row else None


def _made_table_id(connection: sqlite3.Connection, stream_id: int, table: str) -> int:
    table_id = table_id_of(connection, stream_id, table)
    if table_id is None:
        insert = "INSERT INTO tables (stream_id, name) VALUES (?, ?) RETURNING id"
        table_id = int(connection.execute(insert, (stream_id, table)).fetchone()[0])
        # With rowids: without them, a row of more than a quarter of a page spills, and costs twice as much.
        connection.execute(f"CREATE TABLE cells_{table_id} (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
    return table_id


def _drop(connection: sqlite3.Connection, stream_id: int, table: str) -> None:
    table_id = table_id_of(connection, stream_id, table)
    if table_id is not None:
        connection.execute(f"DROP TABLE cells_{table_id}")
        connection.execute("DELETE FROM tables WHERE id = ?", (table_id,))


def _values(connection: sqlite3.Connection, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
    table_id = table_id_of(connection, stream_id, table)
    if table_id is None:
        return [None] * len(keys)
    keys_json = json.dumps(list(keys))
    if NUL in keys_json:
        return _values_of_any(connection, table_id, keys)
    # The outer table of a LEFT JOIN is read first, in its order: no key is looked up, nor a dictionary made, here.
    query = f"SELECT t.value FROM json_each(?) AS wanted LEFT JOIN cells_{table_id} AS t ON t.key = wanted.value"
    return [value for (value,) in connection.execute(query, (keys_json,)).fetchall()]


def _values_of_any(connection: sqlite3.Connection, table_id: int, keys: Sequence[str]) -> list[bytes | None]:
    """As _values, also of keys with a NUL, at which SQLite's JSON texts end."""
    values: dict[str, bytes] = {}
    for start in range(0, len(keys), KEYS_A_QUERY):
        page = keys[start : start + KEYS_A_QUERY]
        query = f"SELECT key, value FROM cells_{table_id} WHERE key IN ({','.join('?' * len(page))})"
        values.update(connection.execute(query, page).fetchall())
    return [values.get(key) for key in keys]


def _mean_length(connection: sqlite3.Connection, stream_id: int, table: str) -> float | None:
    table_id = table_id_of(connection, stream_id, table)
    if table_id is None:
        return None
    sample = f"SELECT avg(length(value)) FROM (SELECT value FROM cells_{table_id} LIMIT {SAMPLED_ROWS})"
    mean: float | None = connection.execute(sample).fetchone()[0]
    return mean
