"""The archive's Delta tables as readers see them: a folder for each stream, rows in the types of event_schema().

History, training and rebuilds read them here and nowhere else, so that all see the same events. A table is read at a
single version; only the requested columns are read, and only the files that may hold the requested times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s
from features.definitions import PARTITIONS_OF_A_TOPIC, RESERVED, FeatureRepo, Stream, duration_ms
from features.errors import FormatError
from features.events import NEVER, PARTITION_BITS, event_schema, integers, record_offsets, without_duplicates
from features.history.stored_columns import StoredColumns

if TYPE_CHECKING:
    from deltalake import DeltaTable

BATCH_ROWS = 1 << 17

IMPORTED = "import:"
"""Prefix of the topic of imported events: no topic of Kafka has a colon."""

IMPORT_PARTITION = (1 << PARTITION_BITS) - 1
"""Partition of every imported event: the last that sequences (columns.py) have room for."""


@dataclass(frozen=True)
class Span:
    """Events that became known in [start_ms, end_ms); None is no bound."""

    start_ms: int | None = None
    end_ms: int | None = None

    def covers(self, least: int | None, most: int | None) -> bool:
        """False if no event known between these two (None: unknown) can be in the span."""
        before = self.end_ms is not None and least is not None and least >= self.end_ms
        after = self.start_ms is not None and most is not None and most < self.start_ms
        return not before and not after

    @property
    def expression(self) -> pc.Expression | None:
        """The span as a filter of rows."""
        known = pc.field("known_at")
        parts = [known >= self.start_ms] if self.start_ms is not None else []
        parts += [known < self.end_ms] if self.end_ms is not None else []
        return parts[0] & parts[1] if len(parts) > 1 else (parts or [None])[0]


ALWAYS = Span()


class ArchiveTable:
    """A stream's table at a fixed version; what is written later is not in it.

    Args:
        horizon_ms: events older than this before they became known are late, and left out; None: none are.
        end: 'topic/partition' → the first offset of the stream's topics that is left out; imported events never are.
    """

    def __init__(
        self,
        delta: DeltaTable,
        stream: Stream,
        horizon_ms: int | None = None,
        end: Mapping[str, int] | None = None,
        only: pc.Expression | None = None,
    ) -> None:
        self._delta = delta
        self.stream = stream
        self.horizon_ms = horizon_ms
        self._end = end
        self._ends = None if end is None else _ends(stream.topics, end)
        self._only = only
        self.version = int(delta.version())
        self.stored = StoredColumns.of(pa.schema(delta.schema().to_arrow()))

    @property
    def table_id(self) -> str:
        """The table's id, which changes when the table is made anew."""
        return str(self._delta.metadata().id)

    def only(self, expression: pc.Expression) -> ArchiveTable:
        """The same with only the rows for which the expression is true."""
        both = expression if self._only is None else self._only & expression
        return ArchiveTable(self._delta, self.stream, self.horizon_ms, self._end, both)

    def _filter(self, span: Span) -> pc.Expression | None:
        if self._only is None or span.expression is None:
            return span.expression if self._only is None else self._only
        return self._only & span.expression

    def rows(self, span: Span = ALWAYS) -> int:
        """Rows of the files that may hold events of the span, by their statistics: at least as many as it has."""
        return sum(rows for _, rows in self._files(span))

    def files(self, span: Span = ALWAYS) -> list[str]:
        """Paths of the files that may hold events of the span."""
        root = self._delta.table_uri.removeprefix("file://").rstrip("/")
        return [f"{root}/{path}" for path, _ in self._files(span)]

    def _files(self, span: Span) -> Iterator[tuple[str, int]]:
        """Path and rows of each file that may hold events of the span."""
        actions = pa.table(self._delta.get_add_actions(flatten=True))
        columns = [_column(actions, name) for name in ("path", "num_records", "min.known_at", "max.known_at")]
        for path, rows, least, most in zip(*columns, strict=True):
            if span.covers(least, most):
                yield path, rows or 0

    def known_between(self) -> tuple[int | None, int | None]:
        """The least and the greatest known_at of its rows (ms), by the files' statistics; None without rows."""
        actions = pa.table(self._delta.get_add_actions(flatten=True))
        first, last = (
            [known_at for known_at in _column(actions, f"{kind}.known_at") if known_at is not None]
            for kind in ("min", "max")
        )
        return min(first, default=None), max(last, default=None)

    def events(self, columns: Sequence[str] | None = None, span: Span = ALWAYS) -> pa.Table:
        """The events of the span that are not late, in these columns; all of event_schema() by default."""
        wanted = event_schema(self.stream).names if columns is None else columns
        dataset, present = self._dataset(wanted)
        return self._conformed(dataset.to_table(columns=present, filter=self._filter(span)), wanted)

    def batches(self, columns: Sequence[str], span: Span = ALWAYS) -> Iterator[pa.Table]:
        """As events(), a bounded number of rows at a time, row group by row group of each file.

        A scan of all files at once reads up to a gigabyte ahead of who takes the batches.
        """
        dataset, present = self._dataset(columns)
        only = self._filter(span)
        for file in dataset.get_fragments(filter=only):
            for group in file.split_by_row_group(filter=only, schema=dataset.schema):
                read = group.to_batches(schema=dataset.schema, columns=present, filter=only, batch_size=BATCH_ROWS)
                yield from (self._conformed(pa.table(batch), columns) for batch in read if batch.num_rows)

    def end(self) -> dict[str, int]:
        """'topic/partition' → the first offset after those in the table, of the topics of Kafka."""
        last: Counter[str] = Counter()
        live = pc.invert(pc.starts_with(pc.field("topic"), IMPORTED))
        dataset = self._delta.to_pyarrow_dataset()
        for batch in dataset.to_batches(columns=["topic", "partition", "offset"], filter=live):
            newest = pa.table(batch).group_by(["topic", "partition"]).aggregate([("offset", "max")])
            offsets = record_offsets(newest.rename_columns(["topic", "partition", "offset"]), self.stream).tolist()
            for row, offset in zip(newest.to_pylist(), offsets, strict=True):
                partition = f"{row['topic']}/{row['partition'] % PARTITIONS_OF_A_TOPIC}"
                last[partition] = max(last[partition], offset + 1)
        return dict(last)

    def imported(self) -> list[str]:
        """The topics of its imported events."""
        imported = (pc.field("partition") == IMPORT_PARTITION) & pc.starts_with(pc.field("topic"), IMPORTED)
        batches = self._delta.to_pyarrow_dataset().to_batches(columns=["topic"], filter=imported)
        return sorted({topic for batch in batches for topic in pc.unique(batch["topic"]).to_pylist()})

    @cached_property
    def newest_ms(self) -> int:
        """The newest known_at (ms), by the files' statistics; NEVER, a long time ago, without them."""
        actions = pa.table(self._delta.get_add_actions(flatten=True))
        newest = _column(actions, "max.known_at")
        return max((known_at for known_at in newest if known_at is not None), default=NEVER)

    def first_known_ms(self) -> int | None:
        """The known_at (ms) of the first event of the stream's topics; None if there is none."""
        dataset = self._delta.to_pyarrow_dataset()
        batches = dataset.to_batches(columns=["known_at"], filter=pc.field("topic").isin(self.stream.topics))
        first = [pc.min(batch["known_at"]).as_py() for batch in batches if batch.num_rows]
        return min(first, default=None)

    def _dataset(self, wanted: Sequence[str]) -> tuple[Any, list[str]]:
        present = self.stored.fields()
        if not set(RESERVED) <= set(present):
            where = f"offline table '{self._delta.table_uri}'"
            raise FormatError(where, f"columns {', '.join(RESERVED)}", ", ".join(present))
        needed = dict.fromkeys([*wanted, *RESERVED[1:]])
        return self._delta.to_pyarrow_dataset(), self.stored.schema(needed).names

    def _conformed(self, table: pa.Table, wanted: Sequence[str]) -> pa.Table:
        """The wanted columns in their types, all null where the table lacks one; without late rows."""
        conformed = self.stored.read(table, wanted, event_schema(self.stream))
        counts = self._counting(table)
        return conformed if counts.all() else conformed.filter(pa.array(counts))

    def _counting(self, table: pa.Table) -> NDArray[np.bool_]:
        """True for rows that are not late, and before the end."""
        counts = np.ones(table.num_rows, dtype=bool)
        if self.horizon_ms is not None:
            counts &= integers(table["event_time"]) >= integers(table["known_at"]) - self.horizon_ms
        if self._ends is not None:
            counts &= record_offsets(table, self.stream) < self._ends[integers(table["partition"])]
        return counts


