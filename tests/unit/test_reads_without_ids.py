"""Rows are answered, and it is said, when what is pending cannot be read in time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream
from features.definitions.repo import FeatureRepo
from features.errors import StoreError
from features.events.parsing import Records, parse
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.generation import GenerationStore
from features.online_store.pending import RowsWithPending
from features.online_store.port import ForwardedStore, Marker, PendingEvent
from features.online_store.reader import FeatureReader
from features.online_store.seen_ids import index_of
from features.online_store.seen_ids import memory as memory_of_ids
from features.online_store.sqlite.rows import SqliteRows
from serving.metrics import Metrics
from serving.recommend.readers import ObservedReader
from serving.replicas import ReplicaMetrics

T0 = 1_700_000_000_000
USER = Entity("user", {"user": "string"})
SHOP = Stream("shop", topic="t", fields={"user": "string"})
CLICKS = FeatureView("clicks", sets=[FeatureSet(USER, SHOP, [Count()], ["1h"])])
REPO = FeatureRepo(Path(), {"user": USER}, {"shop": SHOP}, {CLICKS.name: CLICKS})
BATCHES = 20
USERS = pa.array(["ann", "bob"])


def event(number: int, user: str) -> bytes:
    return json.dumps({"event_id": f"e{number}", "event_time": T0 + number, "user": user}).encode()


def folded(rows: SqliteRows, batches: int) -> None:
    """Each batch has a click of ann's."""
    generation = rows.generation(1, {"shop": 3_600_000})
    generation.begin()
    generation.publish(Marker(-1, {"t/0": 0}, {"t/0": 0}, -1))
    rows.set_current(CLICKS.name, 1)
    step = BatchStep(generation, [CLICKS], 1)
    for at in range(batches):
        records = Records(pa.array([event(at, "ann")]), *(np.array([number]) for number in (T0 + at, 0, at)))
        step.run(Batch(at, {"t/0": at}, {"t/0": at + 1}, {"shop": parse(records, SHOP)}, T0))


def put_pending(rows: SqliteRows, offset: int, value: bytes) -> None:
    rows.pending().put([PendingEvent(CLICKS.name, "ann", "t/0", offset, T0 + offset, value)], 60_000)


class Failing(ForwardedStore):
    """A store whose tables of these names, or whose pending events, do not answer."""

    def __init__(self, rows: SqliteRows, *tables: str) -> None:
        super().__init__(rows)
        self.tables, self.cells = tables, rows

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        if table.startswith(self.tables):
            raise StoreError("the online store", "an answer within 500 ms", "none")
        return self.cells.get(stream_id, table, keys)

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> GenerationStore:
        return GenerationStore(self, stream_id, horizons_ms)

    def of(self, view: str, keys: Sequence[str]) -> list[PendingEvent]:
        raise StoreError("pending events", "an answer within 500 ms", "none")


@pytest.fixture
def rows(tmp_path) -> Iterator[SqliteRows]:
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        yield rows


def reads(readable: RowsWithPending, metrics: Metrics | None = None) -> tuple[list[int | None], bool]:
    """The counts of ann and bob, and whether what is pending is missing."""
    measured = metrics or Metrics()
    reader = ObservedReader(FeatureReader(readable, REPO), measured.read_age, measured.without_pending)
    matrix = reader.read(CLICKS.name, USERS, T0 + 60)
    return matrix.columns[0].to_pylist(), matrix.without_pending


@pytest.mark.parametrize("lost", ["seen/", "state", "pending"])
def test_whoever_just_clicked_gets_the_row_when_the_rest_does_not_answer(rows, lost):
    """Before, a memory of ids that did not answer failed the read of exactly the user who had clicked."""
    folded(rows, 3)
    put_pending(rows, 3, event(3, "ann"))
    assert reads(RowsWithPending(rows, rows.pending(), REPO)) == ([4, None], False)
    failing, metrics = Failing(rows, lost), Metrics()
    readable = RowsWithPending(failing, failing if lost == "pending" else rows.pending(), REPO)
    assert reads(readable, metrics) == ([3, None], True)
    assert 'headrace_reads_without_pending_total{view="clicks"} 1.0' in ReplicaMetrics(metrics, None).text().decode()


def test_a_large_memory_is_read_beside_the_reads_and_then_decides(rows, monkeypatch, tmp_path):
    """Until it is read, nothing counts twice; then the new click counts, and the one sent again does not."""
    monkeypatch.setattr(memory_of_ids, "LARGE", 1)
    folded(rows, BATCHES)
    put_pending(rows, BATCHES, event(2, "ann"))
    put_pending(rows, BATCHES + 1, event(99, "ann"))
    with closing(SqliteRows(tmp_path / "online.db")) as replica:
        readable = RowsWithPending(replica, replica.pending(), REPO)
        assert reads(readable) == ([BATCHES, None], True)
        while (thread := index_of(replica, 1, "shop")._reading) is not None:
            thread.join()
        assert reads(readable) == ([BATCHES + 1, None], False)
