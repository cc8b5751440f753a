"""Scoring on executors, for a batch whose records stay with Spark.

    events by (view, share of its entities) ──features before──► columns by share of the events ──model──► decisions

A task of the first kind computes the features of one view just before each event of its share's entities, or has events
without any of them; one of the second joins the views' features and calls the model. The driver gets decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Floats, Int64s
from features.definitions import FeatureView
from features.events import EventColumns, event_schema, integers, sequence
from features.history import features_before
from features.online_store import ShardWriter
from models.event_model import DECISIONS, decide
from streaming.fold import FoldShare, packed, packed_parts, unpacked
from streaming.scoring.request import ScoringRequest
from streaming.spark import fetched_in_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

ANSWERS = pa.schema({"view": pa.string(), "task": pa.int32(), "payload": pa.binary()})

ANSWERS_SQL = "view string, task int, payload binary"

DECIDED = pa.schema({"payload": pa.binary()})

DECIDED_SQL = "payload binary"

FEATURE = "feature "
"""The prefix of a view's columns, beside those of events."""


def answers_of(
    share: FoldShare, request: ScoringRequest, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The view's features of its share's entities just before each of the events, by share of the events."""
    filled = [batch for batch in batches if batch.num_rows]
    if not filled:
        return
    pieces = pa.Table.from_batches(filled)
    columns_of_model, name = request.columns, pieces["view"][0].as_py()
    view = next((view for view in columns_of_model.source.views if view.name == name), None)
    stream = columns_of_model.model.stream
    if view is not None:
        events = _with_features(view, share, request, pieces)
    elif not name:  # events without an entity of the model's views
        events = share.events(stream, pieces)
    else:
        return
    task = sequences(events) % share.job.shares
    for number in np.unique(task).tolist():
        payload = packed(events.filter(pa.array(task == number)))
        yield pa.RecordBatch.from_pydict({"view": [name], "task": [number], "payload": [payload]}, ANSWERS)


def _with_features(view: FeatureView, share: FoldShare, request: ScoringRequest, pieces: pa.Table) -> pa.Table:
    """The events of the model's stream, with the view's features just before each."""
    stream, name = request.columns.model.stream, view.name
    accepted = {read.name: share.events(read, pieces) for read in view.streams}
    rows = ShardWriter(share.cells, share.fence, f"{name}/{pieces['share'][0].as_py()}")
    features = features_before(view, stream, accepted, lambda keys: rows.rows(name, keys), share.key)
    events, columns = accepted[stream.name], request.columns_of(name)
    for column, values in zip(columns, features.to_numpy(columns).T if columns else (), strict=True):
        events = events.append_column(f"{FEATURE}{column}", pa.array(values))
    return events


def decisions_of(
    request: ScoringRequest, batches: Iterable[pa.RecordBatch], most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The decisions about a share of the events, by the features of all views, in parts of so many bytes."""
    filled = [batch for batch in batches if batch.num_rows]
    if filled:
        answers = pa.Table.from_batches(filled)
        for part in packed_parts(_decided(request, answers), most_bytes):
            yield pa.RecordBatch.from_pydict({"payload": [part]}, DECIDED)


def _decided(request: ScoringRequest, answers: pa.Table) -> pa.Table:
    stream = request.columns.model.stream
    by_view = {
        view: pa.concat_tables(map(unpacked, answers.filter(pc.equal(answers["view"], view))["payload"].to_pylist()))
        for view in pc.unique(answers["view"]).to_pylist()
    }
    names = event_schema(stream).names
    repeated = pa.concat_tables([events.select(names) for events in by_view.values()])
    seq, first = np.unique(sequences(repeated), return_index=True)
    events = repeated.take(pa.array(first)).combine_chunks()
    own = EventColumns(events, stream)
    matrix = np.full((len(seq), len(request.columns.model.needed)), np.nan)
    for number, name in enumerate(request.columns.model.needed):
        if name in stream.dtypes:
            values = own.values(name)
            matrix[:, number] = np.where(values.valid, values.numbers.astype(np.float64), np.nan)
        else:
            _fill(matrix[:, number], f"{FEATURE}{name}", seq, by_view)
    return decide(request.columns, request.loaded, events, matrix, request.missing)


def _fill(column: Floats, name: str, seq: Int64s, by_view: dict[str, pa.Table]) -> None:
    """Set the values of the events that the view has; an event without an entity of the view stays NaN."""
    for table in by_view.values():
        if name in table.column_names:
            column[np.searchsorted(seq, sequences(table))] = table[name].to_numpy()


def sequences(events: pa.Table) -> Int64s:
    """A number for each event, by its partition and offset."""
    return sequence(integers(events["partition"]), integers(events["offset"]))


def decided_on_executors(events: DataFrame, share: FoldShare, request: ScoringRequest) -> pa.Table:
    """The decisions about all accepted events of the model's stream, made on executors, in the order of their offsets.

    Args:
        events: pieces of events, with those of a task in one partition.
    """
    answers = events.mapInArrow(lambda pieces: answers_of(share, request, pieces), ANSWERS_SQL)
    shared = answers.repartitionById(share.job.shares, "task")
    most = share.job.most_bytes
    pieces = shared.mapInArrow(lambda pieces: decisions_of(request, pieces, most), DECIDED_SQL).persist()
    try:
        parts = fetched_in_parts(pieces, most)
        decided = [unpacked(payload.as_buffer()) for part in parts for payload in part["payload"]]
    finally:
        pieces.unpersist()
    decisions = pa.concat_tables(decided) if decided else DECISIONS.empty_table()
    return decisions.take(pa.array(np.argsort(sequences(decisions), kind="stable")))
