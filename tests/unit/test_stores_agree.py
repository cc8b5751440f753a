"""One script of writes, read after every step: SQLite, a Redis and a cluster of them answer alike (invariant 4)."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pyarrow as pa
import pytest
from store_script import emptied, marker

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count, LastK, Sum
from features.definitions.repo import FeatureRepo
from features.errors import LeaseError
from features.events.parsing import from_columns
from features.online_store.batch_step import write_rows
from features.online_store.reader import FeatureReader
from features.online_store.redis.rows import RedisRows
from features.online_store.redis.slots import PARTS
from features.online_store.sqlite.rows import SqliteRows
from features.online_store.sweep import Sweeper
from features.rows.matrix import BatchKey, Status

PRESENT, STALE, NOT_FOUND = Status.PRESENT, Status.OUTSIDE_MAX_AGE, Status.NOT_FOUND
DAY_MS = 24 * 60 * 60 * 1000
NOW = 1_700_000_000_000
STREAM = Stream("s", topic="t", fields={"key": "string", "value": "float64", "label": "string"})
SET = FeatureSet(Entity("e", keys={"key": "string"}), STREAM, [Count(), Sum("value"), LastK("label", 3)], ["1h", "24h"])
VIEW = FeatureView("v", sets=[SET])
# Older than twice the ttl, older than the ttl, the same twice, null values, and 4 minutes ahead of the clock.
EVENTS = [
    ("old", -2 * VIEW.ttl_ms - 1, 1.0, "a"),
    ("stale", -VIEW.ttl_ms - 1, 1.0, "a"),
    ("same", -1_000, 1.0, "a"),
    ("same", -1_000, 2.0, None),
    ("nulls", -1_000, None, None),
    ("ahead", 240_000, 4.0, "漢"),
    *((f"k{number}", -number, float(number), "b") for number in range(60)),
]
KEYS = [*dict.fromkeys(key for key, *_ in EVENTS), "missing", "", None]


@pytest.fixture
def stores(tmp_path, redis_url, cluster):
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(store))
            for store in (
                SqliteRows(tmp_path / "online.db"),
                RedisRows(emptied(redis_url)),
                RedisRows(emptied(*(server.url for server in cluster)), mode="cluster"),
            )
        ]


def events(rows, first):
    """Events that became known when they happened, or now."""
    columns = {
        "event_id": [f"{first + number}" for number in range(len(rows))],
        "event_time": [NOW + ago for _, ago, *_ in rows],
        "known_at": [NOW + min(ago, 0) for _, ago, *_ in rows],
        "key": [key for key, *_ in rows],
        "value": pa.array([value for *_, value, _ in rows], pa.float64()),
        "label": [label for *_, label in rows],
        "partition": [0] * len(rows),
        "offset": [first + number for number in range(len(rows))],
    }
    return {"s": from_columns(pa.table(columns), STREAM, None).events}


def script(store):
    """The steps of a store's life; after each, what it answers is yielded."""
    reader = FeatureReader(store, FeatureRepo(Path(), {"e": SET.entity}, {"s": STREAM}, {"v": VIEW}))

    def answers(*more):
        matrix = reader.read("v", pa.array(KEYS), NOW)
        held = sorted(store.keys("v").to_pylist())
        status, newest = matrix.status.tolist(), matrix.newest_event.tolist()
        return matrix.to_table().to_pylist(), status, newest, held, store.generations(), store.bytes_per_row(), *more

    def written(generation, number, rows, stream_id=1):
        generation.begin()
        write_rows(generation, VIEW, events(rows, 1_000 * number), BatchKey(stream_id, number, NOW))
        generation.publish(marker(number))

    yield answers()
    store.take_lease(1, "me", ttl_s=60)
    driver = store.generation(1)
    written(driver, 0, EVENTS)
    yield answers()
    store.set_current("v", 1)
    yield answers()
    written(driver, 0, EVENTS)  # again: the fence
    yield answers()
    written(driver, 1, [("same", -30_000, 8.0, "c"), ("k1", -2 * DAY_MS, 9.0, "d"), ("new", 0, 1.0, "e")])
    yield answers(driver.marker())
    sweeper = Sweeper(store, 1, [VIEW])
    yield answers(sum(sweeper.page(NOW) for _ in range(PARTS)))
    with pytest.raises(LeaseError):
        store.take_lease(1, "you", ttl_s=60)
    written(store.generation(1), 2, [("late", 0, None, None)])
    with pytest.raises(LeaseError):
        driver.publish(marker(2))  # overtaken
    yield answers(driver.marker())
    store.take_lease(2, "you", ttl_s=60)
    written(store.generation(2), 0, EVENTS[-3:], stream_id=2)
    with pytest.raises(LeaseError):
        store.set_current("v", 2, "you")
    with pytest.raises(LeaseError):
        store.drop_generation(1, "you")
    store.release_lease(1, "me")
    store.set_current("v", 2, "you")
    yield answers()
    store.drop_generation(1, "you")
    yield answers(store.generation(1).marker())
    store.drop_generation(2, "you")
    yield answers(store.current("v"))


def test_the_same_script_has_the_same_answers_on_every_store(stores):
    (sqlite, *others) = [list(script(store)) for store in stores]
    for other in others:
        for step, (found, expected) in enumerate(zip(other, sqlite, strict=True)):
            assert found == expected, step


def test_the_script_meets_what_it_is_about(stores):
    steps = list(script(stores[0]))
    place = {key: number for number, key in enumerate(KEYS)}
    rows, status, _, held, *_ = steps[4]
    (count,) = [name for name in VIEW.names if name.endswith("_count_1h")]
    expected = {"old": NOT_FOUND, "stale": STALE, "same": PRESENT, "nulls": PRESENT, "ahead": PRESENT}
    expected |= {"missing": NOT_FOUND, "": NOT_FOUND, None: NOT_FOUND}
    assert {key: status[place[key]] for key in expected} == expected
    assert rows[place["same"]][count] == 3
    assert rows[place["stale"]][count] is None
    assert "old" in held
    assert "old" not in steps[5][3]
    assert steps[5][-1] == 1
    assert steps[5][:2] == steps[4][:2]
    assert steps[-1][3:] == ([], [], {}, None)
