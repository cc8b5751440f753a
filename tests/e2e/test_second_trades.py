"""Trades other than the shop, from definitions alone: a file in its own words through every command, to answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet
import pytest
from mlflow_marks import MLFLOW_TEST

from features.machine import free_port
from headrace.loop import Loop, share_jars
from headrace.settings import read_settings
from training.registry import ModelRegistry

pytestmark = [pytest.mark.slow, *MLFLOW_TEST, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
SERVING_WITHIN_S, ASKED = 300.0, 40

TAOBAO = """
from headrace import (
    Count, DecayedCount, DistinctCount, Entity, FeatureSet, FeatureView, Field, Last, LastK, Recommender, Stream,
    TimeSinceLast,
)

BEHAVIOURS = ["pv", "cart", "fav", "buy"]
visitor = Entity("visitor", keys={"user_id": "string"})
article = Entity("article", keys={"item_id": "string"})
clicks = Stream("clicks", topic="taobao.clicks", event_time="ts", time_unit="s", event_id=None, fields={
    "behavior": Field("string", required=True, enum=BEHAVIOURS),
    "user_id": Field("string", required=True),
    "item_id": Field("string", required=True),
    "category_id": "string",
})
PV, BUY = {"behavior": "pv"}, {"behavior": "buy"}
visitor_clicks = FeatureView("visitor_clicks", sets=[
    FeatureSet(visitor, clicks, [Count()], ["10m", "1h", "24h"], where=PV),
    FeatureSet(visitor, clicks, [Count()], ["24h"], where=BUY),
    FeatureSet(visitor, clicks, [LastK("item_id", 10), Last("category_id"), DistinctCount("item_id", k=64)], ["24h"]),
    FeatureSet(visitor, clicks, [TimeSinceLast()], ["24h"]),
])
article_clicks = FeatureView("article_clicks", sets=[
    FeatureSet(article, clicks, [Count()], ["10m", "1h", "24h"], where=PV),
    FeatureSet(article, clicks, [Count()], ["24h"], where=BUY),
    FeatureSet(article, clicks, [Last("category_id"), DistinctCount("user_id", k=64)], ["24h"]),
    FeatureSet(article, clicks, [DecayedCount("10m")], ["24h"]),
])
market = Recommender(
    "market", stream=clicks, user=visitor, item=article, user_view=visitor_clicks, item_view=article_clicks,
    kind="behavior", weights={"pv": 0.2, "fav": 0.4, "cart": 0.5, "buy": 1.0}, targets=["buy", "cart", "pv"],
    category="category_id",
)
"""

FILMS = """
from headrace import (
    Count, DecayedCount, Entity, FeatureSet, FeatureView, Field, LastK, Mean, Recommender, Stream, TimeSinceLast,
)

watcher = Entity("watcher", keys={"watcher_id": "string"})
film = Entity("film", keys={"film_id": "string"})
ratings = Stream("ratings", topic="films.ratings", event_time="timestamp", time_unit="s", event_id=None, fields={
    "watcher_id": Field("string", path="userId", required=True),
    "film_id": Field("string", path="movieId", required=True),
    "rating": Field("float64", required=True),
})
watcher_ratings = FeatureView("watcher_ratings", sets=[
    FeatureSet(watcher, ratings, [Count(), Mean("rating")], ["30d", "365d"]),
    FeatureSet(watcher, ratings, [LastK("film_id", 10), TimeSinceLast()], ["365d"]),
])
film_ratings = FeatureView("film_ratings", sets=[
    FeatureSet(film, ratings, [Count(), Mean("rating")], ["30d", "365d"]),
    FeatureSet(film, ratings, [DecayedCount("30d")], ["365d"]),
])
films = Recommender(
    "films", stream=ratings, user=watcher, item=film, user_view=watcher_ratings, item_view=film_ratings,
    targets=["rating"],
)
"""


@dataclass(frozen=True)
class Trade:
    """A project of definitions, and the file that it learns from, in the file's own words."""

    name: str
    definitions: str
    file: str
    stream: str
    user: str
    item: str
    target: str
    judged: bool = True
    """False where too few of the file's users come back for the gate to judge the model."""

    @property
    def format(self) -> str:
        return Path(self.file).suffix[1:]

    def rows(self, path: Path) -> Any:
        return pyarrow.parquet.read_table(path) if self.format == "parquet" else pyarrow.csv.read_csv(path)


TRADES = [
    Trade("market", TAOBAO, "taobao-clicks.parquet", "clicks", "user_id", "item_id", "buy"),
    Trade("films", FILMS, "movielens-small/ratings.csv", "ratings", "userId", "movieId", "rating", judged=False),
]


