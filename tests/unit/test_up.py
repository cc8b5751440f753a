"""`headrace up`: what its line says, and when it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import headrace
from headrace.cli import cli
from headrace.commands.up import (
    ATTEMPTS,
    LIVED_S,
    ProjectLoop,
    RestartedPart,
    Schedule,
    has_sinks,
    status_line,
    trainings_of,
)
from headrace.loop import LoopError, own_repo
from headrace.settings import AlertsSettings, Settings

STARTING = {"state": "absent"}
FOLD = {"state": "running", "error": None, "lag": 1_234, "rows_per_s": 200.4, "age": {"p50_ms": 219.9, "p99_ms": 445.0}}


def running(**changed: object) -> dict[str, object]:
    return {"state": "running", "queries": {"fold": {**FOLD, **changed}}}


def parts(*told: object) -> list[str]:
    return status_line(*told).split(" · ")[1:]


@pytest.fixture
def project(tmp_path: Path) -> ProjectLoop:
    """A project in a folder without settings or definitions, where every headrace command fails at once."""
    settings = Settings()
    return ProjectLoop(tmp_path, settings, tmp_path / settings.home, tmp_path / "feature_repo", 8123, "", "127.0.0.1:9")


def archive(project: ProjectLoop, stream: str = "activity") -> None:
    log = project.root / project.settings.offline.path / stream / "_delta_log"
    log.mkdir(parents=True)
    (log / "0.json").write_text("{}")


def test_the_line_says_what_starts():
    assert parts(STARTING, None, "no training") == ["stream starts", "service starts", "no training"]


def test_the_line_says_how_the_stream_and_the_service_do():
    told = parts(running(), {"model": "version 3"}, "training")
    assert told == ["200 events/s", "lag 1,234", "fresh in 220 ms", "service ready, model version 3", "training"]


def test_the_line_says_what_is_wrong_and_what_is_unknown():
    told = parts(running(lag=None, age={}, state="waiting", error="no broker"), None, "training")
    assert told[:3] == ["200 events/s", "lag unknown", "fold waiting: no broker"]


def test_it_says_nothing_of_where_data_is_to_its_parts(project):
    """They read the project's settings, as when they are started by hand."""
    ours = project.environment
    assert (ours["HEADRACE_KAFKA__BOOTSTRAP_SERVERS"], ours["HEADRACE_SERVING__PORT"]) == ("127.0.0.1:9", "8123")
    assert not {"HEADRACE_OFFLINE__PATH", "HEADRACE_MLFLOW__TRACKING_URI"} & set(ours)


def test_training_waits_for_events(project):
    training = Schedule(project, 60.0)
    training.tick(0.0)
    assert (training.running, training.state(0.0)) == (None, "training waits for events")


def test_it_never_trains_where_it_is_told_so(project):
    archive(project)
    training = Schedule(project, 0.0)
    training.tick(0.0)
    assert (training.running, training.state(0.0)) == (None, "no training")


def test_a_training_that_fails_says_where_to_look_and_the_next_comes_in_time(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(headrace.__file__).parent.parent))
    archive(project)
    training = Schedule(project, 120.0)
    training.tick(0.0)
    assert training.state(0.0) == "training"
    assert training.running is not None
    training.running.process.wait()
    training.tick(1.0)
    assert training.state(1.0) == "training failed, see train.log, again in 2 min"
    training.tick(120.0)
    assert training.running is None
    training.tick(121.0)
    assert training.running is not None
    training.stop()
    assert training.running.process.returncode is not None


def test_every_model_trains_once_there_are_the_events_that_it_is_of(project, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(headrace.__file__).parent.parent))
    project.repo = own_repo(Path(headrace.__file__).parent.parent / "feature_repo", tmp_path, domains=["shop", "cards"])
    assert {path.name for path in project.repo.glob("*.py")} == {"shop.py", "cards.py", "feast_repo.py"}
    every = trainings_of(project, 60.0, 30.0)
    verbs = [("train",), ("train", "--when-drifted"), ("train", "cards"), ("train", "cards", "--when-drifted")]
    assert [one.verb for one in every] == verbs
    recommender, _, cards, _ = every
    archive(project, "transactions")
    for one in every:
        one.tick(0.0)
    assert [one.running for one in every] == [None] * 4  # no labels of cards yet, and nothing of the shop
    archive(project, "fraud_labels")
    recommender.tick(0.0)
    cards.tick(0.0)
    assert (recommender.running, recommender.state(0.0)) == (None, "training waits for events")
    assert cards.running is not None
    assert cards.state(0.0) == "training cards"
    cards.running.process.wait()
    cards.tick(1.0)
    assert "training cards failed" in cards.last


def test_a_time_between_trainings_below_0_is_asked_wrongly():
    result = CliRunner().invoke(cli, ["up", "--train-every", "-1"], prog_name="headrace")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--train-every" in result.stderr


def test_a_part_that_fails_is_started_again_and_ends_the_whole_when_it_fails_every_time(project, capsys):
    now = 0.0
    kept = RestartedPart(project, "recommend")  # no service answers it
    for _ in range(ATTEMPTS):
        project.children[0].process.wait(60)
        kept.tick(now)
        assert project.children == []
        kept.tick(now + 0.5)
        assert project.children == []  # not at once
        now += LIVED_S / 2
        kept.tick(now)
    project.children[0].process.wait(60)
    kept.tick(now)
    with pytest.raises(LoopError, match="'recommend' requires to run; got exit 1"):
        project.check()
    assert capsys.readouterr().err.count("It starts again in") == ATTEMPTS


def test_a_part_that_was_asked_wrongly_is_not_started_again(project):
    kept = RestartedPart(project, "stream")
    project.children[0].process.wait(60)
    kept.tick(0.0)
    with pytest.raises(LoopError, match="'stream' requires to run; got exit 2"):
        project.check()


def test_alerts_are_delivered_where_there_may_be_some_and_the_settings_say_where(project):
    definitions = Path(__file__).parents[2] / "feature_repo"
    cards = replace(project, repo=definitions / "cards.py")
    assert has_sinks(cards)
    assert not has_sinks(replace(project, repo=definitions / "shop.py"))
    nowhere = project.settings.model_copy(update={"alerts": AlertsSettings(table="")})
    assert not has_sinks(replace(cards, settings=nowhere))
