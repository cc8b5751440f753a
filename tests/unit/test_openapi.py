"""The OpenAPI document is true: what generated requests, valid and invalid, are answered is what it says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_world import with_items

from serving.app import app_of, fastapi_of
from serving.events.verdicts import Acknowledgement
from serving.service import Service

POSTED = ["/v1/recommend", "/v1/rank", "/v1/similar", "/v1/score", "/v1/events"]
ANSWERED = ["/v1/recommend", "/v1/rank", "/v1/similar"]
"""Those that need nothing but a valid request."""

EACH = 200
"""Requests of an operation with a body that are valid, and as many that are not: 2,000 in all."""

PHASES, IGNORED = [Phase.generate], list(HealthCheck)

CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]


class Acknowledging:
    """A sink that has every message at once."""

    async def send(self, messages: Any) -> list[Acknowledgement]:
        return [Acknowledgement(0, at, 1_780_000_000_000) for at, _ in enumerate(messages)]

    def offer(self, message: Any, on_delivery: Any) -> None:
        on_delivery(True)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    service = with_items(tmp_path_factory.mktemp("store") / "online.db", own_clicks=False)
    service.posted._sink = Acknowledging()
    return service


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    return fastapi_of(service).openapi()


@pytest.fixture(scope="module")
def app(service: Service) -> Any:
    return app_of(service)


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, Any]:
    found = schemathesis.openapi.from_dict(document).get_all_operations()
    return {one.ok().path: one.ok() for one in found}


def answer_to(app: Any, case: Any) -> httpx.Response:
    asked = case.as_transport_kwargs(base_url="http://localhost")
    body = {name: asked[name] for name in ("json", "content") if asked.get(name) is not None}
    if isinstance(asked.get("data"), bytes | str):
        body["content"] = asked["data"]
    headers = {name: value for name, value in asked["headers"].items() if name.lower() != "host"}

    async def sent() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            parameters = asked.get("params") or None
            return await client.request(asked["method"], asked["url"], headers=headers, params=parameters, **body)

    return asyncio.run(sent())


def answers_are_true(app: Any, operation: Any, mode: GenerationMode, requests: int) -> Counter[int]:
    """Asks, and returns the statuses of the answers; fails where the document does not say what was answered."""
    statuses: Counter[int] = Counter()

    @settings(max_examples=requests, deadline=None, database=None, phases=PHASES, suppress_health_check=IGNORED)
    @given(case=operation.as_strategy(generation_mode=mode))
    def asks(case: Any) -> None:
        answer = answer_to(app, case)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500 or answer.status_code == 503
        case.validate_response(answer, checks=CHECKS)

    asks()
    return statuses


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", POSTED)
def test_generated_requests_are_answered_as_the_document_says(app, operations, path, mode):
    statuses = answers_are_true(app, operations[path], mode, EACH)
    assert statuses.total() >= EACH
    assert min(statuses) == 200 or mode == GenerationMode.NEGATIVE or path not in ANSWERED


def test_an_event_that_the_stream_takes_is_accepted_as_the_document_says(app, operations):
    now = time.time_ns() // 1_000_000
    event = {"event_id": "e1", "event_time": now, "event_type": "view", "user_id": "u1", "item_id": "item1"}
    for body, status in ((event, 202), ([event], 202), ({"events": [event, {}], "stream": "activity"}, 207)):
        case = operations["/v1/events"].Case(body=body, media_type="application/json")
        answer = answer_to(app, case)
        assert answer.status_code == status, answer.text
        case.validate_response(answer, checks=CHECKS)


def test_requests_without_a_body_are_answered_as_the_document_says(app, operations):
    for path in set(operations) - set(POSTED):
        answers_are_true(app, operations[path], GenerationMode.POSITIVE, 20)


def test_each_operation_lists_the_problems_that_it_can_answer(document):
    for path, found in document["paths"].items():
        for method, operation in found.items():
            given = operation["responses"]
            asked = {"403", "421", "503"} | ({"400", "408", "413", "415", "422", "429"} if method == "post" else set())
            assert asked <= set(given), path
            for status, one in given.items():
                if int(status) >= 400 and (path, status) != ("/readyz", "503"):
                    assert list(one["content"]) == ["application/problem+json"], (path, status)


def test_metrics_are_text_and_a_body_of_events_has_a_schema(document):
    assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    body = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert list(body) == ["application/json"]
    assert len(body["application/json"]["schema"]["anyOf"]) == 5


def test_the_caps_stand_in_the_document(document):
    schemas = document["components"]["schemas"]
    request = schemas["RecommendRequest"]["properties"]
    assert request["k"]["maximum"] == 500
    assert (request["exclude"]["maxItems"], request["exclude"]["items"]["maxLength"]) == (1_000, 256)
    assert request["filter"]["maxProperties"] == 20
    assert schemas["Problem"]["required"] == ["type", "title", "status", "detail"]
