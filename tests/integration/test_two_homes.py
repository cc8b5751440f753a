"""Two homes on one online store: the second is refused, whatever it would have dropped, until it takes over."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from redis_server import RedisServer, running
from shop_project import Project
from stream_process import DEADLINE_S, StreamProcess

from features.online_store.settings import read_settings_of

pytestmark = pytest.mark.integration

STORE = """project: test
provider: local
registry: registry.db
online_store: {store}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The online_store of a feature_store.yaml: one that both projects reach."""
    if request.param == "sqlite":
        yield f"{{type: headrace.feast.SqliteRowsOnlineStore, path: '{tmp_path / 'shared' / 'online.db'}'}}"
    else:
        with running(RedisServer(tmp_path / "redis")) as server:
            yield f"{{type: headrace.feast.RedisRowsOnlineStore, url: '{server.url}'}}"


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str, seed: int, store: str) -> Project:
    class SharedProject(Project):
        def rows(self) -> Any:
            return read_settings_of(self.root / "feature_repo" / "feature_store.yaml").open()

    made = SharedProject(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name, seed)
    (made.root / "feature_repo" / "feature_store.yaml").write_text(STORE.format(store=store), encoding="utf-8")
    return made


def another_home(project: Project) -> StreamProcess:
    """The same project started on a second host: its files, and a home of its own."""
    root = project.root.with_name("second")
    (root / ".headrace").mkdir(parents=True)
    (root / ".headrace" / "jars").symlink_to((project.root / ".headrace" / "jars").resolve())
    shutil.copytree(project.root / "feature_repo", root / "feature_repo")
    shutil.copy(project.root / "settings.toml", root)
    return StreamProcess(root, project.stream.bootstrap)


def refused(stream: StreamProcess, *options: str) -> str:
    """What a stream says that ends at once."""
    with stream.running(options=options) as process:
        assert process.wait(DEADLINE_S) == 1, stream.said()
    return stream.said()


def test_the_second_home_on_a_store_is_refused_and_leaves_the_firsts_rows(project: Project) -> None:
    """The second dropped the first's rows, and the first ended with an advice that dropped the second's."""
    project.send(100)
    second = another_home(project)
    with project.stream.running() as process:
        project.drain(process)
        generation = project.rows().current("by_user")
        for options in ((), ("--take-over",)):
            assert "which drives it for" in refused(second, *options)
        assert str(project.root / ".headrace") in second.said()
        project.send(50)
        project.drain(process)
        project.check()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, project.stream.said()
    assert "run 'headrace stream --take-over'" in refused(second)
    assert (project.rows().current("by_user"), project.rows().generations()) == (generation, [generation])
    with second.running(options=["--take-over"]) as process:
        second.wait(process, lambda: second.is_running(process) and second.is_drained())
        project.check_rows(project.repo.views["by_user"])
        second.wait(process, lambda: generation not in project.rows().generations())
        assert "which drives it for" in refused(project.stream)
