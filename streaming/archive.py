"""The archive: every valid or late record of a stream in a Delta table, exactly once by its offset."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Offsets
from features.definitions import Stream
from features.events import event_schema, parse
from features.repo import FeatureRepo
from streaming.online_sink import Schemas
from streaming.source_batch import OffsetLog, messages_by_stream

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class ArchiveReport:
    """What a batch added to the tables."""

    batch_id: int
    end: Offsets
    records: int
    appended: int
    took_ms: float


def archive_schema(stream: Stream) -> pa.Schema:
    """The columns of a stream's table: its events' and the topic."""
    return event_schema(stream).append(pa.field("topic", pa.string()))


class Archive:
    """The Delta tables of a repo's streams, one folder each under ``folder``."""

    def __init__(self, folder: Path, repo: FeatureRepo) -> None:
        self._folder = folder
        self._repo = repo

    def path(self, stream: Stream) -> Path:
        """Where the stream's table is."""
        return self._folder / stream.name

    def append(self, stream: Stream, events: pa.Table, app_id: str, batch_id: int) -> int:
        """Append events as this batch of this writer; a batch that is in the table already changes nothing.

        Returns:
            How many rows were written.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake

        table = self._table(stream)
        done = table.transaction_version(app_id) if table is not None else None
        if not events.num_rows or (done is not None and done >= batch_id):
            return 0
        rows = events.append_column("topic", pa.repeat(pa.scalar(stream.topic), events.num_rows))
        write_deltalake(
            table if table is not None else self.path(stream),
            rows.cast(archive_schema(stream)),
            mode="append",
            schema_mode="merge",  # a field that a stream has gained is null in what came before
            commit_properties=CommitProperties(app_transactions=[Transaction(app_id, batch_id)]),
        )
        return int(events.num_rows)

    def events(self, stream: Stream) -> pa.Table:
        """The stream's events that are not late for any of its views, in the columns of event_schema()."""
        schema = event_schema(stream)
        table = self._table(stream)
        if table is None:
            return schema.empty_table()
        kept = [name for name in schema.names if name in {field.name for field in table.schema().fields}]
        events = pa.table(table.to_pyarrow_table(columns=kept))
        events = pa.table(
            [events[f.name].cast(f.type) if f.name in kept else pa.nulls(len(events), f.type) for f in schema],
            schema=schema,
        )
        horizon_ms = self._repo.horizon_ms(stream.name)
        if horizon_ms is None:
            return events
        return events.filter(pc.greater_equal(events["event_time"], pc.subtract(events["known_at"], horizon_ms)))

    def end(self) -> dict[str, int]:
        """'topic/partition' → the first offset after those in the tables; what a table does not know is not there.

        Records behind a table's last may have been seen and refused; to see them again adds nothing to it.
        """
        ends: dict[str, int] = {}
        for stream in self._repo.streams.values():
            table = self._table(stream)
            if table is not None:
                ends |= _ends(pa.table(table.to_pyarrow_table(columns=["topic", "partition", "offset"])))
        return ends

    def _table(self, stream: Stream) -> DeltaTable | None:
        from deltalake import DeltaTable

        path = self.path(stream)
        return DeltaTable(path) if DeltaTable.is_deltatable(str(path)) else None


def _ends(places: pa.Table) -> dict[str, int]:
    last = places.group_by(["topic", "partition"]).aggregate([("offset", "max")]).to_pylist()
    return {f"{one['topic']}/{one['partition']}": one["offset_max"] + 1 for one in last}


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
        began = time.perf_counter()
        appended = 0
        for name, messages in messages_by_stream(table, self._repo.streams.values()).items():
            stream = self._repo.streams[name]
            parsed = parse(messages.records, stream, self._repo.horizon_ms(name), self._schemas)
            self._reached("before archive")
            appended += self._archive.append(stream, parsed.events, self._app_id, batch_id)
            self._reached("after archive")
        took_ms = 1e3 * (time.perf_counter() - began)
        return ArchiveReport(batch_id, self._log.between(batch_id)[1], table.num_rows, appended, took_ms)
