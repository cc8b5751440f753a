"""Stores that do not answer: an error that names them, soon, and for most readers at once."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
from contextlib import closing, contextmanager

import pyarrow as pa
import pytest
from redis_server import RedisServer, running
from store_script import begun, emptied

from features.errors import StoreError
from features.online_store.breaker import Breaker, GuardedRows
from features.online_store.port import binaries
from features.online_store.redis.client import RedisClient
from features.online_store.redis.rows import RedisRows
from features.online_store.settings import StoreSettings
from features.online_store.sqlite.rows import SqliteRows
from features.rows.matrix import PackedRows

KEYS = pa.array(["a"])
TRIES = 20


def test_a_redis_that_is_not_there_is_a_store_error_that_names_it():
    store = RedisRows("redis://127.0.0.1:1/0", timeout_s=0.2)
    with closing(store), pytest.raises(StoreError, match="Redis server that answers"):
        store.read("v", pa.array(["a"]))


def test_a_file_that_is_no_database_is_a_store_error_that_names_it(tmp_path):
    path = tmp_path / "online.db"
    path.write_bytes(b"no database, " * 1_000)
    with closing(SqliteRows(path)) as store, pytest.raises(StoreError, match=r"online\.db"):
        store.read("v", pa.array(["a"]))


class Scripted:
    """A clock that is set by hand, and a store that answers when told to."""

    now = 0.0
    answers = True
    asked = 0

    def clock(self):
        return self.now

    def work(self):
        self.asked += 1
        if not self.answers:
            raise StoreError("it", "an answer", "none")
        return self.asked


def failures(work):
    """How many of a number of calls failed."""
    failed = 0
    for _ in range(TRIES):
        try:
            work()
        except StoreError:
            failed += 1
    return failed


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_after_a_while():
    store = Scripted()
    breaker = Breaker(failures=3, wait_s=1.0, clock=store.clock)

    def asked_and_failed():
        before = store.asked
        failed = failures(lambda: breaker.call(store.work))
        return store.asked - before, failed

    assert asked_and_failed() == (TRIES, 0)
    store.answers = False
    for _ in range(2):
        with pytest.raises(StoreError):
            breaker.call(store.work)
    store.answers = True
    assert asked_and_failed() == (TRIES, 0)  # two failures are not three
    store.answers = False
    assert asked_and_failed() == (3, TRIES)
    store.now = 0.9
    assert asked_and_failed() == (0, TRIES)
    store.now = 1.1
    assert asked_and_failed() == (1, TRIES)
    store.answers, store.now = True, 2.2
    assert asked_and_failed() == (TRIES, 0)


def test_what_an_open_breaker_says_names_the_failure_that_opened_it():
    store = Scripted()
    store.answers = False
    breaker = Breaker(failures=1, clock=store.clock)
    with pytest.raises(StoreError):
        breaker.call(store.work)
    with pytest.raises(StoreError, match=r"^it requires.*asked again in 1\.0 s.*1 failures in a row, the last: none"):
        breaker.call(store.work)


def filled(store):
    begun(store).put_rows("v", PackedRows(KEYS, pa.array([b"row"])))
    store.set_current("v", 1)


def answer_of(reader):
    """What a read says once it succeeds; a breaker lets one try a second."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return reader.read("v", KEYS)[0].to_pylist()
        except StoreError:
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)


@contextmanager
def frozen(servers):
    """The servers keep their connections and answer nothing."""
    for server in servers:
        server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            server.signal(signal.SIGCONT)


def check_frozen(servers, mode):
    settings = StoreSettings(kind="redis", address=servers[0].url, mode=mode, timeout_s=30, deadline_ms=100)
    with closing(settings.open()) as store, closing(settings.open_to_read()) as reader:
        filled(store)
        assert answer_of(reader) == [b"row"]
        with frozen(servers):
            assert failures(lambda: reader.read("v", KEYS)) == TRIES
        assert answer_of(reader) == [b"row"]


def test_a_frozen_redis_costs_a_few_reads_their_deadline_and_the_others_nothing_until_it_is_back(tmp_path):
    """Without deadline and breaker, each of the reads would wait for 30 s."""
    with running(RedisServer(tmp_path)) as server:
        check_frozen([server], "server")


def test_a_frozen_cluster_costs_no_more(cluster):
    emptied(*(server.url for server in cluster))
    check_frozen(cluster, "cluster")


def test_a_read_of_a_file_that_is_locked_ends_at_its_deadline(tmp_path):
    settings = StoreSettings(address=str(tmp_path / "online.db"), deadline_ms=50)
    with closing(settings.open()) as store:
        filled(store)
    with closing(sqlite3.connect(tmp_path / "online.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with closing(settings.open_to_read()) as reader:
            assert failures(lambda: reader.read("v", KEYS)) == TRIES
            other.execute("COMMIT")
            assert answer_of(reader) == [b"row"]


def test_a_read_that_needs_longer_than_its_deadline_is_ended(tmp_path):
    keys = pa.array([f"k{number}" for number in range(20_000)])
    with closing(SqliteRows(tmp_path / "online.db")) as store:
        begun(store).put_rows("v", PackedRows(keys, pa.array([b"row"] * len(keys))))
        store.set_current("v", 1)
    reader = GuardedRows(SqliteRows(tmp_path / "online.db", deadline_s=0.0))
    with closing(reader), pytest.raises(StoreError, match="interrupted"):
        reader.read("v", keys)


def test_a_thread_keeps_its_connection_gives_it_back_and_connects_again_where_it_was_closed(redis_url):
    import redis

    client = RedisClient(redis_url)
    server = redis.Redis.from_url(redis_url)
    (first,) = client.ask(("CLIENT", "ID"))
    assert client.ask(("CLIENT", "ID"), ("CLIENT", "ID")) == [first, first]
    others: list[int] = []
    for _ in range(2):  # the second thread is given what the first gave back
        thread = threading.Thread(target=lambda: others.extend(client.ask(("CLIENT", "ID"))))
        thread.start()
        thread.join()
    assert others[0] == others[1] != first
    server.client_kill_filter(_id=first)
    (after,) = client.ask(("CLIENT", "ID"))
    assert after not in {first, *others}
    with pytest.raises(StoreError):
        client.ask(("NO SUCH COMMAND",), ("CLIENT", "ID"))
    assert client.ask(("ECHO", "whole")) == [b"whole"]  # nothing of before is left in it
    client.close()
    server.close()


def test_a_column_of_bytes_is_the_same_whichever_way_it_is_made():
    for values in ([], [b""], [b"a", b"", b"bcd"], [b"a", None], [None, None]):
        assert binaries(values).equals(pa.array(values, pa.binary()))
        binaries(values).validate(full=True)
