"""A regressor: numbers that become known later are learned, gated beside means of groups, and predicted alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from journeys import journeys_repo, simulated_journeys
from mlflow_marks import MLFLOW_TEST
from scored_stream import Events, decided_by_stream
from serving_world import STREAM_ID, Http, plain, settings

from features.definitions import FeatureRepo, Regressor
from features.errors import ArtefactError
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.cli import cli
from models.event_champion import EventAlias
from models.event_model import EventModelColumns, EventRegressor, LoadedEventModel, alerts_of, load_event_model
from models.needs import model_needs
from serving.scoring import event_of
from streaming.archive.appending import append_rows
from training.data import RegressorTrainingSettings
from training.event_model import EventJudge, EventTraining
from training.event_model.drift import measure_drift
from training.event_model.fit import TrainedEvents, train_events
from training.event_model.gate import compared
from training.judging import Registration
from training.registry import ModelRegistry

DAY_MS = 86_400_000
SETTINGS = RegressorTrainingSettings(iterations=60, test_ms=5 * DAY_MS)
pytestmark = MLFLOW_TEST


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def repo(root: Path) -> FeatureRepo:
    return journeys_repo(root / "feature_repo")


@pytest.fixture(scope="module")
def asked(repo: FeatureRepo) -> EventModelColumns:
    return EventModelColumns.of(repo, repo.models["duration"])


@pytest.fixture(scope="module")
def events(repo: FeatureRepo) -> Events:
    return simulated_journeys(repo)


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


def test_a_model_surely_below_the_errors_of_both_baselines_is_the_champion(trained, events) -> None:
    assert trained.promoted, trained.reason
    assert [row["model"] for row in trained.rows] == ["mean_by_start_stop", "median_by_start_stop", "model"]
    assert all(apart["high"] < 0 for apart in trained.differences.values())
    assert trained.version.metrics["mae"] == pytest.approx(trained.rows[-1]["mae"])
    assert (trained.threshold, trained.alerts) == (None, {})


def test_metrics_and_baselines_are_those_of_a_recount(trained, events, asked, loaded) -> None:
    """By hand from the tables: events of the parts, joined with their arrivals, means by pair of what was known."""
    journeys, arrivals = (events[name].to_pandas() for name in ("journeys", "arrivals"))
    both = journeys.merge(arrivals[["event_id", "minutes", "known_at"]], on="event_id", suffixes=("", "_label"))
    both = both[both.minutes.between(1, 60)]
    split = trained.split
    learned = both[(both.known_at >= split.start) & (both.known_at < split.middle) & (both.known_at_label < split.test)]
    test = both[(both.known_at >= split.test) & (both.known_at < split.end)]
    means = learned.groupby(["start", "stop"]).minutes.mean()
    pairs = list(zip(test.start, test.stop, strict=True))
    guessed = np.array([means.get(pair, learned.minutes.mean()) for pair in pairs])
    assert trained.rows[0]["mae"] == pytest.approx(np.abs(guessed - test.minutes).mean())
    assert trained.examples == {"learned": len(learned), "tested": len(test), "positive": len(learned) + len(test)}
    chosen = events["journeys"].filter(pc.is_in(events["journeys"]["event_id"], value_set=pc.unique(_ids(test))))
    scores = loaded.model.scores(asked.inputs(asked.source.matrix_before(chosen, events)))
    errors = scores - test.set_index("event_id").loc[chosen["event_id"].to_pylist()].minutes.to_numpy()
    assert trained.rows[-1]["mae"] == pytest.approx(np.abs(errors).mean())
    assert trained.rows[-1]["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert trained.rows[-1]["r2"] == pytest.approx(
        1 - (errors**2).sum() / ((test.minutes - test.minutes.mean()) ** 2).sum()
    )


def _ids(frame):
    import pyarrow as pa

    return pa.chunked_array([pa.array(frame.event_id.tolist())])


def test_a_number_that_became_known_after_the_test_began_is_not_learned_from(trained, events, repo, asked) -> None:
    """The labels of one late day are known only at the end; what was learned from has none of them."""
    arrivals, split = events["arrivals"], trained.split
    known = arrivals["known_at"].to_numpy().copy()
    late = (known >= split.middle - DAY_MS) & (known < split.middle)
    known[late] = split.end - 1
    position = arrivals.column_names.index("known_at")
    moved = {**events, "arrivals": arrivals.set_column(position, "known_at", [known]).sort_by("known_at")}
    found = EventTraining(moved, asked, SETTINGS).split_examples()
    assert found.learned.known is not None
    assert found.learned.known.max() < split.test
    assert len(found.learned) < trained.examples["learned"]


def test_without_a_label_field_the_number_is_the_seconds_until_the_label(events, repo, asked) -> None:
    model = replace(asked.model, label=None, within=(60, 3_600))
    found = EventTraining(events, EventModelColumns.of(repo, model), SETTINGS).split_examples().test
    minutes = EventTraining(events, asked, SETTINGS).split_examples().test
    assert found.value is not None
    assert minutes.value is not None
    np.testing.assert_allclose(found.value / 60, minutes.value, atol=1e-4)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_stream_predicts_what_history_does_whatever_the_batches(
    repo, asked, events, loaded, tmp_path, seed
) -> None:
    decided = decided_by_stream(repo, asked, loaded, events, tmp_path, seed)
    assert decided["event_id"].to_pylist() == events["journeys"]["event_id"].to_pylist()
    matrix = asked.source.matrix_before(events["journeys"], events)
    expected = loaded.model.scores(asked.inputs(matrix))
    np.testing.assert_allclose(decided["score"].to_numpy(), expected, atol=1e-9)
    assert decided["threshold"].null_count == decided.num_rows
    usual = matrix[:, asked.model.needed.index("route_arrival_minutes_mean_7d")]
    rules = {"long": expected > 25, "slow": expected - usual > 6}
    for name, met in rules.items():
        assert [name in found for found in decided["rules"].to_pylist()] == met.tolist()
        assert 0 < met.sum() < len(met)
    alerts = alerts_of(decided)
    assert {alert["source"] for alert in alerts} == {"rule:long", "rule:slow"}
    assert all(json.loads(json.dumps(alert))["threshold"] is None for alert in alerts)


def test_without_a_model_no_rule_on_its_score_is_met(repo, asked, events, tmp_path) -> None:
    decided = decided_by_stream(repo, asked, None, events, tmp_path, seed=3, count=2)
    assert set(map(tuple, decided["rules"].to_pylist())) == {()}


def test_an_alert_on_the_highest_predictions_has_a_threshold(events, repo, asked, tmp_path) -> None:
    from features.definitions import TopADay

    columns = EventModelColumns.of(repo, replace(asked.model, alert=TopADay(3)))
    other = ModelRegistry("sqlite:///mlflow.db", tmp_path)
    trained = train_events(EventTraining(events, columns, SETTINGS), Registration(other, 1))
    assert trained.threshold is not None
    assert 0 < trained.alerts["alerts_a_day"] <= 3


def test_the_record_measures_drift_and_two_versions_are_compared(trained, events, asked, registry) -> None:
    training = EventTraining(events, asked, SETTINGS)
    drift = measure_drift(EventJudge.of_newest(training), registry, trained.version)
    assert set(drift["psi"]) == {*asked.model.input_names, "score"}
    report = compared(EventJudge.of(training), registry, (trained.version, trained.version))
    assert (report["difference"]["metric"], report["difference"]["mean"]) == ("mae", 0.0)
    verdict = EventJudge.of(training).registered(registry, trained.version)
    assert verdict.promoted, verdict.reason


def test_what_it_needs_of_definitions_is_known_and_another_kind_does_not_load_it(
    trained, registry, repo, asked, tmp_path
) -> None:
    needs = {need.view: need.schema_hash for need in model_needs(registry.uri, tmp_path) if need.model == "duration"}
    assert needs == {"routes": repo.views["routes"].schema_hash}
    folder = registry.download(trained.version, tmp_path)
    model = load_event_model(folder, trained.version.digest)
    assert isinstance(model, EventRegressor)
    asked_otherwise = replace(model, manifest=model.manifest.model_copy(update={"kind": "events"}))
    with pytest.raises(ArtefactError, match="kind"):
        asked_otherwise.check(asked)


# --- over HTTP and by command ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def http(trained, registry, asked, events, root) -> Iterator[Http]:
    rows = SqliteRows(store := root / "online.db")
    views = list(asked.source.views)
    end_ms = int(events["journeys"]["known_at"].to_numpy()[-1])
    build_generation(rows.generation(STREAM_ID), views, STREAM_ID, events, Marker(0, {}, {}, 0), end_ms)
    for view in views:
        rows.set_current(view.name, STREAM_ID)
    with plain(replace_repo(settings(store, registry.uri), root)) as client:
        yield client


def replace_repo(config, root: Path):
    return config.model_copy(update={"repo": str(root / "feature_repo")})


def test_the_service_answers_with_the_number_that_history_gives(http, events, asked, loaded) -> None:
    at = int(events["journeys"]["known_at"].to_numpy()[-1])
    fields = {"start": 3, "stop": 8, "km": 30.0}
    status, answer, _ = http.ask("/v1/score", {"model": "duration", "event": fields, "as_of": at})
    assert status == 200, answer
    matrix = asked.source.matrix(event_of(fields, asked, at), np.array([at]), events)
    assert answer["score"] == pytest.approx(loaded.model.scores(asked.inputs(matrix))[0], abs=1e-9)
    assert (answer["threshold"], answer["flagged"], answer["rules"]) == (None, False, ["long", "slow"])


def test_the_commands_train_and_list_it_and_export_its_examples(events, repo, tmp_path) -> None:
    journeys_repo(tmp_path / "feature_repo")
    for name, table in events.items():
        topic = [[repo.streams[name].topic] * table.num_rows]
        append_rows(tmp_path / ".headrace" / "offline" / name, table.append_column("topic", topic), {})
    (tmp_path / "settings.toml").write_text('[mlflow]\ntracking_uri = "sqlite:///mlflow.db"\n', encoding="utf-8")

    def run(*words: str):
        return CliRunner().invoke(cli, [*words, "--root", str(tmp_path)])

    quick = ("--set", "iterations=40", "--set", f"test_ms={5 * DAY_MS}", "--set", "parity=skip")
    done = run("train", "duration", *quick)
    assert done.exit_code == 0, done.output
    assert "mean absolute error, less that of mean_by_start_stop: -" in done.stdout
    assert "champion" in done.stdout
    listed = run("models", "list", "--model", "duration")
    assert "mae " in listed.stdout
    file = tmp_path / "examples.parquet"
    assert run("models", "examples", str(file), "--model", "duration", *quick).exit_code == 0
    import pyarrow.parquet as pq

    assert pq.read_table(file).column_names == [*repo.models["duration"].input_names, "number"]


# --- definitions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label": "metres"}, "numeric field of 'arrivals'"),
        ({"within": (60, 1)}, "within"),
        ({"within": 60}, "within"),
        ({"error": "huber"}, "absolute"),
        ({"by": ["weather"]}, "fields of its stream"),
        ({"alert": 3}, "TopADay"),
        ({"inputs": []}, "at least one input"),
        ({"group": "driver"}, "field of its stream"),
    ],
)
def test_a_wrong_definition_says_what_is_required(asked, changed: dict[str, object], said: str) -> None:
    from features.errors import DefinitionError

    with pytest.raises(DefinitionError, match=said):
        replace(asked.model, **changed)


def test_a_derived_column_may_not_be_called_as_the_models_answer(repo, asked) -> None:
    from features.definitions import difference
    from features.errors import DefinitionError

    model: Regressor = replace(asked.model, derived={"score": difference("km", "start")}, rules=[])
    with pytest.raises(DefinitionError, match="score"):
        model.check(repo.columns_of(model.stream))
