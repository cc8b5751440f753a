"""Redis servers that the unit tests share: one, and a cluster of three."""

from __future__ import annotations

import pytest
from redis_server import running_cluster, running_redis


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
