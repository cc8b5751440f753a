"""What clients may send, and the problem that they are told when it is something else."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from features.definitions import Field, Stream
from features.events.parsing import Verdict
from serving.events.bodies import read_body
from serving.events.verdicts import Acknowledgement, JudgedEvents, Message, judge, key_of, message_of, post
from serving.http.problems import ProblemError, validation_errors
from serving.http.schema import RecommendRequest
from serving.recommend.convert import query_of

NOW = 1_700_000_000_000
SHOP = Stream(
    "shop", "shop.activity", {"event_type": Field("string", required=True, enum=["view"]), "user_id": "string"}
)
THEIRS = Stream(
    "theirs",
    "their.topic",
    {"user_id": Field("string", path="who.id"), "price": "float64"},
    event_time="meta.at",
    time_unit="s",
    event_id="meta.id",
)


def event(number: int = 1, **more):
    return {"event_id": f"e{number}", "event_time": NOW, "event_type": "view", "user_id": "ann"} | more


class Kafka:
    """A sink that keeps what it acknowledges; it does not acknowledge what has ``lost`` in it."""

    def __init__(self, lost: bytes = b"\0"):
        self.kept: list[Message] = []
        self.lost = lost

    async def send(self, messages):
        self.kept += [one for one in messages if self.lost not in one.value]
        return [
            "timed out" if self.lost in one.value else Acknowledgement(0, at, NOW) for at, one in enumerate(messages)
        ]

    def close(self):
        pass


def refusal(body: object) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        RecommendRequest.model_validate(body)
    errors = [error | {"loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return validation_errors(errors)[0]


@pytest.mark.parametrize(
    ("body", "field", "required", "got"),
    [
        ({"k": "ten"}, "k", "a valid integer", '"ten"'),
        ({"k": 0}, "k", "greater than or equal to 1", "0"),
        ({"k": True}, "k", "a valid integer", "true"),
        ({"users": "ann"}, "users", "no such field: see /docs for those that exist", '"ann"'),
        ({"user_id": 7}, "user_id", "a valid string", "7"),
        ({"context": {"items": ["a", None]}}, "context.items.1", "a valid string", "null"),
        ({"exclude": "a"}, "exclude", "a valid list", '"a"'),
        ({"diversity": 1.5}, "diversity", "less than or equal to 1", "1.5"),
        ({"candidates": ["a", 3]}, "candidates.1", "a valid string", "3"),
        ({"filter": []}, "filter", "a valid dictionary", "[]"),
    ],
)
def test_a_bad_request_names_the_field_what_it_requires_and_what_came(body, field, required, got):
    assert refusal(body) == {"field": field, "required": required, "got": got}


def test_what_came_is_shown_cut_short():
    assert len(refusal({"user_id": "x" * 10_000})["got"]) < 100


def test_the_looked_at_item_stands_before_the_others_of_the_context_and_once():
    request = RecommendRequest.model_validate({"context": {"item_id": "b", "items": ["a", "b"]}})
    assert query_of(request).context == ("b", "a")


@pytest.mark.parametrize(
    ("body", "count", "stream"),
    [(b'{"a": 1}', 1, None), (b'[{"a": 1}, 2]', 2, None), (b'{"events": [{}], "stream": "s"}', 1, "s")],
)
def test_events_come_alone_in_a_list_or_in_an_envelope(body, count, stream):
    posted = read_body(body)
    assert (len(posted.events), posted.stream) == (count, stream)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, "body"),
        (b"\xff", 400, "body"),
        (b"[]", 422, "events"),
        (b'{"events": 3}', 422, "events"),
        (b'{"events": [{}], "streams": "s"}', 422, "streams"),
        (b'{"events": [{}], "stream": 3}', 422, "stream"),
        (json.dumps([{}] * 1001).encode(), 422, "events"),
    ],
)
def test_a_body_that_holds_no_events_is_a_problem(body, status, field):
    with pytest.raises(ProblemError) as caught:
        read_body(body)
    assert (caught.value.status, caught.value.errors[0]["field"]) == (status, field)


def test_an_event_in_our_names_becomes_the_message_that_the_topic_has():
    message = message_of({"event_id": "1", "event_time": 1500, "user_id": "ann", "price": 2}, THEIRS)
    assert message == {"meta": {"id": "1", "at": "1970-01-01T00:00:01.500000+00:00"}, "who": {"id": "ann"}, "price": 2}


@given(ms=st.integers(631_152_000_000, NOW), price=st.floats(0, 1e6), user=st.text(max_size=5))
def test_what_is_posted_is_what_the_stream_reads(ms, price, user):
    judged = judge([{"event_id": "1", "event_time": ms, "user_id": user, "price": price}], THEIRS, None, NOW)
    assert judged.verdicts == [Verdict.VALID]
    assert judged.messages[0].topic == "their.topic"


@pytest.mark.parametrize(
    ("posted", "code"),
    [
        (event(event_id=None), "missing_field"),
        (event(event_type="gaze"), "unknown_value"),
        (event(event_time=NOW + 3_600_000), "future_time"),
        (event(user_id=7), "wrong_type"),
        (event(usr_id="ann"), "unknown_field"),
        ("view", "not_an_object"),
        (None, "not_an_object"),
    ],
)
def test_an_event_that_the_stream_would_refuse_is_refused_with_its_reason(posted, code):
    judged = judge([event(), posted], SHOP, None, NOW)
    assert judged.verdicts == [Verdict.VALID, Verdict.DEAD_LETTER]
    assert str(judged.reasons[1]).partition(":")[0] == code


def answered(judged: JudgedEvents, kafka: Kafka):
    return asyncio.run(post(judged, kafka))


def test_good_events_are_sent_and_bad_ones_beside_them_are_told():
    kafka = Kafka()
    answer = answered(judge([event(1), event(2, event_type="gaze"), event(3)], SHOP, None, NOW), kafka)
    assert (answer.accepted, answer.refused) == (2, 1)
    assert [one.status for one in answer.events] == ["accepted", "refused", "accepted"]
    assert [json.loads(one.value)["event_id"] for one in kafka.kept] == ["e1", "e3"]


def test_a_late_event_is_accepted_and_told_to_be_late():
    answer = answered(judge([event(event_time=NOW - 1000)], SHOP, 10, NOW), Kafka())
    assert (answer.accepted, answer.events[0].status) == (1, "late")


def test_an_event_that_is_not_acknowledged_is_unknown_and_never_accepted():
    answer = answered(judge([event(1), event(2)], SHOP, None, NOW), Kafka(lost=b"e2"))
    assert [one.status for one in answer.events] == ["accepted", "unknown"]


def test_without_any_acknowledgement_the_answer_is_503():
    with pytest.raises(ProblemError) as caught:
        answered(judge([event()], SHOP, None, NOW), Kafka(lost=b"e1"))
    assert caught.value.status == 503
    assert "same event_id again" in caught.value.detail


def test_when_all_are_refused_the_problem_names_field_required_and_got():
    with pytest.raises(ProblemError) as caught:
        answered(judge([event(event_type="gaze")], SHOP, None, NOW), Kafka())
    assert caught.value.status == 422
    assert caught.value.errors == ({"field": "events.0.event_type", "required": "one of view", "got": 'string "gaze"'},)


KEYS = ("user_id", "session_id", "item_id")


def test_the_key_is_the_user_else_the_session_else_the_item():
    assert key_of({"user_id": "u", "item_id": "i"}, KEYS) == b"u"
    assert key_of({"user_id": None, "session_id": 5, "item_id": "i"}, KEYS) == b"5"
    assert key_of({"item_id": "i"}, KEYS) == b"i"
    assert key_of({}, KEYS) is None
