"""An anomaly model: learned without labels, gated by its rate of alerts, the same by stream, history and HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow_marks import MLFLOW_TEST
from scored_stream import Events, decided_by_stream
from sensors import SENSORS, sensors_repo, simulated_readings
from serving_world import STREAM_ID, Http, plain, settings

from features.definitions import Anomaly, FeatureRepo
from features.errors import DefinitionError
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from models.event_champion import EventAlias
from models.event_model import EventModelColumns, LoadedEventModel, alerts_of, load_event_model
from models.event_model.artefact import golden_scores
from models.needs import model_needs
from serving.scoring import event_of
from training.data import AnomalyTrainingSettings
from training.event_model import EventJudge, EventTraining
from training.event_model.drift import measure_drift
from training.event_model.fit import TrainedEvents, train_events
from training.event_model.gate import compared
from training.judging import Registration
from training.registry import ModelRegistry

SETTINGS = AnomalyTrainingSettings()
pytestmark = MLFLOW_TEST


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def repo(root: Path) -> FeatureRepo:
    return sensors_repo(root / "feature_repo")


@pytest.fixture(scope="module")
def asked(repo: FeatureRepo) -> EventModelColumns:
    return EventModelColumns.of(repo, repo.models["unusual"])


@pytest.fixture(scope="module")
def events(repo: FeatureRepo) -> Events:
    return simulated_readings(repo)


@pytest.fixture(scope="module")
def registry(root: Path) -> ModelRegistry:
    return ModelRegistry("sqlite:///mlflow.db", root)


@pytest.fixture(scope="module")
def trained(events: Events, asked: EventModelColumns, registry: ModelRegistry) -> TrainedEvents:
    without = {name: table for name, table in events.items() if name == "readings"}
    return train_events(EventTraining(without, asked, SETTINGS), Registration(registry, 1))


@pytest.fixture(scope="module")
def loaded(trained: TrainedEvents, registry: ModelRegistry, asked: EventModelColumns) -> LoadedEventModel:
    found = EventAlias(registry.uri, asked).latest()
    assert found is not None
    return found


def test_without_labels_a_model_that_keeps_its_rate_of_alerts_is_the_champion(trained: TrainedEvents) -> None:
    assert trained.promoted, trained.reason
    assert "without labels to judge by" in trained.reason
    assert [row["model"] for row in trained.rows] == ["three_sigma", "isolation_forest", "model"]
    assert trained.rows[-1]["alerts_a_week"] < 3
    assert trained.threshold is not None


def test_one_that_surely_alerts_more_often_than_is_stated_is_not(events, asked, trained, tmp_path) -> None:
    """Learned from quiet weeks; every sensor then has more alerts than its rate."""
    rare = replace(asked, model=replace(asked.model, alert=replace(asked.model.alert, a_week=0.01)))
    judged = train_events(
        EventTraining(events, rare, SETTINGS), Registration(ModelRegistry("sqlite:///mlflow.db", tmp_path), 1)
    )
    assert not judged.promoted
    assert "alerts a week and group where 0.01 are stated" in judged.reason


def test_with_labels_it_is_judged_by_incidents_beside_both_baselines(events, repo, tmp_path) -> None:
    columns = EventModelColumns.of(repo, repo.models["judged"])
    training = EventTraining(events, columns, SETTINGS)
    done = train_events(training, Registration(ModelRegistry("sqlite:///mlflow.db", tmp_path), 1))
    f1 = {row["model"]: row["f1"] for row in done.rows}
    assert done.tested["positives"] > 0
    assert f1["model"] > max(f1["three_sigma"], f1["isolation_forest"])
    test = EventJudge.of(training).test
    incidents = len({int(group) for group in test.group[test.positive]})
    assert incidents <= SENSORS
    assert done.rows[-1]["recall"] == 1.0


@pytest.mark.parametrize("seed", [1, 2])
def test_the_stream_scores_as_history_does_whatever_the_batches(repo, asked, events, loaded, tmp_path, seed) -> None:
    of_views = {"readings": events["readings"]}
    decided = decided_by_stream(repo, asked, loaded, of_views, tmp_path, seed)
    assert decided["event_id"].to_pylist() == events["readings"]["event_id"].to_pylist()
    expected = loaded.model.scores(asked.inputs(asked.source.matrix_before(events["readings"], events)))
    np.testing.assert_allclose(decided["score"].to_numpy(), expected, atol=1e-9)
    assert (expected >= loaded.model.manifest.threshold).sum() > 0
    assert [bool(rules) for rules in decided["rules"].to_pylist()] == (expected > 2.0).tolist()
    alerts = [alert for alert in alerts_of(decided) if alert["source"] == "model:unusual"]
    assert len(alerts) == int((expected >= loaded.model.manifest.threshold).sum())
    for alert in json.loads(json.dumps(alerts)):
        assert sum(reason["effect"] for reason in alert["reasons"]) == pytest.approx(alert["score"])
        first = next(reason for reason in alert["reasons"] if reason["feature"] == "value")
        assert first["value"] == alert["event"]["value"] != first["usual"]


def test_the_first_events_of_an_entity_have_the_score_0_and_no_error(asked, events, loaded) -> None:
    matrix = asked.source.matrix_before(events["readings"], events)
    scores = loaded.model.scores(asked.inputs(matrix))
    count = matrix[:, asked.model.needed.index("sensor_reading_count_7d")]
    assert (scores[~(count >= 48)] == 0).all()
    assert (~(count >= 48)).sum() >= 48 * SENSORS
    unseen = np.full((1, len(asked.model.input_names)), np.nan)
    assert loaded.model.scores(unseen).tolist() == [0.0]


def test_the_artefact_is_numbers_alone_and_answers_as_it_was_made(trained, registry, repo, loaded, tmp_path) -> None:
    folder = registry.download(trained.version, tmp_path)
    assert sorted(path.name for path in folder.iterdir() if path.suffix) == ["habits.json", "manifest.json"]
    model = load_event_model(folder, trained.version.digest)
    assert golden_scores(model) == loaded.model.manifest.golden
    needs = {need.view: need.schema_hash for need in model_needs(registry.uri, tmp_path) if need.model == "unusual"}
    assert needs == {"sensor_habits": repo.views["sensor_habits"].schema_hash}


def test_its_drift_is_measured_and_two_versions_are_compared(trained, events, asked, registry) -> None:
    training = EventTraining(events, asked, SETTINGS)
    assert "score" in measure_drift(EventJudge.of_newest(training), registry, trained.version)["psi"]
    report = compared(EventJudge.of(training), registry, (trained.version, trained.version))
    assert report["difference"]["metric"] == "alerts_a_week"
    assert EventJudge.of(training).registered(registry, trained.version).promoted


@pytest.fixture(scope="module")
def http(trained, registry, asked, events, root) -> Iterator[Http]:
    rows = SqliteRows(store := root / "online.db")
    views = list(asked.source.views)
    end_ms = int(events["readings"]["known_at"].to_numpy()[-1])
    build_generation(rows.generation(STREAM_ID), views, STREAM_ID, events, Marker(0, {}, {}, 0), end_ms)
    for view in views:
        rows.set_current(view.name, STREAM_ID)
    config = settings(store, registry.uri).model_copy(update={"repo": str(root / "feature_repo")})
    with plain(config) as client:
        yield client


def test_the_service_answers_with_the_score_that_history_gives(http, events, asked, loaded) -> None:
    at = int(events["readings"]["known_at"].to_numpy()[-1])
    for value, is_flagged in ((9.0, False), (90.0, True)):
        fields = {"sensor_id": "s0", "value": value}
        status, answer, _ = http.ask("/v1/score", {"model": "unusual", "event": fields, "as_of": at})
        assert status == 200, answer
        matrix = asked.source.matrix(event_of(fields, asked, at), np.array([at]), events)
        assert answer["score"] == pytest.approx(loaded.model.scores(asked.inputs(matrix))[0], abs=1e-9)
        assert answer["flagged"] == is_flagged
    status, answer, _ = http.ask("/v1/score", {"model": "unusual", "event": {"sensor_id": "new", "value": 1.0}})
    assert (status, answer["score"], answer["flagged"]) == (200, 0.0, False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"value": "sensor_id"}, "numeric field of its stream"),
        ({"habits": []}, "at least one Habit"),
        ({"habits": ["value"]}, "Habit"),
        ({"group": "owner"}, "field of its stream"),
        ({"alert": 1}, "FalseAlerts"),
        ({"least": {"value": "much"}}, "least number"),
    ],
)
def test_a_wrong_definition_says_what_is_required(asked, changed: dict[str, object], said: str) -> None:
    made: Anomaly = asked.model
    names = ("name", "stream", "value", "habits", "group", "alert", "least")
    with pytest.raises(DefinitionError, match=said):
        Anomaly(**{**{name: getattr(made, name) for name in names}, **changed})
