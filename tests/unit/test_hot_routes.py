"""The routes before FastAPI: what they take, what they leave to FastAPI, and that both say the same."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from asgi import ask
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError
from serving_world import with_items
from starlette.responses import JSONResponse

from features.errors import StoreError
from serving.app import app_of, fastapi_of, hot_routes
from serving.http import schema
from serving.http.hot_routes import HotRoutes, json_route
from serving.http.problems import field_problem
from serving.http.structs import decoder_of, struct_of
from serving.metrics import Metrics
from serving.service import Service

REQUESTS = {
    "/v1/recommend": schema.RecommendRequest,
    "/v1/rank": schema.RankRequest,
    "/v1/similar": schema.SimilarRequest,
    "/v1/score": schema.ScoreRequest,
}
OF_ITS_OWN = {"recommendation_id", "took_ms", "features"}
"""Parts of an answer that no other answer has."""

TEXTS = st.text(max_size=3) | st.sampled_from(["u1", "item3", "item9", "x" * 256, "x" * 257, "0.5", "é", "\ud800"])
NUMBERS = st.integers(-2, 600) | st.floats() | st.sampled_from([2**63, 10**400, -0.0, 1e400])
SCALARS = TEXTS | NUMBERS | st.booleans()
ANY = st.recursive(
    SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
WELL_TYPED = {
    "recommender": TEXTS | st.just("shop-recommender") | st.none(),
    "user_id": TEXTS | st.none(),
    "session_id": TEXTS | st.none(),
    "user_features": st.dictionaries(TEXTS, SCALARS | st.lists(SCALARS, max_size=3) | st.none(), max_size=3),
    "context": st.fixed_dictionaries(
        {}, optional={"item_id": TEXTS, "items": st.lists(TEXTS, max_size=3), "placement": TEXTS | st.none()}
    ),
    "explain": st.booleans(),
    "model": TEXTS | st.none(),
    "k": st.integers(0, 501),
    "exclude_seen": st.booleans(),
    "exclude": st.lists(TEXTS, max_size=3),
    "candidates": st.lists(TEXTS, max_size=3) | st.none(),
    "filter": st.dictionaries(
        TEXTS, SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2), max_size=3
    ),
    "diversity": st.floats(0, 1.1) | st.integers(0, 1),
    "items": st.lists(TEXTS, max_size=5),
    "item_id": TEXTS,
    "event": st.dictionaries(TEXTS, SCALARS | st.none(), max_size=3),
    "as_of": st.integers(0, 2**63) | st.none(),
}


def bodies(model: type[BaseModel]) -> st.SearchStrategy[bytes]:
    """Requests that are right, nearly right, or of any kind; as text that JSON's grammar nearly has."""
    fields = {name: WELL_TYPED[name] for name in model.model_fields}
    needed = {name: values for name, values in fields.items() if model.model_fields[name].is_required()}
    right = st.fixed_dictionaries(needed, optional={name: fields[name] for name in fields if name not in needed})
    wrong = st.fixed_dictionaries({}, optional={name: values | ANY for name, values in fields.items()} | {"no": ANY})
    values = right | wrong | ANY
    return st.builds(lambda value, ascii_: json.dumps(value, ensure_ascii=ascii_), values, st.booleans()).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    ) | st.binary(max_size=6)


def by_model(model: type[BaseModel], body: bytes) -> BaseModel | None:
    """What FastAPI makes of the body."""
    try:
        return model.model_validate(json.loads(body))
    except (ValidationError, ValueError):
        return None


@pytest.mark.parametrize("model", REQUESTS.values())
@given(data=st.data())
def test_a_struct_takes_only_what_the_model_takes_and_has_the_same_values(model: type[BaseModel], data: Any) -> None:
    body = data.draw(bodies(model))
    taken = decoder_of(model)(body)
    if taken is not None:
        expected = by_model(model, body)
        assert expected is not None
        assert repr(msgspec.to_builtins(taken)) == repr(expected.model_dump())


