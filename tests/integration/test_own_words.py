"""Trades in words of their own, from definitions alone: trained, registered, gated, served, recommended, similar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from deltalake import write_deltalake
from mlflow_marks import MLFLOW_TEST
from serving_world import Http, ids, plain, settings, until
from shop_history import shop
from shop_training import SHOP

from features.definitions.repo import FeatureRepo, load_repo
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.commands.models.models import models
from headrace.commands.models.train import train
from training.data.dataset import Domain
from training.judging.drift import drift_file

pytestmark = MLFLOW_TEST
QUICK = ("iterations=10", "smallest_leaf=10", "ease_l2=20", "target_events=50", "moments=300")

TRADES = """
from headrace import (
    Count, DecayedCount, Entity, FeatureSet, FeatureView, Field, Last, LastK, Recommender, Stream, served_log,
)

served = served_log("seen.by.visitors", name="answers")

# A market: its visitors have numbers, and look at things (pv) or take them (buy).
visitor = Entity("visitor", keys={"who": "int64"})
thing = Entity("thing", keys={"what": "string"})
behaviour = Stream("behaviour", topic="behaviour", event_time="at", event_id="nr", fields={
    "who": "int64", "what": "string", "how": Field("string", required=True, enum=["pv", "buy"]),
    "visit": "string", "shelf": "string", "fee": "float64",
})
shelves = Stream("shelves", topic="shelves", fields={"what": "string", "shelf": "string"})
COUNTS = ([Count(), DecayedCount("1d")], ["24h", "30d"])
visitors = FeatureView("visitors", sets=[
    FeatureSet(visitor, behaviour, *COUNTS, where={"how": "pv"}),
    FeatureSet(visitor, behaviour, *COUNTS, where={"how": "buy"}),
    FeatureSet(visitor, behaviour, [LastK("what", 10)], ["30d"]),
])
things = FeatureView("things", sets=[
    FeatureSet(thing, behaviour, *COUNTS, where={"how": "pv"}),
    FeatureSet(thing, behaviour, *COUNTS, where={"how": "buy"}),
])
on_shelves = FeatureView("on_shelves", sets=[FeatureSet(thing, shelves, [Last("shelf")], ["365d"])])
market = Recommender(
    "market", stream=behaviour, user=visitor, item=thing, user_view=visitors, item_view=things, kind="how",
    weights={"pv": 0.1, "buy": 1.0}, targets=["buy"], catalogue=on_shelves, session="visit", category="shelf",
    price="fee", served=served, default=True,
)

