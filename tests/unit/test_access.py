"""The gate: what comes of each kind of key on every route of the app, by any spelling; rates; streams; the document."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgi import Answered, ask
from hypothesis import given
from hypothesis import strategies as st
from scored_cards import scored_repo
from serving_world import REPO, with_items
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from features.definitions.repo import load_repo
from features.errors import UsageError
from serving.access.gate import AccessGate
from serving.access.key_file import added
from serving.access.key_ring import KeyRing
from serving.access.principal import OPEN, OPS
from serving.access.rates import Rates
from serving.access.routes import ROUTES, path_of, scope_of
from serving.access.writable import writable_streams
from serving.app import app_of, fastapi_of, hot_routes, service_of
from serving.metrics import Metrics
from serving.service import Service

WHOLE = ("read", "ops", "events:*")
LACKING = {"read": ("ops", "events:*"), "ops": ("read", "events:*"), "events": ("read", "ops")}
"""Scope of a route → all the others."""

NOW = 1_700_000_000_000

WRONG = [b"", b"x", b"hr_", b"hr_000000000000_", b"hr_" + b"0" * 56, b"\xff" * 59, b"hr_" + b"z" * 10_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def keys(folder) -> dict[str, bytes]:
    path = folder / "keys.json"
    made = {"whole": WHOLE, **{f"no {scope}": scopes for scope, scopes in LACKING.items()}}
    texts = {
        name: added(path, name.replace(" ", "-"), scopes, "headrace", 1e6, NOW).text for name, scopes in made.items()
    }
    texts["other tenant"] = added(path, "other", WHOLE, "others", 1e6, NOW).text
    texts["expired"] = added(path, "expired", WHOLE, "headrace", 1e6, NOW, NOW + 1).text
    texts["catalogue"] = added(path, "catalogue", ("events:catalogue",), "headrace", 1e6, NOW).text
    texts["activity"] = added(path, "activity", ("events:activity",), "headrace", 1e6, NOW).text
    return {name: text.encode() for name, text in texts.items()}


@pytest.fixture(scope="module")
def service(folder) -> Service:
    return with_items(folder / "online.db", keys=str(folder / "keys.json"), home=str(folder))


@pytest.fixture(scope="module")
def app(service: Service, keys) -> Any:
    return app_of(service)


def routes(service: Service) -> list[tuple[str, str]]:
    """(method, path) of every route of the app, from the app."""
    found = []
    for route in fastapi_of(service).routes:
        path = path_of(route).replace("{entity}", "user").replace("{entity_id}", "u1")
        methods = getattr(route, "methods", None) or {"GET", "POST"}
        found += [(method, path) for method in sorted(methods)]
    return found


def with_key(app: Any, method: str, path: str, key: bytes | None, body: bytes = b"{}", **more: Any) -> Answered:
    headers = [] if key is None else [(b"authorization", b"Bearer " + key)]
    return ask(app, path, body, method=method, headers=headers, **more)


def test_every_route_says_what_it_asks_for(service):
    """A route that is not in ROUTES asks for ops; whoever adds one decides."""
    assert {path_of(route) for route in fastapi_of(service).routes} <= set(ROUTES)
    assert {scope_of(path) for path in hot_routes(service)} == {"read", "events"}
    assert scope_of("/v1/ops/anything") == OPS


def test_every_route_is_closed_to_those_without_its_scope(service, app, keys):
    for method, path in routes(service):
        template = path.replace("/user/u1", "/{entity}/{entity_id}")
        scope = scope_of(template)
        if scope != OPEN:
            answer = with_key(app, method, path, None)
            assert (answer.status, answer.headers["www-authenticate"][:6]) == (401, "Bearer"), (method, path)
            answer = with_key(app, method, path, keys[f"no {scope}"])
            assert answer.status == 403, (method, path)
            assert f'scope="{scope}"' in answer.headers["www-authenticate"]
        for wrong in WRONG:
            answer = with_key(app, method, path, wrong)
            assert answer.status == 401, (method, path, wrong)
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert with_key(app, method, path, keys["expired"]).status == 401
        assert with_key(app, method, path, keys["other tenant"]).status == 403
        assert with_key(app, method, path, keys["whole"]).status not in (401, 403), (method, path)


def test_a_refusal_is_a_problem_that_says_what_is_missing_and_shows_no_key(app, keys):
    for key, reason in ((None, "none"), (b"hr_nonsense", "unknown"), (keys["no read"], "scope")):
        before = app._metrics.registry.get_sample_value("headrace_access_refused_total", {"reason": reason}) or 0
        answer = with_key(app, "POST", "/v1/recommend", key)
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json) == {"type", "title", "status", "detail", "errors"}
        assert set(answer.json["errors"][0]) == {"field", "required", "got"}
        assert answer.headers["x-request-id"]
        assert key is None or key.decode() not in answer.body.decode()
        after = app._metrics.registry.get_sample_value("headrace_access_refused_total", {"reason": reason})
        assert after == before + 1


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_key_and_are_told_nothing(app, keys, path):
    answer = with_key(app, "GET", path, None)
    assert answer.json in ({"status": "ok"}, {"ready": False})
    assert with_key(app, "GET", path, keys["no ops"]).json == answer.json
    if path == "/readyz":
        assert set(with_key(app, "GET", path, keys["whole"]).json) > {"ready", "store", "model", "stream"}


def test_the_other_header_is_as_good_and_two_keys_are_none(app, keys):
    whole, other = keys["whole"], keys["no read"]
    for headers, status in [
        ([(b"x-api-key", whole)], 200),
        ([(b"x-api-key", whole), (b"authorization", b"Basic dTpw")], 200),
        ([(b"x-api-key", whole), (b"authorization", b"bearer   " + whole)], 200),
        ([(b"x-api-key", whole), (b"authorization", b"Bearer " + other)], 401),
        ([(b"x-api-key", other), (b"x-api-key", whole)], 401),
        ([(b"authorization", b"Bearer " + other), (b"authorization", b"Bearer " + whole)], 401),
        ([(b"authorization", b"Basic " + whole)], 401),
        ([(b"authorization", whole)], 401),
        ([(b"cookie", b"key=" + whole)], 401),
    ]:
        assert ask(app, "/v1/models", method="GET", headers=headers).status == status, headers
    assert ask(app, "/v1/models", method="GET", query=f"key={whole.decode()}").status == 401


SPELLINGS = [
    *(
        "{0}/",
        "/{0}",
        "//{0}",
        "/.{0}",
        "/x/..{0}",
        "{0}/.",
        "{0}\n",
        "{0}\r",
        "{0}%0a",
        "{0}?",
        "{0}#",
        "{0};a=b",
        "{0}\0",
    ),
    *("/healthz/..{0}", "/healthz{0}", "/docs/..{0}", "/docs{0}", "/v1/features{0}", "{0}/healthz", "{0}/../healthz"),
]


OVERRIDES = [
    *((name, b"GET") for name in (b"x-http-method-override", b"x-http-method", b"x-method-override")),
    *((name, b"/healthz") for name in (b"x-original-url", b"x-rewrite-url", b"x-forwarded-prefix", b"x-script-name")),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_path_is_a_way_around_the_gate(service, app, keys, spelling):
    """Without a key nothing but an open route is answered; with one, no route whose scope it lacks."""
    for method, path in routes(service):
        spelt, scope = spelling.format(path), scope_of(path.replace("/user/u1", "/{entity}/{entity_id}"))
        answer = ask(app, spelt, b"{}", method=method, headers=OVERRIDES)
        assert answer.status == 401 or (scope == OPEN and spelt == f"{path}\n"), (method, spelt)
        if scope != OPEN:
            headers = [(b"authorization", b"Bearer " + keys[f"no {scope}"]), *OVERRIDES]
            answer = ask(app, spelt, b"{}", method=method, headers=headers)
            odd_entity = spelt.startswith("/v1/features/") and scope != "read"  # for those who may read
            assert answer.status in (403, 404, 405, 307) or odd_entity, (method, spelt)


def test_a_route_of_the_same_pattern_asks_for_the_same_scope_however_it_is_found(app, keys):
    """Starlette's patterns end before a line end: such a path is the route's, too."""
    assert with_key(app, "POST", "/v1/recommend\n", keys["no read"]).status == 403
    assert with_key(app, "GET", "/v1/models\n", keys["no ops"]).status == 403
    assert with_key(app, "GET", "/healthz\n", None).status in (200, 401)


@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
def test_other_protocols_do_not_pass(app, kind):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app({"type": kind, "path": "/v1/models", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_mounted_app_and_a_new_route_ask_for_ops_unless_they_are_listed(tmp_path):
    async def answer(_):
        return PlainTextResponse("inside")

    inner = Starlette(routes=[Route("/healthz", answer), Route("/{rest:path}", answer)])
    whole = Starlette(routes=[Mount("/inner", inner), Route("/new", answer), Route("/healthz", answer)])
    path = tmp_path / "keys.json"
    texts = {scope: added(path, scope, (scope,), "t", 1e6, NOW).text.encode() for scope in ("read", "ops")}
    gate = AccessGate(whole, whole.routes, KeyRing(path), Rates(None), "t", Metrics())
    for spelt in ("/inner/healthz", "/inner/x", "/new", "/inner/../healthz"):
        assert with_key(gate, "GET", spelt, None).status == 401
        assert with_key(gate, "GET", spelt, texts["read"]).status == 403
        assert with_key(gate, "GET", spelt, texts["ops"]).status == 200
    assert with_key(gate, "GET", "/healthz", None).status == 200
    assert with_key(gate, "GET", "/nowhere", texts["read"]).status == 404


@given(path=st.text(st.characters(codec="utf-8"), max_size=12).map(lambda text: "/" + text))
def test_without_a_key_no_path_but_two_is_answered(app, path):
    assert with_key(app, "GET", path, None).status == (200 if path == "/healthz" else 503 if path == "/readyz" else 401)


def test_without_a_file_of_keys_nobody_is_asked_for_one(folder, service):
    free = app_of(service_of(service.settings.model_copy(update={"keys": str(folder / "none.json")})))
    assert with_key(free, "GET", "/v1/models", None).status == 200
    assert set(with_key(free, "GET", "/readyz", None).json) > {"ready", "store"}
    assert with_key(free, "POST", "/v1/recommend", b"whatever").status == 200


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_key_of_some_streams_writes_no_other(app, keys):
    """There is no Kafka: a post that may be made is answered 503."""
    event = b'{"event_id": "1"}'
    assert with_key(app, "POST", "/v1/events", keys["activity"], event).status == 503
    named = json.dumps({"events": [{"event_id": "1"}], "stream": "transactions"}).encode()
    for body, query in ((event, "stream=transactions"), (named, ""), (named, "stream=activity"), (event, "stream=no")):
        answer = with_key(app, "POST", "/v1/events", keys["activity"], body, query=query)
        assert (answer.status, answer.json["errors"][0]["field"]) == (403, "stream"), (body, query)
    assert with_key(app, "POST", "/v1/events", keys["catalogue"], event).status == 403
    for content_type in ("application/json", "text/plain", None):  # by FastAPI's route, too
        assert with_key(app, "POST", "/v1/events", keys["catalogue"], event, content_type=content_type).status in (
            403,
            415,
        )


@pytest.mark.parametrize("stream", ["served", "catalogue", "labels"])
def test_what_is_no_activity_is_written_by_nobody(app, keys, service, stream):
    name = next(iter(service.repo.models.values())).labels.name if stream == "labels" else stream
    answer = with_key(app, "POST", "/v1/events", keys["whole"], b"{}", query=f"stream={name}")
    assert answer.status == 403
    assert "serving.writable_streams" in answer.json["detail"]


# --- rates ------------------------------------------------------------------------------------------------------------


def test_beyond_its_rate_a_key_is_told_when_to_ask_again(folder, service, tmp_path):
    path = tmp_path / "keys.json"
    slow, other = (added(path, name, WHOLE, "headrace", 2.0, NOW).text.encode() for name in ("slow", "other"))
    limited = app_of(service_of(service.settings.model_copy(update={"keys": str(path)})))
    answers = [with_key(limited, "GET", "/v1/models", slow) for _ in range(40)]
    refused = [answer for answer in answers if answer.status == 429]
    assert [answer.status for answer in answers[:2]] == [200, 200]
    assert refused
    assert {int(answer.headers["retry-after"]) for answer in refused} == {1}
    assert all(answer.json["retry_after_s"] == 1 for answer in refused)
    assert with_key(limited, "GET", "/v1/models", other).status == 200
    assert with_key(limited, "GET", "/healthz", slow).status == 200
    assert with_key(limited, "GET", "/v1/models", b"hr_wrong").status == 401


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_document_says_for_each_operation_which_key_and_which_refusals(service):
    whole = fastapi_of(service).openapi()
    schemes = whole["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert (schemes["key"]["in"], schemes["key"]["name"]) == ("header", "X-API-Key")
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            scope = scope_of(path)
            named = [names for one in operation["security"] for names in one.values()]
            assert named == [[], []] if scope == OPEN else [[scope], [scope]]
            assert ({} in operation["security"]) == (scope == OPEN)
            assert {"401", "403", "429"} <= set(operation["responses"])
    assert fastapi_of(service).openapi() == whole


# --- the streams that HTTP may write, by the definitions -----------------------------------------------------------

DEFINITIONS = """
from headrace import Count, Entity, FeatureSet, FeatureView, Last, Recommender, Stream, served_log
user, item = Entity("user", keys={"u": "string"}), Entity("item", keys={"i": "string"})
first = Stream("first", topic="a", fields={"u": "string", "i": "string", "x": "float64"})
second = Stream("second", topic="b", fields={"u": "string", "i": "string", "wrong": "bool", "x": "float64"})
third = Stream("third", topic="c", fields={"i": "string", "name": "string"})
fourth = served_log("d", name="fourth")
elsewhere = served_log("e", name="elsewhere")
decisions = Stream("decisions", topic="scores", fields={"u": "string"})
told = FeatureSet(user, decisions, [Count()], ["1h"], name="told")
of_user = FeatureView("of_user", sets=[FeatureSet(user, first, [Count()], ["1h"]), told])
of_item = FeatureView("of_item", sets=[FeatureSet(item, first, [Count()], ["1h"])])
things = FeatureView("things", sets=[FeatureSet(item, third, [Last("name")], ["365d"])])
"""
RECOMMENDER = """
shop = Recommender("shop", stream=first, user=user, item=item, user_view=of_user, item_view=of_item, targets=["taken"],
    catalogue=things, served=fourth)
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", {"first", "third"}),
        (RECOMMENDER, {"first"}),
    ],
)
def test_streams_that_http_may_write_follow_from_what_the_definitions_use_them_for(tmp_path, more, expected):
    (tmp_path / "defs.py").write_text(DEFINITIONS + more, encoding="utf-8")
    repo = load_repo(tmp_path)
    found = writable_streams(repo, repo.chosen_recommenders(), None, ("scores", "alerts"))
    assert found == expected
    assert writable_streams(repo, repo.chosen_recommenders(), ["third", "fourth"]) == {"third", "fourth"}
    with pytest.raises(UsageError, match=r"serving.writable_streams requires names of streams: .*; got 'none'"):
        writable_streams(repo, repo.chosen_recommenders(), ["first", "none"])


def test_of_the_project_s_own_definitions_it_is_what_users_and_holders_do():
    repo = load_repo(REPO)
    told = {model.labels.name for model in repo.models.values() if model.labels is not None}
    writable = writable_streams(repo, repo.chosen_recommenders(), None)
    assert writable == {"activity", *(model.stream.name for model in repo.models.values())} - told
    assert not writable & {"served", "catalogue"}


def test_a_model_s_scores_are_posted_by_nobody_though_another_model_judges_them(tmp_path):
    repo = scored_repo(tmp_path)
    (scored,) = [model.scored.name for model in repo.models.values() if model.scored is not None]
    assert scored not in writable_streams(repo, repo.chosen_recommenders(), None)