@pytest.mark.parametrize("model", REQUESTS.values())
@given(data=st.data())
def test_a_struct_takes_all_that_the_model_takes_without_a_conversion(model: type[BaseModel], data: Any) -> None:
    body = data.draw(bodies(model))
    expected = by_model(model, body)
    if expected is not None and decoder_of(model)(body) is None:
        assert beyond_json(body) or in_order(expected.model_dump(exclude_unset=True)) != in_order(json.loads(body))


def beyond_json(body: bytes) -> bool:
    """Python's reader takes numbers that JSON lacks, and halves of characters."""
    return b"NaN" in body or b"Infinity" in body or "\\ud800" in json.dumps(json.loads(body))


def in_order(value: object) -> str:
    return json.dumps(value, sort_keys=True)


@pytest.mark.parametrize("model", [*REQUESTS.values(), schema.RecommendResponse, schema.EventsResponse])
def test_a_struct_has_the_fields_and_defaults_of_its_model(model):
    fields = {field.name: field for field in msgspec.structs.fields(struct_of(model))}
    assert list(fields) == list(model.model_fields)
    assert [name for name, field in fields.items() if field.required] == [
        name for name, field in model.model_fields.items() if field.is_required()
    ]


def test_a_bound_that_structs_have_no_equal_of_is_an_error():
    class Even(BaseModel):
        number: Annotated[int, Field(multiple_of=2)]

    with pytest.raises(TypeError, match="MultipleOf"):
        struct_of(Even)


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return with_items(tmp_path_factory.mktemp("store") / "online.db")


@pytest.fixture(scope="module")
def app(service: Service) -> Any:
    return app_of(service)


@pytest.fixture(scope="module")
def behind_routes(service: Service) -> Any:
    """FastAPI alone."""
    return fastapi_of(service)


def comparable(answer: Any) -> tuple[int, str, Any]:
    content = answer.json
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if name not in OF_ITS_OWN}
    return answer.status, answer.headers["content-type"], content


@pytest.mark.parametrize("path", REQUESTS)
@given(data=st.data())
def test_every_request_has_the_answer_or_the_problem_that_fastapi_has_for_it(
    app: Any, behind_routes: Any, path: str, data: Any
) -> None:
    body = data.draw(bodies(REQUESTS[path]))
    assert comparable(ask(app, path, body)) == comparable(ask(behind_routes, path, body))


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rank", "/v1/similar"])
def test_an_answer_is_what_the_document_says(service, app, path):
    body = {"/v1/similar": {"item_id": "item3"}, "/v1/rank": {"items": ["item9", "absent"]}}.get(path, {"k": 3})
    answer = ask(app, path, json.dumps(body | {"explain": True}).encode())
    assert answer.status == 200, answer.json
    assert schema.RecommendResponse.model_validate_json(answer.body, strict=True).items
    operation = fastapi_of(service).openapi()["paths"][path]["post"]
    said = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert said.endswith("/RecommendResponse")
    asked = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert asked.endswith(f"/{REQUESTS[path].__name__}")


def test_every_route_before_fastapi_stands_in_the_document(service):
    paths = fastapi_of(service).openapi()["paths"]
    assert set(hot_routes(service)) == {path for path, methods in paths.items() if "post" in methods}


def test_events_have_the_same_problem_whichever_route_they_take(app):
    assert ask(app, "/v1/events", b"{}", query="stream=nothing").json["errors"][0]["field"] == "stream"
    assert ask(app, "/v1/events", b"{").status == 400
    assert ask(app, "/v1/events", b"{}", query="stream=activity&stream=transactions").status == 503  # there is no Kafka


