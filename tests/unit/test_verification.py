"""Online against offline on stores of a test: nothing differs that was folded, and what does is found, all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from redis_server import running_redis

from features.checks.comparison import ends_of_rows, report
from features.checks.stores import Verifier, VerifyRequest
from features.definitions import (
    Count,
    DecayedCount,
    DistinctCount,
    Entity,
    FeatureSet,
    FeatureView,
    LastK,
    Mean,
    Stream,
    Sum,
    ratio,
)
from features.definitions.repo import FeatureRepo
from features.errors import StoreError, UsageError
from features.events.parsing import Parsed, event_schema, from_columns
from features.online_store.batch_step import Batch, BatchStep, build_generation
from features.online_store.port import Marker, of_schema
from features.online_store.redis.rows import RedisRows
from features.online_store.sqlite.rows import SqliteRows
from features.rows.folding import fold
from features.rows.layout import HEADER
from features.rows.matrix import BatchKey, PackedRows
from features.times import now_ms

T0 = 1_700_000_000_000
USER = Entity("user", keys={"user_id": "string"})
SHOP = Stream("shop", topic="t", fields={"user_id": "string", "item": "string", "price": "float64"})
SET = FeatureSet(
    USER,
    SHOP,
    [Count(), Sum("price"), Mean("price"), LastK("item", 3), DistinctCount("item"), DecayedCount("1h")],
    ["1h", "24h"],
)
VIEW = FeatureView("by_user", sets=[SET], derived={"share": ratio("user_count_1h", "user_count_24h")})
REPO = FeatureRepo(Path("repo"), {"user": USER}, {"shop": SHOP}, {"by_user": VIEW})
FIRST = 7
USERS = 40
MOST = 5_000


def events_of(count: int, first: int = 0, users: int = USERS) -> Parsed:
    """Events of users in turn, over two hours, one in ten repeated under its id; offsets from ``first`` on."""
    rng = np.random.default_rng(0)
    back, item, price = rng.integers(0, 2_000, MOST), rng.integers(0, 30, MOST), rng.integers(-500, 1_000, MOST) / 7
    number = np.arange(first, first + count)
    table = pa.table(
        {
            "event_id": [f"e{one - 1 if one % 10 == 9 else one}" for one in number.tolist()],
            "event_time": pa.array(T0 + number * 1_000 - back[number]),
            "known_at": pa.array(T0 + number * 1_000),
            "offset": pa.array(number),
            "partition": pa.array(np.zeros(count, np.int32)),
            "user_id": [f"u{one % users}" for one in number.tolist()],
            "item": [f"i{one}" for one in item[number].tolist()],
            "price": price[number],
        }
    )
    parsed = from_columns(table, SHOP)
    assert parsed.events["offset"].to_pylist() == number.tolist()
    return parsed


class World:
    """A store, an archive and a status file, as a stream keeps them."""

    def __init__(self, root: Path, rows: SqliteRows | RedisRows | None = None) -> None:
        self.root, self.rows = root, rows or SqliteRows(root / "online.db")
        self.offline, self.archived = root / "offline", 0
        nothing = {"shop": event_schema(SHOP).empty_table()}
        start = Marker(-1, {"t/0": 0}, {"t/0": 0}, -1)
        build_generation(self.rows.generation(FIRST), [VIEW], FIRST, nothing, start, T0)
        for name in (VIEW.name, of_schema(VIEW.name, VIEW.schema_hash)):
            self.rows.set_current(name, FIRST)
        self.folded, self.batches = 0, 0
        self.tell()

    def fold(self, count: int) -> None:
        parsed = events_of(count, self.folded)
        places = {"t/0": self.folded}, {"t/0": self.folded + count}
        BatchStep(self.rows.generation(FIRST), [VIEW], FIRST).run(Batch(self.batches, *places, {"shop": parsed}, T0))
        self.folded, self.batches = self.folded + count, self.batches + 1

    def archive(self, until: int) -> None:
        from deltalake import write_deltalake

        events = events_of(until - self.archived, self.archived).events
        write_deltalake(
            self.offline / "shop", events.append_column("topic", pa.repeat("t", len(events))), mode="append"
        )
        self.archived = until
        self.tell()

    def tell(self, state: str = "running") -> None:
        path = self.root / "status" / "stream.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(
                {"state": state, "updated_at": now_ms(), "queries": {"archive": {"end": {"t/0": self.archived}}}}
            )
        )

    def verify(self, sample: int | None = None, view: FeatureView = VIEW) -> dict[str, Any]:
        verifier = Verifier(self.rows, REPO, self.offline, self.root, lambda _: None)
        return report(
            [verifier.verify(view, VerifyRequest(sample, T0 + 4_000_000, 1))], {view.name: len(view.features)}
        )

    def cells(self) -> dict[str, bytes]:
        keys = self.rows.keys(VIEW.name)
        return dict(zip(keys.to_pylist(), self.rows.read(VIEW.name, keys)[0].to_pylist(), strict=True))

    def put(self, cells: Mapping[str, bytes]) -> None:
        generation = self.rows.generation(FIRST)
        generation.begin()
        generation.put_rows(VIEW.name, PackedRows(pa.array(list(cells)), pa.array(list(cells.values()), pa.binary())))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return filled(World(tmp_path))


def filled(world: World) -> World:
    for count in (500, 300, 1):
        world.fold(count)
    world.archive(801)
    return world


def kinds(found: Mapping[str, Any]) -> tuple[int, int, int]:
    return found["mismatch"], found["missing"], found["extra"]


def test_rows_and_events_of_the_same_offsets_agree_and_all_are_compared(world: World) -> None:
    found = world.verify()
    assert kinds(found) == (0, 0, 0)
    assert (found["entities"], found["features"]) == (USERS, len(VIEW.features))
    assert found["compared"] == 2 * USERS * len(VIEW.features)


def test_rows_on_a_redis_server_are_verified_alike(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        world = filled(World(tmp_path, RedisRows(url)))
        assert kinds(world.verify()) == (0, 0, 0)
        world.put({"stranger": world.cells()["u5"]})
        assert kinds(world.verify()) == (0, 0, 2)


def test_an_archive_that_is_ahead_of_the_rows_explains_no_difference(world: World) -> None:
    world.archive(1_500)
    assert kinds(world.verify()) == (0, 0, 0)


def test_rows_of_a_batch_that_is_not_done_are_compared_with_the_events_up_to_its_end(world: World) -> None:
    """The stream dies within the batch: offsets are published, half of the rows written."""
    world.archive(1_500)
    before = world.cells()
    world.fold(100)
    after = world.cells()
    changed = sorted(key for key in after if after[key] != before[key])
    generation = world.rows.generation(FIRST)
    generation.begin()
    generation.publish(Marker(3, {"t/0": 801}, {"t/0": 901}, 2))
    world.put({key: before[key] for key in changed[::2]})
    assert len(changed) > USERS / 2
    assert kinds(world.verify()) == (0, 0, 0)


@pytest.mark.parametrize("planted", [1, 10])
def test_rows_into_which_an_event_was_folded_twice_are_found_all_of_them(world: World, planted: int) -> None:
    chosen = {key: value for key, value in world.cells().items() if key != "u0"}
    chosen = dict(sorted(chosen.items())[:planted])
    held = PackedRows(pa.array(list(chosen)), pa.array(list(chosen.values()), pa.binary()))
    events = {"shop": events_of(USERS).events}
    again = fold(VIEW, held, events, BatchKey(FIRST, 2, 0))  # those users' last batch was before
    spoilt = dict(zip(again.keys.to_pylist(), again.values.to_pylist(), strict=True))
    world.put({key: value for key, value in spoilt.items() if key in chosen})
    found = world.verify()
    assert found["wrong_entities"] == planted
    assert {one["entity"] for one in found["worst"]} <= set(chosen)
    assert found["views"]["by_user"]["by_feature"]["user_count_24h"] == {
        "mismatch": 2 * planted,
        "missing": 0,
        "extra": 0,
    }


def test_a_row_with_a_flipped_bit_is_found_and_the_others_are_still_compared(world: World) -> None:
    cells = world.cells()
    world.put({"u3": cells["u3"][:90] + bytes([cells["u3"][90] ^ 4]) + cells["u3"][91:], "u4": b"short"})
    found = world.verify()
    assert found["wrong_entities"] == 2
    assert {(one["entity"], one["feature"]) for one in found["worst"]} >= {("u3", "the row"), ("u4", "the row")}


def test_a_row_that_is_gone_is_missing_and_one_of_nobody_is_extra(world: World) -> None:
    from contextlib import closing
    from sqlite3 import connect

    world.put({"stranger": world.cells()["u5"]})
    with closing(connect(world.root / "online.db")) as database, database:
        (table,) = database.execute("SELECT id FROM tables WHERE name = 'rows/by_user'").fetchone()
        database.execute(f"DELETE FROM cells_{table} WHERE key = 'u6'")
    found = world.verify()
    assert kinds(found) == (0, 2, 2)  # at both instants
    assert found["views"]["by_user"]["by_feature"] == {"status": {"mismatch": 0, "missing": 2, "extra": 2}}
    assert {(one["kind"], one["entity"]) for one in found["worst"]} == {("missing", "u6"), ("extra", "stranger")}


def test_a_row_of_a_batch_that_was_never_published_is_found(world: World) -> None:
    held = PackedRows(pa.array(["u1"]), pa.array([world.cells()["u1"]], pa.binary()))
    again = fold(VIEW, held, {"shop": events_of(USERS).events}, BatchKey(FIRST, 99, 0))
    world.put({"u1": dict(zip(again.keys.to_pylist(), again.values.to_pylist(), strict=True))["u1"]})
    found = world.verify()
    assert (kinds(found), found["worst"][0]["feature"]) == ((1, 0, 0), "the row")


def test_a_lost_update_is_found_also_where_the_row_itself_is_whole(world: World) -> None:
    """The row of before a batch that was done: what its own batch number would hide."""
    old = world.cells()["u2"]
    world.fold(2 * USERS)
    world.archive(world.folded)
    world.put({"u2": old})
    found = world.verify()
    assert (found["wrong_entities"], found["worst"][0]["entity"]) == (1, "u2")


def test_a_sample_is_of_both_stores_and_no_larger_than_asked(world: World) -> None:
    found = world.verify(sample=12)
    assert kinds(found) == (0, 0, 0)
    assert 6 <= found["entities"] <= 12


def test_an_archive_that_a_stopped_stream_left_behind_is_an_error_that_says_how_to_go_on(world: World) -> None:
    world.fold(5)
    world.tell("stopped")
    with pytest.raises(StoreError, match="headrace stream"):
        world.verify()


def test_a_definition_without_rows_is_an_error_that_names_the_plan(world: World) -> None:
    with pytest.raises(UsageError, match="headrace features plan"):
        world.verify(view=FeatureView("by_user", sets=[SET], version=2))


def value(batch_id: int) -> bytes:
    header = np.zeros(1, HEADER)
    header["batch_id"] = batch_id
    return header.tobytes()


def test_a_row_stands_for_the_end_of_the_last_done_batch_or_of_its_own_where_that_is_later() -> None:
    values = pa.array([None, b"x", *map(value, (-1, 4, 5, 6, 7, 8))], pa.binary())
    before = Marker(5, {"t": 40}, {"t": 50}, 4)
    after = Marker(7, {"t": 60}, {"t": 70}, 6)
    ends = [one and one["t"] for one in ends_of_rows(values, before, after)]
    assert ends == [40, 40, 40, 40, 50, 60, 70, None]
    assert ends_of_rows(values[:1], after, after) == [{"t": 60}]
    whole = Marker(7, {"t": 60}, {"t": 70}, 7)
    assert ends_of_rows(values[:1], whole, whole) == [{"t": 70}]
