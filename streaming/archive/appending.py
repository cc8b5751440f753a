"""Rows into a Delta table: a commit adds what its plan finds missing in the version of the table that it follows.

It fails where another writer has since set one of the same transactions, widened the table or made it, and is then
planned anew. Values are never cast: features.history.StoredColumns has a column for each dtype of a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from features.errors import StoreError
from features.history import StoredColumns

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS = 10

Plan = Callable[["DeltaTable | None"], tuple[pa.Table, Mapping[str, int]]]
"""The rows to add to a table (None: there is none), and the versions of transactions that the same commit sets."""

MAKE_ROOM = "Make room: what waits is written then."


def opened(path: Path) -> DeltaTable | None:
    """The Delta table as it is now; None where there is none."""
    from deltalake import DeltaTable

    return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None


def append_rows(path: Path, rows: pa.Table, transactions: Mapping[str, int]) -> None:
    """Append rows to a Delta table, made if it is not there, and set the versions in the same commit.

    Raises:
        StoreError: as append_planned().
    """
    append_planned(path, lambda _: (rows, transactions))


def append_planned(path: Path, plan: Plan) -> int:
    """Append what the plan has for the table as it is; returns the number of rows written. No rows are no commit.

    Raises:
        StoreError: the table cannot be written, such as for want of room, or commits of other writers conflicted with
            every attempt; nothing was written.
    """

    def appended() -> int:
        table = opened(path)
        rows, transactions = plan(table)
        if rows.num_rows:
            _commit(path, table, rows, transactions)
        return int(rows.num_rows)

    return _attempted(path, appended)


def delete_rows(path: Path, predicate: str, transactions: Mapping[str, int]) -> int:
    """Delete the rows of a Delta table for which the SQL predicate holds, and set the versions in the same commit.

    Returns the number of rows deleted.

    Raises:
        StoreError: as append_planned().
    """
    from deltalake import CommitProperties, DeltaTable, Transaction

    versions = [Transaction(app_id, version) for app_id, version in transactions.items()]
    properties = CommitProperties(app_transactions=versions)

    def deleted() -> int:
        return int(DeltaTable(path).delete(predicate, commit_properties=properties)["num_deleted_rows"])

    return _attempted(path, deleted)


def sql_text(text: str) -> str:
    """A text as it stands in a predicate."""
    return "'" + text.replace("'", "''") + "'"


def sql_one_of(column: str, texts: Iterable[str]) -> str:
    """The predicate that the column has one of the texts."""
    return f'"{column}" IN ({", ".join(map(sql_text, texts))})'


def _attempted(path: Path, commit: Callable[[], int]) -> int:
    """What the commit returns, tried again where other writers conflict with it."""
    from deltalake.exceptions import CommitFailedError

    for _ in range(ATTEMPTS):
        with as_store_error(path):
            try:
                return commit()
            except CommitFailedError as error:
                conflict = error
    raise StoreError(f"table '{path}'", "a commit that no other writer conflicts with", str(conflict).rstrip("."))


def _commit(path: Path, table: DeltaTable | None, rows: pa.Table, transactions: Mapping[str, int]) -> None:
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError, DeltaError

    versions = [Transaction(app_id, version) for app_id, version in transactions.items()]
    if table is not None:
        stored = StoredColumns.of(pa.schema(table.schema().to_arrow())).stored(rows)
        # The table as it was opened, not its path: what another has changed since is a conflict.
        properties = CommitProperties(app_transactions=versions)
        write_deltalake(table, stored, mode="append", schema_mode="merge", commit_properties=properties)
        return
    try:
        # Tried again, the commit would become the second version of a table that another has just made.
        properties = CommitProperties(app_transactions=versions, max_commit_retries=0)
        write_deltalake(path, rows, mode="error", commit_properties=properties)
    except DeltaError as error:
        if opened(path) is None:
            raise
        raise CommitFailedError(str(error)) from error


@contextmanager
def as_store_error(path: Path) -> Iterator[None]:
    """What Delta and the disk raise about the table is a StoreError."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        where, got = f"offline table {path}", f"{type(error).__name__}: {error}"
        full = "No space left" in got or "Quota exceeded" in got
        required, next_step = ("room on its disk", MAKE_ROOM) if full else ("a folder that takes files", "")
        raise StoreError(where, required, got, next_step) from error
