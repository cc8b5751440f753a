"""What a request may ask for over HTTP: filters, candidates, sessions, given features, other models, rank, similar."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from serving_world import ITEMS, REPO, Http, Models, fill, ids, plain, settings, until

from features.definitions.repo import FeatureRepo, load_repo
from features.events.parsing import from_columns
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from features.times import now_ms
from models.recommender.artefact import Artefact
from serving.recommend.items import ItemFeatures
from streaming.status import write_status

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
CATALOGUE_ID = 8


def fill_catalogue(rows: SqliteRows, repo: FeatureRepo) -> None:
    """All items but item29. item1 to item9: the even ones are mugs, the odd ones lamps, and item n costs n."""
    now = time.time_ns() // 1_000_000
    described = [number if 1 <= number <= 9 else None for number in range(29)]
    table = pa.table(
        {
            "event_id": [f"c{number}" for number in range(29)],
            "event_time": [now - 1_000] * 29,
            "item_id": [f"item{number}" for number in range(29)],
            "category": [number and ("mug", "lamp")[number % 2] for number in described],
            "price": [number and float(number) for number in described],
        }
    )
    events = {"catalogue": from_columns(table, repo.streams["catalogue"]).events}
    view = repo.views["item_catalogue"]
    store = rows.generation(CATALOGUE_ID)
    build_generation(store, [view], CATALOGUE_ID, events, Marker(0, {}, {}, 0), now)
    rows.set_current(view.name, CATALOGUE_ID)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("registry"), load_repo(REPO))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Http]:
    store: Path = tmp_path_factory.mktemp("store") / "online.db"
    rows, repo = SqliteRows(store), models.repo
    fill(rows, repo)
    fill_catalogue(rows, repo)
    models.promote(models.register(step=1))
    with plain(settings(store, models.uri)) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        yield http


def test_a_filter_by_attributes_of_the_catalogue_leaves_only_what_meets_it(http):
    answer = http.recommend(user_id="u1", k=5, filter={"category": ["mug"], "price": {"max": 6}})
    assert sorted(ids(answer)) == ["item2", "item4", "item6"]
    assert answer["fallback"] == {"used": True, "reason": "few_items"}
    assert http.recommend(user_id="u1", k=3, filter={"category": "mug"})["fallback"]["used"] is False


def test_an_item_that_the_catalogue_does_not_have_is_ranked_when_asked_and_never_recommended(http):
    """item28 goes with item29, which the catalogue does not have."""
    asked = http.recommend(context={"item_id": "item28"}, k=5)
    assert "item29" not in ids(asked)
    assert asked["fallback"]["reason"] is None
    assert "item29" not in ids(http.recommend(user_id="never seen", k=40))
    assert ids(http.recommend(user_id="u1", candidates=["item29"])) == []
    _, similar, _ = http.ask("/v1/similar", {"item_id": "item28", "k": 3})
    assert (similar["fallback"]["reason"], "item29" in ids(similar)) == ("nothing_similar", False)
    assert ids(http.ask("/v1/rank", {"user_id": "u1", "items": ["item29", "item1"]})[1]) == ["item1", "item29"]


def test_an_attribute_that_no_item_has_is_a_problem_that_names_those_there_are(http):
    status, problem, _ = http.ask("/v1/recommend", {"user_id": "u1", "filter": {"colour": "red"}})
    assert (status, problem["errors"][0]["field"]) == (422, "filter")
    assert "brand, category, price, title" in problem["errors"][0]["required"]


def test_only_the_candidates_of_a_request_come(http):
    assert sorted(ids(http.recommend(user_id="u1", candidates=["item7", "item8", "absent"]))) == ["item7", "item8"]


def test_diversity_keeps_one_kind_from_following_itself(http):
    body = {"user_id": "u1", "k": 4, "filter": {"price": {"max": 9}}}
    plain_, varied = http.recommend(**body), http.recommend(**body, diversity=0.8)
    assert ids(http.recommend(**body, diversity=0)) == ids(plain_)
    kinds = [int(item.removeprefix("item")) % 2 for item in ids(varied)]
    assert kinds[:2] in ([0, 1], [1, 0])


def test_features_that_a_request_brings_stand_in_for_those_of_the_store(http):
    recent = load_repo(REPO).recommenders["shop-recommender"].recent_feature
    answer = http.recommend(user_features={recent: ["item20"]}, k=2)
    assert (answer["fallback"]["used"], answer["features"]["status"]) == (False, "PRESENT")
    assert ids(answer)[0] == "item21"
    assert "item21" in ids(http.recommend(user_id="u1", user_features={recent: ["item20"]}, k=3))


def test_a_given_feature_that_the_view_does_not_have_is_a_problem(http):
    status, problem, _ = http.ask("/v1/recommend", {"user_features": {"shoe_size": 43}})
    assert (status, problem["errors"][0]["field"]) == (422, "user_features.shoe_size")


def test_a_session_that_nothing_is_known_of_is_a_fallback_that_says_so(http):
    assert http.recommend(session_id="never", k=1)["fallback"] == {"used": True, "reason": "unknown_session"}


def test_another_version_or_alias_answers_when_a_request_names_it(http, models):
    other = models.register(step=2)
    until(lambda: http.ask("/v1/recommend", {"model": other})[0] == 200, "the next look at the registry")
    by_version = http.recommend(context={"item_id": "item11"}, k=1, model=other)
    assert (ids(by_version), by_version["model"]["version"], by_version["model"]["alias"]) == (["item13"], other, None)
    by_alias = http.recommend(context={"item_id": "item11"}, k=1, model="champion")
    assert (ids(by_alias), by_alias["model"]["alias"]) == (["item12"], "champion")


@pytest.mark.parametrize("name", ["999", "nobody"])
def test_a_model_that_is_not_registered_is_not_found(http, name):
    status, problem, media_type = http.ask("/v1/recommend", {"model": name})
    assert (status, problem["errors"][0]["field"], media_type) == (404, "model", "application/problem+json")


def test_a_damaged_version_that_a_request_names_is_refused_with_its_reason(http, models):
    damaged = models.register(step=3)
    with (models.folder / "model3" / "candidates.npz").open("ab") as file:
        file.write(b"x")
    until(lambda: http.ask("/v1/recommend", {"model": damaged})[0] != 404, "the next look at the registry")
    status, problem, _ = http.ask("/v1/recommend", {"model": damaged})
    assert status == 422
    assert "candidates.npz" in problem["detail"]


def test_ranking_returns_the_callers_items_and_names_those_that_nothing_is_known_of(http):
    status, answer, _ = http.ask("/v1/rank", {"user_id": "u1", "items": ["item20", "absent", "item5"], "explain": True})
    assert status == 200
    assert ids(answer) == ["item5", "item20", "absent"]
    assert answer["items"][2] | {"rank": 0} == {
        "item_id": "absent",
        "score": None,
        "rank": 0,
        "source": "unknown",
        "reasons": [],
    }


def test_items_like_an_item_come_from_the_model_and_an_unknown_item_is_told(http):
    status, answer, _ = http.ask("/v1/similar", {"item_id": "item5", "k": 1})
    assert (status, ids(answer), answer["fallback"]["used"]) == (200, ["item6"], False)
    _, answer, _ = http.ask("/v1/similar", {"item_id": "item5", "k": 3})
    assert (ids(answer), answer["fallback"]) == (["item6"], {"used": True, "reason": "few_items"})
    _, answer, _ = http.ask("/v1/similar", {"item_id": "absent", "k": 1})
    assert answer["fallback"] == {"used": True, "reason": "unknown_item"}
    assert ids(answer) == ["item9"]


def test_every_example_of_the_api_is_a_request_that_the_service_answers(http):
    """The examples that /docs shows name categories that the catalogue here has, or lacks: both are answers."""
    schemas = http.ask("/openapi.json")[1]["components"]["schemas"]
    for path, name in (("recommend", "RecommendRequest"), ("rank", "RankRequest"), ("similar", "SimilarRequest")):
        assert schemas[name]["examples"]
        for example in schemas[name]["examples"]:
            status, answer, _ = http.ask(f"/v1/{path}", example)
            assert status == 200, answer


def test_items_that_are_read_anew_while_a_model_is_loaded_are_those_that_the_model_knows_too(tmp_path, monkeypatch):
    """Seen once: ready with 3 items of 30, as a read that began before the swap did not know the model."""
    models = Models(tmp_path / "registry", load_repo(REPO))
    fill(SqliteRows(tmp_path / "online.db"), models.repo)
    models.promote(models.register(step=1))
    reads = threading.Semaphore(0)
    refresh, follow, recommend = ItemFeatures.refresh, ItemFeatures.follow, Artefact.recommend

    def counted(self, *args):
        refresh(self, *args)
        reads.release()

    def followed(self, *args):
        done = follow(self, *args)
        if done:
            reads.release()
        return done

    def after_two_reads(self, *args, **more):
        if threading.current_thread().name == "models":  # between the read of the model's items and the swap
            while reads.acquire(blocking=False):
                pass
            assert reads.acquire(timeout=60)
            assert reads.acquire(timeout=60)
        return recommend(self, *args, **more)

    monkeypatch.setattr(ItemFeatures, "refresh", counted)
    monkeypatch.setattr(ItemFeatures, "follow", followed)
    monkeypatch.setattr(Artefact, "recommend", after_two_reads)
    with plain(settings(tmp_path / "online.db", models.uri)) as http:
        assert http.ask("/readyz")[1]["items"] == len(ITEMS)


def test_a_service_beside_a_fold_that_does_not_get_on_is_not_ready_and_says_since_when_and_why(tmp_path):
    models = Models(tmp_path / "registry", load_repo(REPO))
    fill(SqliteRows(tmp_path / "online.db"), models.repo)
    home = tmp_path / "home"

    def write(fold, archive):
        queries = {"fold": fold, "archive": archive}
        write_status(home, {"state": "running", "updated_at": now_ms(), "queries": queries})

    well = {"state": "running", "failures": 0, "failing_since": None, "error": None}
    bad = {"state": "waiting", "failures": 3, "failing_since": 1_700_000_000_000, "error": "no room"}
    since = "has not got on since 2023-11-14T22:13:20.000Z: no room"
    with plain(settings(tmp_path / "online.db", models.uri, home=str(home))) as http:
        assert http.ask("/readyz")[1]["stream"] == "not running"
        write(well, well)
        assert http.ask("/readyz")[1]["stream"] == "ok"
        write(well, bad)  # what is read here is as new as ever
        status, answer, _ = http.ask("/readyz")
        assert (status, answer["ready"], answer["stream"]) == (200, True, f"query 'archive' {since}")
        write(bad, well)
        status, answer, _ = http.ask("/readyz")
        assert (status, answer["ready"], answer["stream"]) == (503, False, f"query 'fold' {since}")
        assert http.ask("/healthz")[0] == 200
        write(well, well)
        assert http.ask("/readyz")[0] == 200
