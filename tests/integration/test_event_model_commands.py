"""Commands on an event model of a project: trained, recorded, compared, and trained anew where events have moved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_cards import cards_in, simulated

from features.definitions.repo import load_repo
from headrace.cli import cli
from models.event_model.columns import EventModelColumns
from models.event_model.scorers import EventClassifier
from models.tags import CHAMPION
from training.data.labelled_events import EventTrainingSettings, examples_between, split_events
from training.event_model.fit import fit, registered
from training.event_model.gate import EventJudge
from training.event_model.training import EventTraining
from training.registry import ModelRegistry

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
ASKED = EventModelColumns.of(REPO, REPO.models["cards"])
SETTINGS = EventTrainingSettings(iterations=20, learning_rate=0.1)
QUICK = ("--set", "iterations=20", "--set", "learning_rate=0.1")
DRIFT = ("models", "drift", "--model", "cards", *QUICK)
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def events():
    return simulated(REPO, customers=120)


@pytest.fixture(scope="module")
def root(events, tmp_path_factory) -> Path:
    """A project with a champion, which 'headrace train cards' made."""
    root = cards_in(tmp_path_factory.mktemp("cards") / "project", events, REPO)
    report = told(root, "train", "cards", *QUICK)
    assert (report["promoted"], report["version"]) == (True, "1"), report["reason"]
    return root


@pytest.fixture(scope="module")
def registry(root) -> ModelRegistry:
    return ModelRegistry("sqlite:///mlflow.db", root)


def run(root: Path, *words: str) -> Result:
    place = () if words[0] == "status" else ("--root", str(root))
    return CliRunner().invoke(cli, [*words, *place])


def told(root: Path, *words: str) -> dict[str, Any]:
    """What a command says as JSON, however it ends."""
    done = run(root, *words, "--json")
    assert done.stdout, done.output
    return dict(json.loads(done.stdout))


def test_a_training_is_recorded_with_what_it_came_from_and_pictures(root, registry) -> None:
    version = registry.get("cards", "1")
    assert json.loads(version.tags["data_versions"]) == {"transactions": 0, "fraud_labels": 0}
    assert set(json.loads(version.tags["schema_hashes"])) == {view.name for view in ASKED.source.views}
    signature = json.loads(registry.recorded(version, "signature.json") or b"")
    assert "terminal_risk_30d_delay_7d" in signature["inputs"]
    for name in ("precision_recall.png", "calibration.png", "importance.png"):
        assert (registry.recorded(version, name) or b"").startswith(b"\x89PNG")


def test_two_versions_are_compared_on_the_same_events_with_an_interval(root, registry, events) -> None:
    parts = split_events(events, ASKED.model, SETTINGS)
    seen = examples_between(events, ASKED, parts.start, parts.middle)
    misled = replace(seen, positive=np.random.default_rng(0).permutation(seen.positive))
    judge = EventJudge.of(EventTraining(events, ASKED, SETTINGS))
    model = judge.fetched(registry, registry.get("cards", "1"))
    other = registered(registry, EventClassifier(model.manifest, fit(misled, ASKED, SETTINGS)), SETTINGS)
    words = ("models", "compare", "1", other.version, "--model", "cards", *QUICK)
    report = told(root, *words)
    assert report["rows"][0]["ap"] == pytest.approx(registry.get("cards", "1").metrics["ap"])
    assert report["difference"]["low"] > 0
    assert report["groups"] <= 120 < report["positives"] < report["events"]
    assert f"over {report['groups']} groups of {report['events']:,} events" in run(root, *words).stdout


def test_drift_is_told_and_trains_the_model_anew(root, registry, monkeypatch) -> None:
    psi = told(root, *DRIFT)["psi"]
    assert set(psi) == {*ASKED.model.input_names, "score"}
    monkeypatch.setattr("training.judging.psi.ALARM", max(psi.values()))
    assert run(root, *DRIFT).exit_code == 0
    calm = told(root, "train", "cards", "--when-drifted", *QUICK)
    assert (calm["trained"], calm["version"]) == (False, "1")
    monkeypatch.setattr("training.judging.psi.ALARM", -1.0)
    alarmed = run(root, *DRIFT)
    assert (alarmed.exit_code, "Train anew: headrace train cards." in alarmed.stderr) == (1, True)
    monkeypatch.chdir(root)
    assert "Train anew: headrace train cards" in run(root, "status").stdout
    assert 'headrace_model_drift_alarm{model="cards",version="1"} 1' in run(root, "status", "--metrics").stdout
    assert told(root, "status")["event_drift"]["cards"]["alarming"]
    anew = run(root, "train", "cards", "--when-drifted", *QUICK)
    assert "average precision, less that of champion: +0.0000" in anew.stdout
    (newest, *_) = registry.versions("cards")
    assert CHAMPION in newest.aliases
