"""An event model is trained from events and labels, registered in MLflow, and loaded as it was registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner, Result
from mlflow_marks import MLFLOW_TEST
from serving_world import STREAM_ID, Http, plain, settings
from small_cards import END_MS, cards_in, simulated

from features.definitions.repo import load_repo
from features.errors import ArtefactError, UsageError
from features.events.parsing import Parsed, Verdict
from features.online_store.batch_step import Batch, BatchStep, build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.cli import cli
from models.event_champion import EventAlias, PolledChampion
from models.event_model.artefact import CLASSIFIER, golden_scores, load_event_model
from models.event_model.columns import EventModelColumns, usual_of
from models.event_model.scorers import EventClassifier
from models.needs import model_needs
from models.tags import CHAMPION, GATE_REASON
from serving.scoring import event_of
from streaming.fold.sink import FoldTarget
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.scoring import EventScoring, ModelScoring
from training.data.labelled_events import EventTrainingSettings, examples_between
from training.event_model.fit import TrainedEvents, registered, train_events
from training.event_model.gate import EventJudge
from training.event_model.training import EventTraining
from training.judging.registration import Registration
from training.registry import ModelRegistry, Version

CARDS = Path(__file__).parents[2] / "feature_repo" / "cards.py"
REPO = load_repo(CARDS)
ASKED = EventModelColumns.of(REPO, REPO.models["cards"])
SETTINGS = EventTrainingSettings(iterations=20, learning_rate=0.1)
pytestmark = MLFLOW_TEST


@pytest.fixture(scope="module")
def events():
    return simulated(REPO, customers=120)


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> ModelRegistry:
    return ModelRegistry("sqlite:///mlflow.db", tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def trained(events, registry) -> TrainedEvents:
    return train_events(EventTraining(events, ASKED, SETTINGS), Registration(registry, 1))


def test_a_model_better_than_its_first_input_alone_is_the_champion(
    trained: TrainedEvents, registry: ModelRegistry
) -> None:
    amount, model = (row["ap"] for row in trained.rows[:2])
    assert trained.promoted
    sure = trained.differences["amount"]
    assert sure["mean"] == pytest.approx(model - amount)
    assert 0 < sure["low"] < sure["mean"] < sure["high"]
    champion = registry.find("cards")
    assert champion is not None
    assert champion.version == trained.version.version
    assert champion.metrics["amount_ap"] == pytest.approx(amount)


def test_labels_of_what_is_learned_from_are_known_before_the_test_begins(trained: TrainedEvents) -> None:
    week_ms = 7 * 86_400_000
    assert trained.split.test - trained.split.middle == week_ms
    assert trained.split.end - trained.split.test == week_ms


def test_an_events_own_effect_is_not_among_its_inputs(events) -> None:
    known = events["transactions"]["known_at"].to_numpy()
    found = examples_between(events, ASKED, int(known[0]), int(known[0]) + 1)
    count = ASKED.model.needed.index("customer_payment_count_30d")
    assert np.nan_to_num(found.matrix[:, count]).tolist() == [0.0]


def test_the_champion_is_loaded_by_its_alias_and_scores_as_it_was_trained(trained, registry, events) -> None:
    champion = EventAlias(registry.uri, ASKED)
    loaded = champion.latest()
    assert loaded is not None
    assert loaded.version == trained.version.version
    test = examples_between(events, ASKED, trained.split.test, trained.split.end)
    scores = loaded.model.scores(ASKED.inputs(test.matrix))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert loaded.model.manifest.threshold == trained.threshold
    of_next = scores >= scores[scores < trained.threshold].max()
    assert (scores >= trained.threshold).sum() <= 7 * 100 < of_next.sum()


def test_reasons_are_the_differences_to_the_score_of_what_is_usual(trained, registry, events) -> None:
    loaded = EventAlias(registry.uri, ASKED).latest()
    assert loaded is not None
    test = examples_between(events, ASKED, trained.split.test, trained.split.end)
    inputs = ASKED.inputs(test.matrix)[:50]
    usual = usual_of(ASKED, test.matrix[:50], np.array(loaded.model.manifest.typical))
    effects = loaded.model.effects(inputs, usual).effects
    amount = inputs.copy()
    amount[:, 0] = usual[:, 0]
    np.testing.assert_allclose(effects[:, 0], loaded.model.scores(inputs) - loaded.model.scores(amount))


def test_a_model_that_is_worse_than_the_champion_does_not_serve(trained, registry, events) -> None:
    settings = SETTINGS.model_copy(update={"iterations": 1, "tolerance": 0.0})
    worse = train_events(EventTraining(events, ASKED, settings), Registration(registry, 2))
    rows = {row["model"]: row["ap"] for row in worse.rows}
    assert rows["model"] < rows["champion"] == pytest.approx(trained.rows[1]["ap"])
    assert (worse.promoted, worse.version.aliases) == (False, ("challenger",))
    assert "may be below the champion's" in worse.version.tags[GATE_REASON]
    champion = registry.find("cards")
    assert champion is not None
    assert champion.version == trained.version.version


# --- no verdict, no traffic -----------------------------------------------------------------------------------------


@pytest.fixture
def unjudged(trained, registry, tmp_path) -> Iterator[tuple[Version, EventClassifier]]:
    """A version of the champion's own files that nobody judged; the champion is the champion again afterwards."""
    model = load_event_model(registry.download(trained.version, tmp_path), trained.version.digest)
    yield registered(registry, model, SETTINGS), model
    registry.set_alias(trained.version, CHAMPION)


