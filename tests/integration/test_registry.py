"""The registry's workflow in a real MLflow: verdicts, promotion, rollback, and what the command line tells of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow_marks import MLFLOW_TEST
from small_shop import model

from features.errors import ArtefactError, StoreError, UsageError
from headrace.cli import QUIET
from headrace.commands.models.models import models
from headrace.commands.models.register import register as own_register
from headrace.commands.models.train import train
from models.recommender.artefact import load
from models.tags import CHALLENGER, CHAMPION
from training.judging.record import input_names, signature
from training.registry import MLMODEL, SIGNATURE, ModelRegistry, Version

pytestmark = MLFLOW_TEST
NAME = "shop"
REPO = Path(__file__).resolve().parents[2] / "feature_repo"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A project with a registry of four versions: 1, 2 and 3 passed the gate, 4 did not."""
    root = tmp_path_factory.mktemp("project")
    (root / "feature_repo").symlink_to(REPO)
    registry = ModelRegistry("sqlite:///mlruns/mlflow.db", root)
    for number in range(1, 5):
        made = model()
        manifest = made.manifest.model_copy(update={"created_ms": number})
        record = {SIGNATURE: json.dumps(signature(manifest)).encode()}
        version = registry.register(replace(made, manifest=manifest), {}, {}, record)
        registry.judge(version, number < 4, f"reason {number}")
    return root


@pytest.fixture
def registry(root) -> ModelRegistry:
    """None is champion, and none was."""
    registry = ModelRegistry("sqlite:///mlruns/mlflow.db", root)
    for version in registry.versions(NAME):
        for tag in {"champion_since_ms", "was_champion_sha256"} & set(version.tags):
            registry.client.delete_model_version_tag(NAME, version.version, tag)
        for alias in version.aliases:
            registry.drop_alias(NAME, alias)
    return registry


