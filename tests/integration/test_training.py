"""Training end to end: events → point-in-time features → ranker → MLflow → an artefact that recommends."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from mlflow_marks import MLFLOW_TEST
from shop_history import SETTINGS, shop
from shop_training import SHOP

from features.errors import ArtefactError, UsageError
from features.history.archive import Span
from features.history.point_in_time_join import Spine, point_in_time
from headrace.commands.models.models import models
from headrace.commands.models.options import changed_values, training_settings
from headrace.commands.models.train import train
from models.tags import CHALLENGER, CHAMPION
from training.data.dataset import Domain, interactions_of, read_offline
from training.data.split import visits
from training.judging.judge import Judge
from training.judging.registration import Registration
from training.recommender.candidates import fit_candidates
from training.recommender.evaluate import ModelResult
from training.recommender.fit import train as fit
from training.recommender.ranker import retrieve_at
from training.refresh import refresh
from training.registry import ModelRegistry
from training.run import Features, TrainingRun
from training.user_models import ranker_examples

pytestmark = MLFLOW_TEST
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def domain() -> Domain:
    return Domain.of(SHOP)


@pytest.fixture(scope="module")
def events(domain) -> dict[str, pa.Table]:
    return {"activity": shop(domain)}


@pytest.fixture(scope="module")
def trained(events, domain):
    return fit(TrainingRun.of(events, domain, SETTINGS), 7)


def scores(rows: list[ModelResult]) -> dict[str, float]:
    return {row.model: row.metrics["ndcg_at_10"] for row in rows}


def test_a_model_learns_what_users_like_and_popularity_does_not(trained):
    found = scores(trained.rows)
    assert found["model"] > 1.5 * found["popular"]
    assert trained.artefact.manifest.target == ("purchase",)
    assert trained.artefact.manifest.metrics["ndcg_at_10"] == found["model"]
    assert trained.artefact.ranker is not None


def test_the_same_events_and_seed_make_the_same_model(trained, events, domain):
    again = fit(TrainingRun.of(events, domain, SETTINGS), 7)
    assert scores(again.rows) == scores(trained.rows)
    items, user = np.zeros((40, len(again.artefact.manifest.item.names))), None
    answers = [one.artefact.recommend(["i1"], user, items, 10, user="u3") for one in (trained, again)]
    assert answers[0] == answers[1]


def test_what_a_moment_is_told_does_not_change_with_what_happens_later(trained, events, domain):
    history = interactions_of(events, domain)
    split = trained.run.split
    tables = fit_candidates(history, ("purchase",), split.start, SETTINGS)
    part = history.between(split.start, split.middle)
    moments = visits(part, part.of(("purchase",)), 1, np.random.default_rng(0))
    table = events["activity"]
    early = {"activity": table.filter(pa.array(table["known_at"].to_numpy() <= moments.as_of.max()))}
    assert early["activity"].num_rows < table.num_rows
    whole, blind = (retrieve_at(tables, moments, history, Features(table, domain)) for table in (events, early))
    np.testing.assert_array_equal(whole.user_rows, blind.user_rows)
    for one, other in zip(whole.candidates, blind.candidates, strict=True):
        np.testing.assert_array_equal(one.pairs, other.pairs)


def test_a_trained_model_is_registered_as_champion_and_its_artefact_recommends(events, domain, tmp_path):
    registry = ModelRegistry("sqlite:///mlruns/mlflow.db", tmp_path)
    assert registry.find(SHOP.name) is None
    first = refresh(TrainingRun.of(events, domain, SETTINGS), Registration(registry, 7))
    assert first.verdict.promoted, first.verdict.reason
    champion = registry.find(SHOP.name, CHAMPION)
    assert champion is not None
    assert (champion.version, champion.aliases) == ("1", (CHAMPION,))
    assert champion.metrics["ndcg_at_10"] > champion.metrics["popular_ndcg_at_10"]

    loaded = registry.fetch(champion, tmp_path / "copy")
    loaded.check_views({view.name: view for view in (domain.user, domain.item)})
    now = loaded.manifest.as_of_ms
    keys = {"user": pa.array(["u3"]), "item": loaded.item_keys}
    user, item = (
        point_in_time(view, Spine(keys[view.entity.name], np.full(len(keys[view.entity.name]), now)), events)
        for view in (domain.user, domain.item)
    )
    row, matrix, recent = loaded.user_row(user), loaded.item_matrix(item), loaded.recent_items(user)
    ranked = loaded.recommend(recent, row, matrix, 5, user="u3", as_of=now)
    own_kind = [int(one.item_id[1:]) % 4 == 3 for one in ranked]
    assert len(ranked) == 5
    assert sum(own_kind) >= 4
    assert ranked == first.trained.artefact.recommend(recent, row, matrix, 5, user="u3", as_of=now)

    # The next one is tested beside the champion.
    second = refresh(TrainingRun.of(events, domain, SETTINGS), Registration(registry, 8))
    assert "champion" in scores(second.trained.rows)
    assert second.verdict.promoted
    assert registry.find(SHOP.name).version == "2"
    report = json.dumps(second.report(), allow_nan=False)
    assert json.loads(report)["baseline"] == "popular"

    changed = tmp_path / "mlruns" / SHOP.name
    (path,) = (one for one in changed.rglob("manifest.json") if champion.digest == sha256(one.read_bytes()).hexdigest())
    path.write_text(path.read_text().replace("purchase", "purchasE"))
    with pytest.raises(ArtefactError, match=champion.digest):
        registry.fetch(champion, tmp_path / "again")


def test_an_alias_names_one_version_of_a_model(trained, tmp_path):
    registry = ModelRegistry("sqlite:///mlflow.db", tmp_path)
    first = registry.register(trained.artefact, {}, {})
    registry.set_alias(first, CHAMPION)
    second = registry.register(trained.artefact, {}, {})
    registry.set_alias(second, CHALLENGER)
    assert [(one.version, one.aliases) for one in registry.versions()] == [("2", (CHALLENGER,)), ("1", (CHAMPION,))]


def test_training_reads_delta_tables_by_time_and_each_event_once(events, domain, tmp_path):
    from deltalake import write_deltalake

    table = events["activity"]
    topic = pa.repeat(pa.scalar("shop.activity"), table.num_rows)
    for part in (table.slice(0, 500), table.slice(500), table.slice(700, 50)):
        archived = part.append_column("topic", topic.slice(0, part.num_rows))
        write_deltalake(tmp_path / "activity", archived, mode="append")
    read = read_offline(tmp_path, domain)["activity"]
    assert read.num_rows == table.num_rows
    assert sorted(read["event_id"].to_pylist()) == sorted(table["event_id"].to_pylist())
    middle = int(table["known_at"][900].as_py())
    spans = Span(None, middle), Span(middle, None)
    before, after = (read_offline(tmp_path, domain, span)["activity"] for span in spans)
    assert before["known_at"].to_numpy().max() < middle <= after["known_at"].to_numpy().min()
    assert before.num_rows + after.num_rows == table.num_rows


def test_a_field_that_a_stream_has_gained_is_null_in_an_older_table(events, domain, tmp_path):
    from deltalake import write_deltalake

    write_deltalake(tmp_path / "activity", events["activity"].drop_columns(["rating"]))
    read = read_offline(tmp_path, domain)["activity"]
    assert read["rating"].null_count == read.num_rows == events["activity"].num_rows


def test_an_empty_offline_store_is_said_to_be_so(domain, tmp_path):
    with pytest.raises(UsageError, match="table 'activity'"):
        read_offline(tmp_path, domain)


def test_a_handful_of_events_is_refused_and_nothing_registered(events, domain, tmp_path):
    registry, few = ModelRegistry("sqlite:///mlflow.db", tmp_path), {"activity": events["activity"].slice(0, 2)}
    with pytest.raises(UsageError, match="three parts"):
        refresh(TrainingRun.of(few, domain, SETTINGS), Registration(registry, 7))
    assert list(tmp_path.iterdir()) == []


def test_headrace_train_and_models_list_do_the_same_from_the_command_line(events, tmp_path):
    from deltalake import write_deltalake

    (tmp_path / "feature_repo").symlink_to(ROOT / "feature_repo")
    write_deltalake(tmp_path / ".headrace" / "offline" / "activity", events["activity"])
    settings = ("iterations=10", "ease_l2=20", "target_events=50", "moments=300")
    options = [*(word for text in settings for word in ("--set", text)), "--search", "2"]
    done = CliRunner().invoke(train, ["mine", "--root", str(tmp_path), "--json", *options], catch_exceptions=False)
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert (report["model"], report["version"], report["promoted"]) == ("mine", "1", True), report["reason"]
    assert [row["model"] for row in report["rows"]] == ["popular", "own_frequent", "ease", "blend", "model"]
    assert json.loads((tmp_path / ".headrace" / "status" / "train.json").read_text()) == report
    registry = ModelRegistry("sqlite:///mlruns/mlflow.db", tmp_path)
    version = registry.get("mine", "1")
    children = registry.client.search_runs([registry._experiment("mine")], "tags.trial != ''")
    assert sorted(one.data.metrics["ndcg_at_10"] for one in children) == sorted(one["ndcg"] for one in report["search"])
    assert version.metrics["calibration_error"] < 0.2
    assert json.loads(version.tags["data_versions"]) == {"activity": 0}
    assert set(json.loads(version.tags["schema_hashes"])) == {"user_activity", "item_activity"}
    record = {path.name for path in (tmp_path / "mlruns" / "mine").rglob("record/*")}
    assert {"signature.json", "ndcg_by_k.png", "importance.png", "calibration.png", "coverage.png"} <= record
    listed = CliRunner().invoke(models, ["list", "--root", str(tmp_path), "--json"], catch_exceptions=False)
    (one,) = json.loads(listed.stdout)["models"]
    assert (one["name"], one["version"], one["aliases"]) == ("mine", "1", [CHAMPION])
    shown = CliRunner().invoke(models, ["list", "--root", str(tmp_path)], catch_exceptions=False)
    assert "mine    1  champion" in shown.stdout
    assert "may serve: ndcg_at_10" in shown.stdout


def test_training_when_drifted_trains_without_a_champion_and_then_where_events_have_moved(events, domain, tmp_path):
    from deltalake import write_deltalake

    (tmp_path / "feature_repo").symlink_to(ROOT / "feature_repo")
    archive = tmp_path / ".headrace" / "offline" / "activity"
    write_deltalake(archive, events["activity"])
    options = ["--root", str(tmp_path), "--json", "--when-drifted"]
    for text in ("iterations=10", "ease_l2=20", "target_events=50", "moments=300"):
        options += ["--set", text]

    def trained() -> dict:
        return json.loads(CliRunner().invoke(train, ["mine", *options], catch_exceptions=False).stdout)

    assert trained()["promoted"] is True
    report = trained()
    assert (report["trained"], report["version"], report["alarming"]) == (False, "1", [])
    told = json.loads((tmp_path / ".headrace" / "status" / "drift.json").read_text())
    assert told["psi"] == report["psi"]
    write_deltalake(archive, shop(domain, visits=40), mode="overwrite")
    assert trained()["version"] == "2"


def test_the_examples_that_a_ranker_of_ones_own_is_given_are_those_that_ours_learnt_from(trained, events, domain):
    told: list[str] = []
    table = ranker_examples(Judge.of_trained(trained), told.append)
    assert table.num_rows == trained.learnt.examples
    assert any("moments to learn from" in line for line in told)


def test_a_setting_within_one_that_has_no_parts_is_named():
    with pytest.raises(UsageError, match="'iterations'"):
        training_settings(SHOP, changed_values({"iterations": 5}, ["iterations.most=1"]))


@pytest.mark.parametrize("text", ["iterations", "unheard=1", "test_share=2"])
def test_a_training_setting_that_cannot_be_is_named(text, tmp_path):
    with pytest.raises(UsageError):
        CliRunner().invoke(train, ["--root", str(tmp_path), "--set", text], catch_exceptions=False)
