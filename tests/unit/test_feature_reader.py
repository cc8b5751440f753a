"""Features of entities now, through the reader that serving and Feast use."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from stories import STREAM, T0, VIEW

from features.definitions.repo import FeatureRepo
from features.errors import UsageError
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.reader import FeatureReader
from features.online_store.sqlite.rows import SqliteRows
from features.rows.matrix import Status

REPO = FeatureRepo(Path(), {}, {STREAM.name: STREAM}, {VIEW.name: VIEW})
EVENTS = pa.table(
    {
        "event_id": ["1", "2"],
        "event_time": [T0, T0 + 1_000],
        "known_at": [T0, T0 + 1_000],
        "partition": [0, 0],
        "offset": [0, 1],
        "key": ["a", "a"],
        "label": ["x", "y"],
        "value": [1, 2],
    }
)


@pytest.fixture
def rows(tmp_path):
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        yield rows


@pytest.fixture
def built(rows):
    build_generation(rows.generation(5), [VIEW], 5, {"s": EVENTS}, Marker(0, {}, {}, 0), T0)
    rows.set_current(VIEW.name, 5)
    return rows


def sums(matrix):
    return matrix.to_table()["e_all_value_sum_10s"].to_pylist()


def test_windows_close_between_reads_without_an_event(built):
    now = [T0 + 2_000]
    reader = FeatureReader(built, REPO, clock=lambda: now[0])
    assert sums(reader.read("v", pa.array(["a"]))) == [3]
    now[0] += 30_000
    assert sums(reader.read("v", pa.array(["a"]))) == [0]
    assert sums(reader.read("v", pa.array(["a"]), as_of=T0 + 3_000)) == [3]


def test_an_unknown_key_and_a_null_are_not_found_even_where_the_empty_text_is_a_key(rows):
    named = EVENTS.set_column(EVENTS.schema.get_field_index("key"), "key", pa.array(["", "a"]))
    build_generation(rows.generation(5), [VIEW], 5, {"s": named}, Marker(0, {}, {}, 0), T0)
    rows.set_current(VIEW.name, 5)
    matrix = FeatureReader(rows, REPO, clock=lambda: T0 + 1_500).read("v", pa.array(["", None, "b", "a"]))
    assert matrix.status.tolist() == [Status.PRESENT, Status.NOT_FOUND, Status.NOT_FOUND, Status.PRESENT]
    assert sums(matrix) == [1, None, None, 2]


def test_a_view_without_a_generation_has_nobody(rows):
    assert FeatureReader(rows, REPO).read("v", pa.array(["a", "b"])).status.tolist() == [Status.NOT_FOUND] * 2


def test_a_view_that_the_repo_does_not_have_is_named_with_those_that_it_has(rows):
    with pytest.raises(UsageError, match=r"\(v\); got 'w'"):
        FeatureReader(rows, REPO).read("w", pa.array(["a"]))
