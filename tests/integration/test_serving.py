"""The service over HTTP, in a real Ray Serve and in a plain server: real store, real registry, real Kafka."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from serving_world import ITEMS, MODEL, REPO, Http, Models, fill, free_port, ids, plain, settings, until

from features.definitions.repo import FeatureRepo, load_repo
from features.online_store.sqlite.rows import SqliteRows
from models.recommender.scoring import PAIR_FEATURES
from serving.server.ray_server import served
from streaming.kafka.topic_admin import ensure_topics

GAZE = {"event_id": "1", "event_time": 1_780_000_000_000, "event_type": "gaze"}
# Warnings of Ray's and MLflow's own code are not news about ours.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def repo() -> FeatureRepo:
    return load_repo(REPO)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, repo: FeatureRepo) -> Path:
    path = tmp_path_factory.mktemp("store") / "online.db"
    fill(SqliteRows(path), repo)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, repo: FeatureRepo) -> Models:
    return Models(tmp_path_factory.mktemp("registry"), repo)


# --- in Ray Serve -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray_http(store: Path, models: Models, kafka: str, repo: FeatureRepo) -> Iterator[Http]:
    import ray  # noqa: F401  # before the service starts, as a user's program may: its ports stay on loopback then too

    models.promote(models.register(step=1))
    ensure_topics(kafka, [repo.streams["activity"], repo.streams["served"]])
    with served(settings(store, models.uri, bootstrap_servers=kafka, served_log_share=1.0)) as url:
        http = Http(url)
        until(lambda: http.ask("/readyz")[0] == 200 and http.ask("/v1/models")[1]["current"], "a model")
        yield http


def test_it_is_healthy_ready_and_says_what_it_has(ray_http):
    assert ray_http.ask("/healthz")[:2] == (200, {"status": "ok"})
    status, ready, _ = ray_http.ask("/readyz")
    assert (status, ready["store"], ready["events"]) == (200, "ok", "ok")
    assert ready["items"] >= len(ITEMS)
    assert "/v1/recommend" in ray_http.ask("/openapi.json")[1]["paths"]


def test_features_of_a_user_are_those_of_the_store(ray_http, store, repo):
    _, answer, _ = ray_http.ask("/v1/features/user/u1")
    (view,) = [one for one in answer["views"] if one["view"] == "user_activity"]
    assert (answer["entity"], answer["key"], view["status"]) == ("user", {"user_id": "u1"}, "PRESENT")
    assert view["features"]["user_view_count_1h"] == 2
    assert view["newest_event"] < view["as_of"]


def test_an_unknown_entity_has_the_status_and_no_values(ray_http):
    status, answer, _ = ray_http.ask("/v1/features/user/nobody")
    assert (status, answer["views"][0]["status"]) == (200, "NOT_FOUND")
    assert set(answer["views"][0]["features"].values()) == {None}


def test_a_recommendation_names_its_model_its_features_and_no_fallback(ray_http):
    answer = ray_http.recommend(user_id="u1", k=3, explain=True)
    assert answer["fallback"] == {"used": False, "reason": None}
    assert answer["model"]["alias"] == "champion"
    assert answer["features"]["status"] == "PRESENT"
    assert answer["features"]["age_ms"] >= 0
    assert {"item4", "item5"} <= set(ids(answer))
    assert [one["rank"] for one in answer["items"]] == [1, 2, 3]
    assert all(one["reasons"] for one in answer["items"])


def test_what_is_excluded_does_not_come_back(ray_http):
    answer = ray_http.recommend(user_id="u1", k=20, exclude=["item5"], exclude_seen=True)
    assert not {"item3", "item4", "item5"} & set(ids(answer))


def test_the_item_that_is_looked_at_leads_without_a_user(ray_http):
    answer = ray_http.recommend(context={"item_id": "item11"}, k=1)
    assert (ids(answer), answer["fallback"]["used"]) == (["item12"], False)


def test_an_unknown_user_gets_what_is_trending_and_is_told(ray_http):
    answer = ray_http.recommend(user_id="nobody", k=2)
    assert answer["fallback"] == {"used": True, "reason": "unknown_user"}
    assert answer["items"][0]["item_id"] == "item9"
    assert answer["items"][0]["source"] == "trending"


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/v1/recommend", {"k": "ten"}, 422, "k"),
        ("/v1/recommend", {"user": "u1"}, 422, "user"),
        ("/v1/recommend", [], 422, "body"),
        ("/v1/events", {"events": 3}, 422, "events"),
        ("/v1/events", GAZE, 422, "events.0.event_type"),
        ("/v1/events?stream=nothing", {"event_id": "1"}, 422, "stream"),
        ("/v1/features/planet/mars", None, 404, "entity"),
    ],
)
def test_a_bad_request_is_a_problem_that_names_field_required_and_got(ray_http, path, body, status, field):
    got, answer, media_type = ray_http.ask(path, body)
    assert (got, answer["status"], media_type) == (status, status, "application/problem+json")
    assert answer["errors"][0]["field"] == field
    assert answer["errors"][0]["required"]
    assert answer["errors"][0]["got"]


def test_what_is_no_json_no_path_or_too_large_is_a_problem_too(ray_http):
    for path, raw, status in (
        ("/v1/recommend", b"{", 400),
        ("/v1/events", b"{", 400),
        ("/v2/recommend", b"{}", 404),
        ("/v1/recommend", b" " * (1 << 21), 413),
    ):
        got, answer, media_type = ray_http.ask(path, raw=raw)
        assert (got, answer["status"], media_type) == (status, status, "application/problem+json")


def test_events_are_accepted_once_kafka_has_them_and_stand_in_the_topic_as_sent(ray_http, kafka, unique_name):
    now = time.time_ns() // 1_000_000
    event = {"event_id": unique_name, "event_time": now, "event_type": "view", "user_id": "u1", "item_id": "item1"}
    assert ray_http.ask("/v1/events", event)[0] == 202
    bad = event | {"event_id": "bad", "event_type": "gaze"}
    status, answer, _ = ray_http.ask("/v1/events", {"events": [event, bad]})
    assert (status, answer["accepted"], answer["refused"]) == (207, 1, 1)
    assert answer["events"][1]["reason"].startswith("unknown_value: field 'event_type'")
    found = consumed(kafka, "shop.activity", unique_name)
    assert found == [(b"u1", event), (b"u1", event)]


def test_what_was_served_stands_in_the_logs_topic_with_the_rows_it_was_scored_by(ray_http, kafka):
    answer = ray_http.recommend(user_id="u1", k=3, context={"placement": "home"})
    until(lambda: consumed(kafka, "shop.served", answer["recommendation_id"]), "the event of the log")
    ((key, event),) = consumed(kafka, "shop.served", answer["recommendation_id"])
    assert (key, event["placement"], event["model_version"]) == (b"u1", "home", answer["model"]["version"])
    listed = json.loads(event["items"])
    assert [one[:2] for one in listed] == [[one["item_id"], one["score"]] for one in answer["items"]]
    assert all(len(row) == len(PAIR_FEATURES) + 4 for *_, row in listed)


def consumed(kafka: str, topic: str, event_id: str) -> list[tuple[bytes, dict]]:
    """The messages of this event_id, from the topic's beginning to its end."""
    from confluent_kafka import Consumer

    options = {"bootstrap.servers": kafka, "group.id": event_id, "auto.offset.reset": "earliest"}
    consumer = Consumer({**options, "enable.partition.eof": True, "enable.auto.commit": False})
    consumer.subscribe([topic])
    found: list[tuple[bytes, dict]] = []
    ended: set[int] = set()
    partitions = len(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    while len(ended) < partitions:
        message = consumer.poll(30)
        assert message is not None, "the topic did not answer"
        if message.error():
            ended.add(message.partition())
        else:
            found.append((message.key(), json.loads(message.value())))
    consumer.close()
    return [one for one in found if one[1]["event_id"] == event_id]


def test_a_new_champion_serves_without_a_lost_request_and_so_does_the_rollback(ray_http, models):
    before = ray_http.recommend(user_id="u1")["model"]["version"]
    after = models.register(step=2)
    seen: list[tuple[int, str]] = []
    stopping = threading.Event()

    def client() -> None:
        while not stopping.is_set():
            status, answer, _ = ray_http.ask("/v1/recommend", {"user_id": "u1", "k": 3})
            seen.append((status, answer["model"]["version"]))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for one in clients:
        one.start()
    try:
        models.promote(after)
        until(lambda: seen and seen[-1][1] == after, "the new champion")
        assert "item5" in ids(ray_http.recommend(user_id="u1", k=3))
        models.promote(before)
        until(lambda: seen[-1][1] == before, "the old champion")
    finally:
        stopping.set()
        for one in clients:
            one.join()
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {before, after}


def test_a_damaged_model_never_serves_and_is_named(ray_http, models):
    before = ray_http.recommend(user_id="u1")["model"]["version"]
    damaged = models.register(step=3)
    with (models.folder / "model3" / "candidates.npz").open("ab") as file:
        file.write(b"x")
    models.promote(damaged)
    try:
        until(lambda: ray_http.ask("/v1/models")[1]["refused"], "the refusal")
        refused = ray_http.ask("/v1/models")[1]["refused"]
        assert refused["version"] == damaged
        assert "candidates.npz" in refused["reason"]
        assert ray_http.recommend(user_id="u1")["model"]["version"] == before
    finally:
        models.promote(before)


def test_its_metrics_are_prometheus_text(ray_http):
    ray_http.recommend(user_id="nobody")
    text = ray_http.text("/metrics")
    assert 'headrace_fallbacks_total{reason="unknown_user"}' in text
    assert 'headrace_http_requests_total{method="POST",route="/v1/recommend",status="200"}' in text
    assert f'headrace_model_info{{name="{MODEL}"' in text


def test_nothing_of_it_listens_beyond_this_machine(ray_http):
    """Whoever reaches a port of Ray runs code in it."""
    import psutil

    mine = {one.pid for one in psutil.Process().children(recursive=True)}
    open_ports = [
        f"{psutil.Process(one.pid).name()} {one.laddr.ip}:{one.laddr.port}"
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.pid in mine and not local(one.laddr.ip)
    ]
    assert open_ports == []


def test_an_answer_has_one_request_id_on_every_route(ray_http):
    for path, body in (("/healthz", None), ("/v1/recommend", b'{"user_id": "u1"}'), ("/v1/recommend", b"{")):
        headers = {"content-type": "application/json", "x-request-id": "mine-7"}
        try:
            answer = urllib.request.urlopen(urllib.request.Request(ray_http.url + path, body, headers), timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        assert answer.headers.get_all("x-request-id") == ["mine-7"]


def test_a_caller_of_ray_needs_a_token_that_its_owner_alone_can_read(ray_http):
    import psutil

    environs = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            environs.append(child.environ())
    rays = [environ for environ in environs if "RAY_AUTH_MODE" in environ]
    assert {environ["RAY_AUTH_MODE"] for environ in rays} == {"token"}
    (path,) = {Path(environ["RAY_AUTH_TOKEN_PATH"]) for environ in rays}
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == 64


def local(ip: str) -> bool:
    return ip.startswith("127.") or ip in ("::1", "::ffff:127.0.0.1")


# --- without Ray: what is missing -------------------------------------------------------------------------------------


def test_without_a_model_the_answer_is_a_fallback_that_says_so(store, tmp_path):
    with plain(settings(store, f"sqlite:///{tmp_path / 'none.db'}")) as http:
        answer = http.recommend(user_id="u1", k=2)
        assert answer["fallback"] == {"used": True, "reason": "no_model"}
        assert answer["model"] is None
        assert answer["items"][0]["item_id"] == "item9"
        assert not (tmp_path / "none.db").exists()


def test_an_empty_store_leaves_what_the_model_knows_and_says_so(tmp_path, models):
    models.promote(models.register(step=4))
    with plain(settings(tmp_path / "empty.db", models.uri)) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        answer = http.recommend(user_id="u1", k=2)
        assert answer["fallback"] == {"used": True, "reason": "empty_store"}
        assert ids(answer) == ["item0", "item1"]
        assert http.recommend(user_id="u99", k=1, exclude_seen=True)["items"][0]["item_id"] == "item24"


def test_a_store_that_is_down_leaves_what_the_model_knows_and_says_so(tmp_path, models):
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 1000)
    models.promote(models.register(step=5))
    with plain(settings(tmp_path / "broken.db", models.uri), ready=False) as http:
        until(lambda: http.ask("/v1/models")[1]["current"], "a model")
        until(lambda: "broken.db" in http.ask("/readyz")[1]["store"], "the store's error")
        assert http.ask("/readyz")[0] == 503
        answer = http.recommend(user_id="u1", k=2)
        assert answer["fallback"] == {"used": True, "reason": "store_down"}
        assert ids(answer) == ["item0", "item1"]
        status, problem, media_type = http.ask("/v1/features/user/u1")
        assert (status, media_type) == (503, "application/problem+json")
        assert "broken.db" in problem["detail"]


def test_a_store_that_does_not_answer_in_time_leaves_an_answer_in_time(store, models):
    """Without any time no read is waited for, as if the store hung; a tiny deadline is seen late on a busy machine."""
    chosen = settings(store, models.uri).model_copy(update={"deadline_ms": 0})
    with plain(chosen) as http:
        answer = http.recommend(user_id="u1", k=2)
        assert answer["fallback"] == {"used": True, "reason": "deadline"}


def test_the_clock_of_a_replayed_stream_is_its_newest_event(tmp_path, repo):
    """As of the wall's time, a user of last year's file would have no features."""
    path = tmp_path / "replayed.db"
    fill(SqliteRows(path), repo, ago_ms=400 * 86_400_000)
    with plain(settings(path, "")) as http:
        assert http.ask("/v1/features/user/u1")[1]["views"][0]["status"] == "NOT_FOUND"
    with plain(settings(path, "", clock="stream")) as http:
        (view,) = http.ask("/v1/features/user/u1")[1]["views"]
        assert (view["status"], view["features"]["user_view_count_1h"]) == ("PRESENT", 2)


def test_without_kafka_events_are_refused_and_never_said_to_be_accepted(store, tmp_path):
    event = {"event_id": "1", "event_time": time.time_ns() // 1_000_000, "event_type": "view"}
    none = settings(store, "")
    with plain(none) as http:
        assert http.ask("/v1/events", event)[0] == 503
    dead = settings(store, "", bootstrap_servers=f"127.0.0.1:{free_port()}", acknowledge_within_s=1.0)
    with plain(dead) as http:
        status, answer, _ = http.ask("/v1/events", event)
        assert (status, answer["events"][0]["status"]) == (503, "unknown")
