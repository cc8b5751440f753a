"""Everything that was sent ends once, as what it is, through a real broker, Spark and stores, crashes among it."""

from __future__ import annotations

import importlib.util
import json
import signal
from pathlib import Path

import pytest
from shop_project import Project
from stream_process import DEADLINE_S

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def malformed() -> list[bytes | None]:
    """A record of each malformed class; the corpus has a test of its own."""
    path = ROOT / "tests" / "unit" / "test_malformed_events.py"
    spec = importlib.util.spec_from_file_location("malformed_corpus", path)
    if spec is None or spec.loader is None:
        pytest.fail(f"{path} is not there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [message for message, _ in module.DEAD_JSON.values()]


@pytest.fixture
def project(tmp_path: Path, kafka: str, spark_jars: list[Path], unique_name: str, seed: int) -> Project:
    return Project(tmp_path / "project", kafka, spark_jars[0].parent.parent, unique_name, seed)


def test_every_record_ends_once_as_what_it_is_and_a_rebuild_from_the_archive_says_the_same(
    project: Project, malformed: list[bytes | None]
) -> None:
    """Features equal the core's, the table has the valid and the late, the dead letters the rest with reasons.

    So it stays while history is imported and tables are compacted; the rebuilt rows have that history, too, once.
    """
    project.send(600, malformed)
    stream = project.stream
    with stream.running() as process:
        project.drain(process)
        project.check()
        with stream.running() as second:
            assert second.wait(60) != 0
        assert "nobody else to drive its stream" in stream.said()
        history = project.import_history(500)
        project.run("tables", "compact")
        project.send(100, malformed)
        project.drain(process)
        project.check()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, stream.said()
    assert stream.unfinished() == 0
    assert stream.status()["state"] == "stopped"
    first = project.rows().current("by_user")
    project.run("features", "rebuild", "--json")
    made = project.rows().current("by_user")
    assert made not in (None, first)
    told = {"generation": str(made), "views": list(project.repo.views), "by_stream": False, "live": True}
    assert json.JSONDecoder().raw_decode(project.answered)[0] == told
    for view in project.repo.views.values():
        project.check_rows(view, history)


FOLD_PLACES = ["after letters", "before publish", "after publish", "after remember", "before rows", "after rows"]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_driver_that_is_killed_between_effects_loses_nothing_and_does_nothing_twice(
    project: Project, malformed: list[bytes | None], kills: int
) -> None:
    """kill -9 at seeded places, each with a batch that runs again; then the same recount."""
    places = ["after archive", *project.rng.choices(FOLD_PLACES, k=kills - 1)]
    again = 0
    for place in places:
        project.send(200, malformed)
        with project.stream.running(crash_at=f"{place}:{project.rng.randint(1, 3)}") as process:
            assert process.wait(DEADLINE_S) == -signal.SIGKILL, (place, project.stream.said())
        again += project.stream.unfinished()
    assert again >= len(places)
    with project.stream.running() as process:
        project.drain(process)
        project.check()