def test_a_version_without_a_verdict_is_not_asked_and_one_that_gets_it_is(registry, unjudged) -> None:
    version, _ = unjudged
    registry.set_alias(version, CHAMPION)
    champion = EventAlias(registry.uri, ASKED, look_every_s=0.0)
    assert champion.latest() is None
    assert champion.problem is not None
    assert "it has no verdict of the gate" in champion.problem
    registry.judge(version, True, "better")
    loaded = champion.latest()
    assert loaded is not None
    assert (loaded.version, champion.problem) == (version.version, None)


def test_an_alias_that_is_moved_to_a_refused_version_leaves_the_one_that_served(trained, registry, unjudged) -> None:
    version, _ = unjudged
    champion = EventAlias(registry.uri, ASKED, look_every_s=0.0)
    assert champion.latest() is not None
    registry.judge(version, False, "worse than a coin")
    registry.set_alias(version, CHAMPION)
    for _ in range(2):
        loaded = champion.latest()
        assert loaded is not None
        assert loaded.version == trained.version.version
        assert "worse than a coin" in (champion.problem or "")


def test_a_model_that_scores_otherwise_than_when_it_was_made_is_not_asked(registry, unjudged) -> None:
    _, model = unjudged
    (first, *rest) = model.manifest.golden
    other = replace(model, manifest=model.manifest.model_copy(update={"golden": (first + 1e-6, *rest)}))
    version = registry.judge(registered(registry, other, SETTINGS), True, "better")
    registry.set_alias(version, CHAMPION)
    champion = EventAlias(registry.uri, ASKED)
    assert champion.latest() is None
    assert "when it was made" in (champion.problem or "")


def test_a_model_that_fails_or_gives_no_chances_is_not_registered(unjudged) -> None:
    _, model = unjudged

    class Broken(EventClassifier):
        def scores(self, inputs, texts=None):
            return np.full(len(inputs), np.nan)

    with pytest.raises(ArtefactError, match="from 0 to 1"):
        golden_scores(Broken(model.manifest, model.classifier))


def test_the_gate_judges_a_registered_version_as_it_judges_a_training(trained, registry, events, unjudged) -> None:
    version, _ = unjudged
    judge = EventJudge.of(EventTraining(events, ASKED, SETTINGS))
    verdict = judge.registered(registry, version)
    assert verdict.promoted
    assert f"{trained.rows[1]['ap']:.4f}" in verdict.reason
    slow = replace(judge, settings=SETTINGS.model_copy(update={"scoring_budget_ms": 1e-6}))
    assert "500 events takes" in slow.registered(registry, version).reason
    fewer = replace(ASKED, model=replace(ASKED.model, inputs=ASKED.model.input_names[:-1]))
    assert "inputs" in replace(judge, columns=fewer).registered(registry, version).reason