@pytest.mark.parametrize("route", ["app", "behind_routes"])
@pytest.mark.parametrize(
    "body",
    [
        {"user_id": "\ud800"},
        {"user_features": {"\ud800": None}},
        {"user_features": {"user_last_category": "\ud800"}},
        {"context": {"placement": "\ud800"}},
        {"filter": {"\ud800": 1}},
        {"\ud800": 1},
    ],
)
def test_half_a_character_is_a_problem_of_the_request(request, body, route):
    answer = ask(request.getfixturevalue(route), "/v1/recommend", json.dumps(body).encode())
    assert answer.status == 422
    assert b"\\ud800" in answer.body


# --- which requests are taken -----------------------------------------------------------------------------------------


class Behind:
    """FastAPI's place: keeps the bodies of the requests that it gets, and answers 299."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        self.bodies.append(body)
        await JSONResponse({}, status_code=299)(scope, receive, send)


def front(behind: Behind, answer: Any = None) -> HotRoutes:
    async def same(request: Any) -> Any:
        return {"k": request.k}

    route = json_route(schema.RecommendRequest, answer or same)
    return HotRoutes(behind, {"/hot": route}, Metrics())


def test_a_request_that_a_route_takes_never_reaches_fastapi():
    behind = Behind()
    answer = ask(front(behind), "/hot", b'{"k": 7}')
    assert (answer.status, answer.body, answer.headers) == (
        200,
        b'{"k":7}',
        {"content-type": "application/json", "content-length": "7"},
    )
    assert behind.bodies == []


@pytest.mark.parametrize(
    ("body", "more"), [(b'{"k": 1}', {"method": "PUT"}), (b'{"k": "1"}', {}), (b"{", {}), (b"", {})]
)
def test_what_is_in_doubt_reaches_fastapi_whole(body, more):
    behind = Behind()
    answer = ask(front(behind), "/hot", body, **more)
    assert (answer.status, behind.bodies) == (299, [body])


def test_an_error_that_was_foreseen_is_a_problem_and_another_names_its_type_alone():
    async def refused(_: Any) -> None:
        raise field_problem("k", "less", 7)

    async def away(_: Any) -> None:
        raise StoreError("the store", "an answer", "none")

    async def wrong(_: Any) -> None:
        raise ZeroDivisionError("secret")

    for handler, status in ((refused, 422), (away, 503)):
        answer = ask(front(Behind(), handler), "/hot", b"{}")
        assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json["status"] == status
    answer = ask(front(Behind(), wrong), "/hot", b"{}")
    assert (answer.status, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "ZeroDivisionError" in answer.json["detail"]
    assert "secret" not in answer.json["detail"]


def test_answers_are_counted_by_route_and_status_whoever_gives_them(service, app):
    count = 'headrace_http_requests_total{method="POST",route="/v1/similar",status="%s"}'
    before = service.replicas.text().decode()
    for body in (b'{"item_id": "a"}', b'{"item_id": 1}'):
        ask(app, "/v1/similar", body)
    after = service.replicas.text().decode()
    for status in (200, 422):
        assert sample(after, count % status) == sample(before, count % status) + 1


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("body", [b'{"item_id": "a"}', b"{"])
def test_every_answer_has_the_id_of_its_request(app, method, body):
    def told(*headers: tuple[bytes, bytes]) -> str:
        return ask(app, "/v1/similar", body, method=method, headers=headers).headers["x-request-id"]

    assert told((b"x-request-id", b"a b-7")) == "a b-7"
    made = [told(), told((b"x-request-id", b"")), told((b"x-request-id", b"x" * 129)), told((b"x-request-id", b"\xe9"))]
    assert len(set(made)) == len(made)
    assert all(len(one) == 32 for one in made)


def test_the_time_of_an_answer_is_counted_by_its_route(service, app):
    ask(app, "/v1/similar", b'{"item_id": "a"}')
    ask(app, "/healthz", method="GET")
    text = service.replicas.text().decode()
    for route in ("/v1/similar", "/healthz"):
        assert sample(text, f'headrace_http_seconds_count{{route="{route}"}}') >= 1


def sample(text: str, name: str) -> float:
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)
