"""Alerts in a table of PostgreSQL, made if it is missing; an existing table must have these columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from streaming.alerts.sinks.port import Alert, SinkError

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed, Identifier

COLUMNS = {
    "alert_id": "text",
    "source": "text",
    "event_id": "text",
    "event_time": "timestamp with time zone",
    "model": "text",
    "version": "text",
    "score": "double precision",
    "threshold": "double precision",
    "reasons": "jsonb",
    "event": "jsonb",
    "delivered_at": "timestamp with time zone",
}
"""Name → type as PostgreSQL calls it. A table may have more, if they can be null or have a default."""

INSERTED = tuple(COLUMNS)[:-1]

REQUIRED = ("alert_id", "source", "event_id", "event_time", "model", "reasons", "event", "delivered_at")

WHERE = "PostgreSQL"

MOST = 500

TIMEOUTS = {
    "connect_timeout": "10",
    "tcp_user_timeout": "15000",
    "options": "-c statement_timeout=10000 -c lock_timeout=10000",
    "application_name": "headrace alerts",
}
"""Defaults of the connection, so that nothing waits for a server that does not answer."""


class PostgresSink:
    """Inserts alerts, a statement a batch; an alert_id that the table has already stays as it is.

    Args:
        conninfo: as libpq takes it, without a password.
        password: empty for none, or for the one that libpq finds itself (PGPASSWORD, ~/.pgpass).
        table: NAME or SCHEMA.NAME.
    """

    name, most, linger_s = "postgres", MOST, 0.0

    def __init__(self, conninfo: str, password: str, table: str) -> None:
        self._conninfo, self._password, self._table = conninfo, password, table
        self._connection: psycopg.Connection[Any] | None = None

    def deliver(self, alerts: Sequence[Alert]) -> Mapping[int, str]:
        """Insert the alerts in a single transaction; an alert that cannot be a row is refused with the reason."""
        import psycopg

        try:
            return self._inserted(alerts)
        except psycopg.errors.InvalidColumnReference as error:
            self.close()
            raise self._wrong(
                f"a table '{self._table}' with alert_id as its key, or unique", first_line(error)
            ) from error
        except psycopg.Error as error:
            self.close()
            raise SinkError(WHERE, "to take alerts", self._without_password(first_line(error))) from None
        except SinkError:
            self.close()
            raise

    def _inserted(self, alerts: Sequence[Alert]) -> Mapping[int, str]:
        import psycopg

        connection = self._connected()
        try:
            _insert(connection, self._name(), alerts)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(alerts) == 1:
                return {0: f"postgres_refused: {first_line(error)}"}
        else:
            return {}
        # One of them cannot be a row: inserted one by one, the others can.
        refused = ((index, self._inserted([alert])) for index, alert in enumerate(alerts))
        return {index: reasons[0] for index, reasons in refused if reasons}

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = connected(self._conninfo, self._password, TIMEOUTS, autocommit=True)
            self._check(self._connection)
        return self._connection

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Check that the table has our columns, after making it if it is missing."""
        columns = _columns(connection, self._name())
        if not columns:
            connection.execute(_creation(self._name()))
            columns = _columns(connection, self._name())
        differing = [_difference(name, columns) for name in COLUMNS if columns.get(name, ("",))[0] != COLUMNS[name]]
        demanded = [name for name, (_, is_required) in columns.items() if is_required and name not in COLUMNS]
        if differing or demanded:
            required = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            got = [*differing, *(f"{name}, which is neither ours nor may be null" for name in demanded)]
            raise self._wrong(f"a table '{self._table}' with {required}", ", ".join(got))

    def _wrong(self, required: str, got: str) -> SinkError:
        return SinkError(WHERE, required, got, "Rename that table, or name another in alerts.postgres_table.")

    def _without_password(self, text: str) -> str:
        return text.replace(self._password, "…") if self._password else text

    def _name(self) -> Identifier:
        from psycopg.sql import Identifier

        return Identifier(*self._table.split("."))

    def close(self) -> None:
        """Close the connection; the next delivery opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def connected(
    conninfo: str, password: str, defaults: Mapping[str, str], *, autocommit: bool = False
) -> psycopg.Connection[Any]:
    """A connection, by these options where the connection string has no others; its parameters are the sink's."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    options: dict[str, Any] = {**defaults, **conninfo_to_dict(conninfo)}
    if password:
        options["password"] = password
    return psycopg.connect(autocommit=autocommit, **options)


def _difference(name: str, columns: Mapping[str, tuple[str, bool]]) -> str:
    return f"{name} {columns[name][0]}" if name in columns else f"no {name}"


def _columns(connection: psycopg.Connection[Any], name: Identifier) -> dict[str, tuple[str, bool]]:
    """Column → its type, and True if an insert must name it; none where there is no such table."""
    query = (
        "SELECT attname, format_type(atttypid, NULL), attnotnull AND NOT atthasdef AND attidentity = '' "
        "FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
    )
    rows = connection.execute(query, [name.as_string(connection)]).fetchall()
    return {column: (kind, is_required) for column, kind, is_required in rows}


def _creation(name: Identifier) -> Composed:
    from psycopg.sql import SQL

    parts = [f"{column} {kind}{' NOT NULL' if column in REQUIRED else ''}" for column, kind in COLUMNS.items()]
    parts = [part + (" DEFAULT now()" if part.startswith("delivered_at") else "") for part in parts]
    return SQL("CREATE TABLE IF NOT EXISTS {} (" + ", ".join(parts) + ", PRIMARY KEY (alert_id))").format(name)


def _insert(connection: psycopg.Connection[Any], name: Identifier, alerts: Sequence[Alert]) -> None:
    from psycopg.sql import SQL

    arrays = ", ".join(
        f"%({column})s::{'bigint' if column == 'event_time' else COLUMNS[column]}[]" for column in INSERTED
    )
    values = ", ".join("to_timestamp(event_time / 1000.0)" if column == "event_time" else column for column in INSERTED)
    statement = SQL(
        f"INSERT INTO {{}} ({', '.join(INSERTED)}, delivered_at) SELECT {values}, now() "
        f"FROM unnest({arrays}) AS new ({', '.join(INSERTED)}) ON CONFLICT (alert_id) DO NOTHING"
    ).format(name)
    connection.execute(statement, {column: [_value(alert, column) for alert in alerts] for column in INSERTED})


def _value(alert: Alert, column: str) -> Any:
    value = getattr(alert.fields, column)
    return msgspec.json.encode(value).decode() if column in ("reasons", "event") else value


def first_line(error: Exception) -> str:
    """The first line of PostgreSQL's error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
