"""What requests have to meet before any route sees them: host, origin, type, size and time of the body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgi import ask, asked
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse

from serving.http.hosts import AllowedHosts
from serving.http.limits import BodyLimits, WholeBodies
from serving.http.ray_headers import kept, middlewares
from serving.http.same_site import STRICT, SameSite
from serving.metrics import Metrics


class Behind:
    """Keeps the bodies of the requests that it gets."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        self.bodies.append(message["body"])
        assert not message["more_body"]
        await JSONResponse({})(scope, receive, send)


class Front:
    """An app behind the limits."""

    def __init__(self, bound: str = "127.0.0.1", hosts: tuple[str, ...] = (), **limits: Any) -> None:
        self.behind, self.metrics = Behind(), Metrics()
        limits = {"max_body_bytes": 100} | limits
        bodies = WholeBodies(self.behind, BodyLimits(**limits), self.metrics)
        self.app = SameSite(bodies, AllowedHosts(bound, hosts), self.metrics)

    def ask(self, *parts: bytes, **more: Any) -> Any:
        return ask(self.app, "/v1/events", *(parts or (b"{}",)), **more)


OWN = [
    "localhost",
    "LOCALHOST:8000",
    "127.0.0.1",
    "127.0.0.1:65535",
    "127.9.9.9:1",
    "[::1]",
    "[::1]:8000",
    "localhost.",
]
FOREIGN = [
    "rebound.example",
    "rebound.example:8000",
    "localhost.rebound.example",
    "127.0.0.1.rebound.example",
    "rebound.example#localhost",
    "localhost@rebound.example",
    "rebound.example, localhost",
    "localhost:80:80",
    "169.254.169.254",
    "10.0.0.1",
    "[fe80::1]",
    "[::1",
    "0x7f.1",
    "",
    " localhost",
    "localh\u00f6st",
]


@pytest.mark.parametrize("host", OWN)
def test_names_and_addresses_of_the_loopback_are_answered(host):
    assert Front().ask(host=host).status == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_is_rebound_to_this_machine_is_refused_and_nothing_runs(host):
    """The page's own name is the Host of its requests, whatever address its name has by now."""
    front = Front()
    for method in ("GET", "POST"):
        answer = front.ask(host=host, method=method, headers=[(b"origin", f"http://{host}".encode())])
        assert (answer.status, answer.json["errors"][0]["field"]) == (421, "host")
        assert answer.headers["content-type"] == "application/problem+json"
    assert front.behind.bodies == []


def test_a_request_without_one_host_is_refused():
    front = Front()
    assert front.ask(headers=[(b"host", b"localhost")]).status == 421
    assert AllowedHosts("127.0.0.1").allows("") is False


def test_the_bound_address_and_the_names_of_the_settings_are_answered_too():
    front = Front("10.1.2.3", ("shop.example",))
    assert [front.ask(host=host).status for host in ("10.1.2.3:8000", "Shop.Example", "localhost")] == [200] * 3
    assert [front.ask(host=host).status for host in ("10.1.2.4", "a.shop.example")] == [421] * 2


def test_a_service_on_every_interface_is_asked_by_any_address_and_by_no_name_but_its_own():
    for bound in ("0.0.0.0", "::"):
        front = Front(bound, ("shop.example",))
        assert [front.ask(host=one).status for one in ("10.0.0.1:80", "[fe80::1]", "shop.example")] == [200] * 3
        assert front.ask(host="rebound.example").status == 421


@given(st.text(max_size=40))
def test_no_text_that_holds_another_name_is_an_own_host(name):
    allowed = AllowedHosts("127.0.0.1")
    for host in (f"{name}.example", f"localhost{name}x", f"{name}@a.example"):
        assert not allowed.allows(host)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("https://localhost:8000", 200),
        ("https://shop.example", 200),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("http://127.0.0.1:8000", 403),
        ("https://elsewhere.example", 403),
        ("https://localhost:8000.elsewhere.example", 403),
        ("null", 403),
        ("file://", 403),
        ("", 403),
    ],
)
def test_a_page_of_another_origin_is_refused_on_every_method(origin, status):
    front = Front(hosts=("shop.example",))
    for method in ("GET", "POST", "OPTIONS"):
        answer = front.ask(host="localhost:8000", method=method, headers=[(b"origin", origin.encode())])
        assert answer.status == status
        assert "access-control-allow-origin" not in answer.headers


JSON_TYPES = ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;v=1"]
OTHERS = ["text/plain", "text/plain; application/json", "application/jsonx", "application/x+json", "", None]


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_a_body_of_json_is_read_whole(content_type):
    front = Front()
    assert front.ask(b'{"k"', b": 7}", content_type=content_type).status == 200
    assert front.behind.bodies == [b'{"k": 7}']