@dataclass
class Running:
    """The trade's service, after its file was imported, folded and learnt from."""

    trade: Trade
    loop: Loop
    report: dict[str, Any]
    users: list[str]
    items: Counter[str]

    def ask(self, path: str, **body: object) -> dict[str, Any]:
        answer = self.loop.ask(path, body, 30)
        assert answer is not None, (path, body)
        return answer


@pytest.fixture(scope="module", params=TRADES, ids=[trade.name for trade in TRADES])
def running(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    real_file: Callable[[str], Path],
) -> Iterator[Running]:
    trade: Trade = request.param
    file, root = real_file(trade.file), tmp_path_factory.mktemp(trade.name)
    home, repo = root / ".headrace", root / "feature_repo"
    home.mkdir()
    share_jars(ROOT / ".headrace", home)
    repo.mkdir()
    (repo / f"{trade.name}.py").write_text(trade.definitions)
    (repo / "feature_store.yaml").write_text((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    settings = read_settings(root, {"HEADRACE_SERVING__DEADLINE_MS": "20000"})
    with Loop(root, settings, home, repo, free_port(), f"sqlite:///{home / 'mlflow.db'}") as loop:
        loop.run("import", "import", str(file), "--format", trade.format, "--stream", trade.stream)
        loop.run("rebuild", "features", "rebuild")
        report = json.loads(loop.run("train", "train", trade.name, "--json"))
        if not trade.judged:
            let_through(loop, report)
        loop.start("serve", "serve", "--clock", "stream")
        loop.wait("the model", lambda: (loop.ask("/v1/models") or {}).get("current"), SERVING_WITHIN_S)
        rows = trade.rows(file)
        users = Counter(map(str, rows[trade.user].to_pylist()))
        items = Counter(map(str, rows[trade.item].to_pylist()))
        yield Running(trade, loop, report, [user for user, _ in users.most_common(ASKED)], items)


def let_through(loop: Loop, report: dict[str, Any]) -> None:
    """The version that was trained is the champion, by somebody who does not ask the gate."""
    registry = ModelRegistry(loop.tracking_uri, loop.root)
    version = registry.judge(registry.get(report["model"], report["version"]), True, "let through by the test")
    registry.promote(version, report["created_ms"])


def test_the_model_learns_its_own_kinds_and_is_better_than_popularity(running: Running) -> None:
    """Nearly all of MovieLens' users rate on one day, so that few of its last part had been seen before."""
    rows, trade = {row["model"]: row for row in running.report["rows"]}, running.trade
    assert running.report["model"] == trade.name
    assert running.report["target"] == [trade.target]
    assert rows["model"]["ndcg_at_10"] > rows["popular"]["ndcg_at_10"]
    assert (running.report["promoted"], running.report["judged"]) == (trade.judged, trade.judged)
    assert ("not enough to judge" in running.report["reason"]) != trade.judged


def test_users_are_recommended_items_of_the_file_by_the_model(running: Running) -> None:
    for user in running.users:
        answer = running.ask("/v1/recommend", user_id=user, k=10)
        assert answer["model"]["name"] == running.trade.name
        assert answer["fallback"] == {"used": False, "reason": None}
        named = [item["item_id"] for item in answer["items"]]
        assert len(set(named)) == 10
        assert set(named) <= set(running.items)


def test_two_users_are_recommended_different_items(running: Running) -> None:
    lists = {
        tuple(item["item_id"] for item in running.ask("/v1/recommend", user_id=user)["items"]) for user in running.users
    }
    assert len(lists) > ASKED // 2


def test_the_callers_items_are_ranked_each_once(running: Running) -> None:
    asked = [item for item, _ in running.items.most_common(24)]
    answer = running.ask("/v1/rank", user_id=running.users[0], items=asked)
    assert sorted(item["item_id"] for item in answer["items"]) == sorted(asked)


def test_similar_items_are_of_the_file_and_others_than_the_item(running: Running) -> None:
    for item, _ in running.items.most_common(10):
        answer = running.ask("/v1/similar", item_id=item, k=5)
        named = [one["item_id"] for one in answer["items"]]
        assert not answer["fallback"]["used"], answer
        assert 0 < len(named) <= 5
        assert item not in named
        assert set(named) <= set(running.items)


def test_features_are_read_by_the_trades_own_names(running: Running) -> None:
    entity = {"market": "visitor", "films": "watcher"}[running.trade.name]
    answer = running.loop.ask(f"/v1/features/{entity}/{running.users[0]}")
    assert answer is not None
    assert answer["entity"] == entity
