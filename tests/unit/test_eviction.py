"""A Redis that drops keys to make room: noticed before, by its policy, and when it has, by whoever writes or reads."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from redis import Redis
from redis_server import IN_MEMORY, RedisServer, running
from store_script import aged, begun, emptied

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count
from features.definitions.repo import FeatureRepo
from features.errors import FenceError, StateError, StoreError
from features.events import event_schema
from features.events.parsing import from_columns
from features.online_store.batch_step import Batch, BatchStep, build_generation
from features.online_store.pending import RowsWithPending
from features.online_store.port import Marker, PendingEvent
from features.online_store.reader import FeatureReader
from features.online_store.redis.rows import RedisRows
from headrace.commands import doctor

STREAM = Stream("s", topic="t", fields={"key": "string"})
VIEW = FeatureView("v", sets=[FeatureSet(Entity("e", keys={"key": "string"}), STREAM, [Count()], ["1h"])])
REPO = FeatureRepo(Path(), {"e": VIEW.entity}, {"s": STREAM}, {"v": VIEW})
NOW = 1_700_000_000_000


@pytest.fixture
def store(redis_url):
    with closing(RedisRows(emptied(redis_url))) as rows:
        yield rows


@pytest.fixture
def client(redis_url):
    with closing(Redis.from_url(redis_url)) as made:
        yield made


def parsed(first, keys):
    columns = {
        "event_id": [f"{first + number}" for number in range(len(keys))],
        "event_time": [NOW] * len(keys),
        "known_at": [NOW] * len(keys),
        "key": keys,
        "partition": [0] * len(keys),
        "offset": [first + number for number in range(len(keys))],
    }
    return from_columns(pa.table(columns), STREAM, None)


def batch(number, keys):
    start, end = {"t/0": 10 * number}, {"t/0": 10 * (number + 1)}
    return Batch(number, start, end, {"s": parsed(10 * number, keys)}, NOW)


def folded(store, stream_id=1):
    """A generation of one batch, that readers read; its step."""
    generation = store.generation(stream_id, {"s": 3_600_000})
    build_generation(
        generation, [VIEW], stream_id, {"s": event_schema(STREAM).empty_table()}, Marker(-1, {}, {"t/0": 0}, -1), NOW
    )
    step = BatchStep(generation, [VIEW], stream_id)
    step.run(batch(0, ["u5", "u6"]))
    store.set_current("v", stream_id)
    return step


def test_rows_that_went_were_counted_on_from_nothing_and_now_stop_the_fold_and_every_read(store, client):
    """It was: 1 for 2 events of u5, and null for 1 of u6, and nothing said."""
    step, reader = folded(store), FeatureReader(store, REPO, lambda: NOW + 1)
    (count,) = reader.read("v", pa.array(["u5", "u6", "new"])).columns
    assert count.to_pylist() == [1, 1, None]
    (rows,) = client.scan_iter("*:rows/v")
    client.delete(rows)
    for key in ("u5", "u6", "new"):
        with pytest.raises(StoreError, match=r"lost headrace:headrace:\{1\}:rows/v.*features rebuild"):
            reader.read("v", pa.array([key]))
    with pytest.raises(FenceError, match=r"rows/v.*noeviction.*features rebuild"):
        step.run(batch(1, ["u5"]))
    with pytest.raises(FenceError, match="rows/v"):
        step.check_standing(0)


def test_a_reader_that_finds_the_ids_gone_says_that_it_leaves_out_what_is_pending(store, client):
    """A repetition of an event that is folded would count until the driver finds the loss, if it counted."""
    folded(store)
    value = b'{"event_id": "0", "event_time": %d, "key": "u5"}' % NOW
    store.pending().put([PendingEvent("v", "u5", "t/0", 10, NOW, value)], 60_000)
    for key in client.scan_iter("*seen/*"):
        client.delete(key)
    with closing(RedisRows(store._opened[0])) as replica:
        reader = FeatureReader(RowsWithPending(replica, replica.pending(), REPO), REPO, lambda: NOW + 1)
        found = reader.read("v", pa.array(["u5"]))
    assert (found.columns[0].to_pylist(), found.without_pending) == ([1], True)


def test_whichever_keys_of_a_generation_go_its_driver_stops(store, client):
    folded(store)
    keys = sorted(key for key in client.scan_iter("*") if b"{1}" in key)
    assert len(keys) == 5  # head, tables, state, rows, ids
    gone = [some for count in range(1, 6) for some in itertools.combinations(keys, count)]
    for some in gone:
        emptied_store = RedisRows(emptied(store._opened[0]))
        step = folded(emptied_store)
        client.delete(*some)
        with pytest.raises(FenceError):
            step.check_standing(0)
        with pytest.raises(StateError):
            step.run(batch(1, ["u5"]))


def test_rows_that_go_while_a_batch_runs_stop_its_next_write(store, client):
    for names in (["rows/v"], ["rows/v", "tables"]):
        emptied(store._opened[0])
        folded(store)
        driver = begun(store)
        client.delete(*(f"headrace:headrace:{{1}}:{name}" for name in names))
        with pytest.raises(FenceError, match="lost"):
            driver.put_rows("v", aged(1))


def test_in_a_cluster_the_loss_of_any_part_of_the_rows_is_found(cluster):
    urls = [server.url for server in cluster]
    with closing(RedisRows(emptied(*urls), mode="cluster")) as store:
        rows = aged(*range(300))
        begun(store).put_rows("v", rows)
        store.set_current("v", 1)
        assert None not in store.read("v", rows.keys)[0].to_pylist()
        assert sorted(store.keys("v").to_pylist()) == sorted(rows.keys.to_pylist())
        for url in urls:
            with closing(Redis.from_url(url)) as node:
                part = next(iter(node.scan_iter("*:rows/v")))
                whole = node.dump(part)
                node.delete(part)
                with pytest.raises(FenceError, match="rows/v"):
                    begun(store)
                with pytest.raises(StoreError, match="rows/v"):
                    store.read("v", rows.keys)
                node.restore(part, 0, whole)
        begun(store)


def test_a_table_that_a_sweep_has_emptied_stands_and_one_that_was_never_written_too(store):
    generation = begun(store)
    generation.put_rows("v", aged(1, 2))
    store.set_current("v", 1)
    store.set_current("w", 1)
    generation.sweep("v", 10, (0, 0))
    assert store.read("v", pa.array(["k0"]))[0].to_pylist() == [None]
    assert store.read("w", pa.array(["k0"]))[0].to_pylist() == [None]
    assert (store.keys("v").to_pylist(), store.bytes_per_row()) == ([], {})
    begun(store).put_rows("v", aged(1))


def test_a_redis_that_really_evicts_gives_no_wrong_count(tmp_path):
    """Rows and other keys until the server is full: each read is right or an error, and the driver stops."""
    options = (*IN_MEMORY, "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random")
    with running(RedisServer(tmp_path, options)) as server, closing(RedisRows(server.url)) as store:
        step, reader = folded(store), FeatureReader(store, REPO, lambda: NOW + 1)
        stopped = None
        with closing(Redis.from_url(server.url)) as client:
            for number in range(1, 400):
                client.set(f"other {number}", b"x" * 50_000)
                try:
                    step.run(batch(number, ["u5"]))
                except StateError as error:
                    stopped = error
                    break
                try:
                    (count,) = reader.read("v", pa.array(["u5"])).columns
                    assert count.to_pylist() == [number + 1] or store.current("v") is None  # no rows are told
                except StoreError:
                    continue
        assert isinstance(stopped, StateError)


@pytest.mark.parametrize(
    ("options", "policy", "status"),
    [
        ((), None, "ok"),
        (("--maxmemory", "50mb"), None, "ok"),
        (("--maxmemory-policy", "allkeys-lru"), None, "ok"),  # it has no limit
        (("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"), "allkeys-lru", "failed"),
        (("--maxmemory", "50mb", "--maxmemory-policy", "volatile-ttl"), "volatile-ttl", "warning"),
        (("--rename-command", "CONFIG", ""), "", "warning"),
    ],
)
def test_the_policy_is_read_and_doctor_says_what_it_means(tmp_path, options, policy, status):
    yaml = "project: shop\nonline_store: {type: a.RedisRowsOnlineStore, url: 'URL'}\n"
    with running(RedisServer(tmp_path / "redis", (*IN_MEMORY, *options))) as server:
        assert RedisRows(server.url).eviction() == policy
        (tmp_path / "feature_store.yaml").write_text(yaml.replace("URL", server.url))
        (finding,) = doctor.stores(tmp_path, tmp_path)
        assert finding.status == status
        assert ("noeviction" in finding.mend) == (status != "ok")


def test_doctor_reads_the_policy_of_every_node_and_says_when_a_store_does_not_answer(tmp_path, cluster):
    with closing(RedisRows(cluster[0].url, mode="cluster")) as store:
        assert store.eviction() is None
        with closing(Redis.from_url(cluster[-1].url)) as node:
            node.config_set("maxmemory", "100mb")
            node.config_set("maxmemory-policy", "allkeys-lfu")
            try:
                assert store.eviction() == "allkeys-lfu"
            finally:
                node.config_set("maxmemory-policy", "noeviction")
                node.config_set("maxmemory", "0")
    silent = "online_store: {type: a.RedisRowsOnlineStore, url: 'redis://127.0.0.1:1/0'}"
    (tmp_path / "feature_store.yaml").write_text(silent)
    (finding,) = doctor.stores(tmp_path, tmp_path)
    assert (finding.status, finding.check) == ("warning", "online store")
    (finding,) = doctor.stores(tmp_path / "none", tmp_path)
    assert (finding.status, "sqlite" in finding.found) == ("ok", True)
