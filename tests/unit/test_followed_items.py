"""Items in memory that follow what batches change are those that a reading of all items finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_world import ITEMS, REPO, model
from store_script import emptied

from features.definitions.repo import load_repo
from features.events.parsing import Records, parse
from features.online_store import ChangedKeys, FeatureReader
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.changed.log import MOST_BATCHES, MOST_KEYS, ChangeLog, decoded
from features.online_store.port import Marker, of_schema
from features.online_store.redis.rows import RedisRows
from features.online_store.sqlite.rows import SqliteRows
from serving.recommend.items import Catalogue, ItemFeatures

DEFINITIONS = load_repo(REPO)
SHOP = DEFINITIONS.recommenders["shop-recommender"]
VIEWS = [DEFINITIONS.views[name] for name in ("item_activity", "item_catalogue")]
STREAMS = {stream.name: stream for stream in (DEFINITIONS.streams["activity"], DEFINITIONS.streams["catalogue"])}
T0 = 1_700_000_000_000
PLACES = {"shop.activity/0": 0, "shop.items/0": 0}


class World:
    """A generation of the items' views, and batches of messages by stream."""

    def __init__(self, rows, followed: bool = True) -> None:
        self.rows, self.batches, self.ends = rows, 0, dict(PLACES)
        self.followed = [view.name for view in VIEWS] if followed else []
        self.begin(1)
        self.reader = FeatureReader(rows, DEFINITIONS, lambda: T0 + 3_600_000)

    def begin(self, stream_id: int) -> None:
        """Readers read this generation from now on."""
        self.stream_id, self.batches, self.ends = stream_id, 0, dict(PLACES)
        store = self.rows.generation(stream_id)
        store.begin()
        store.publish(Marker(-1, PLACES, PLACES, -1))
        for view in VIEWS:
            self.rows.set_current(view.name, stream_id)
            self.rows.set_current(of_schema(view.name, view.schema_hash), stream_id)

    def fold(self, **messages: list[dict]) -> None:
        """One batch of these messages."""
        start, parsed = dict(self.ends), {}
        for name, stream in STREAMS.items():
            place = f"{stream.topic}/0"
            of_stream = messages.get(name, [])
            offsets = np.arange(len(of_stream)) + self.ends[place]
            at = T0 + 1000 * self.batches
            whole = [
                {"event_id": f"{name}{self.stream_id}.{offset}", "event_time": at, **message}
                for offset, message in zip(offsets, of_stream, strict=True)
            ]
            values = pa.array([json.dumps(message).encode() for message in whole], pa.binary())
            records = Records(values, np.full(len(whole), at), np.zeros(len(whole), np.int32), offsets)
            parsed[name] = parse(records, stream)
            self.ends[place] += len(of_stream)
        store = self.rows.generation(self.stream_id)
        step = BatchStep(store, VIEWS, self.stream_id, followed=self.followed)
        step.run(Batch(self.batches, start, dict(self.ends), parsed, T0))
        self.batches += 1

    def items(self, *, follows: bool = True) -> ItemFeatures:
        """All items, not read yet."""
        activity, catalogue = VIEWS
        return ItemFeatures(
            self.reader,
            lambda: pa.concat_arrays([self.rows.keys(view.name) for view in VIEWS]),
            SHOP.trending_weights,
            SHOP.popular_weights,
            activity,
            [catalogue],
            catalogue=Catalogue(catalogue, {}),
            changes=[ChangedKeys(self.rows, view) for view in VIEWS] if follows else [],
        )


def viewed(item: str) -> dict:
    return {"event_type": "view", "user_id": "u", "item_id": item, "price": 1.5}


def told(item: str, price: float) -> dict:
    return {"item_id": item, "price": price, "category": "mug"}


def known(items: ItemFeatures, artefact) -> dict:
    """What a snapshot and a model's inputs say of each item."""
    snapshot = items.snapshot
    extended, inputs = items.current(artefact)
    row = dict(zip(extended.items, inputs.tolist(), strict=True))
    columns = {name: column.to_pylist() for name, column in snapshot.attributes.columns.items()}
    ranked = {ranking.source: set(ranking.indices.tolist()) for ranking in snapshot.rankings}
    return {
        item: (
            {name: column[at] for name, column in columns.items()},
            {ranking.source: (ranking.scores[at], at in ranked[ranking.source]) for ranking in snapshot.rankings},
            snapshot.answerable is None or bool(snapshot.answerable[at]),
            str(row.get(item)),
        )
        for at, item in enumerate(snapshot.items)
    }


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def rows(request, tmp_path: Path):
    if request.param == "sqlite":
        return SqliteRows(tmp_path / "online.db")
    if request.param == "redis":
        return RedisRows(emptied(request.getfixturevalue("redis_url")))
    return RedisRows(emptied(*[server.url for server in request.getfixturevalue("cluster")]), mode="cluster")


