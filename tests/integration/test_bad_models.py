"""Bad models, each registered and given the alias by hand: none ever answers, and the list of models says why."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bad_models import BAD, bad
from click.testing import CliRunner
from serving_world import MODEL, REPO, Http, Models, fill, plain, settings, until
from shop_history import SETTINGS, shop
from shop_training import SHOP

from features.definitions.repo import load_repo
from features.errors import ArtefactError
from features.online_store.sqlite.rows import SqliteRows
from headrace.commands.models.models import models as command
from models.recommender.artefact import Artefact
from models.tags import DIGEST_TAG, verdict_tags
from training.data.dataset import Domain, Events
from training.judging.gate import scoring_ms
from training.judging.judge import Judge
from training.judging.registration import Registration
from training.refresh import refresh
from training.registry import ModelRegistry
from training.run import TrainingRun

# Warnings of MLflow's own code are not news about ours.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
SLOW_BY = 30
"""Between a good ranker's time, also on a machine that is busy, and that of one with two hundred times its trees."""


@dataclass
class World:
    """A trained champion that serves, a client that asks all the time, and a registry that anybody may write to."""

    folder: Path
    http: Http
    models: Models
    registry: ModelRegistry
    good: Artefact
    judge: Judge
    answered: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)

    def ask(self) -> None:
        status, answer, _ = self.http.ask("/v1/recommend", {"user_id": "u1", "k": 3})
        self.statuses.add(status)
        self.answered.add(answer["model"]["version"])

    def refused(self, version: str) -> str:
        """Gives it the alias by hand, and returns why the service does not follow; then the champion has it again."""
        self.models.promote(version)
        found: dict[str, str] = {}

        def told() -> bool:
            found.update(self.http.ask("/v1/models")[1]["refused"] or {})
            return found.get("version") == version

        until(told, f"the refusal of version {version}", 60)
        self.models.promote("1")
        return found["reason"]


def trained(root: Path, events: Events, domain: Domain) -> tuple[ModelRegistry, Artefact]:
    registry = ModelRegistry(f"sqlite:///{root / 'mlflow.db'}", root)
    run = TrainingRun.of(events, domain, SETTINGS.model_copy(update={"name": MODEL}))
    done = refresh(run, Registration(registry, 7))
    assert done.verdict.promoted, done.verdict.reason
    return registry, done.trained.artefact


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from deltalake import write_deltalake

    root = tmp_path_factory.mktemp("project")
    repo = load_repo(REPO)
    (root / "feature_repo").symlink_to(REPO)
    (root / "settings.toml").write_text('[mlflow]\ntracking_uri = "sqlite:///mlflow.db"\n')
    domain = Domain.of(SHOP)
    events = {"activity": shop(domain)}
    write_deltalake(root / ".headrace" / "offline" / "activity", events["activity"])
    registry, good = trained(root, events, domain)
    budget = {"scoring_budget_ms": SLOW_BY * scoring_ms(good)}
    judge = Judge.of_events(events, domain, SETTINGS.model_copy(update=budget))
    models = Models(root, repo)
    fill(SqliteRows(root / "online.db"), repo)
    with plain(settings(root / "online.db", models.uri)) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        yield World(root, http, models, registry, good, judge)


@pytest.fixture(autouse=True)
def asked(world: World) -> Iterator[None]:
    """While a test goes on, somebody asks; whatever it does, version 1 alone answers, and always."""
    ending = threading.Event()

    def client() -> None:
        while not ending.is_set():
            world.ask()

    asking = threading.Thread(target=client)
    asking.start()
    yield
    ending.set()
    asking.join()
    assert (world.answered, world.statuses) == ({"1"}, {200})


def listed(world: World, version: str) -> dict:
    done = CliRunner().invoke(command, ["list", "--root", str(world.folder), "--json"], catch_exceptions=False)
    (found,) = [one for one in json.loads(done.stdout)["models"] if one["version"] == version]
    return found


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_model_with_the_alias_never_answers_and_the_list_says_why(world, kind):
    source = world.folder / kind.replace(" ", "-")
    version = world.models.register_folder(source, bad(world.good, kind, source))
    assert "no verdict" in world.refused(version)
    assert "no verdict" in listed(world, version)["reason"]

    found = world.registry.get(MODEL, version)
    verdict, _ = world.judge.registered(world.registry, found)
    world.registry.judge(found, verdict.promoted, verdict.reason)
    told = listed(world, version)
    assert (told["may_serve"], verdict.promoted) == (False, False)
    assert BAD[kind] in told["reason"]


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("slow", "worse by five per cent")])
def test_a_verdict_that_somebody_wrote_by_hand_does_not_make_a_broken_model_answer(world, kind):
    source = world.folder / f"forged-{kind.replace(' ', '-')}"
    tags = bad(world.good, kind, source)
    version = world.models.register_folder(source, tags | verdict_tags(tags[DIGEST_TAG], True, "trust me"))
    reason = world.refused(version)
    assert BAD[kind] in reason
    until(lambda: BAD[kind] in listed(world, version)["reason"], "the reason in the list")


def test_promote_judges_what_has_no_verdict_and_leaves_the_champion_where_it_refuses(world):
    source = world.folder / "by-command"
    version = world.models.register_folder(source, bad(world.good, "answers NaN", source))
    words = ["promote", version, "--name", MODEL, "--root", str(world.folder)]
    options = ["--set", "target_events=50", "--set", "ease_l2=20"]
    with pytest.raises(ArtefactError, match="finite scores"):
        CliRunner().invoke(command, [*words, *options], catch_exceptions=False)
    assert world.registry.find(MODEL).version == "1"
    assert "finite scores" in listed(world, version)["reason"]


def test_a_registered_model_that_the_gate_lets_through_may_be_compared_and_promoted(world):
    source = world.folder / "same-again"
    version = world.models.register_folder(source, bad(world.good, "nothing is wrong", source))
    options = ["--name", MODEL, "--root", str(world.folder), "--set", "target_events=50", "--set", "ease_l2=20"]
    done = CliRunner().invoke(command, ["compare", version, "champion", "--json", *options], catch_exceptions=False)
    report = json.loads(done.stdout)
    assert (report["difference"]["mean"], report["difference"]["low"]) == (0.0, 0.0)
    assert [row["version"] for row in report["rows"]] == [version, "1"]
    done = CliRunner().invoke(command, ["drift", "--json", *options], catch_exceptions=False)
    assert done.exit_code == 0, "the events are those that it was tested on"
    assert max(json.loads(done.stdout)["psi"].values()) < 1e-9
    verdict, rows = world.judge.registered(world.registry, world.registry.get(MODEL, version))
    assert verdict.promoted, verdict.reason
    assert [row.model for row in rows] == ["popular", "model", "champion"]
