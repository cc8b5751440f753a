"""PostgreSQL's part: alerts whose event is the subject's."""

from __future__ import annotations

from features.errors import StoreError
from streaming.alerts.sinks import connected, first_line
from streaming.forget.subject import Subject

OPTIONS = {"connect_timeout": "10"}


def forget_alerts(conninfo: str, password: str, table: str, subject: Subject, *, dry_run: bool) -> int:
    """The number of the table's alerts of the subject's events, which are deleted; 0 where there is no such table.

    Raises:
        StoreError: the database does not answer, or refuses.
    """
    import psycopg
    from psycopg.sql import SQL, Identifier

    named = [part for name, value in subject.key.items() for part in (name, str(value))]
    where = SQL(" AND ").join([SQL("event->>%s = %s")] * len(subject.key))
    verb = SQL("SELECT 1 FROM {} WHERE ") if dry_run else SQL("DELETE FROM {} WHERE ")
    try:
        with connected(conninfo, password, OPTIONS) as connection:
            done = connection.execute(verb.format(Identifier(*table.split("."))) + where, named)
            return done.rowcount
    except psycopg.errors.UndefinedTable:
        return 0
    except psycopg.Error as error:
        raise StoreError("PostgreSQL", f"to delete from '{table}'", first_line(error)) from None