# Films: everything that happens is that somebody gave stars.
viewer = Entity("viewer", keys={"viewer": "string"})
film = Entity("film", keys={"film": "string"})
stars = Stream("stars", topic="stars", fields={"viewer": "string", "film": "string", "stars": "float64"})
viewers = FeatureView("viewers", sets=[FeatureSet(viewer, stars, [Count(), LastK("film", 10)], ["30d"])])
films = FeatureView("films", sets=[FeatureSet(film, stars, *COUNTS)])
cinema = Recommender(
    "cinema", stream=stars, user=viewer, item=film, user_view=viewers, item_view=films, targets=["starred"],
)
"""


@dataclass(frozen=True)
class Trades:
    """A project with two trades: both trained, and served together."""

    root: Path
    repo: FeatureRepo
    http: Http
    reports: dict[str, dict[str, Any]]


def in_own_words(repo: FeatureRepo) -> dict[str, pa.Table]:
    """The events of the small shop as the trades have them; they end now."""
    events = shop(Domain.of(SHOP))
    shift = time.time_ns() // 1_000_000 - 60_000 - pc.max(events["event_time"]).as_py()
    at = pc.add(events["event_time"], shift)
    kinds = {"view": "pv", "purchase": "buy"}
    number = pa.array([int(user[1:]) for user in events["user_id"].to_pylist()])
    told = {
        "behaviour": {
            "who": number,
            "what": events["item_id"],
            "how": pa.array([kinds[kind] for kind in events["event_type"].to_pylist()]),
            "visit": events["session_id"],
            "shelf": pa.array([f"shelf {int(item[1:]) % 4}" for item in events["item_id"].to_pylist()]),
            "fee": events["price"],
        },
        "stars": {"viewer": events["user_id"], "film": events["item_id"], "stars": events["price"]},
    }
    tables = {
        name: from_columns(
            pa.table({"event_id": events["event_id"], "event_time": at, **columns}), repo.streams[name]
        ).events
        for name, columns in told.items()
    }
    items = sorted(set(events["item_id"].to_pylist()))
    catalogue = {"what": items, "shelf": [f"shelf {int(item[1:]) % 4}" for item in items]}
    about = {"event_id": [f"shelf-{item}" for item in items], "event_time": pa.array([at[0].as_py()] * len(items))}
    return {**tables, "shelves": from_columns(pa.table({**about, **catalogue}), repo.streams["shelves"]).events}


def trained(root: Path, *words: str) -> dict[str, Any]:
    options = [*words, "--root", str(root), "--json", *(word for text in QUICK for word in ("--set", text))]
    done = CliRunner().invoke(train, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def trades(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trades]:
    root = tmp_path_factory.mktemp("trades")
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "trades.py").write_text(TRADES)
    repo = load_repo(root / "feature_repo")
    events = in_own_words(repo)
    for name, table in events.items():
        write_deltalake(root / ".headrace" / "offline" / name, table)
    rows, now = SqliteRows(root / "online.db"), time.time_ns() // 1_000_000
    build_generation(rows.generation(1), list(repo.views.values()), 1, events, Marker(0, {}, {}, 0), now)
    for view in repo.views.values():
        rows.set_current(view.name, 1)
    reports = {"market": trained(root), "cinema": trained(root, "cinema")}
    config = settings(root / "online.db", f"sqlite:///{root / 'mlruns' / 'mlflow.db'}")
    config = config.model_copy(update={"repo": str(root / "feature_repo"), "kept_model": str(root / "kept")})
    with plain(config) as http:
        until(lambda: all(one["current"] for one in asked_models(http).values()), "both models")
        yield Trades(root, repo, http, reports)


def asked_models(http: Http) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = http.ask("/v1/models")[1]["recommenders"]
    return found


@pytest.mark.parametrize(("name", "target"), [("market", "buy"), ("cinema", "starred")])
def test_each_is_trained_by_its_definition_registered_under_its_name_and_passes_the_gate(trades, name, target):
    report = trades.reports[name]
    assert (report["model"], report["target"], report["promoted"]) == (name, [target], True), report["reason"]
    rows = {row["model"]: row for row in report["rows"]}
    assert rows["model"]["ndcg_at_10"] > rows["popular"]["ndcg_at_10"]
    done = CliRunner().invoke(models, ["list", name, "--root", str(trades.root), "--json"], catch_exceptions=False)
    (version,) = json.loads(done.stdout)["models"]
    assert (version["name"], version["aliases"]) == (name, ["champion"])


def test_the_default_keeps_the_files_of_the_project_and_the_other_has_its_own(trades):
    status = trades.root / ".headrace" / "status"
    assert json.loads((status / "train.json").read_text())["model"] == "market"
    assert json.loads((status / "train" / "cinema.json").read_text())["model"] == "cinema"
    words = ["--root", str(trades.root), "--json", *(word for text in QUICK for word in ("--set", text))]
    for more in ([], ["--model", "cinema"]):
        done = CliRunner().invoke(models, ["drift", *more, *words], catch_exceptions=False)
        assert "psi" in json.loads(done.stdout), done.output
    home = trades.root / ".headrace"
    assert json.loads(drift_file(home).read_text())["model"] == "market"
    assert json.loads(drift_file(home, "cinema").read_text())["model"] == "cinema"


def test_users_of_each_get_what_they_like_by_their_own_keys(trades):
    for user in range(4):
        market = trades.http.recommend(user_id=str(user), k=10)
        cinema = trades.http.recommend(recommender="cinema", user_id=f"u{user}", k=10)
        for name, answer in (("market", market), ("cinema", cinema)):
            assert answer["model"]["name"] == name
            assert answer["features"]["status"] == "PRESENT"
            assert answer["fallback"]["reason"] in (None, "filled"), answer
            liked = [int(item[1:]) % 4 == user % 4 for item in ids(answer)]
            assert sum(liked) >= len(liked) / 2, answer


def test_items_are_similar_by_the_recommender_that_is_asked(trades):
    for name in ("market", "cinema"):
        status, answer, _ = trades.http.ask("/v1/similar", {"recommender": name, "item_id": "i5", "k": 5})
        assert (status, answer["model"]["name"]) == (200, name)
        assert sum(int(item[1:]) % 4 == 1 for item in ids(answer)) >= 3


def test_a_filter_is_by_the_attributes_that_the_trade_has(trades):
    answer = trades.http.recommend(user_id="1", filter={"shelf": "shelf 2"})
    assert {int(item[1:]) % 4 for item in ids(answer)} == {2}
    status, problem, _ = trades.http.ask("/v1/recommend", {"recommender": "cinema", "filter": {"shelf": "shelf 2"}})
    assert status == 422
    assert "filter" in problem["detail"]


def test_an_unknown_recommender_is_told_the_known_ones(trades):
    status, problem, _ = trades.http.ask("/v1/recommend", {"recommender": "books"})
    assert status == 422
    (error,) = problem["errors"]
    assert (error["field"], error["required"]) == ("recommender", "one of market, cinema")
    assert "market, cinema" in problem["detail"]


def test_without_a_name_a_training_is_of_the_default_and_a_wrong_name_is_told_the_right_one(trades):
    done = CliRunner().invoke(train, ["cinemas", "--root", str(trades.root)])
    assert "Did you mean 'cinema'?" in str(done.exception)


def test_metrics_are_by_recommender(trades):
    text = trades.http.text("/metrics")
    assert 'headrace_recommender_items{recommender="cinema"} 40.0' in text
    assert 'headrace_model_info{name="cinema",version="1"} 1.0' in text
    assert 'headrace_model_info{name="market",version="1"} 1.0' in text
    assert trades.http.ask("/readyz")[1]["recommenders"]["cinema"]["model"] == "version 1"
