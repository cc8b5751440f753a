"""The simulator's stories on real stores: they go and end as in memory."""

from __future__ import annotations

import functools
from contextlib import closing

import fallible
import pytest
from memory_store import MemoryStore
from stories import MISHAPS, OUTAGE, SHARED_MISHAPS, simulate

from features.online_store.redis import writing
from features.online_store.sqlite import rows as sqlite_rows


@functools.cache
def told_in_memory(seed, evicts=True):
    return simulate(seed, store=MemoryStore(evicts=evicts))


def check_stories(seeds, make_store):
    for seed in seeds:
        with closing(make_store(seed)) as store:
            outcome = simulate(seed, store=store)
        assert outcome.wrong == [], seed
        assert outcome == told_in_memory(seed, store.evicts), seed


@pytest.mark.parametrize("horizons_ms", [None, {"s": 30_000}], ids=["all ids", "ids of the horizon"])
@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(500), marks=pytest.mark.slow)], ids=["few", "many"])
def test_whatever_happens_to_a_sqlite_file_the_story_goes_and_ends_as_in_memory(tmp_path, seeds, horizons_ms):
    check_stories(seeds, lambda seed: fallible.FallibleSqlite(tmp_path / f"{seed}.db", horizons_ms))


@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(500), marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_whatever_happens_to_a_redis_the_story_goes_and_ends_as_in_memory(request, kind, seeds):
    one = kind == "redis"
    urls = [request.getfixturevalue("redis_url")] if one else [s.url for s in request.getfixturevalue("cluster")]

    def emptied_store(_):
        store = fallible.FallibleRedis(urls, {"s": 30_000})
        store.restore([{} for _ in urls])
        return store

    check_stories(seeds if one else seeds[: len(seeds) // 3], emptied_store)


def test_the_stories_have_all_that_can_happen_to_a_store():
    kinds = {kind for seed in range(25) for kind in told_in_memory(seed).mishaps}
    assert kinds == {*MISHAPS, *SHARED_MISHAPS, OUTAGE}


def test_a_sqlite_file_that_lets_another_home_in_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_rows, "_check_lease", lambda *_: (0, "", 0))
    with closing(fallible.FallibleSqlite(tmp_path / "online.db")) as store:
        seed = next(seed for seed in range(100) if "foreign home" in told_in_memory(seed).mishaps)
        wrong = simulate(seed, store=store).wrong
    assert {"another home could lead", "another home could switch", "another home could drop"} <= {*wrong}


def test_a_redis_that_nobody_asks_for_lost_tables_is_caught(redis_url, monkeypatch):
    monkeypatch.setattr(writing, "STANDING", writing.STANDING.replace("lost = key", "lost = ''"))
    monkeypatch.setattr(writing, "WRITE", writing.WRITE.replace("return -2", "key = ''"))
    with closing(fallible.FallibleRedis([redis_url], {"s": 30_000})) as store:
        for seed in (seed for seed in range(100) if "lost rows" in told_in_memory(seed).mishaps):
            store.restore([{}])
            if simulate(seed, store=store).wrong:
                return
    pytest.fail("no story has seen it")
