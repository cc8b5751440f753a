"""The archive: every valid or late record of a stream in a Delta table, exactly once by its offset."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureRepo, Stream
from features.errors import StoreError
from features.events import Parsed, event_schema, parse
from features.history import ArchiveTable, open_table
from features.online_store import Offsets
from streaming.fold import by_stream
from streaming.spark import Messages, OffsetLog, Schemas, messages_by_topic, records_between

if TYPE_CHECKING:
    from deltalake import DeltaTable

MAKE_ROOM = "Make room: what waits is written then."

ATTEMPTS = 5


@dataclass(frozen=True)
class ArchiveReport:
    """The records that a batch added to the tables."""

    batch_id: int
    end: Offsets
    records: int
    appended: int
    took_ms: float


def append_rows(path: Path, rows: pa.Table, transactions: Mapping[str, int]) -> None:
    """Append rows to a Delta table, made if it is not there, and set the versions in the same commit.

    Raises:
        StoreError: commits of other writers conflicted with every attempt; nothing was written.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    versions = [Transaction(app_id, version) for app_id, version in transactions.items()]
    for _ in range(ATTEMPTS):
        try:
            write_deltalake(
                path,
                rows,
                mode="append",
                schema_mode="merge",  # a field that a stream has gained is null in what came before
                commit_properties=CommitProperties(app_transactions=versions),
            )
        except CommitFailedError as error:  # appends never conflict; making a table, or widening it, does
            conflict = error
        else:
            return
    raise StoreError(f"table '{path}'", "a commit that no other writer conflicts with", str(conflict).rstrip("."))


def archive_schema(stream: Stream) -> pa.Schema:
    """The columns of a stream's table: its events' and the topic."""
    return event_schema(stream).append(pa.field("topic", pa.string()))


def topic_of(events: pa.Table, stream: Stream) -> pa.ChunkedArray:
    """The topic that each of the stream's events came from, by its partition."""
    return pa.chunked_array([pa.array(stream.topics)]).take(pc.divide(events["partition"], PARTITIONS_OF_A_TOPIC))


class Archive:
    """The Delta tables of a repo's streams, each in a folder of its own under ``folder``."""

    def __init__(self, folder: Path, repo: FeatureRepo) -> None:
        self.folder = folder
        self.repo = repo

    def path(self, stream: Stream) -> Path:
        """The folder of the stream's table."""
        return self.folder / stream.name

    def append(self, stream: Stream, events: pa.Table, app_id: str, batch_id: int) -> int:
        """Append events as this batch of this writer; a batch that is in the table already changes nothing.

        Returns:
            The number of rows written.

        Raises:
            StoreError: the table cannot be written, such as for want of room.
        """
        done = self.transaction(stream, app_id)
        if not events.num_rows or (done is not None and done >= batch_id):
            return 0
        self.write(stream, events, topic_of(events, stream), {app_id: batch_id})
        return int(events.num_rows)

    def transaction(self, stream: Stream, app_id: str) -> int | None:
        """The version that the writer's last commit set in the stream's table; None where it never wrote."""
        table = self._table(stream)
        return None if table is None else table.transaction_version(app_id)

    def write(
        self, stream: Stream, events: pa.Table, topics: pa.Array | pa.ChunkedArray, transactions: Mapping[str, int]
    ) -> None:
        """Append events with their topics, and set the writers' versions in the same commit.

        Raises:
            StoreError: the table cannot be written, such as for want of room.
        """
        rows = events.append_column("topic", topics)
        with _as_store_error(self.path(stream)):
            append_rows(self.path(stream), rows.cast(archive_schema(stream)), transactions)

    def read(self, stream: Stream, end: Offsets | None = None) -> ArchiveTable | None:
        """The stream's table as it is now, up to ``end``, without what is late for all of its views; None for none."""
        return open_table(self.folder, stream, self.repo.horizon_ms(stream.name), end=end)

    def events(self, stream: Stream) -> pa.Table:
        """The stream's events that are not late for any of its views, in the columns of event_schema()."""
        table = self.read(stream)
        return event_schema(stream).empty_table() if table is None else table.events()

    def end(self) -> dict[str, int]:
        """'topic/partition' → the first offset after those in the tables; without partitions that no table has.

        Records behind a table's last may have been read and refused; reading them again adds nothing to it.
        """
        tables = (self.read(stream) for stream in self.repo.streams.values())
        return {name: end for table in tables if table is not None for name, end in table.end().items()}

    def _table(self, stream: Stream) -> DeltaTable | None:
        from deltalake import DeltaTable

        path = self.path(stream)
        return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        where, got = f"offline table {path}", f"{type(error).__name__}: {error}"
        full = "No space left" in got or "Quota exceeded" in got
        required, next_step = ("room on its disk", MAKE_ROOM) if full else ("a folder that takes files", "")
        raise StoreError(where, required, got, next_step) from error


class ArchiveSink:
    """Appends batches of messages to the archive, exactly once, as the writer ``app_id``."""

    def __init__(
        self,
        archive: Archive,
        repo: FeatureRepo,
        app_id: str,
        log: OffsetLog,
        reached: Callable[[str], None],
        schemas: Schemas | None = None,
    ) -> None:
        self._archive = archive
        self._repo = repo
        self._app_id = app_id
        self._log = log
        self._reached = reached
        self._schemas = schemas

    def append(self, table: pa.Table, batch_id: int) -> ArchiveReport:
        """Append the valid and the late among the messages (session.COLUMNS) to their streams' tables."""
        messages = messages_by_topic(table, self._repo.streams.values())
        parsed = by_stream(messages, [self._parsed(each) for each in messages])
        return self.append_events({name: records.events for name, records in parsed.items()}, batch_id)

    def append_events(self, events: Mapping[str, pa.Table], batch_id: int) -> ArchiveReport:
        """As append(), of events that are parsed already, by stream."""
        began = time.perf_counter()
        appended = 0
        for name, table in events.items():
            self._reached("before archive")
            appended += self._archive.append(self._repo.streams[name], table, self._app_id, batch_id)
            self._reached("after archive")
        took_ms = 1e3 * (time.perf_counter() - began)
        start, end = self._log.between(batch_id)
        return ArchiveReport(batch_id, end, records_between(start, end), appended, took_ms)

    def _parsed(self, messages: Messages) -> Parsed:
        name = messages.stream.name
        horizon_ms, keys = self._repo.horizon_ms(name), self._repo.keys_of(name)
        return parse(messages.records, messages.stream, horizon_ms, self._schemas, keys=keys)
