"""One Redis and several projects, and one that version 0.1 wrote: each project has its own keys and finds its rows."""

from __future__ import annotations

import itertools
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from store_script import aged, begun, emptied, marker

from features.errors import LeaseError, StoreError
from features.events.dedupe import Decision, Prior
from features.online_store.port import Put, of_schema
from features.online_store.redis.rows import RedisRows
from features.online_store.redis.slots import PARTS, Keys

KEYS = [f"k{number}" for number in range(300)]


@pytest.fixture(params=["server", "cluster"])
def servers(request):
    """The URLs of an empty server, or of a cluster's nodes."""
    cluster = request.param == "cluster"
    urls = (
        [one.url for one in request.getfixturevalue("cluster")] if cluster else [request.getfixturevalue("redis_url")]
    )
    emptied(*urls)
    return urls


@pytest.fixture
def opened(servers):
    """Opens the store of a project; of '', as version 0.1 does."""
    made = []

    def of(project):
        made.append(RedisRows(servers[0], mode="cluster" if len(servers) > 1 else "server", project=project))
        return made[-1]

    yield of
    for store in made:
        store.close()


def all_keys(urls):
    found = []
    for url in urls:
        with closing(Redis.from_url(url)) as client:
            found += [key.decode() for key in client.scan_iter()]
    return sorted(found)


def filled(store, stream_id, text=b""):
    """A generation with rows of a view, ids and a marker, which the view's readers read."""
    store.take_lease(stream_id, "me", ttl_s=60)
    driver, rows = begun(store, stream_id), aged(*range(len(KEYS)))
    driver.put_rows("v", type(rows)(rows.keys, pa.array([row + text for row in rows.values.to_pylist()])))
    last = Prior(np.array([1]), np.array([1]))
    driver.remember("s", Decision(np.array([True]), pa.array(["x"]), last), 0)
    driver.publish(marker(0))
    for name in ("v", of_schema("v", 7)):
        store.set_current(name, stream_id, "me")
    return driver


def contents(store, stream_id):
    """All that a reader and the next driver find."""
    generation = begun(store, stream_id)
    rows, read = store.read("v", pa.array(KEYS), 7)
    seen = generation.remembered("s", pa.array(["x", "y"]), 1).seq.tolist()
    return rows.to_pylist(), read, store.current("v"), sorted(store.keys("v").to_pylist()), generation.marker(), seen


def test_two_projects_on_one_redis_have_different_rows_under_the_same_names_and_end_apart(opened, servers):
    shop, cards = opened("shop"), opened("cards")
    filled(shop, 1, b"shop"), filled(cards, 1, b"cards")
    assert contents(shop, 1)[0] != contents(cards, 1)[0]
    for store, name in ((shop, "shop"), (cards, "cards")):
        store.pending().add_to_session("s1", [name], 60_000)
    before = contents(cards, 1)
    shop.drop_generation(1, "me")
    assert shop.read("v", pa.array(KEYS))[1] is None
    assert contents(cards, 1) == before
    assert (shop.generations(), cards.generations()) == ([], [1])
    assert (shop.pending().session("s1"), cards.pending().session("s1")) == (("shop",), ("cards",))
    assert {key.split(":")[1] for key in all_keys(servers)} == {"shop", "cards"}


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=2, unique=True), st.integers(0, 2**63 - 1))
def test_no_key_of_a_project_is_a_key_of_another_or_in_another_slot(projects, number):
    from redis.crc import key_slot

    one, other = ([*shared(keys), *own(keys, number)] for keys in map(Keys, projects))
    assert not set(one) & set(other)
    for keys in map(Keys, projects):
        assert len({key_slot(key.encode()) for key in shared(keys)}) == 1
        slots = {key_slot(key.encode()) for key in (keys.head(number), keys.tables(number), keys.table(number, "a}{b"))}
        assert slots == {key_slot(f"{number}".encode())}


def shared(keys):
    return keys.current, keys.generations


def own(keys, number):
    parts = [part for one in range(PARTS) for part in (keys.head(number, one), keys.tables(number, one))]
    return keys.head(number), keys.tables(number), keys.table(number, "rows/v"), keys.pending, keys.session("1"), *parts


# --- what version 0.1 wrote -----------------------------------------------------------------------------------------


def test_rows_of_version_0_1_are_found_and_told_and_carried_over_whole(opened, servers):
    old = opened("")
    driver, _ = filled(old, 7), filled(old, 8)
    expected = contents(old, 8)
    project = opened("shop")
    for call in (
        lambda: project.read("v", pa.array(KEYS)),
        lambda: project.current("v"),
        lambda: begun(project, 8),
        lambda: project.get(8, "rows/v", KEYS),
    ):
        with pytest.raises(StoreError, match=r"version 0\.1.*headrace stream"):
            call()
    assert project.carry_over([8, 9], "me", ttl_s=60) == [8]
    assert contents(project, 8) == contents(opened("shop"), 8) == expected
    assert project.carry_over([8, 9], "me", ttl_s=60) == []
    assert (old.generations(), project.generations()) == ([7], [8])
    driver.put_rows("v", aged(1))  # the other home's
    assert [key for key in all_keys(servers) if "{8" in key and not key.startswith("headrace:shop:{8")] == []


def test_a_driver_of_version_0_1_that_still_runs_stops_at_its_next_write(opened):
    driver, project = filled(opened(""), 7), opened("shop")
    with pytest.raises(LeaseError, match="'me'"):
        project.carry_over([7], "you", ttl_s=60)
    driver.put_rows("v", aged(1))
    project.carry_over([7], "me", ttl_s=60)
    with pytest.raises(LeaseError):
        driver.put_rows("v", aged(1))
    assert contents(project, 7)[1] == 7


def test_a_crash_at_any_point_of_carrying_over_loses_nothing(opened, servers):
    for steps in itertools.count():
        emptied(*servers)
        old = opened("")
        filled(old, 7)
        expected = contents(old, 7)
        crashing = opened("shop")
        left, ask = iter(range(steps)), crashing._client.ask

        def asked(*commands, left=left, ask=ask):
            if next(left, None) is None:
                raise StoreError("the test", "no crash", "one")
            return ask(*commands)

        crashing._client.ask = asked
        done = True
        try:
            crashing.carry_over([7], "me", ttl_s=60)
        except StoreError:
            done = False
        again = opened("shop")
        again.carry_over([7], "me", ttl_s=60)
        assert contents(again, 7) == expected, steps
        if done:
            break
    assert steps > 5


def test_values_of_ordinary_feast_views_go_to_the_project_that_they_are_of(opened):
    old = opened("")
    for project in ("shop", "cards"):
        old.write(0, old.version(0), {f"feast/{project}/prices": Put(["tea"], [project.encode()])})
    shop = opened("shop")
    shop.carry_over([], "me", ttl_s=60)
    assert shop.get(0, "feast/shop/prices", ["tea"]) == [b"shop"]
    assert shop.get(0, "feast/cards/prices", ["tea"]) == [None]
    with pytest.raises(StoreError):
        opened("cards").get(0, "feast/cards/prices", ["tea"])
    cards = opened("cards")
    cards.carry_over([], "me", ttl_s=60)
    assert cards.get(0, "feast/cards/prices", ["tea"]) == [b"cards"]
    shop.write(0, shop.version(0), {"feast/shop/prices": Put(["jam"], [b"new"])})
    assert shop.get(0, "feast/shop/prices", ["tea", "jam"]) == [b"shop", b"new"]