@pytest.mark.parametrize(
    "content_type", [*OTHERS, "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_of_any_other_type_is_refused(content_type):
    """What a form of another site's page can send without asking."""
    front = Front()
    answer = front.ask(content_type=content_type)
    assert (answer.status, answer.headers["accept"]) == (415, "application/json")
    assert front.ask(headers=[(b"content-type", b"text/plain")]).status == 415
    assert front.behind.bodies == []
    assert front.ask(b"", content_type=content_type).status == 200


@pytest.mark.parametrize("announced", ["101", "99999999999999999999", "1e1", "-1", "+1", " 1", "1_0", "\u0661"])
def test_a_body_that_announces_too_much_is_not_read(announced):
    front = Front()
    answer = front.ask(headers=[(b"content-length", announced.encode())])
    assert (answer.status, answer.headers["connection"], len(answer.unread)) == (413, "close", 2)


def test_a_body_that_is_too_large_is_read_no_further():
    front = Front()
    answer = front.ask(*[b" " * 60] * 5)
    assert (answer.status, len(answer.unread), front.behind.bodies) == (413, 4, [])


def test_a_client_that_has_gone_reaches_no_route():
    front = Front()
    with pytest.raises(ValueError, match="not enough values"):  # there is no answer
        front.ask(gone=True)
    assert front.behind.bodies == []


class Slow:
    """A body whose first part has come, and whose next never does."""

    def __init__(self) -> None:
        self.sent: list[dict] = []
        self.first: list[dict] = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive(self) -> dict:
        return self.first.pop() if self.first else await asyncio.Event().wait() or {}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    async def ask(self, app: Any) -> Any:
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        await app({"type": "http", "method": "POST", "path": "/", "headers": headers}, self.receive, self.send)
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])


def test_a_body_that_is_not_whole_in_time_is_refused():
    front = Front(body_within_s=0.01)
    status, problem = asyncio.run(Slow().ask(front.app))
    assert (status, problem["errors"][0]["field"]) == (408, "body")
    assert "1 bytes by then" in problem["detail"]


def test_of_too_many_bodies_that_are_waited_for_the_first_are_refused_and_whole_ones_are_answered():
    front = Front(body_within_s=3600.0, most_unfinished=3)

    async def all_of_them() -> None:
        slow = [asyncio.ensure_future(Slow().ask(front.app)) for _ in range(10)]
        await asyncio.wait(slow[:7])
        assert [one.result()[0] for one in slow[:7]] == [408] * 7
        for _ in range(3):
            assert (await asked(front.app, "/", (b"{}",))).status == 200
        assert sum(not one.done() for one in slow) >= 2
        for one in slow:
            one.cancel()

    asyncio.run(all_of_them())


def test_every_answer_tells_a_browser_to_run_nothing_to_guess_no_type_and_to_show_it_in_no_frame():
    front = Front()
    for answer in (front.ask(), front.ask(host="elsewhere.example")):
        for name, value in STRICT:
            assert answer.headers[name.decode()] == value.decode()


def test_refusals_are_counted_and_no_client_adds_a_label():
    front = Front()
    for method in ("POST", "FOO", "BAR"):
        front.ask(host="elsewhere.example", method=method)
    samples = {
        (one.labels["method"], one.labels["status"]): one.value
        for metric in front.metrics.requests.collect()
        for one in metric.samples
        if one.name.endswith("_total")
    }
    assert samples == {("POST", "421"): 1, ("other", "421"): 2}


# --- what Ray would read ----------------------------------------------------------------------------------------------

STEERING = [
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"serve_multiplexed_model_id",
    b"serve-multiplexed-model-id",
    b"x-session-id",
    b"x_session_id",
    b"x-serve-router-target",
]


def test_no_header_steers_ray_and_the_others_stay():
    others = [(b"host", b"localhost"), (b"x-request-id", b"mine"), (b"x-request", b"1"), (b"traceparent", b"00")]
    assert kept([*others, *((name, b"?1") for name in STEERING)]) == others


@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_the_names_are_those_that_ray_reads():
    import ray.serve  # noqa: F401  # has to be imported first
    from ray.serve._private import constants

    assert constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER.encode() in STEERING
    assert constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER.encode() in STEERING
    assert constants.SERVE_MULTIPLEXED_MODEL_ID.encode() in STEERING
    assert constants.SERVE_SESSION_ID.encode() in STEERING
    assert any(name.startswith(constants.SERVE_INGRESS_ROUTER_HEADER_PREFIX.encode()) for name in STEERING)


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"\xe9", b"a\tb", b"\x1b[2J"])
@pytest.mark.filterwarnings("ignore")
def test_an_id_that_is_not_valid_is_never_echoed(value):
    import ray.serve  # noqa: F401
    from ray.serve._private.http_util import RequestIdMiddleware

    given = [(b"x-request-id", value)]
    assert kept(given) == []
    behind = RequestIdMiddleware(Behind())
    for middleware in middlewares():
        behind = middleware.cls(behind, *middleware.args, **middleware.kwargs)
    echoed = ask(behind, "/", b"{}", headers=given).headers["x-request-id"]
    assert echoed.encode("latin-1") != value
    assert len(echoed) == 36
    assert ask(behind, "/", b"{}", headers=[(b"x-request-id", b"mine")]).headers["x-request-id"] == "mine"


def test_of_several_ids_none_is_echoed():
    assert kept([(b"x-request-id", b"a"), (b"x-request-id", b"b")]) == []
