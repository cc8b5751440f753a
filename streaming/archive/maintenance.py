"""Upkeep of the offline store's tables: few large files instead of many small ones, and no files that nobody reads.

Neither changes a row. Compaction is a commit of its own beside the archive's appends, which it never conflicts with;
against a commit that it does, it is done again on what that left. Readers read the version that they opened, whose
files stay for the time to keep versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import StoreError

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS = 5

FILE_BYTES = 128 << 20
"""The size that files are made up to."""

ROW_GROUP_ROWS = 1 << 17
"""So that a reader of a few days, or with little memory, need not take a whole file."""


@dataclass(frozen=True)
class TableState:
    """What a table holds now."""

    table: str
    rows: int
    files: int
    bytes: int
    version: int


@dataclass(frozen=True)
class Upkeep:
    """What was done to a table; ``deleted`` files were of versions that nobody reads any more."""

    table: str
    files_before: int
    files_after: int
    deleted: int
    version: int


def tables_of(folder: Path) -> Iterator[tuple[str, DeltaTable]]:
    """The Delta tables in the folder, by name."""
    from deltalake import DeltaTable

    for path in sorted(folder.glob("*/_delta_log")):
        yield path.parent.name, DeltaTable(path.parent)


def state_of(name: str, table: DeltaTable) -> TableState:
    """The table's rows, files and bytes, from its log."""
    import pyarrow as pa
    import pyarrow.compute as pc

    files = pa.table(table.get_add_actions(flatten=True))
    rows, size = (pc.sum(files[column]).as_py() or 0 for column in ("num_records", "size_bytes"))
    return TableState(name, rows, len(files), size, int(table.version()))


def kept_up(name: str, table: DeltaTable, keep_h: int) -> Upkeep:
    """The table has few large files, and none of versions older than ``keep_h`` hours.

    Raises:
        StoreError: other writers were in the way time and again.
    """
    before = state_of(name, table).files
    _compacted(name, table)
    deleted = table.vacuum(retention_hours=keep_h, dry_run=False, enforce_retention_duration=False)
    table.create_checkpoint()
    after = state_of(name, table)
    return Upkeep(name, before, after.files, len(deleted), after.version)


def _compacted(name: str, table: DeltaTable) -> None:
    from deltalake import WriterProperties
    from deltalake.exceptions import CommitFailedError

    writing = WriterProperties(max_row_group_size=ROW_GROUP_ROWS, compression="ZSTD")
    for _ in range(ATTEMPTS):
        try:
            table.optimize.compact(target_size=FILE_BYTES, writer_properties=writing)
        except CommitFailedError as error:
            conflict = error
            table.update_incremental()
        else:
            return
    next_step = "Run it again when fewer write."
    raise StoreError(f"table '{name}'", "a commit that no other writer conflicts with", str(conflict), next_step)
