"""Pending events and sessions on SQLite and Redis: the same script, the same answers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_script import emptied

from features.errors import StoreError
from features.online_store.breaker import FAILURES, GuardedRows
from features.online_store.pending import SESSION_ITEMS, done_end
from features.online_store.port import Marker, Pending, PendingEvent
from features.online_store.redis import pending as redis_pending
from features.online_store.redis.pending import MOST_BYTES
from features.online_store.redis.rows import RedisRows
from features.online_store.sqlite import pending as sqlite_pending
from features.online_store.sqlite.rows import SqliteRows

TTL_MS = 60_000
ODD_KEYS = ["", "a\0b", "漢字", "'; DROP TABLE pending; --", "x" * 2_000, "{1}:rows"]


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def pending(request, tmp_path) -> Pending:
    if request.param == "sqlite":
        return SqliteRows(tmp_path / "not yet there" / "online.db").pending()
    if request.param == "redis":
        return RedisRows(emptied(request.getfixturevalue("redis_url"))).pending()
    urls = [server.url for server in request.getfixturevalue("cluster")]
    return RedisRows(emptied(*urls), mode="cluster").pending()


def entry(offset: int, key: str = "u1", view: str = "v", place: str = "t/0", value: bytes = b"{}") -> PendingEvent:
    return PendingEvent(view, key, place, offset, 1_700_000_000_000 + offset, value)


def found(pending: Pending, *keys: str, view: str = "v") -> list[PendingEvent]:
    return sorted(pending.of(view, list(keys)), key=lambda one: (one.key, one.topic_partition, one.offset))


def test_entries_come_back_whole_under_their_view_and_key_and_no_other(pending):
    several = [entry(1), entry(2, value=b"\0\xff" * 50), entry(1, "u2"), entry(1, view="w"), entry(1, place="t/1")]
    pending.put(several, TTL_MS)
    assert found(pending, "u1") == [several[0], several[1], several[4]]
    assert found(pending, "u2", "u1", "nobody") == [several[0], several[1], several[4], several[2]]
    assert found(pending, "u1", view="w") == [several[3]]
    assert found(pending) == []


def test_an_entry_that_is_put_again_is_there_once(pending):
    pending.put([entry(1), entry(1)], TTL_MS)
    pending.put([entry(1)], TTL_MS)
    assert found(pending, "u1") == [entry(1)]


def test_any_key_and_offset_can_be_kept(pending):
    several = [entry(2**52, key) for key in ODD_KEYS]
    pending.put(several, TTL_MS)
    assert found(pending, *ODD_KEYS) == sorted(several, key=lambda one: one.key)


def test_of_many_keys_those_with_entries_are_found(pending):
    pending.put([entry(1, "k7"), entry(1, "k4999"), entry(1, "other")], TTL_MS)
    assert [one.key for one in found(pending, *(f"k{number}" for number in range(5_000)))] == ["k4999", "k7"]


def test_pruning_takes_what_is_before_each_places_end_and_leaves_the_rest(pending):
    pending.put([entry(offset) for offset in range(4)], TTL_MS)
    pending.put([entry(offset, "u2", "w") for offset in range(4)], TTL_MS)
    pending.put([entry(0, place="t/1"), entry(0, place="other/0")], TTL_MS)
    pending.prune({"t/0": 3, "t/1": 0})
    assert found(pending, "u1") == [entry(0, place="other/0"), entry(3), entry(0, place="t/1")]
    assert found(pending, "u2", view="w") == [entry(3, "u2", "w")]
    pending.prune({"t/0": 4, "t/1": 1, "other/0": 1})
    assert found(pending, "u1") == []
    pending.prune({})


def test_an_entry_is_gone_when_its_time_is_over(pending):
    pending.put([entry(1)], 0)
    assert found(pending, "u1") == []


def test_a_hot_key_takes_no_more_memory_than_is_allowed(redis_url):
    rows = RedisRows(redis_url).pending()
    rows.put([entry(number, "hot", value=b"x" * 1_000) for number in range(100)], TTL_MS)
    kept = found(rows, "hot")
    assert 50 < len(kept) <= MOST_BYTES / 1_000
    assert [one.offset for one in kept] == list(range(len(kept)))


def test_entries_that_are_over_go_while_others_come_and_no_stream_prunes(pending, monkeypatch):
    """51 of 51 were there after 50 had ended: on Redis the time was the hash's, which every post put off."""
    clock = [1_700_000_000_000]
    for module in (redis_pending, sqlite_pending):
        monkeypatch.setattr(module, "now_ms", lambda: clock[0])
    for number in range(200):
        assert pending.put([entry(number, f"u{number % 7}", place=f"t/{number % 3}")], 1_000) == 0
        clock[0] += 100
        assert pending.size()[0] <= 10
    assert [one.offset for one in found(pending, *(f"u{number}" for number in range(7)))] != []
    clock[0] += 1_000
    pending.put([entry(900, "last")], 1_000)
    assert pending.size()[0] == 1
    pending.prune({"t/0": 901})
    assert pending.size() == (0, 0)