def _ends(topics: Sequence[str], end: Mapping[str, int]) -> Int64s:
    """The first offset that is left out, for each partition of each of the stream's topics."""
    ends = np.zeros(1 << PARTITION_BITS, dtype=np.int64)
    ends[IMPORT_PARTITION] = np.iinfo(np.int64).max
    for topic_partition, offset in end.items():
        name, _, partition = topic_partition.rpartition("/")
        if name in topics:
            ends[topics.index(name) * PARTITIONS_OF_A_TOPIC + int(partition)] = offset
    return ends


def _column(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * table.num_rows


def open_table(
    folder: Path,
    stream: Stream,
    horizon_ms: int | None = None,
    version: int | None = None,
    end: Mapping[str, int] | None = None,
) -> ArchiveTable | None:
    """The stream's table as it is now, or was at a version, up to ``end``; None if there is none yet."""
    from deltalake import DeltaTable

    path = folder / stream.name
    if not (path / "_delta_log").is_dir():
        return None
    return ArchiveTable(DeltaTable(path, version=version), stream, horizon_ms, end)


def open_tables(
    folder: Path, streams: Iterable[Stream], repo: FeatureRepo, end: Mapping[str, int] | None = None
) -> dict[str, ArchiveTable]:
    """Stream name → its table as it is now, up to ``end``, without late events; a stream without one is left out."""
    opened = {stream.name: open_table(folder, stream, repo.horizon_ms(stream.name), end=end) for stream in streams}
    return {name: table for name, table in opened.items() if table is not None}


def deduplicated(events: pa.Table, stream: Stream) -> pa.Table:
    """The events that the stream would have folded, each once."""
    if pc.count_distinct(events["event_id"]).as_py() == events.num_rows:
        return events
    return without_duplicates(events, duration_ms(stream.dedupe_horizon))