@pytest.fixture
def nobody(tmp_path):
    """The project of tmp_path has a registry at an address where nobody answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and never listens
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "settings.toml").write_text(f'[mlflow]\ntracking_uri = "{address}"\n')
        yield


def champion(registry: ModelRegistry) -> str:
    found = registry.find(NAME, CHAMPION)
    assert isinstance(found, Version)
    return found.version


def command(root: Path, *words: str):
    return CliRunner().invoke(models, [*words, "--root", str(root)], catch_exceptions=False)


def test_mlflow_shows_what_a_version_takes_and_nothing_that_serves_reads_that_file(registry, tmp_path, monkeypatch):
    from mlflow.models import get_model_info

    version = registry.get(NAME, "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    told = get_model_info(f"models:/{NAME}/1")
    assert told.signature.inputs.input_names() == list(input_names(model().manifest))
    assert told.signature.outputs.input_names() == ["score"]
    assert "python_function" not in told.flavors, "what MLflow would load and run"
    folder = registry.download(version, tmp_path / "changed")
    (folder / MLMODEL).write_text("nonsense")
    assert load(folder, version.digest).items == model().items


def test_rollback_goes_back_champion_by_champion(registry):
    for number, version in enumerate("123"):
        registry.promote(registry.get(NAME, version), 1_000 + number)
    assert champion(registry) == "3"
    assert [registry.rollback(NAME).version for _ in range(2)] == ["2", "1"]
    with pytest.raises(UsageError, match="none before it"):
        registry.rollback(NAME)
    assert champion(registry) == "1"


def test_what_was_left_by_a_rollback_is_not_what_a_later_one_comes_back_to(registry):
    registry.promote(registry.get(NAME, "1"), 1_000)
    registry.promote(registry.get(NAME, "2"), 1_001)
    assert registry.rollback(NAME).version == "1"
    registry.promote(registry.get(NAME, "3"), 1_002)
    assert registry.rollback(NAME).version == "1", "the one that served before, not the bad one before that"
    left = registry.get(NAME, "2")
    assert (left.since_ms, left.refusal) == (0, None)
    registry.promote(left, 1_003)
    assert (champion(registry), registry.rollback(NAME).version) == ("2", "1")


def test_a_rollback_from_a_version_that_only_a_hand_made_champion_goes_to_the_last_that_was_promoted(registry):
    for number, version in enumerate("12"):
        registry.promote(registry.get(NAME, version), 1_000 + number)
    registry.set_alias(registry.get(NAME, "3"), CHAMPION)
    assert registry.rollback(NAME).version == "2"


def test_a_rollback_finds_the_champion_before_however_many_versions_came_after_it(registry, monkeypatch):
    monkeypatch.setattr("training.registry.PAGE", 1)
    registry.promote(registry.get(NAME, "1"), 1_000)
    registry.promote(registry.get(NAME, "3"), 1_001)
    assert registry.rollback(NAME).version == "1"


def test_a_version_that_the_gate_refused_is_not_promoted_and_the_alias_stays(registry):
    registry.promote(registry.get(NAME, "1"), 1)
    with pytest.raises(UsageError, match="reason 4"):
        registry.promote(registry.get(NAME, "4"), 2)
    assert champion(registry) == "1"


def test_promotion_and_rollback_are_one_command_each_and_the_list_says_why(root, registry):
    registry.set_alias(registry.get(NAME, "2"), CHALLENGER)
    assert "version 1 is the champion" in command(root, "promote", "1", "--name", NAME).stdout
    promoted = json.loads(command(root, "promote", "challenger", "--name", NAME, "--json").stdout)
    assert (promoted["version"], promoted["may_serve"]) == ("2", True)
    assert set(promoted["aliases"]) == {CHALLENGER, CHAMPION}
    assert "version 1 is the champion again" in command(root, "rollback", "--name", NAME).stdout
    listed = {one["version"]: one for one in json.loads(command(root, "list", "--json").stdout)["models"]}
    assert (listed["4"]["may_serve"], listed["4"]["reason"]) == (False, "the gate refused it: reason 4")
    assert (listed["3"]["may_serve"], listed["3"]["reason"]) == (True, "reason 3")
    assert "refused: the gate refused it: reason 4" in command(root, "list").stdout


def test_a_list_that_is_cut_says_so_and_a_whole_one_does_not(root):
    cut, whole = (command(root, "list", "--json", "--limit", str(most)) for most in (3, 4))
    assert [one["version"] for one in json.loads(cut.stdout)["models"]] == ["4", "3", "2"]
    assert "the 3 newest; there are older ones" in cut.stderr
    assert (len(json.loads(whole.stdout)["models"]), whole.stderr) == (4, "")


@pytest.mark.parametrize("version", ["99", "nobody"])
def test_a_version_that_is_not_there_is_named(root, registry, version):
    with pytest.raises(UsageError, match=version):
        command(root, "promote", version, "--name", NAME)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "1", "99", "--name", NAME], "99"),
        (["drift", "--name", NAME], "an alias that it has; got champion"),
        (["drift", "--name", "cards"], "an alias that it has; got champion"),
    ],
)
def test_a_version_is_looked_for_before_an_event_is_read(root, registry, words, said):
    with pytest.raises(UsageError, match=said):  # and not that there are no events
        command(root, *words)


def test_a_model_of_ones_own_is_looked_at_before_an_event_is_read(root, tmp_path):
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    for folder, said in ((tmp_path, "a signature that names its inputs"), (tmp_path / "absent", "an MLflow model")):
        with pytest.raises(ArtefactError, match=said):
            CliRunner().invoke(own_register, [str(folder), "--trust", "--root", str(root)], catch_exceptions=False)


def test_a_name_that_no_model_can_have_is_of_none(root):
    assert command(root, "list", "shop's").stdout == "none\n"


def test_a_registry_that_does_not_answer_is_said_to_be_so(nobody, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with pytest.raises(StoreError, match="an MLflow registry that answers"):
        command(tmp_path, "list")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


@pytest.mark.parametrize("name", ["shop-recommender", "cards"])
def test_a_training_asks_the_registry_before_it_reads_an_event(nobody, name, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "feature_repo").symlink_to(REPO)
    with pytest.raises(StoreError, match="an MLflow registry that answers"):  # and not that there are no events
        CliRunner().invoke(train, [name, "--root", str(tmp_path)], catch_exceptions=False)


def test_mlflow_says_what_is_wrong_and_nothing_else():
    program = """if True:
        import logging, headrace.cli
        try:
            headrace.cli.main()
        except SystemExit:
            from mlflow.utils.file_utils import ArtifactProgressBar
            with ArtifactProgressBar.files("Downloading artifacts", 1) as bar:
                bar.update()
            logging.getLogger("mlflow.store").info("Creating initial MLflow database tables...")
            logging.getLogger("mlflow.store").error("no room")
    """
    ours = {name: value for name, value in os.environ.items() if name not in QUIET}
    words = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=ours)
    (line,) = done.stderr.splitlines()
    assert line.endswith("ERROR mlflow.store: no room")


@pytest.mark.parametrize(
    ("typed", "meant"), [("carrds", "cards"), ("shops", "shop"), ("shop-recomender", "shop-recommender")]
)
def test_a_name_that_is_all_but_one_that_there_is_is_asked_back_about(root, typed, meant):
    with pytest.raises(UsageError, match=f"Did you mean '{meant}'.*--set name={typed}"):
        CliRunner().invoke(train, [typed, "--root", str(root)], catch_exceptions=False)


@pytest.mark.parametrize("words", [["books"], ["shop"], ["shop-recommender"], ["--set", "name=carrds"]])
def test_a_name_that_is_known_or_new_or_meant_is_trained(root, words):
    with pytest.raises(UsageError, match="table 'activity'"):  # by events, of which there are none
        CliRunner().invoke(train, [*words, "--root", str(root)], catch_exceptions=False)
