"""A canary and a challenger beside the champion, over HTTP: who is answered by which, and what a failing one costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from serving_world import MODEL, REPO, Http, Models, fill, plain, settings, until

from features.definitions.repo import load_repo
from features.errors import UsageError
from features.online_store.sqlite.rows import SqliteRows
from headrace.commands.models.models import models as command
from models.tags import CANARY_STOPPED, CHALLENGER

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
USERS = [f"u{number}" for number in range(1, 100)]
"""With a share of one half, that none or all of them are the canary's happens once in 10^29 times."""


@dataclass
class World:
    folder: Path
    models: Models
    http: Http
    good: str
    failing: str

    def command(self, *words: str) -> str:
        words = (*words, "--name", MODEL, "--root", str(self.folder))
        return CliRunner().invoke(command, words, catch_exceptions=False).output

    def answered(self) -> dict[str, tuple[str, str, bool]]:
        """User → version, alias, and whether that was a fallback."""
        answers = {user: self.http.recommend(user_id=user, k=3) for user in USERS}
        return {
            user: (one["model"]["version"], one["model"]["alias"], one["fallback"]["used"])
            for user, one in answers.items()
        }

    def state(self) -> str:
        return self.http.ask("/v1/models")[1]["canary_state"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("project")
    (root / "settings.toml").write_text('[mlflow]\ntracking_uri = "sqlite:///mlflow.db"\n')
    repo = load_repo(REPO)
    models = Models(root, repo)
    fill(SqliteRows(root / "online.db"), repo, others=len(USERS) - 1)
    models.promote(models.register(step=1))
    good = models.register(step=2)
    # It loads and answers its golden questions, and fails for whoever the store knows.
    failing = models.register(step=3, recent_feature="not_there")
    with plain(settings(root / "online.db", models.uri, shadow_share=1.0)) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        yield World(root, models, http, good, failing)


def test_the_canary_answers_its_users_each_time_and_the_champion_the_others(world):
    world.command("canary", world.good, "--share", "0.5")
    until(lambda: "answers 50%" in world.state(), "the canary")
    first = world.answered()
    assert set(first.values()) == {("1", "champion", False), (world.good, "canary", False)}
    assert world.answered() == first
    named = world.http.recommend(user_id="u1", model="champion")["model"]
    assert (named["version"], named["alias"]) == ("1", "champion")
    assert "version 2 answers" in world.http.ask("/readyz")[1]["canary"]
    world.command("canary", "--stop")
    until(lambda: world.state() == "none", "the end of the canary")
    assert set(world.answered().values()) == {("1", "champion", False)}


def test_a_canary_that_fails_costs_no_user_an_answer_stops_itself_and_begins_anew_when_told(world):
    world.command("canary", world.failing, "--share", "0.5")
    until(lambda: f"version {world.failing} answers" in world.state(), "the canary")
    until(
        lambda: set(world.answered().values()) == {("1", "champion", False)} and "stopped" in world.state(), "its stop"
    )
    assert "answers failed" in world.state()
    assert f'headrace_canary_stopped{{version="{world.failing}"}} 1.0' in world.http.text("/metrics")
    until(lambda: CANARY_STOPPED in world.models.tags(world.failing), "the tag")
    listed = json.loads(CliRunner().invoke(command, ["list", "--root", str(world.folder), "--json"]).stdout)
    (told,) = [one["reason"] for one in listed["models"] if one["version"] == world.failing]
    assert "a service stopped it as the canary" in told
    world.command("canary", world.failing)
    assert CANARY_STOPPED not in world.models.tags(world.failing)
    until(lambda: "answers 5%" in world.state(), "the new beginning")
    world.command("canary", "--stop")


def test_neither_the_champion_nor_what_has_no_verdict_becomes_the_canary(world):
    with pytest.raises(UsageError, match="another version than the champion"):
        world.command("canary", "1")
    version = world.models.register_folder(world.folder / "model2", {})
    with pytest.raises(UsageError, match="let through"):
        world.command("canary", version)
    with pytest.raises(UsageError, match="at most"):
        world.command("canary", world.good, "--share", "0.9")


def test_a_promoted_canary_is_no_canary_any_more(world):
    world.command("canary", world.good)
    world.command("promote", "canary")
    assert "canary" not in world.command("list")
    world.command("promote", "1")


def test_a_challenger_is_asked_and_never_answers(world):
    from mlflow import MlflowClient

    MlflowClient(world.models.uri).set_registered_model_alias(MODEL, CHALLENGER, world.good)
    until(lambda: world.http.ask("/v1/models")[1]["challenger"], "the challenger")
    scored = 'headrace_shadow_total{status="scored"}'
    asked = [world.http.recommend(user_id="u1", k=3)["model"]["version"]]
    until(
        lambda: (
            asked.append(world.http.recommend(user_id="u1")["model"]["version"])
            or scored in world.http.text("/metrics")
        ),
        "a score",
    )
    assert set(asked) == {"1"}
