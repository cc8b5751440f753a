"""What the unit tests share: a Redis server, a cluster of three, and each kind of online store."""

from __future__ import annotations

import pytest
from redis_server import running_cluster, running_redis
from store_script import emptied

from features.online_store.redis.rows import RedisRows
from features.online_store.sqlite.rows import SqliteRows


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory):
    """The address of a server."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """The servers of a cluster."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def opened(request, tmp_path):
    """Opens the same store, as each process that uses it does."""
    if request.param == "sqlite":
        stores = (SqliteRows(tmp_path / "not yet there" / "online.db") for _ in iter(int, 1))
    elif request.param == "redis":
        url = emptied(request.getfixturevalue("redis_url"))
        stores = (RedisRows(url) for _ in iter(int, 1))
    else:
        url = emptied(*(server.url for server in request.getfixturevalue("cluster")))
        stores = (RedisRows(url, mode="cluster") for _ in iter(int, 1))
    made = []

    def another():
        made.append(next(stores))
        return made[-1]

    yield another
    for store in made:
        store.close()
