"""What a request may have at most: ids, lists, texts, depth and bytes; and that no answer to a hostile one is large."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from asgi import ask
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from serving_world import with_items

from features.definitions import Field, Stream
from features.events.ids import unusable
from features.events.parsing import Verdict
from serving.app import app_of
from serving.events.bodies import MAX_EVENT_BYTES, read_body
from serving.events.verdicts import judge
from serving.http.problems import SHOWN_CHARACTERS, ProblemError, shown
from serving.http.schema import MAX_LISTED, MAX_TEXT, Id, RecommendRequest
from serving.http.structs import decoder_of

MEGABYTE = 1 << 20
NOW = 1_700_000_000_000
SHOP = Stream("shop", "shop.activity", {"event_type": Field("string", enum=["view"]), "user_id": "string"})


def is_taken(adapter: TypeAdapter[Any], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@given(
    st.text(st.characters(codec="utf-8"), max_size=300)
    | st.sampled_from(["é" * 128, "é" * 129, "a\x00", "a\u2028", "a\x85"])
)
def test_an_id_of_a_request_is_one_that_an_event_may_have(text):
    refused = bool(unusable(pa.array([text]))[0])
    blank = not text.strip()
    assert is_taken(TypeAdapter(Id), text) == (not refused or (blank and len(text) > 0 and text.isprintable()))


@given(st.text(max_size=5), st.sampled_from(["user_id", "exclude", "item_id"]))
def test_struct_and_model_refuse_the_same_ids(text, field):
    body = (
        {"exclude": [text]}
        if field == "exclude"
        else {"context": {field: text}}
        if field == "item_id"
        else {field: text}
    )
    written = json.dumps(body).encode()
    if (taken := decoder_of(RecommendRequest)(written)) is not None:
        assert RecommendRequest.model_validate(body)
        assert taken.k == 10


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return app_of(with_items(tmp_path_factory.mktemp("store") / "online.db"))


TOO_MUCH = {
    "k": 10**9,
    "user_id": "x" * 10_000,
    "session_id": "a\x1b[2J",
    "recommender": "x" * 300,
    "model": "x" * 65,
    "context": {"items": ["i"] * (MAX_LISTED + 1)},
    "exclude": ["i"] * (MAX_LISTED + 1),
    "candidates": ["x" * 257],
    "filter": {"category": ["a"] * (MAX_LISTED + 1)},
    "user_features": {"f": ["a"] * (MAX_LISTED + 1)},
    "diversity": 10**9,
}


@pytest.mark.parametrize("field", TOO_MUCH)
def test_a_field_that_is_beyond_its_cap_is_refused_and_named(app, field):
    answer = ask(app, "/v1/recommend", json.dumps({field: TOO_MUCH[field]}).encode())
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json["errors"][0]["field"].startswith(field)
    assert len(answer.body) < 2_000


MORE = [
    {"filter": {f"f{number}": 1 for number in range(21)}},
    {"filter": {"f" * 257: 1}},
    {"filter": {"f": "x" * (MAX_TEXT + 1)}},
    {"filter": {"f": {"min": 1, "max": 2, "more": 3}}},
    {"filter": {"f": [[[[1]]]]}},
    {"user_features": {f"f{number}": 1 for number in range(501)}},
    {f"field{number}": 1 for number in range(10_000)},
    {"context": {f"field{number}": 1 for number in range(10_000)}},
    {"exclude": [1] * 10_000},
]


@pytest.mark.parametrize("body", MORE)
def test_any_other_excess_is_refused_with_a_short_problem(app, body):
    answer = ask(app, "/v1/recommend", json.dumps(body).encode())
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert len(answer.body) < 4_000
    assert len(answer.json["errors"]) <= 10


@pytest.mark.parametrize("field", [*RecommendRequest.model_fields, "unknown"])
def test_a_megabyte_of_any_field_is_refused_and_not_read(app, field):
    answer = ask(app, "/v1/recommend", *parts_of(json.dumps({field: "x" * MEGABYTE}).encode()))
    assert (answer.status, len(answer.body) < 1_000) == (413, True)


@pytest.mark.parametrize("field", ["user_id", "exclude", "filter", "k", "context", "unknown"])
@pytest.mark.parametrize("value", ["x" * 200_000, ["ab"] * 30_000, {str(number): 1 for number in range(15_000)}])
def test_a_large_body_that_is_refused_is_read_once_and_its_problem_is_short(app, field, value):
    answer = ask(app, "/v1/recommend", json.dumps({field: value}).encode())
    assert (answer.status, len(answer.body) < 1_000) == (422, True)


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 40_000, b'{"filter":' + b"[" * 3_000 + b"]" * 3_000 + b"}"]
)
def test_depth_is_refused(app, path, body):
    answer = ask(app, path, body)
    assert answer.status in (400, 422)
    assert len(answer.body) < 1_000


def parts_of(body: bytes) -> list[bytes]:
    return [body[start : start + 65_536] for start in range(0, len(body), 65_536)]


# --- events -----------------------------------------------------------------------------------------------------------


def event(number: int, **more: object) -> dict[str, object]:
    return {"event_id": f"e{number}", "event_time": NOW, "event_type": "view", "user_id": "ann"} | more


def test_an_event_of_too_many_bytes_is_refused_beside_those_that_are_accepted():
    posted = read_body(json.dumps([event(1), event(2, user_id="x" * MAX_EVENT_BYTES), event(3)]).encode())
    judged = judge(posted.events, SHOP, None, NOW)
    assert judged.verdicts == [Verdict.VALID, Verdict.DEAD_LETTER, Verdict.VALID]
    assert str(judged.reasons[1]).startswith("too_large: field 'event' requires at most 65536 bytes; got 65")


@pytest.mark.parametrize("field", ["event_id", "event_type", "user_id", "unknown"])
@pytest.mark.parametrize(
    "value", ["x" * 50_000, ["x"] * 10_000, {"a": "x" * 50_000}, json.loads("[" * 200 + "]" * 200)]
)
def test_what_an_answer_shows_of_an_event_is_short(field, value):
    judged = judge([event(1, **{field: value})], SHOP, None, NOW, keys=("user_id",))
    assert judged.verdicts == [Verdict.DEAD_LETTER]
    assert len(str(judged.reasons[0])) + len(str(judged.ids[0])) < 1_000


@pytest.mark.parametrize("body", [b"[" + b"{}," * 100_000 + b"{}]", b"[" + b"1," * 100_000 + b"1]", b"[]"])
def test_too_many_events_are_refused(body):
    with pytest.raises(ProblemError) as caught:
        read_body(body)
    assert caught.value.errors[0]["field"] == "events"


NESTED = st.lists(st.none(), max_size=90) | st.recursive(
    st.text(max_size=100) | st.integers() | st.none() | st.booleans() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)


@given(NESTED)
def test_a_value_is_shown_as_its_json_begins(value):
    text = json.dumps(value)
    assert shown(value) == (text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "...")
