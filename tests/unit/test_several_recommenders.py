"""A service of several recommenders: each answers by its own definition, and requests say which one they mean."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from serving_world import EmptyRegistry, settings
from small_shop import features, fresh, ids, model

from features.definitions.repo import FeatureRepo, load_repo
from features.events.parsing import from_columns
from features.online_store import FeatureReader
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from headrace.commands.serve import service_config
from headrace.project import Project
from serving.access.principal import EVERYBODY
from serving.app import own_clicks_of
from serving.events import verdicts
from serving.events.posted import key_fields
from serving.http import ProblemError, schema
from serving.recommend import ItemQuery, UserRead, recommend
from serving.service import Service

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Last, LastK, Recommender, Stream, served_log

served = served_log("served")

reader = Entity("reader", keys={"reader": "string"})
book = Entity("book", keys={"isbn": "string"})
loans = Stream("loans", topic="loans", fields={
    "reader": "string", "isbn": "string", "visit": "string", "how": "string", "shelf": "string"})
books = FeatureView("books", sets=[FeatureSet(book, loans, [Count(), Last("shelf")], ["7d"])])
readers = FeatureView("readers", sets=[FeatureSet(reader, loans, [Count(), LastK("isbn", 5)], ["7d"])])
library = Recommender("library", stream=loans, user=reader, item=book, user_view=readers, item_view=books,
    kind="how", targets=["lent"], session="visit", category="shelf", served=served{library})

fan = Entity("fan", keys={"who": "int64"})
song = Entity("song", keys={"song": "string"})
plays = Stream("plays", topic="plays", fields={"who": "int64", "song": "string", "visit": "string"})
songs = FeatureView("songs", sets=[FeatureSet(song, plays, [Count()], ["7d"])])
fans = FeatureView("fans", sets=[FeatureSet(fan, plays, [Count(), LastK("song", 5)], ["7d"])])
music = Recommender("music", stream=plays, user=fan, item=song, user_view=fans, item_view=songs, targets=["play"],
    session="visit"{music})
"""


