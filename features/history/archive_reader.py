"""Deduplicated events of the archive: whole where they fit into memory, else bucket by bucket.

Duplicates are decided in buckets of ids, and events are read in buckets of entities, so that neither needs the table in
memory. Both ways decide in the order of events/dedupe.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s, single_array
from features.definitions import RESERVED, FeatureView, duration_ms, used_columns
from features.events import Decision, accept, entity_keys, integers, sequence
from features.hashing import hash_texts
from features.history.archive import ALWAYS, ArchiveTable, Span, deduplicated
from features.history.hash_partitions import HashPartitions

ROWS_IN_MEMORY = 10_000_000
"""Events that are read whole: about 2 GB with what is made of them."""

SPARE = 2
"""Partitions made for each that is needed, as entities differ in size."""

Decided = Callable[[str, Decision], object]
"""Called for each stream with the decision about a part of its ids; every id is in exactly one part."""

Tables = Mapping[str, ArchiveTable]
"""Stream name → its table; a stream that has none is not there."""


@dataclass(frozen=True)
class EntityPart:
    """Some entities of a view (bucket ``number`` of ``count``), and by stream all events of theirs that count."""

    number: int
    count: int
    events: Mapping[str, pa.Table]

    def holds(self, keys: pa.Array) -> Int64s:
        """The index of the keys (see columns.entity_keys) that belong to this part."""
        if self.count == 1:
            return np.arange(len(keys))
        return np.flatnonzero(hash_texts(pc.fill_null(keys, "")) % np.uint64(self.count) == self.number)


@dataclass(frozen=True)
class ArchiveReader:
    """Reads the tables of an archive in a span of time, with a bounded number of rows in memory."""

    tables: Tables
    span: Span = ALWAYS
    rows_in_memory: int = ROWS_IN_MEMORY

    def fits(self) -> bool:
        """True if all of it may be in memory at once."""
        return self._rows() <= self.rows_in_memory

    def _rows(self) -> int:
        return sum(table.rows(self.span) for table in self.tables.values())

    def whole(self, views: Sequence[FeatureView]) -> dict[str, pa.Table]:
        """By stream, the events that count, with the columns that the views use."""
        return {
            name: deduplicated(table.events(columns_of(views, table), self.span), table.stream)
            for name, table in self.tables.items()
        }

    def parts(
        self,
        view: FeatureView,
        repeated: Mapping[str, Int64s],
        keys: pa.Array | None = None,
    ) -> Iterator[EntityPart]:
        """The view's events that count, a bucket of entities at a time.

        Args:
            repeated: by stream, the result of repeated().
            keys: only of these entities.
        """
        count = max(-(-SPARE * self._rows() // self.rows_in_memory), 1)
        with TemporaryDirectory(prefix="headrace-") as folder:
            of_view = {stream.name: self.tables[stream.name] for stream in view.streams if stream.name in self.tables}
            spilled = {
                name: self._spilled(view, table, Path(folder) / name, count, repeated[name], keys)
                for name, table in of_view.items()
            }
            parts = max((len(buckets) for buckets in spilled.values()), default=0)
            for number in range(parts):
                events = {name: buckets.read(number) for name, buckets in spilled.items()}
                yield EntityPart(number, parts, {name: table for name, table in events.items() if table is not None})

    def _spilled(
        self,
        view: FeatureView,
        table: ArchiveTable,
        folder: Path,
        count: int,
        repeated: Int64s,
        keys: pa.Array | None,
    ) -> HashPartitions:
        with HashPartitions(folder, count) as buckets:
            for batch in table.batches(used_columns(view, table.stream), self.span):
                events = without(batch, repeated)
                texts = entity_keys({name: events[name] for name in view.entity.keys}, view.entity)
                wanted = texts.is_valid() if keys is None else pc.is_in(texts, value_set=keys, skip_nulls=True)
                if wanted.true_count:
                    buckets.add(events.filter(wanted), hash_texts(texts.filter(wanted)))
        return buckets

    def repeated(self, decided: Decided | None = None) -> dict[str, Int64s]:
        """By stream, the sequences (see columns.sequence) of the events that repeat another, in rising order."""
        return {name: self._repeated(name, table, decided) for name, table in self.tables.items()}

    def _repeated(self, name: str, table: ArchiveTable, decided: Decided | None) -> Int64s:
        count = max(-(-SPARE * table.rows(self.span) // self.rows_in_memory), 1)
        repeated = [np.empty(0, dtype=np.int64)]
        with TemporaryDirectory(prefix="headrace-") as folder:
            with HashPartitions(Path(folder) / "ids", count) as buckets:
                for batch in table.batches(RESERVED, self.span):
                    buckets.add(batch, hash_texts(single_array(batch["event_id"])))
            for ids in map(buckets.read, range(len(buckets))):
                if ids is None:
                    continue
                _, decision = accept(ids, duration_ms(table.stream.dedupe_horizon))
                repeated.append(sequences(ids)[~decision.accepted])
                if decided is not None:
                    decided(name, decision)
        return np.sort(np.concatenate(repeated))


def columns_of(views: Iterable[FeatureView], table: ArchiveTable) -> list[str]:
    """The columns of the table's stream that any of the views uses."""
    return list(dict.fromkeys(name for view in views for name in used_columns(view, table.stream)))


def sequences(events: pa.Table) -> Int64s:
    """The sequence of each event: its position in its topic."""
    return sequence(integers(events["partition"]), integers(events["offset"]))


def without(events: pa.Table, repeated: Int64s) -> pa.Table:
    """The events whose sequence is not among these (rising)."""
    if not len(repeated):
        return events
    mine = sequences(events)
    index = np.minimum(np.searchsorted(repeated, mine), len(repeated) - 1)
    return events.filter(pa.array(repeated[index] != mine))