def test_no_more_entries_or_bytes_than_the_bound_are_kept_and_those_without_room_are_told(pending, monkeypatch):
    """The stream is down: what has no room counts when it folds again, as nothing is lost in Kafka."""
    for module in (redis_pending, sqlite_pending):
        monkeypatch.setattr(module, "MOST_ENTRIES", 100)
    refused = sum(pending.put([entry(number, f"u{number}"), entry(number, "all")], TTL_MS) for number in range(80))
    assert (pending.size()[0], refused) == (100, 60)
    assert pending.put([entry(0, "u0")], TTL_MS) in (0, 1)  # is there already, or has no room
    assert pending.size()[0] == 100
    pending.prune({"t/0": 40})
    assert pending.size()[0] == 20
    assert pending.put([entry(100, "new")], TTL_MS) == 0
    pending.prune({"t/0": 1_000})
    assert pending.size() == (0, 0)
    monkeypatch.setattr(redis_pending, "MOST_TOTAL", 10_000)
    monkeypatch.setattr(sqlite_pending, "MOST_BYTES", 10_000)
    refused = sum(pending.put([entry(number, f"u{number}", value=b"x" * 1_000)], TTL_MS) for number in range(20))
    entries, size = pending.size()
    assert (entries + refused, 8 <= entries <= 10, size <= 10_000) == (20, True, True)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 2), st.integers(1, 5)), max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_the_size_is_that_of_the_entries_whatever_comes_is_pruned_and_ends(redis_url, tmp_path, steps):
    """Each step puts an entry of a few bytes, lets time pass, and at times prunes: both stores have the same then."""
    stores = [RedisRows(emptied(redis_url)).pending(), SqliteRows(tmp_path / f"{uuid4()}.db").pending()]
    clock = [1_700_000_000_000]
    with pytest.MonkeyPatch.context() as patched:
        for module in (redis_pending, sqlite_pending):
            patched.setattr(module, "now_ms", lambda: clock[0])
        for offset, key, place, passed in steps:
            for pending in stores:
                pending.put([entry(offset, f"u{key}", place=f"t/{place}", value=b"x" * offset)], 4 * TTL_MS)
            clock[0] += (passed - 1) * TTL_MS
            if not passed % 2:
                for pending in stores:
                    pending.prune({f"t/{place}": offset})
            redis, sqlite = ([*found(pending, *(f"u{number}" for number in range(4)))] for pending in stores)
            assert redis == sqlite
        for pending in stores:
            clock[0] += 10 * TTL_MS
            pending.put([entry(99, place="t/9", value=b"")], 4 * TTL_MS)
            pending.prune({"t/9": 100})
            assert pending.size() == (0, 0)


def test_a_prune_takes_all_that_is_folded_however_much_it_is(pending):
    """2,000 of a place and 0.5 s were the most: slower than the posts of a busy shop."""
    for start in range(0, 5_000, 500):
        pending.put([entry(number, f"u{number}") for number in range(start, start + 500)], TTL_MS)
    assert pending.size()[0] == 5_000
    pending.prune({"t/0": 4_999})
    assert pending.size()[0] == 1


def test_a_sqlite_file_of_before_is_counted_once(tmp_path):
    path = tmp_path / "online.db.pending"
    with closing(sqlite3.connect(path)) as connection:
        columns = "view TEXT, key TEXT, place TEXT, position INTEGER, known_at INTEGER, value BLOB, expires_ms INTEGER"
        connection.execute(f"CREATE TABLE pending ({columns}, PRIMARY KEY (view, key, place, position)) WITHOUT ROWID")
        connection.execute("INSERT INTO pending VALUES ('v', 'u1', 't/0', 1, 1, 'ab', ?)", (2**53,))
        connection.commit()
    pending = SqliteRows(tmp_path / "online.db").pending()
    pending.put([entry(2)], TTL_MS)
    assert pending.size() == (2, 4)


def test_a_session_has_its_newest_items_first_and_only_the_newest(pending):
    pending.add_to_session("s1", ["b", "a"], TTL_MS)
    pending.add_to_session("s1", ["c"], TTL_MS)
    assert (pending.session("s1"), pending.session("s2")) == (("c", "b", "a"), ())
    pending.add_to_session("s1", [str(number) for number in range(2 * SESSION_ITEMS)], TTL_MS)
    assert pending.session("s1") == tuple(str(number) for number in range(SESSION_ITEMS))


def test_a_session_is_forgotten_when_its_time_is_over(tmp_path):
    pending = SqliteRows(tmp_path / "online.db").pending()
    pending.add_to_session("s1", ["a"], 0)
    assert pending.session("s1") == ()


def test_another_process_of_the_same_store_sees_them_at_once(tmp_path, redis_url):
    for one, other in (
        (SqliteRows(tmp_path / "online.db"), SqliteRows(tmp_path / "online.db")),
        (RedisRows(redis_url), RedisRows(redis_url)),
    ):
        one.pending().put([entry(1, "shared")], TTL_MS)
        assert found(other.pending(), "shared") == [entry(1, "shared")]


def test_a_store_that_does_not_answer_is_an_error_of_the_store(tmp_path):
    (tmp_path / "online.db.pending").write_bytes(b"this is no database" * 1_000)
    broken = SqliteRows(tmp_path / "online.db").pending()
    for call in (lambda: broken.of("v", ["a"]), lambda: broken.put([entry(1)], TTL_MS), lambda: broken.session("s")):
        with pytest.raises(StoreError, match="pending"):
            call()
    with pytest.raises(StoreError):
        RedisRows("redis://127.0.0.1:1/0").pending().of("v", ["a"])


def test_a_store_that_is_silent_opens_the_readers_breaker(tmp_path):
    """What is pending costs no reader its deadline again and again."""
    silent = GuardedRows(RedisRows("redis://127.0.0.1:1/0")).pending()
    for _ in range(FAILURES):
        with pytest.raises(StoreError, match="answers; got"):
            silent.of("v", ["a"])
    with pytest.raises(StoreError, match="asked again in"):
        silent.of("v", ["a"])


def test_nothing_needs_an_entry_before_the_end_of_the_last_whole_batch():
    assert done_end(Marker(4, {"t/0": 10}, {"t/0": 20}, 3)) == {"t/0": 10}
    assert done_end(Marker(4, {"t/0": 10}, {"t/0": 20}, 4)) == {"t/0": 20}