class Kafka:
    """Acknowledges all messages, and keeps them."""

    def __init__(self) -> None:
        self.messages: list[verdicts.Message] = []

    async def send(self, messages: Sequence[verdicts.Message]) -> list[verdicts.Acknowledgement | str]:
        self.messages += messages
        return [verdicts.Acknowledgement(0, number, time.time_ns() // 1_000_000) for number in range(len(messages))]

    def offer(self, message: verdicts.Message, on_delivery: Any) -> None:
        self.messages.append(message)
        on_delivery(True)

    def close(self) -> None:
        pass


def repo_of(folder: Path, **more: str) -> FeatureRepo:
    (folder / "trades.py").write_text(
        DEFINITIONS.replace("{library}", more.get("library", "")).replace("{music}", more.get("music", ""))
    )
    return load_repo(folder)


def filled(folder: Path, repo: FeatureRepo) -> SqliteRows:
    """A store in which readers borrowed b1 and b2 (twice), and fans played s1."""
    rows, now = SqliteRows(folder / "online.db"), time.time_ns() // 1_000_000
    told = {
        "loans": {
            "reader": ["r1", "r1", "r2"],
            "isbn": ["b1", "b2", "b2"],
            "visit": [None] * 3,
            "how": ["lent"] * 3,
            "shelf": ["a", "b", "b"],
        },
        "plays": {"who": [7], "song": ["s1"], "visit": ["v"]},
    }
    events = {}
    for name, columns in told.items():
        count = len(next(iter(columns.values())))
        table = {"event_id": [f"{name}{n}" for n in range(count)], "event_time": [now - 1_000] * count, **columns}
        events[name] = from_columns(pa.table(table), repo.streams[name]).events
    build_generation(rows.generation(1), list(repo.views.values()), 1, events, Marker(0, {}, {}, 0), now)
    for view in repo.views.values():
        rows.set_current(view.name, 1)
    return rows


def service_in(folder: Path, kafka: Kafka | None = None, **more: str) -> Service:
    repo = repo_of(folder, **more)
    rows, config = filled(folder, repo), settings(folder / "online.db", "", kept_model=str(folder / "kept"))
    own = own_clicks_of(config, repo, rows.pending())
    service = Service(config, repo, FeatureReader(rows, repo), rows, EmptyRegistry, kafka, own)
    for one in service.recommendations.values():
        one._follow_items()
        one.models.look()
    return service


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Of two recommenders, of which the library's is the default."""
    return service_in(tmp_path, library=", default=True")


def recommended(service: Service, **asked: Any) -> list[str]:
    answer = asyncio.run(service.recommend(schema.RecommendRequest(**asked)))
    return [item.item_id for item in answer.items]


def refusal(service: Service, **asked: Any) -> tuple[int, str]:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(service.recommend(schema.RecommendRequest(**asked)))
    return caught.value.status, str(caught.value.detail)


def test_a_request_is_answered_by_the_recommender_that_it_names_and_else_by_the_default(service):
    assert recommended(service) == ["b2", "b1"]
    assert recommended(service, recommender="library") == ["b2", "b1"]
    assert recommended(service, recommender="music") == ["s1"]
    ranked = asyncio.run(service.rank(schema.RankRequest(recommender="music", items=["b1", "s1"])))
    assert [item.item_id for item in ranked.items] == ["s1", "b1"]
    assert ranked.items[1].source == "unknown"
    similar = asyncio.run(service.similar(schema.SimilarRequest(recommender="music", item_id="s9")))
    assert [item.item_id for item in similar.items] == ["s1"]


def test_an_unknown_recommender_is_a_problem_that_lists_the_known(service):
    assert refusal(service, recommender="films") == (
        422,
        "field 'recommender' requires one of library, music; got \"films\"",
    )


def test_without_a_default_a_request_has_to_name_one(tmp_path):
    service = service_in(tmp_path)
    assert service.default is None
    status, detail = refusal(service)
    assert (status, "one of library, music" in detail) == (422, True)
    assert recommended(service, recommender="music") == ["s1"]
    assert service.models().problem == "there is no default recommender"
    assert service.readiness().model == "no default recommender"
    with pytest.raises(ProblemError):
        asyncio.run(service_in(tmp_path, Kafka()).posted.post(b'{"event_time": 1}', None, EVERYBODY))


def test_filters_are_by_the_attributes_of_the_recommenders_own_items(service):
    assert recommended(service, filter={"shelf": "a"}) == ["b1"]
    assert "an attribute of items" in refusal(service, recommender="music", filter={"shelf": "a"})[1]


def test_what_a_definition_excludes_is_left_out_of_every_answer(tmp_path):
    service = service_in(tmp_path, library=", default=True, exclude=['seen']")
    assert recommended(service, user_id="r2") == ["b1"]
    assert recommended(service, user_id="r1") == []
    assert recommended(service) == ["b2", "b1"]


def test_models_and_readiness_are_the_defaults_and_those_of_each(service):
    models = json.loads(service.models().model_dump_json())
    assert models["name"] == "library"
    assert {name: one["name"] for name, one in models["recommenders"].items()} == {
        "library": "library",
        "music": "music",
    }
    readiness = service.readiness()
    assert readiness.ready
    assert readiness.items == 2
    assert {name: one.items for name, one in readiness.recommenders.items()} == {"library": 2, "music": 1}


def test_a_service_is_ready_when_each_recommender_is(tmp_path):
    repo = repo_of(tmp_path, library=", default=True")
    rows = filled(tmp_path, repo)
    service = Service(settings(tmp_path / "online.db", ""), repo, FeatureReader(rows, repo), rows, EmptyRegistry, None)
    for one in service.recommendations.values():
        assert not service.readiness().ready
        one._follow_items()
        one.models.look()
    assert service.readiness().ready


def test_each_recommender_asks_its_own_registered_model_and_keeps_its_own_copy(service, tmp_path):
    library, music = (service.recommendations[name] for name in ("library", "music"))
    assert library.settings.kept_model == str(tmp_path / "kept")
    assert music.settings.kept_model == str(tmp_path / "kept-music")
    assert [one.models.name for one in (library, music)] == ["library", "music"]


def test_metrics_of_the_service_are_the_defaults_and_those_by_recommender_are_of_each(service, monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # as Feast's server does when it is imported
    recommended(service, recommender="music")
    recommended(service)
    text = service.replicas.text().decode()
    assert "headrace_items 2.0" in text
    assert 'headrace_recommender_items{recommender="music"} 1.0' in text
    assert 'headrace_recommender_seconds_count{recommender="music"} 1.0' in text
    assert 'headrace_recommender_fallbacks_total{reason="no_model",recommender="library"} 1.0' in text
    assert "headrace_recommend_seconds_count 2.0" in text
    service.recommendations["music"].metrics.serving("1")
    service.recommendations["library"].metrics.serving("4")
    service.recommendations["music"].metrics.serving("2")
    shown = [line for line in service.replicas.text().decode().splitlines() if line.startswith("headrace_model_info")]
    assert shown == [
        'headrace_model_info{name="library",version="4"} 1.0',
        'headrace_model_info{name="music",version="2"} 1.0',
    ]


# --- events ----------------------------------------------------------------------------------------------------------


def posted(service: Service, stream: str | None, **event: Any) -> list[str]:
    now = time.time_ns()
    body = json.dumps({"event_id": f"e{now}", "event_time": now // 1_000_000, **event}).encode()
    return [one.status for one in asyncio.run(service.posted.post(body, stream, EVERYBODY)).events]


def test_a_sessions_items_are_those_of_the_recommender_that_its_events_are_of(tmp_path):
    kafka = Kafka()
    service = service_in(tmp_path, kafka, library=", default=True")
    assert posted(service, None, reader="r1", isbn="b1", visit="v1", how="lent") == ["accepted"]
    assert posted(service, None, reader="r1", isbn="b2", visit="v1", how="browsed") == ["accepted"]  # counts nothing
    assert posted(service, "plays", who=7, song="s1", visit="v1") == ["accepted"]
    asked = ItemQuery(None, 1, session="v1")
    sessions = {name: one._users.read(asked, {}, None).recent for name, one in service.recommendations.items()}
    assert sessions == {"library": ("b1",), "music": ("s1",)}
    assert [message.key for message in kafka.messages] == [b"r1", b"r1", b"7"]


def test_an_events_key_is_the_user_else_the_session_else_the_item(tmp_path):
    repo = repo_of(tmp_path)
    fields: Mapping[str, tuple[str, ...]] = {
        name: key_fields(repo, repo.chosen_recommenders(), repo.streams[name]) for name in ("loans", "plays", "served")
    }
    assert fields == {"loans": ("reader", "visit", "isbn"), "plays": ("who", "visit", "song"), "served": ()}
    cards = load_repo(Path(__file__).parents[2] / "feature_repo")
    of = {name: key_fields(cards, cards.chosen_recommenders(), cards.streams[name]) for name in cards.streams}
    assert of["activity"] == ("user_id", "session_id", "item_id")
    assert of["catalogue"] == ("item_id",)
    assert of["transactions"][0] == "customer_id"


def test_the_served_log_says_whose_answer_it_is(tmp_path):
    kafka = Kafka()
    service = service_in(tmp_path, kafka, library=", default=True")
    library = service.recommendations["library"]
    assert service.recommendations["music"]._served_log is None
    log = library._served_log
    assert log is not None
    log._share = 1.0
    log.start()
    recommended(service, user_id="r1")
    log.stop()
    (message,) = kafka.messages
    assert json.loads(message.value)["recommender"] == "library"


# --- settings of before -----------------------------------------------------------------------------------------------


def test_a_repo_without_a_definition_is_served_by_the_usual_names_and_those_of_the_settings(tmp_path):
    shop = Path(__file__).parents[2] / "feature_repo"
    repo = replace(load_repo(shop), recommenders={})
    rows = SqliteRows(tmp_path / "online.db")
    config = settings(tmp_path / "online.db", "", recommender_names={"name": "books", "item_view": "item_activity"})
    service = Service(config, repo, FeatureReader(rows, repo), rows, EmptyRegistry, None)
    assert list(service.recommendations) == ["books"]
    assert service.default is not None
    assert service.default.definition == replace(
        repo.chosen_recommenders().named("shop-recommender", "here"), name="books"
    )


def test_the_service_has_the_names_of_the_section_training_and_no_other_setting_of_it(tmp_path):
    (tmp_path / "feature_repo").symlink_to(Path(__file__).parents[2] / "feature_repo")
    (tmp_path / "settings.toml").write_text('[training]\nname = "books"\niterations = 3\nweights = {view = 0.1}\n')
    config = service_config(Project.open(tmp_path))
    assert config.recommender_names == {"name": "books"}


def test_a_repo_of_no_recommender_serves_its_other_routes_and_says_so(tmp_path):
    cards = load_repo(Path(__file__).parents[2] / "feature_repo" / "cards.py")
    rows = SqliteRows(tmp_path / "online.db")
    service = Service(settings(tmp_path, ""), cards, FeatureReader(rows, cards), rows, EmptyRegistry, None)
    assert service.readiness().ready
    assert "the feature repo defines none" in refusal(service)[1]
    assert service.models().recommenders == {}


# --- what a user took -------------------------------------------------------------------------------------------------


def test_what_a_user_bought_is_what_the_model_counts_visits_of():
    artefact = model()
    assert artefact.taken("ann") == ["tea"]  # a model without visits has the history alone
    unvisited = replace(artefact, tables=replace(artefact.tables, own_visits=np.zeros(1, np.float32)))
    assert unvisited.taken("ann") == []
    assert artefact.taken("nobody") == []
    query = ItemQuery("ann", 5, context=("cup",))
    with_tea = recommend(query, UserRead(features()), artefact, fresh(tea=1.0), None)
    without = recommend(replace(query, exclude_taken=True), UserRead(features()), artefact, fresh(tea=1.0), None)
    assert ("tea" in ids(with_tea.items), "tea" in ids(without.items)) == (True, False)