def test_models_of_events_are_listed_promoted_and_rolled_back_by_command(
    trained, registry, events, unjudged, tmp_path, monkeypatch
) -> None:
    version, _ = unjudged
    root = cards_in(tmp_path / "project", events, REPO)
    monkeypatch.setenv("HEADRACE_MLFLOW__TRACKING_URI", registry.uri)

    def asked_for(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["models", *arguments, "--root", str(root)])

    assert asked_for("promote", version.version, "--model", "cards").exit_code == 0
    found = json.loads(asked_for("list", "--model", "cards", "--json").stdout)["models"]
    assert {one["version"]: one["may_serve"] for one in found}[version.version]
    assert next(one for one in found if "champion" in one["aliases"])["version"] == version.version
    rolled = json.loads(asked_for("rollback", "--model", "cards", "--json").stdout)
    assert rolled["version"] == trained.version.version


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_file_of_the_model_that_was_changed_is_refused(trained, registry, tmp_path) -> None:
    folder = registry.download(trained.version, tmp_path)
    load_event_model(folder, trained.version.digest)
    (folder / CLASSIFIER).write_bytes((folder / CLASSIFIER).read_bytes() + b"\0")
    with pytest.raises(ArtefactError, match=CLASSIFIER):
        load_event_model(folder, trained.version.digest)


def test_what_the_champion_needs_of_definitions_is_known_as_of_any_model(trained, registry, tmp_path) -> None:
    needs = {need.view: need.schema_hash for need in model_needs(registry.uri, tmp_path)}
    assert needs == {name: REPO.views[name].schema_hash for name in ("customer_spending", "terminal_risk")}


def test_a_model_of_other_inputs_is_refused_with_what_differs(trained, registry, tmp_path) -> None:
    model = load_event_model(registry.download(trained.version, tmp_path), trained.version.digest)
    fewer = replace(ASKED.model, inputs=ASKED.model.input_names[:-1])
    with pytest.raises(ArtefactError, match="terminal_risk_30d_delay_7d"):
        model.check(EventModelColumns.of(REPO, fewer))


def test_a_history_without_positives_is_refused_and_nothing_is_registered(events, tmp_path) -> None:
    labels = events["fraud_labels"]
    empty = ModelRegistry("sqlite:///mlflow.db", tmp_path)
    none = {**events, "fraud_labels": labels.slice(0, 1).set_column(0, "event_id", [["nobody"]])}
    with pytest.raises(UsageError, match="positive"):
        train_events(EventTraining(none, ASKED, SETTINGS), Registration(empty, 1))
    assert list(tmp_path.iterdir()) == []


# --- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def http(trained, registry, events, tmp_path_factory) -> Iterator[Http]:
    rows = SqliteRows(store := tmp_path_factory.mktemp("store") / "online.db")
    views = list(ASKED.source.views)
    build_generation(rows.generation(STREAM_ID), views, STREAM_ID, events, Marker(0, {}, {}, 0), END_MS)
    for view in views:
        rows.set_current(view.name, STREAM_ID)
    with plain(settings(store, registry.uri)) as client:
        yield client


def asked_of(http: Http, as_of: int = END_MS, **changed: object) -> dict:
    event = {"customer_id": 3, "terminal_id": 9, "amount": 250.0, **changed}
    status, answer, _ = http.ask("/v1/score", {"model": "cards", "event": event, "as_of": as_of})
    assert status == 200, answer
    return answer


def test_the_service_gives_the_score_that_history_gives_for_the_same_event_and_time(http, events, registry) -> None:
    loaded = EventAlias(registry.uri, ASKED).latest()
    assert loaded is not None
    for customer, amount in ((3, 12.5), (4, 250.0), (5, 999.0)):
        fields = {"customer_id": customer, "terminal_id": 9, "amount": amount}
        matrix = ASKED.source.matrix(event_of(fields, ASKED, END_MS), np.array([END_MS]), events)
        answer = asked_of(http, **fields)
        assert answer["score"] == pytest.approx(loaded.model.scores(ASKED.inputs(matrix))[0], abs=1e-9)
        assert answer["flagged"] == (answer["score"] >= answer["threshold"])
        assert answer["rules"] == [name for name, met in ASKED.rules_met(matrix).items() if met[0]]


def one_at_a_time(events, first: int) -> Iterator[Batch]:
    """Each payment from this place on as a batch of its own, as if nothing else became known meanwhile."""
    stream = ASKED.model.stream
    place, every = f"{stream.topic}/0", events[stream.name]
    for number, at in enumerate(range(first, every.num_rows), start=1):
        row = every.slice(at, 1)
        parsed = Parsed(row, np.arange(1), np.full(1, Verdict.VALID, np.int8), pa.nulls(1, pa.string()))
        known_at = int(row["known_at"][0].as_py())
        yield Batch(number, {place: at}, {place: at + 1}, {stream.name: parsed}, known_at)


