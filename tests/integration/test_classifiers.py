"""A classifier of several classes by a text: learned, gated by macro-F1, the same by stream, history and HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from journeys import MINUTE, START_MS, events_of
from mlflow_marks import MLFLOW_TEST
from scored_stream import Events, decided_by_stream
from serving_world import STREAM_ID, Http, plain, settings
from sklearn.metrics import f1_score

from features.definitions import Classifier, FeatureRepo, load_repo
from features.errors import ArtefactError, DefinitionError
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from models.event_champion import EventAlias
from models.event_model import ClassesScorer, EventModelColumns, LoadedEventModel, load_event_model
from models.event_model.texts import load_classes
from training.data import ClassifierTrainingSettings
from training.event_model import EventJudge, EventTraining
from training.event_model.drift import measure_drift
from training.event_model.fit import TrainedEvents, train_events
from training.judging import Registration
from training.registry import ModelRegistry

DEFINED = """
from headrace import Classifier, Count, Entity, FeatureSet, FeatureView, Rule, Stream, Window, above

topic = Entity("topic", keys={"about": "string"})
remarks = Stream("remarks", "remarks", fields={"about": "string", "words": "string", "likes": "int64"})
readers = Stream("readers", "readers", fields={"about": "string", "mood": "string"})
talk = FeatureView("talk", sets=[FeatureSet(topic, remarks, [Count()], [Window("1d", tile="1m")], name="remark")])
mood = Classifier(
    "mood", remarks, readers, "mood", "bad", ["likes", "topic_remark_count_24h"], text="words",
    rules=[Rule("surely_bad", {"score": above(0.9)})],
)
"""
WORDS = {
    "bad": ("late", "broken", "never again", "rude"),
    "good": ("great", "thank you", "fast", "kind"),
    "neither": ("monday", "a ticket", "the train", "is open"),
}
SETTINGS = ClassifierTrainingSettings()
pytestmark = MLFLOW_TEST


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def repo(root: Path) -> FeatureRepo:
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "remarks.py").write_text(DEFINED, encoding="utf-8")
    return load_repo(root / "feature_repo")


@pytest.fixture(scope="module")
def asked(repo: FeatureRepo) -> EventModelColumns:
    return EventModelColumns.of(repo, repo.models["mood"])


@pytest.fixture(scope="module")
def events(repo: FeatureRepo) -> Events:
    rng, count = np.random.default_rng(4), 3_000
    at = START_MS + np.sort(rng.integers(0, 20 * 1_440, count)) * MINUTE
    moods = rng.choice(list(WORDS), count, p=[0.5, 0.2, 0.3])
    around = rng.choice(WORDS["neither"], (count, 2))
    said = [f"{first} {rng.choice(WORDS[mood])} {last}" for mood, (first, last) in zip(moods, around, strict=True)]
    said[::10] = [""] * len(said[::10])
    about = rng.choice(["one", "two", "three"], count)
    ids = np.array([f"r-{number}" for number in range(count)])
    common = {"event_id": ids, "event_time": at, "about": about}
    read = rng.random(count) > 0.1
    return {
        "remarks": events_of(
            repo, "remarks", {**common, "words": np.array(said, dtype=object), "likes": rng.integers(0, 50, count)}
        ),
        "readers": events_of(repo, "readers", {name: v[read] for name, v in {**common, "mood": moods}.items()}),
    }


@pytest.fixture(scope="module")
def registry(root: Path) -> ModelRegistry:
    return ModelRegistry("sqlite:///mlflow.db", root)


@pytest.fixture(scope="module")
def trained(events: Events, asked: EventModelColumns, registry: ModelRegistry) -> TrainedEvents:
    return train_events(EventTraining(events, asked, SETTINGS), Registration(registry, 1))


@pytest.fixture(scope="module")
def loaded(trained: TrainedEvents, registry: ModelRegistry, asked: EventModelColumns) -> LoadedEventModel:
    found = EventAlias(registry.uri, asked).latest()
    assert found is not None
    return found


def test_a_model_surely_above_the_most_frequent_class_and_the_best_input_is_the_champion(trained) -> None:
    assert trained.promoted, trained.reason
    assert trained.rows[0]["model"] == "most_frequent"
    assert trained.rows[0]["macro_f1"] < 0.3
    assert trained.rows[-1]["macro_f1"] > 0.85
    assert all(apart["low"] > 0 for apart in trained.differences.values())


def test_its_macro_f1_is_that_of_a_recount(trained, events, asked, loaded) -> None:
    remarks, readers = (events[name].to_pandas() for name in ("remarks", "readers"))
    both = remarks.merge(readers[["event_id", "mood"]], on="event_id")
    test = both[(both.known_at >= trained.split.test) & (both.known_at < trained.split.end)]
    matrix = asked.source.matrix_before(events["remarks"], events)
    model = loaded.model
    assert isinstance(model, ClassesScorer)
    chances = model.fitted.probabilities(asked.inputs(matrix), asked.texts(events["remarks"]))
    said = dict(zip(remarks.event_id, np.array(model.fitted.classes)[chances.argmax(axis=1)], strict=True))
    expected = f1_score(test.mood, [said[one] for one in test.event_id], average="macro")
    assert trained.rows[-1]["macro_f1"] == pytest.approx(expected)
    assert model.fitted.classes == ("bad", "good", "neither")
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_stream_scores_as_history_does_whatever_the_batches(repo, asked, events, loaded, tmp_path, seed) -> None:
    of_views = {"remarks": events["remarks"]}
    decided = decided_by_stream(repo, asked, loaded, of_views, tmp_path, seed)
    inputs = asked.inputs(asked.source.matrix_before(events["remarks"], events))
    texts = asked.texts(events["remarks"])
    expected = loaded.model.scores(inputs, texts)
    np.testing.assert_allclose(decided["score"].to_numpy(), expected, atol=1e-9)
    assert [bool(rules) for rules in decided["rules"].to_pylist()] == (expected > 0.9).tolist()
    assert 0 < (expected > 0.9).sum() < len(expected)
    for row in range(0, len(expected), 500):  # each text alone is scored as among all others
        assert loaded.model.scores(inputs[row : row + 1], texts[row : row + 1])[0] == expected[row]


def test_its_artefact_is_arrays_and_one_that_holds_objects_is_refused(trained, registry, tmp_path) -> None:
    folder = registry.download(trained.version, tmp_path)
    assert isinstance(load_event_model(folder, trained.version.digest), ClassesScorer)
    with np.load(folder / "classes.npz", allow_pickle=False) as file:
        arrays = dict(file)
    with pytest.raises(ArtefactError, match="classifier of 3 numbers"):
        load_classes(folder / "classes.npz", 3)
    wrongs = {"words": np.array([object()]), "columns": arrays["columns"] + 2**19, "target": np.array(3)}
    for name, wrong in wrongs.items():
        np.savez(tmp_path / "wrong.npz", **{**arrays, name: wrong})
        with pytest.raises(ArtefactError, match="classifier"):
            load_classes(tmp_path / "wrong.npz", 2)


def test_drift_and_a_registered_version_are_judged(trained, events, asked, registry) -> None:
    training = EventTraining(events, asked, SETTINGS)
    assert "score" in measure_drift(EventJudge.of_newest(training), registry, trained.version)["psi"]
    assert EventJudge.of(training).registered(registry, trained.version).promoted


@pytest.fixture(scope="module")
def http(trained, registry, asked, events, root) -> Iterator[Http]:
    rows = SqliteRows(store := root / "online.db")
    views = list(asked.source.views)
    end_ms = int(events["remarks"]["known_at"].to_numpy()[-1])
    build_generation(rows.generation(STREAM_ID), views, STREAM_ID, events, Marker(0, {}, {}, 0), end_ms)
    for view in views:
        rows.set_current(view.name, STREAM_ID)
    config = settings(store, registry.uri).model_copy(update={"repo": str(root / "feature_repo")})
    with plain(config) as client:
        yield client


def test_the_service_answers_with_the_probability_of_each_class(http) -> None:
    for words, mood in (("never again late", "bad"), ("thank you great", "good")):
        event = {"about": "one", "words": words, "likes": 3}
        status, answer, _ = http.ask("/v1/score", {"model": "mood", "event": event})
        assert status == 200, answer
        assert answer["predicted"] == mood
        assert answer["score"] == answer["probabilities"]["bad"]
        assert sum(answer["probabilities"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label": "about_what"}, "text field of 'readers'"),
        ({"target": ""}, "target"),
        ({"text": "likes"}, "text field of its stream"),
        ({"inputs": []}, "at least one input"),
        ({"alert": 3}, "TopADay"),
    ],
)
def test_a_wrong_definition_says_what_is_required(asked, changed: dict[str, object], said: str) -> None:
    made: Classifier = asked.model
    with pytest.raises(DefinitionError, match=said):
        replace(made, **changed)
