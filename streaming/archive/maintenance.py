"""Maintenance of the offline store's tables: small files are compacted into large ones, files of old versions deleted.

Neither changes a row. A compaction is a commit of its own, which never conflicts with the archive's appends; if it
conflicts with another commit, it is done again on the table that this left. Readers read the version that they opened,
whose files stay for the time to keep versions. Beside a stream, maintenance runs now and then in a process of its own:
it takes memory and processors that a driver needs, and its failures must not reach the driver.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.errors import StoreError

if TYPE_CHECKING:
    from deltalake import DeltaTable

COMMAND = (sys.executable, "-m", "headrace", "tables", "compact", "--json")

POLL_S = 0.2

STOP_S = 10.0
"""The time that a run has to end once it is terminated: a compaction is a single commit at its end, or none."""

ATTEMPTS = 5

FILE_BYTES = 128 << 20
"""The size up to which files are compacted."""

ROW_GROUP_ROWS = 1 << 17
"""A reader of a few days, or with little memory, need not take a whole file."""


@dataclass(frozen=True)
class TableState:
    """The present size of a table."""

    table: str
    rows: int
    files: int
    bytes: int
    version: int


@dataclass(frozen=True)
class Maintenance:
    """A table before and after its maintenance; ``deleted`` files were of versions that nobody reads any more."""

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


def maintain(name: str, table: DeltaTable, keep_h: int) -> Maintenance:
    """The table has few large files, and none of versions older than ``keep_h`` hours.

    Raises:
        StoreError: commits of other writers conflicted with every attempt.
    """
    before = state_of(name, table).files
    _compact(name, table)
    deleted = table.vacuum(retention_hours=keep_h, dry_run=False, enforce_retention_duration=False)
    table.create_checkpoint()
    after = state_of(name, table)
    return Maintenance(name, before, after.files, len(deleted), after.version)


def _compact(name: str, table: DeltaTable) -> None:
    from deltalake import WriterProperties
    from deltalake.exceptions import CommitFailedError

    properties = WriterProperties(max_row_group_size=ROW_GROUP_ROWS, compression="ZSTD")
    for _ in range(ATTEMPTS):
        try:
            table.optimize.compact(target_size=FILE_BYTES, writer_properties=properties)
        except CommitFailedError as error:
            conflict = error
            table.update_incremental()
        else:
            return
    next_step = "Run it again when fewer write."
    raise StoreError(f"table '{name}'", "a commit that no other writer conflicts with", str(conflict), next_step)


@contextmanager
def maintained_every(
    every_s: float, root: Path, log: Callable[[str], object], command: Sequence[str] = COMMAND
) -> Iterator[None]:
    """Run the command in ``root`` during the block, ``every_s`` after the start and after the end of each run.

    Args:
        every_s: 0 for never.
        log: takes a line about a run that failed.
    """
    if not every_s:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_maintain_every, args=(every_s, root, log, command, stop), name="maintenance")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _maintain_every(
    every_s: float, root: Path, log: Callable[[str], object], command: Sequence[str], stop: threading.Event
) -> None:
    while not stop.wait(every_s):
        status = _run(command, root, stop)
        if status and not stop.is_set():
            log(f"upkeep of the tables failed (exit {status}); by hand: headrace tables compact")


def _run(command: Sequence[str], root: Path, stop: threading.Event) -> int:
    """The command's exit status; it is terminated when ``stop`` is set."""
    process = subprocess.Popen(
        command,
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the stream
    )
    while process.poll() is None:
        if stop.wait(POLL_S):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()
    return int(process.returncode)
