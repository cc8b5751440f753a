"""The archive: every valid or late record of a stream in a Delta table, exactly once by its offset."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureRepo, Stream
from features.events import Parsed, event_schema, parse
from features.history import ArchiveTable, open_table
from features.online_store import Offsets
from streaming.archive.appending import append_rows, opened
from streaming.fold import by_stream
from streaming.spark import Messages, OffsetLog, Schemas, messages_by_topic, records_between


@dataclass(frozen=True)
class ArchiveReport:
    """The records that a batch added to the tables."""

    batch_id: int
    end: Offsets
    records: int
    appended: int
    took_ms: float


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
        table = opened(self.path(stream))
        return None if table is None else table.transaction_version(app_id)

    def write(
        self, stream: Stream, events: pa.Table, topics: pa.Array | pa.ChunkedArray, transactions: Mapping[str, int]
    ) -> None:
        """Append events with their topics, and set the writers' versions in the same commit.

        Raises:
            StoreError: the table cannot be written, such as for want of room.
        """
        rows = events.append_column("topic", topics)
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
        messages = messages_by_topic(table, self._repo.streams.values(), self._log.epochs)
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
