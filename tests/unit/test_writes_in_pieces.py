"""A store takes rows and ids in writes of bounded bytes, however many there are: Redis answers nobody meanwhile."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_script import begun, emptied, marker

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import LastK
from features.events.dedupe import NEVER, Decision, Prior
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import BYTES_A_WRITE
from features.online_store.redis.rows import RedisRows
from features.online_store.sqlite.rows import SqliteRows
from features.rows.matrix import PackedRows

STREAM = Stream("s", topic="t", fields={"key": "string", "label": "string"})
VIEW = FeatureView("v", sets=[FeatureSet(Entity("e", keys={"key": "string"}), STREAM, [LastK("label", 5)], ["1h"])])
NOW = 1_700_000_000_000


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def store(request, tmp_path):
    if request.param == "sqlite":
        rows = SqliteRows(tmp_path / "online.db")
    elif request.param == "redis":
        rows = RedisRows(emptied(request.getfixturevalue("redis_url")))
    else:
        rows = RedisRows(emptied(*(server.url for server in request.getfixturevalue("cluster"))), mode="cluster")
    with closing(rows):
        yield rows


def written_bytes(store):
    """The bytes of values in each write to the store from now on."""
    sizes, write = [], store.write

    def measured(stream_id, version, puts, *more):
        sizes.append(sum(len(value) for put in puts.values() for value in put.values))
        return write(stream_id, version, puts, *more)

    store.write = measured
    return sizes


@given(st.lists(st.one_of(st.none(), st.binary(max_size=30)), max_size=40), st.integers(1, 9), st.integers(1, 60))
def test_pieces_of_rows_are_the_rows_and_none_is_too_large_unless_it_is_one_row(values, most_rows, most_bytes):
    rows = PackedRows(pa.array([f"k{number}" for number in range(len(values))]), pa.array(values, pa.binary()))
    pieces = list(rows.pieces(most_rows, most_bytes))
    assert [value for piece in pieces for value in piece.values.to_pylist()] == values
    assert [key for piece in pieces for key in piece.keys.to_pylist()] == rows.keys.to_pylist()
    for piece in pieces:
        size = sum(len(value or b"") for value in piece.values.to_pylist())
        assert len(piece) == 1 or (len(piece) <= most_rows and size <= most_bytes)


def test_a_build_writes_its_rows_and_ids_in_pieces_and_the_next_driver_finds_them_all(store):
    """300 rows of 100 KB were one write of 30 MB, and all ids of a build one write whatever their number."""
    count, label = 300, "x" * 20_000
    ids = [f"e{number}" for number in range(5 * count)]
    columns = {
        "event_id": ids,
        "event_time": [NOW + number for number in range(len(ids))],
        "known_at": [NOW + number for number in range(len(ids))],
        "key": [f"k{number % count}" for number in range(len(ids))],
        "label": [label] * len(ids),
        "partition": [0] * len(ids),
        "offset": list(range(len(ids))),
    }
    events = from_columns(pa.table(columns), STREAM, None).events
    sizes = written_bytes(store)
    build_generation(store.generation(1), [VIEW], 1, {"s": events}, marker(0), NOW)
    assert sum(sizes) > 3 * BYTES_A_WRITE
    assert max(sizes) <= BYTES_A_WRITE
    rows = begun(store).rows("v", pa.array([f"k{number}" for number in range(count)])).to_pylist()
    assert min(len(row) for row in rows) > 5 * len(label)
    assert begun(store).marker() == marker(0)


def test_a_memory_of_ids_goes_in_pieces_and_is_whole_for_the_next_driver(store):
    many = 1_000_000
    ids = pa.array([f"{number}" for number in range(many)])
    last = Prior(np.arange(many, dtype=np.int64) << 12, np.full(many, NOW, np.int64))
    sizes, generation = written_bytes(store), begun(store)
    generation.remember("s", Decision(np.ones(many, bool), ids, last), 0)
    assert sum(sizes) > 3 * BYTES_A_WRITE
    assert max(sizes) <= BYTES_A_WRITE + 10_000  # with the state, which names the blocks
    prior = begun(store).remembered("s", pa.array(["0", "999999", "none"]), 1)
    assert prior.seq.tolist() == [0, 999_999 << 12, NEVER]
