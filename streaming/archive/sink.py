"""The archive: every valid or late record of a stream in a Delta table, exactly once by its offset."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features import epochs
from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureRepo, Stream
from features.events import Parsed, event_schema, parse_by
from features.history import ArchiveTable, open_table
from features.online_store import Offsets
from features.rows import foldable
from streaming.archive.appending import append_planned, append_rows, opened
from streaming.archive.ends import unseen
from streaming.fold import by_stream, send_refused
from streaming.spark import Messages, OffsetLog, Schemas, SendDeadLetters, messages_by_topic, records_between, tables_of

if TYPE_CHECKING:
    from deltalake import DeltaTable


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

    def append(self, stream: Stream, events: pa.Table) -> int:
        """Append the events that the table does not have, by their offsets; returns the number of rows written.

        Args:
            events: those of a partition are at or behind the offsets of all that was appended before, or repeat it.

        Raises:
            StoreError: the table cannot be written, such as for want of room.
        """
        if not events.num_rows:
            return 0

        def plan(table: DeltaTable | None) -> tuple[pa.Table, Mapping[str, int]]:
            fresh, transactions = unseen(table, stream, events)
            return _rows(stream, fresh, topic_of(fresh, stream)), transactions

        return append_planned(self.path(stream), plan)

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
        append_rows(self.path(stream), _rows(stream, events, topics), transactions)

    def read(self, stream: Stream, end: Offsets | None = None) -> ArchiveTable | None:
        """The stream's table as it is now, up to ``end``, without what is late for all of its views; None for none."""
        return open_table(self.folder, stream, self.repo.horizon_ms(stream.name), end=end)

    def events(self, stream: Stream) -> pa.Table:
        """The stream's events that are not late for any of its views, in the columns of event_schema()."""
        table = self.read(stream)
        return event_schema(stream).empty_table() if table is None else table.events()

    def end(self) -> dict[str, int]:
        """'topic/partition' → the first offset after those in the tables; without partitions that a table lacks.

        Of the tables of several streams on one topic it is the least, as each has the records of its own. Records
        behind a table's last may have been read and refused; reading them again adds nothing to it.
        """
        ends: dict[str, list[int]] = {}
        for stream in self.repo.streams.values():
            table = self.read(stream)
            for name, end in ({} if table is None else table.end()).items():
                ends.setdefault(name, []).append(end)
        readers = Counter(topic for stream in self.repo.streams.values() for topic in stream.topics)
        return {name: min(each) for name, each in ends.items() if len(each) >= readers[epochs.topic_of(name)]}


def _rows(stream: Stream, events: pa.Table, topics: pa.Array | pa.ChunkedArray) -> pa.Table:
    return events.append_column("topic", topics).cast(archive_schema(stream))


class ArchiveSink:
    """Appends batches of messages to the archive, each record once.

    Args:
        send: takes the dead letters of messages that are parsed here; the fold has sent those of what it hands over.
    """

    def __init__(
        self,
        archive: Archive,
        repo: FeatureRepo,
        log: OffsetLog,
        reached: Callable[[str], None],
        send: SendDeadLetters,
        schemas: Schemas | None = None,
    ) -> None:
        self._archive = archive
        self._repo = repo
        self._log = log
        self._reached = reached
        self._send = send
        self._schemas = schemas

    def append(self, messages: pa.Table | Iterable[pa.Table], batch_id: int) -> ArchiveReport:
        """Append the valid and the late among the messages (session.COLUMNS) to their streams' tables.

        The dead letters are acknowledged before: after a crash behind it, nobody would read their records again.
        """
        began = time.perf_counter()
        appended = sum(self._append(self._events(table)) for table in tables_of(messages))
        return self._report(batch_id, appended, began)

    def _events(self, table: pa.Table) -> dict[str, pa.Table]:
        messages = messages_by_topic(table, self._repo.streams.values(), self._log.epochs)
        parsed = [self._parsed(each) for each in messages]
        send_refused(self._send, messages, parsed)
        return {name: records.events for name, records in by_stream(messages, parsed).items()}

    def append_events(self, events: Mapping[str, pa.Table], batch_id: int) -> ArchiveReport:
        """As append(), of events that are parsed already, by stream."""
        began = time.perf_counter()
        return self._report(batch_id, self._append(events), began)

    def _append(self, events: Mapping[str, pa.Table]) -> int:
        appended = 0
        for name, table in events.items():
            self._reached("before archive")
            appended += self._archive.append(self._repo.streams[name], table)
            self._reached("after archive")
        return appended

    def _report(self, batch_id: int, appended: int, began: float) -> ArchiveReport:
        took_ms = 1e3 * (time.perf_counter() - began)
        start, end = self._log.between(batch_id)
        return ArchiveReport(batch_id, end, records_between(start, end), appended, took_ms)

    def _parsed(self, messages: Messages) -> Parsed:
        parsed = parse_by(self._repo, messages.records, messages.stream, self._schemas)
        return foldable(parsed, messages.stream, self._repo.reading(messages.stream.name))
