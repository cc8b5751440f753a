"""The stream on a real Redis, as feature_store.yaml chooses it: end to end, and through what can happen to a Redis."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from redis import Redis
from redis_server import ON_DISK, RedisServer, running
from serving_world import free_port, plain
from shop_project import Project
from stream_process import DEADLINE_S

from features.errors import StoreError
from features.online_store.settings import read_settings_of
from serving.config import ServiceConfig

pytestmark = [
    pytest.mark.integration,
    # Feast's own, of pandas and pydantic.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
ROOT = Path(__file__).resolve().parent.parent.parent
CHOSEN = """project: test
provider: local
registry: registry.db
online_store: {{type: headrace.feast.RedisRowsOnlineStore, url: "{url}", deadline_ms: 2000}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""
LIVE = 3
"""Events of one user, now."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running(RedisServer(tmp_path / "redis", ON_DISK)) as server:
        yield server


@pytest.fixture
def project(
    tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str, seed: int, redis: RedisServer
) -> Project:
    """A project whose feature_store.yaml names the server, and no other file does."""

    class RedisProject(Project):
        def rows(self) -> Any:
            return read_settings_of(self.root / "feature_repo" / "feature_store.yaml").open()

    made = RedisProject(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name, seed)
    yaml = CHOSEN.format(url=redis.url)
    (made.root / "feature_repo" / "feature_store.yaml").write_text(yaml, encoding="utf-8")
    return made


def fails(project: Project) -> Callable[[], bool]:
    """Whether the fold waits to be started again."""
    return lambda: bool(project.stream.queries().get("fold", {}).get("error"))


def stopped_for_a_rebuild(project: Project, process: subprocess.Popen[bytes]) -> None:
    """The stream has ended with the command that makes the rows anew."""
    assert process.wait(DEADLINE_S) != 0
    assert "headrace features rebuild" in project.stream.said()


def rebuilt(project: Project) -> None:
    """That command was run, and a stream that goes on from it says what was sent."""
    project.run("features", "rebuild")
    with project.stream.running() as process:
        project.drain(process)
        for view in project.repo.views.values():
            project.check_rows(view)


def test_events_come_through_redis_to_feast_and_http_and_its_ends_are_survived_or_told(
    project: Project, redis: RedisServer
) -> None:
    """Killed and back with what its disk has: the stream goes on by itself. Emptied: it stops, and says why."""
    project.send(300)
    with project.stream.running() as process:
        project.drain(process)
        project.check()
        redis.kill()
        project.send(100)
        project.stream.wait(process, fails(project))
        redis.start()
        project.drain(process)
        project.check()
        check_live(project, process)
        with Redis.from_url(redis.url) as client:
            client.flushall()
        stopped_for_a_rebuild(project, process)


def check_live(project: Project, process: subprocess.Popen[bytes]) -> None:
    """Events of now are in Feast's answer, and in the service's."""
    for number in range(LIVE):
        now = time.time_ns() // 1_000_000
        event = {"event_id": f"live{number}", "event_time": now, "event_type": "view", "user_id": "u-live"}
        topic = project.sent["shop"].stream.topic
        project.producer.send(topic, b"u-live", json.dumps(event | {"price": 2.0}).encode())
    assert project.producer.flush(60) == 0
    project.drain(process)
    (count,) = [name for name in project.repo.views["by_user"].names if name.endswith("_count_1h")]
    assert from_feast(project, count) == [LIVE, None]
    assert from_service(project)["features"][count] == LIVE


def from_feast(project: Project, feature: str) -> list[Any]:
    """What Feast's own client says of a user and of nobody, after `feast apply`."""
    from feast import FeatureStore

    folder = project.root / "feature_repo"
    feast = Path(sys.executable).parent / "feast"
    environ = os.environ | {"FEAST_USAGE": "False"}
    shutil.copy(ROOT / "feature_repo" / "feast_repo.py", folder)
    done = subprocess.run([feast, "apply"], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = FeatureStore(repo_path=str(folder))
    asked = {"user_id": ["u-live", "nobody"]}
    found: list[Any] = store.get_online_features([f"by_user:{feature}"], asked).to_dict()[feature]
    return found


def from_service(project: Project) -> dict[str, Any]:
    """The view as /v1/features has it."""
    settings = ServiceConfig(
        repo=str(project.root / "feature_repo"),
        store=read_settings_of(project.root / "feature_repo" / "feature_store.yaml"),
        tracking_uri="",
        port=free_port(),
        deadline_ms=20_000,
    )
    with plain(settings) as http:
        status, answer, _ = http.ask("/v1/features/user/u-live")
    assert status == 200, answer
    (view,) = answer["views"]
    return view


def as_version_0_1(server: RedisServer) -> None:
    """Renames all keys of the project to those that version 0.1 wrote."""
    with Redis.from_url(server.url) as client:
        for key in client.scan_iter("headrace:test:{*"):
            name = key.decode().replace(":test", "").replace("{test}:", "")
            client.rename(key, name)
            if name.endswith("}:tables"):
                members = [member.decode() for member in client.smembers(name)]
                client.delete(name)
                client.sadd(name, *(member.replace(":test", "") for member in members))


def test_rows_that_version_0_1_wrote_are_carried_over_by_the_stream_and_folded_on(
    project: Project, redis: RedisServer
) -> None:
    project.send(200)
    with project.stream.running() as process:
        project.drain(process)
        generation = project.rows().current("by_user")
    as_version_0_1(redis)
    with pytest.raises(StoreError, match="headrace stream"):
        project.rows().current("by_user")
    project.send(100)
    with project.stream.running() as process:
        project.drain(process)
        project.check()
    assert project.rows().current("by_user") == generation
    assert f"generation {generation} without a project: carried over" in project.stream.said()


def test_a_redis_that_evicts_is_refused_at_the_start_and_its_loss_stops_the_stream(
    project: Any, redis: RedisServer
) -> None:
    """Rows were gone, the marker was there, and the stream counted on from nothing."""
    project.send(100)
    with Redis.from_url(redis.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        with project.stream.running() as process:
            assert process.wait(DEADLINE_S) == 1
        assert "maxmemory-policy allkeys-lru. Set it with CONFIG SET" in project.stream.said()
        client.config_set("maxmemory-policy", "noeviction")
        with project.stream.running() as process:
            project.drain(process)
            (rows,) = client.scan_iter("headrace:test:{*}:rows/by_user")
            client.delete(rows)
            with pytest.raises(StoreError, match=r"lost headrace:test:.*rows/by_user.*headrace features rebuild"):
                project.rows().read("by_user", pa.array(["u1"]))
            stopped_for_a_rebuild(project, process)
    rebuilt(project)


@pytest.mark.slow
def test_a_redis_that_comes_back_older_stops_the_stream_which_a_rebuild_mends(
    project: Project, redis: RedisServer
) -> None:
    """It is killed, and starts with the files of some batches ago, as one that did not write its last second."""
    project.send(200)
    older = redis.folder.with_name("older")
    with project.stream.running() as process:
        project.drain(process)
        with Redis.from_url(redis.url) as client:
            client.bgrewriteaof()
            project.stream.wait(process, lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        shutil.copytree(redis.folder, older)
        project.send(200)
        project.drain(process)
        redis.kill()
        shutil.rmtree(redis.folder)
        shutil.copytree(older, redis.folder)
        redis.start()
        project.send(50)
        stopped_for_a_rebuild(project, process)
    rebuilt(project)
