"""A batch's events divided by entity: each entity's are in one share, so that a single task writes its row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Int64s
from features.definitions import FeatureRepo, FeatureView, Stream
from features.errors import UsageError
from features.events import EventColumns, event_schema, integers, sequence
from features.hashing import hash_texts
from features.online_store import Batch, Cells, Fence, Offsets, ShardWriter, write_rows
from features.rows import BatchKey
from models.event_model import EventModelColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streaming.spark import Schemas

MOST_BYTES = 256 << 20
"""Bytes of executors' answers that the driver gets at once, unless a job says less."""


def shares(view: FeatureView, stream: Stream, events: pa.Table, count: int) -> dict[int, pa.Table]:
    """The stream's events by the share (0 … count - 1) of the view's entity, in their order; none without an entity."""
    keys = EventColumns(events, stream).entity_keys(view.entity)
    share = (hash_texts(keys) % np.uint64(count)).astype(np.int64)
    share[np.asarray(keys.is_null())] = -1
    numbers = np.unique(share[share >= 0]).tolist()
    return {number: events.filter(pa.array(share == number)) for number in numbers}


def beside_views(views: Sequence[FeatureView], stream: Stream, events: pa.Table) -> Bools:
    """(n,) a mask of the stream's events that are in no share of these views: they have no entity of them."""
    columns, beside = EventColumns(events, stream), np.ones(events.num_rows, dtype=bool)
    for view in views:
        beside &= np.asarray(columns.entity_keys(view.entity).is_null())
    return beside


WRITTEN = pa.schema({"shard": pa.string(), "token": pa.string()})
"""The token of a shard's last write."""

WRITTEN_SQL = "shard string, token string"


@dataclass(frozen=True)
class FoldJob:
    """The definitions by which executors parse and divide a batch.

    Args:
        horizons_ms: by stream, the age above which a record is late.
        keys: by stream, its fields that are keys of entities.
        shares: the number of tasks that a view's entities are divided into.
        most_bytes: the most bytes that the driver gets of executors at once, but of a single message.
        schemas: as parse() takes them.
        epochs: topic → the start of its epoch (features/epochs.py), where that is not 0.
        judged: stream → the views of each event model that judges its events.
    """

    streams: tuple[Stream, ...]
    views: tuple[FeatureView, ...]
    horizons_ms: Mapping[str, int | None]
    keys: Mapping[str, frozenset[str]]
    shares: int
    schemas: Schemas | None = None
    epochs: Mapping[str, int] = field(default_factory=dict)
    most_bytes: int = MOST_BYTES
    judged: Mapping[str, tuple[tuple[FeatureView, ...], ...]] = field(default_factory=dict)

    @property
    def tasks(self) -> int:
        """The number of tasks that fold a batch, and that carry events beside all views to the models."""
        return (len(self.views) + bool(self.judged)) * self.shares

    def task(self, view: str, share: int) -> int:
        """The number of the task that folds a view's share; without a view, that carries it to the models."""
        names = [each.name for each in self.views]
        return (names.index(view) if view else len(names)) * self.shares + share if share >= 0 else 0

    def carried(self, stream: Stream, events: pa.Table) -> dict[int, pa.Table]:
        """By share, the events that some model judges though they are in no share of its views."""
        carried = np.zeros(events.num_rows, dtype=bool)
        for views in self.judged.get(stream.name, ()):
            carried |= beside_views(views, stream, events)
        if not carried.any():
            return {}
        events = events.filter(pa.array(carried))
        share = sequence(integers(events["partition"]), integers(events["offset"])) % self.shares
        return {number: events.filter(pa.array(share == number)) for number in np.unique(share).tolist()}

    def readers(self, stream: Stream) -> list[FeatureView]:
        """The views that fold the stream."""
        return [view for view in self.views if stream.name in {read.name for read in view.streams}]


def fold_job(
    repo: FeatureRepo,
    shares: int,
    schemas: Schemas | None = None,
    epochs: Mapping[str, int] | None = None,
    most_bytes: int = MOST_BYTES,
) -> FoldJob:
    """The job of a repo's streams and views."""
    horizons_ms = {name: repo.horizon_ms(name) for name in repo.streams}
    keys = {name: repo.keys_of(name) for name in repo.streams}
    streams, views = tuple(repo.streams.values()), tuple(repo.views.values())
    judged: dict[str, tuple[tuple[FeatureView, ...], ...]] = {}
    for model in repo.models.values():
        with suppress(UsageError):  # of definitions that lack its inputs: it judges nothing
            used = EventModelColumns.of(repo, model).source.views
            judged[model.stream.name] = (*judged.get(model.stream.name, ()), used)
    return FoldJob(streams, views, horizons_ms, keys, shares, schemas, epochs or {}, most_bytes, judged)


@dataclass(frozen=True)
class FoldShare:
    """Folds a task's share of a view's accepted events into the rows, behind the driver's fence.

    Args:
        refused: by stream, the sequences of the records that are repetitions.
    """

    job: FoldJob
    cells: Cells
    fence: Fence
    key: BatchKey
    refused: Mapping[str, Int64s]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write the share's rows, and yield the token of the last write; nothing for a share without pieces."""
        filled = [batch for batch in batches if batch.num_rows]
        if filled:
            yield self._folded(pa.Table.from_batches(filled))

    def _folded(self, pieces: pa.Table) -> pa.RecordBatch:
        name, share = pieces["view"][0].as_py(), pieces["share"][0].as_py()
        view = next(view for view in self.job.views if view.name == name)
        shard = f"{name}/{share}"
        writer = ShardWriter(self.cells, self.fence, shard)
        write_rows(writer, view, {stream.name: self.events(stream, pieces) for stream in view.streams}, self.key)
        return pa.RecordBatch.from_pydict({"shard": [shard], "token": [writer.token()]}, WRITTEN)

    def events(self, stream: Stream, pieces: pa.Table) -> pa.Table:
        """The stream's events among the pieces, without repetitions."""
        own = pieces.filter(pc.equal(pieces["stream"], stream.name))
        tables = [unpacked(payload) for payload in own["payload"].to_pylist()]
        events = pa.concat_tables([event_schema(stream).empty_table(), *tables]).combine_chunks()
        seq = sequence(integers(events["partition"]), integers(events["offset"]))
        return events.filter(pa.array(~np.isin(seq, self.refused[stream.name])))


ScoreOnExecutors = Callable[["DataFrame", FoldShare], None]
"""Scores the accepted events of a batch on executors: its pieces, and the share by which a task reads rows."""


class BatchScoring(Protocol):
    """Scores a generation's batches by event models; the scores are durable before any row of the batch is written."""

    def here(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        """Score the accepted events of a batch that this process holds."""

    def on_executors(self, end: Offsets, events: DataFrame, share: FoldShare) -> None:
        """Score the accepted events of a batch that ends at ``end`` and stays on executors."""


def packed(table: pa.Table) -> bytes:
    """The table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def packed_parts(table: pa.Table, most: int) -> Iterator[bytes]:
    """The table's rows in Arrow streams of at most ``most`` bytes, about, or of one row."""
    if table.nbytes <= most or table.num_rows <= 1:
        yield packed(table)
        return
    half = table.num_rows // 2
    yield from packed_parts(table.slice(0, half), most)
    yield from packed_parts(table.slice(half), most)


def unpacked(payload: bytes) -> pa.Table:
    """The inverse of packed()."""
    return pa.ipc.open_stream(payload).read_all()
