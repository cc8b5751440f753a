"""The sweeper takes what readers call NOT_FOUND by the stream's clock, view by view, and nothing that they can read."""

from __future__ import annotations

import time
from contextlib import closing

import pyarrow as pa
import pytest
from store_script import aged, begun

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count
from features.online_store.sqlite.rows import SqliteRows
from features.online_store.sweep import Sweeper

STREAM = Stream("s", topic="t", fields={"key": "string"})
ENTITY = Entity("e", keys={"key": "string"})
VIEWS = [FeatureView(name, sets=[FeatureSet(ENTITY, STREAM, [Count()], ["1h"])]) for name in ("v", "w")]
TTL_MS = VIEWS[0].ttl_ms
NOW = 1_700_000_000_000


@pytest.fixture
def store(tmp_path):
    with closing(SqliteRows(tmp_path / "online.db")) as store:
        store.set_current("v", 1)
        store.set_current("w", 1)
        for view in ("v", "w"):
            begun(store).put_rows(view, aged(NOW, NOW - 2 * TTL_MS, NOW - 2 * TTL_MS - 1))
        yield store


def keys(store):
    return [sorted(store.keys(view).to_pylist()) for view in ("v", "w")]


def test_rows_older_than_twice_the_ttl_go_view_by_view_while_the_driver_goes_on(store):
    sweeper, driver = Sweeper(store, 1, VIEWS), begun(store)
    driver.put_rows("v", aged(NOW))
    assert sweeper.page(NOW) == 1
    assert keys(store) == [["k0", "k1"], ["k0", "k1", "k2"]]
    driver.begin()
    driver.put_rows("w", aged(NOW))
    assert sweeper.page(NOW) == 1
    assert keys(store) == [["k0", "k1"], ["k0", "k1"]]
    assert sweeper.page(NOW) == 0


def test_a_stream_whose_clock_is_not_known_and_one_ahead_of_the_wall_lose_nothing_for_it(store):
    fresh = aged(time.time_ns() // 1_000_000)
    for clock_ms in (0, 2**60):
        begun(store).put_rows("v", fresh)
        Sweeper(store, 1, VIEWS[:1]).tick({"s": clock_ms})
        assert store.read("v", fresh.keys)[0].equals(fresh.values.cast(pa.binary()))


def test_ticks_that_follow_each_other_closely_sweep_one_page(store):
    sweeper = Sweeper(store, 1, VIEWS, every_s=3_600)
    for _ in range(5):
        sweeper.tick({"s": NOW})
    assert keys(store) == [["k0", "k1"], ["k0", "k1", "k2"]]


def test_a_stream_that_lives_in_another_time_takes_no_rows_of_a_replayed_one(store):
    sweeper = Sweeper(store, 1, VIEWS, every_s=0)
    before = keys(store)
    for _ in range(4):
        sweeper.tick({"served": NOW})
    assert keys(store) == before
    for _ in range(2):
        sweeper.tick({"served": NOW + 9 * TTL_MS, "s": NOW})
    assert keys(store) == [["k0", "k1"], ["k0", "k1"]]
