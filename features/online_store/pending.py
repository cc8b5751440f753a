"""Pending events, which Kafka has and the rows have not yet: folded into a read by the same kernels, never twice.

Whoever accepts an event puts it here, under the key of every entity that it concerns, before acknowledging it. A read
takes

    pending entries ─► the generation's marker ─► rows ─► what was remembered of the entries' ids

in this order, each step in a transaction of its own, and folds in memory what the row has not; without any of them but
the rows, it answers the rows, and says so. An entry counts when
its offset is at or beyond where the row's last batch ended. As entries and marker are older than the rows, a row can
only have more than the marker says; its batch id tells, and then the read begins again. The stream deletes entries
once a batch that holds them is done; until then, and where it does not, their offsets say that they are folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import FeatureRepo, FeatureView, Stream, duration_ms
from features.epochs import broker_offsets, epoch_start, topic_of
from features.errors import ForeignRowError, StoreError
from features.events import NOT_OF_A_RECORD, Records, Verdict, accepted_events, decide, parse_by
from features.online_store.batch_step import ids_of
from features.online_store.port import (
    ForwardedStore,
    Marker,
    Offsets,
    Pending,
    PendingEvent,
    ReadableStore,
    ReadRows,
    Store,
)
from features.rows import HEADER, BatchKey, PackedRows, fold, without_unfoldable

AFTER_ALL = 1 << 62
"""The batch id of a row that was folded for a single read."""

TRIES = 5

MOST_ENTRIES, MOST_BYTES = 100_000, 64 << 20
"""Most pending events of a store, and of their bytes: while the stream is down, those beyond them wait for it."""

SESSION_ITEMS = 50
"""Items of a session that are kept, the newest."""


class RowsWithPending(ForwardedStore):
    """An online store whose rows have their pending events folded in; all else is the store's own."""

    def __init__(
        self,
        rows: ReadableStore,
        pending: Pending,
        repo: FeatureRepo,
        schemas: Callable[[int], str] | None = None,
    ) -> None:
        super().__init__(rows)
        self._pending, self._repo = pending, repo
        self._schemas = schemas
        self._horizons = {name: duration_ms(stream.dedupe_horizon) for name, stream in repo.streams.items()}

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        """As read_rows, without a word of what could not be read."""
        found = self.read_rows(view, keys, schema_hash)
        return found.values, found.stream_id

    def read_rows(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> ReadRows:
        """The row of each key with its pending events folded in, and the generation; as ReadableStore.read_rows.

        Rows of another definition than the repo's are as they are stored: what is pending reaches them by the stream.
        """
        if schema_hash is not None and schema_hash != self._repo.views[view].schema_hash:
            return self._rows.read_rows(view, keys, schema_hash)
        try:
            entries = self._pending.of(view, keys.to_pylist())
            if entries:
                return self._with(view, keys, entries)
        except StoreError:  # an answer without the last moment is better than none
            return replace(self._rows.read_rows(view, keys, schema_hash), without_pending=True)
        return self._rows.read_rows(view, keys, schema_hash)

    def _with(self, view: str, keys: pa.Array, entries: list[PendingEvent]) -> ReadRows:
        schema_hash = self._repo.views[view].schema_hash
        for _ in range(TRIES):
            current = self._rows.current_of(view, schema_hash)
            store = None if current is None else self._rows.generation(current, self._horizons)
            marker = None if store is None else store.marker()
            values, stream_id = self._rows.read(view, keys, schema_hash)
            if stream_id != current:  # readers were given another generation meanwhile
                continue
            if store is None or marker is None or stream_id is None:
                return ReadRows(values, stream_id)
            folded = folded_up_to(marker, keys, values)
            if folded is not None:
                break
        else:
            return ReadRows(values, stream_id, without_pending=True)
        try:
            return ReadRows(self._folded(view, PackedRows(keys, values), entries, folded, store, stream_id), stream_id)
        except ForeignRowError:  # rows of another definition, as this one has none yet: the reader raises it
            return ReadRows(values, stream_id)
        except StoreError:  # of the memory of ids: an event whose repetition is unknown might count twice
            return ReadRows(values, stream_id, without_pending=True)

    def _folded(
        self, name: str, rows: PackedRows, entries: list[PendingEvent], folded: FoldedUpTo, store: Store, stream_id: int
    ) -> pa.Array:
        view = self._repo.views[name]
        events = self._counted(view, entries, folded, store)
        if not events:
            return rows.values
        key = BatchKey(stream_id, AFTER_ALL, 0)
        try:
            changed = fold(view, rows, events, key)
        except NOT_OF_A_RECORD:
            raise
        except BaseException:  # noqa: BLE001  # an event that the stream will refuse as this does
            changed = fold(view, rows, self._counted(view, entries, folded, store, is_tried=True), key)
        at = pc.index_in(rows.keys, value_set=changed.keys)
        return pc.if_else(at.is_valid(), changed.values.take(at), rows.values)

    def _counted(
        self,
        view: FeatureView,
        entries: list[PendingEvent],
        folded: FoldedUpTo,
        store: Store,
        *,
        is_tried: bool = False,
    ) -> dict[str, pa.Table]:
        """By stream, what _counting() has; with ``is_tried``, without events that no view can fold."""
        counted = {s.name: self._counting(s, entries, folded, store, is_tried=is_tried) for s in view.streams}
        return {name: events for name, events in counted.items() if events is not None}

    def _counting(
        self, stream: Stream, entries: Sequence[PendingEvent], folded: FoldedUpTo, store: Store, *, is_tried: bool
    ) -> pa.Table | None:
        """The stream's events among the entries that no row has, judged and decided as the fold will; None for none."""
        by_batch: dict[int, list[PendingEvent]] = {}
        for entry in entries:
            batch = folded.batch[entry.key]
            end = folded.ends[batch].get(entry.topic_partition, 0)
            offset = epoch_start(end) + entry.offset
            if topic_of(entry.topic_partition) == stream.topic and offset >= end:
                by_batch.setdefault(batch, []).append(replace(entry, offset=offset))
        tables = []
        for batch, of_batch in by_batch.items():
            events = self._events(stream, of_batch)
            if is_tried:  # before repetitions are decided: the id of a refused event is not remembered
                events = without_unfoldable(events, stream, self._repo.reading(stream.name))
            tables.append(self._decided(stream, events, store, batch))
        return pa.concat_tables(tables) if any(table.num_rows for table in tables) else None

    def _events(self, stream: Stream, entries: Sequence[PendingEvent]) -> pa.Table:
        """The valid events, each once even if it is under more than one key."""
        unique = list({(entry.topic_partition, entry.offset): entry for entry in entries}.values())
        partition = np.array([int(entry.topic_partition.rpartition("/")[2]) for entry in unique], dtype=np.int32)
        records = Records(
            pa.array([entry.value for entry in unique], pa.binary()),
            _int64s(entry.known_at for entry in unique),
            partition,
            _int64s(entry.offset for entry in unique),
        )
        parsed = parse_by(self._repo, records, stream, self._schemas)
        return parsed.events.filter(pa.array(parsed.verdicts[parsed.rows] == Verdict.VALID))

    def _decided(self, stream: Stream, events: pa.Table, store: Store, batch: int) -> pa.Table:
        """The events that count after a batch, by the ids remembered up to and with that batch."""
        if not events.num_rows:
            return events
        ids = ids_of(events)
        prior = store.remembered(stream.name, ids.ids.dictionary, batch + 1, wait=False)
        decision = decide(ids.ids, ids.known_at, ids.seq, self._horizons[stream.name], prior)
        return accepted_events(events, decision)


@dataclass(frozen=True)
class FoldedUpTo:
    """The offsets up to which the rows of a read are folded: each key's last batch, and the end of that batch."""

    ends: Mapping[int, Offsets]
    """Batch → its end."""
    batch: Mapping[str, int]
    """Key → the batch that its row has everything of."""


def done_end(marker: Marker) -> Offsets:
    """The broker's offsets up to which every row has everything: entries before them are not needed any more."""
    return broker_offsets(marker.end if marker.done >= marker.batch_id else marker.start)


def folded_up_to(marker: Marker, keys: pa.Array, values: pa.Array) -> FoldedUpTo | None:
    """The batch that each row is folded up to; None if a row is ahead of the marker, so that both must be read again.

    A batch that is done is in every row; one that is being written is in those that carry its number.
    """
    written = [_batch_of(value) for value in values.to_pylist()]
    if max(written, default=-1) > marker.batch_id:
        return None
    before = marker.batch_id if marker.done >= marker.batch_id else marker.batch_id - 1
    batches = [max(before, number) if number == marker.batch_id else before for number in written]
    ends = {marker.batch_id: marker.end, marker.batch_id - 1: marker.start}
    return FoldedUpTo(ends, dict(zip(keys.to_pylist(), batches, strict=True)))


def _batch_of(value: bytes | None) -> int:
    """The batch that wrote the row last; -1 for none, and for bytes that are no row (reading them fails)."""
    if value is None or len(value) < HEADER.itemsize:
        return -1
    return int(np.frombuffer(value[: HEADER.itemsize], HEADER)["batch_id"][0])


def _int64s(values: Iterable[int]) -> Int64s:
    return np.array(list(values), dtype=np.int64)