def test_followed_items_are_those_of_a_whole_reading_after_every_batch(rows):
    world, artefact, random = World(rows), model(DEFINITIONS, 1), np.random.default_rng(7)
    world.fold(activity=[viewed("item1"), viewed("later")], catalogue=[told("item1", 1.0)])
    items = world.items()
    assert not items.follow(lambda: [artefact], T0, 1.0)
    items.refresh(lambda: [artefact], T0)
    names = [*ITEMS[:6], "later", "new", "newer"]
    for number in range(12):
        clicks = [viewed(names[at]) for at in random.integers(0, len(names), random.integers(0, 4))]
        prices = [told(names[at], float(number)) for at in random.integers(0, len(names), random.integers(0, 3))]
        world.fold(activity=clicks, catalogue=prices)
        if number % 3:
            assert items.follow(lambda: [artefact], T0 + number, 0.0)
            whole = world.items(follows=False)
            whole.refresh(lambda: [artefact], T0 + number)
            assert known(items, artefact) == known(whole, artefact)


def test_unchanged_items_are_read_again_by_and_by(tmp_path):
    world, artefact = World(SqliteRows(tmp_path / "online.db")), model(DEFINITIONS, 1)
    world.fold(activity=[viewed("item1")])
    items, asked = world.items(), []
    items.refresh(lambda: [artefact], T0)
    read = world.reader.read

    def noted(view: str, keys: pa.Array, *more: object):
        asked.extend(keys.to_pylist() if view == "item_activity" else [])
        return read(view, keys, *more)

    world.reader.read = noted
    for _ in range(4):
        assert items.follow(lambda: [artefact], T0, 10.0)
    assert sorted(asked[:30]) == sorted(ITEMS)
    assert asked[30:] == asked[:10]


def test_all_items_are_to_be_read_where_the_changes_cannot_be_told(tmp_path):
    world, artefact = World(SqliteRows(tmp_path / "online.db")), model(DEFINITIONS, 1)
    items = world.items()
    items.refresh(list, T0)
    assert items.follow(list, T0, 0.0)
    assert not items.follow(lambda: [artefact], T0, 0.0)  # another model
    items.refresh(lambda: [artefact], T0)
    world.begin(2)  # another generation
    assert not items.follow(lambda: [artefact], T0, 0.0)
    assert not items.follow(lambda: [artefact], T0, 0.0)
    items.refresh(lambda: [artefact], T0)
    world.followed = []  # a stream that does not tell
    world.fold(activity=[viewed("item1")])
    assert not items.follow(lambda: [artefact], T0, 0.0)
    items.refresh(lambda: [artefact], T0)
    assert items.follow(lambda: [artefact], T0, 0.0)


def test_a_batch_that_runs_again_tells_the_same_keys(tmp_path):
    world = World(SqliteRows(tmp_path / "online.db"))
    changes = ChangedKeys(world.rows, VIEWS[0])
    assert changes.take() is None
    assert changes.take().to_pylist() == []
    for again in range(2):
        world.batches, world.ends = 0, dict(PLACES)
        world.fold(activity=[viewed("item1"), viewed("item2")])
        assert sorted(changes.take().to_pylist()) == (["item1", "item2"] if not again else [])


@given(
    batches=st.lists(st.one_of(st.none(), st.integers(0, 30), st.just(MOST_KEYS), st.just(MOST_KEYS + 1)), max_size=12),
    begun=st.integers(0, 12),
)
def test_a_log_tells_all_keys_after_a_batch_or_that_it_cannot(batches, begun):
    log, changed = ChangeLog(-1), []
    for number, count in enumerate(batches):
        keys = None if count is None else [f"k{number}.{at}" for at in range(count)]
        log = decoded(log.with_batch(number, keys).encoded())
        changed.append(keys)
    found, expected = log.after(begun - 1), changed[begun:]
    if found is not None:
        assert None not in expected
        assert found == [key for keys in expected for key in keys]
    assert sum(len(keys) for _, keys in log.batches) <= MOST_KEYS
    if all(count is not None and count <= 30 for count in batches):
        assert found is not None


def test_a_log_has_the_last_batches_and_an_unknown_form_is_no_log():
    log = ChangeLog(-1)
    for number in range(MOST_BATCHES + 5):
        log = log.with_batch(number, ["a"])
    assert (log.since, len(log.batches)) == (4, MOST_BATCHES)
    assert log.after(3) is None
    assert log.after(4) == ["a"]
    assert decoded(b"{}") is None
    assert decoded(None) is None