def test_the_service_says_of_a_payment_what_the_stream_decides_about_it(trained, registry, events, tmp_path) -> None:
    """To 1e-9, for the same payment and time: asked just before the stream has it, with what the stream has stored."""
    stream, views = ASKED.model.stream, list(ASKED.source.views)
    first = events[stream.name].num_rows - 15
    cut = int(events[stream.name]["known_at"][first].as_py())
    known = {name: table.filter(pc.less(table["known_at"], cut)) for name, table in events.items()}
    first = known[stream.name].num_rows
    store = tmp_path / "online.db"
    rows = SqliteRows(store)
    stored = rows.generation(STREAM_ID)
    place = f"{stream.topic}/0"
    build_generation(stored, views, STREAM_ID, known, Marker(0, {place: 0}, {place: first}, 0), cut - 1)
    for view in views:
        rows.set_current(view.name, STREAM_ID)
    told: list[pa.Table] = []
    champion = PolledChampion(EventAlias(registry.uri, ASKED))
    champion.start()
    scoring = EventScoring([ModelScoring(champion, DecisionLog(tmp_path / "decisions", stream), told.append)])
    asking = scoring.of_generation(FoldTarget(REPO, stored, STREAM_ID))
    assert asking is not None
    step = BatchStep(stored, views, STREAM_ID, asking.here)
    with plain(settings(store, registry.uri)) as client:
        for batch in one_at_a_time(events, first):
            (event,) = batch.parsed[stream.name].events.to_pylist()
            fields = {name: event[name] for name in ("event_time", "customer_id", "terminal_id", "amount")}
            answer = asked_of(client, event["known_at"] + 1, **fields)
            step.run(batch)
            (decided,) = told.pop().to_pylist()
            assert decided["event_id"] == event["event_id"]
            assert answer["score"] == pytest.approx(decided["score"], abs=1e-9)
            assert (answer["model"]["version"], answer["rules"]) == (decided["version"], decided["rules"])
    scoring.close()


def test_the_answer_says_the_version_the_age_of_the_features_and_what_raised_the_score(http, registry) -> None:
    champion = registry.find("cards")
    assert champion is not None
    answer = asked_of(http, amount=999.0)
    assert answer["model"] == {"name": "cards", "version": champion.version, "alias": "champion"}
    assert {one["view"] for one in answer["features"]} == {view.name for view in ASKED.source.views}
    assert all(one["age_ms"] >= 0 for one in answer["features"] if one["status"] == "PRESENT")
    assert answer["rules"] == ["above_p99"]
    assert answer["reasons"][0]["effect"] >= answer["reasons"][-1]["effect"] > 0
    amount = next(one for one in answer["reasons"] if one["feature"] == "amount")
    assert amount["value"] == 999.0
    assert amount["usual"] < 999.0


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"model": "horses", "event": {}}, 404, "model"),
        ({"model": "cards", "event": {"weight": 1}}, 422, "event"),
        ({"model": "cards", "event": {"customer_id": "three"}}, 422, "event"),
        ({"model": "cards"}, 422, "event"),
    ],
)
def test_a_question_that_cannot_be_asked_names_the_field(http, body: dict, status: int, field: str) -> None:
    got, answer, kind = http.ask("/v1/score", body)
    assert (got, kind) == (status, "application/problem+json")
    assert field in [one["field"].split(".")[-1] for one in answer["errors"]]


def test_a_champion_without_a_verdict_answers_nobody(registry, unjudged, tmp_path) -> None:
    version, _ = unjudged
    registry.set_alias(version, CHAMPION)
    with plain(settings(tmp_path / "none.db", registry.uri)) as client:
        status, answer, _ = client.ask("/v1/score", {"model": "cards", "event": {"amount": 1.0}})
    assert status == 503
    assert "no verdict of the gate" in answer["detail"]


def test_without_a_champion_the_answer_says_how_to_get_one(tmp_path) -> None:
    with plain(settings(tmp_path / "none.db", f"sqlite:///{tmp_path / 'none-mlflow.db'}")) as client:
        status, answer, _ = client.ask("/v1/score", {"model": "cards", "event": {"amount": 1.0}})
    assert status == 503
    assert "headrace train" in answer["detail"]
