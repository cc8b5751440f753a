"""Strangers before the real HAProxy and Ray Serve: slow senders, smuggled requests, steering headers, foreign pages."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving_world import REPO, Http, fill, settings, until

from features.definitions.repo import load_repo
from features.online_store.sqlite.rows import SqliteRows
from serving.http.limits import BODY_WITHIN_S
from serving.http.same_site import STRICT
from serving.server.ray_server import served

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

SLOW, STEP_S = 500, 0.5
BUFFER = 16_384
HEAD = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Http]:
    store: Path = tmp_path_factory.mktemp("store") / "online.db"
    fill(SqliteRows(store), load_repo(REPO))
    with served(settings(store, f"sqlite:///{store.with_name('none.db')}")) as url:
        http = Http(url)
        until(lambda: http.ask("/readyz")[0] == 200, "readiness")
        yield http


async def said(port: int, raw: bytes) -> bytes:
    """All that the service says to these bytes until it ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        return await reader.read(-1)
    finally:
        writer.close()


def port_of(http: Http) -> int:
    return int(urlsplit(http.url).port or 0)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


# --- slow senders -----------------------------------------------------------------------------------------------------


async def trickle(port: int, first: bytes) -> bytes:
    """What the service says to a sender that goes on with a byte every half a second, for twice the time of a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.ensure_future(reader.read(-1))
    try:
        writer.write(first)
        for _ in range(int(2 * BODY_WITHIN_S / STEP_S)):
            if (await asyncio.wait([answer], timeout=STEP_S))[0]:
                return answer.result()
            writer.write(b"x")
        return b"still open"
    except ConnectionError:
        return b"reset"
    finally:
        answer.cancel()
        writer.close()


async def together(ask: Callable[[int, bytes], Awaitable[bytes]], port: int, texts: list[bytes]) -> list[bytes]:
    return await asyncio.gather(*(ask(port, text) for text in texts))


def test_slow_senders_are_let_go_and_honest_clients_are_all_answered(http):
    """500 slow headers; 500 slow bodies, half of them larger than HAProxy's buffer, so that a replica waits."""
    announced = f"{HEAD}Content-Length: {{}}\r\n\r\n"
    headers = [HEAD.encode() + b"X-Slow: "] * SLOW
    small = [announced.format(1000).encode() + b'{"k'] * (SLOW // 2)
    large = [announced.format(100_000).encode() + b" " * (2 * BUFFER)] * (SLOW // 2)
    stopping, seen = threading.Event(), Counter[int]()

    def honest() -> None:
        while not stopping.is_set():
            for path, body in (("/v1/recommend", {"user_id": "u1"}), ("/v1/recommend", {"exclude": ["x" * 200] * 200})):
                seen[http.ask(path, body)[0]] += 1

    clients = [threading.Thread(target=honest) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        answers = asyncio.run(together(trickle, port_of(http), [*headers, *small, *large]))
    finally:
        stopping.set()
        for one in clients:
            one.join()
    assert set(seen) == {200}
    assert Counter(answer[:12] for answer in answers) == {b"HTTP/1.1 408": 2 * SLOW}
    assert all(b"application/problem+json" in answer for answer in answers[SLOW:])


# --- smuggled requests ------------------------------------------------------------------------------------------------

HIDDEN = "POST /v1/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
TYPE = "Content-Type: application/json\r\n"
START = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\n{TYPE}"
PAIRS = {
    "length and chunks": f"{START}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "chunks and length": f"{START}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{HIDDEN}",
    "two lengths": f"{START}Content-Length: 2\r\nContent-Length: {2 + len(HIDDEN)}\r\n\r\n{{}}{HIDDEN}",
    "a list of lengths": f"{START}Content-Length: 2, {2 + len(HIDDEN)}\r\n\r\n{{}}{HIDDEN}",
    "a length with a sign": f"{START}Content-Length: +2\r\n\r\n{{}}{HIDDEN}",
    "chunks twice": f"{START}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{HIDDEN}",
    "chunks in disguise": f"{START}Transfer-Encoding: xchunked\r\nContent-Length: 2\r\n\r\n{{}}{HIDDEN}",
    "chunks after a control": f"{START}Transfer-Encoding: \x0bchunked\r\nContent-Length: 2\r\n\r\n{{}}{HIDDEN}",
    "a space before the colon": f"{START}Content-Length : 2\r\n\r\n{{}}{HIDDEN}",
    "a folded header": f"{START}X-Folded: a\r\n Content-Length: 2\r\n\r\n{{}}{HIDDEN}",
    "a folded length": f"{START}Content-Length:\r\n 2\r\n\r\n{{}}{HIDDEN}",
    "bare line feeds": START.replace("\r\n", "\n") + f"Content-Length: 2\n\n{{}}{HIDDEN}",
    "a bare carriage return": f"{START}X-Bare: a\rContent-Length: 2\r\n\r\n{{}}{HIDDEN}",
    "a size of no chunk": f"{START}Transfer-Encoding: chunked\r\n\r\n-1\r\n{{}}\r\n0\r\n\r\n{HIDDEN}",
    "a chunk larger than it says": f"{START}Transfer-Encoding: chunked\r\n\r\n1\r\n{{}}\r\n0\r\n\r\n{HIDDEN}",
    "a zero byte": f"{START}X-Zero: a\x00b\r\nContent-Length: 2\r\n\r\n{{}}{HIDDEN}",
}
"""Requests that one server may read as one, and another as two."""


LAST = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def answers(http: Http) -> dict[str, list[int]]:
    """The statuses of the answers to each pair, and to a last request that ends the connection."""
    texts = [(pair + LAST).encode("latin-1") for pair in PAIRS.values()]
    found = asyncio.run(together(said, port_of(http), texts))
    return {name: statuses(answer) for name, answer in zip(PAIRS, found, strict=True)}


@pytest.mark.parametrize("name", PAIRS)
def test_a_request_of_two_readings_is_refused_or_read_as_haproxy_has_read_it(answers, name):
    found = answers[name]
    assert found in ([400], [501], [422], [422, 400], [422, 404, 200], [200, 404, 200]), found


def test_no_replica_reads_a_request_that_haproxy_has_not_read(http, answers):
    assert unknown_routes(http) == sum(found.count(404) for found in answers.values())


def unknown_routes(http: Http) -> float:
    """Requests of no route that replicas have answered."""
    name = 'headrace_http_requests_total{method="POST",route="none",status="404"}'
    return next((float(line.split()[-1]) for line in http.text("/metrics").splitlines() if line.startswith(name)), 0.0)


# --- headers ----------------------------------------------------------------------------------------------------------


def asked(http: Http, path: str, *headers: str, body: str = "{}") -> tuple[int, dict[str, str], bytes]:
    lines = [f"POST {path} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}", *headers]
    if not any(one.startswith("Host:") for one in headers):
        lines.append("Host: localhost")
    raw = "\r\n".join([*lines, "Content-Type: application/json", "", body]).encode("latin-1")
    answer = asyncio.run(said(port_of(http), raw))
    head, _, content = answer.partition(b"\r\n\r\n")
    names = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:]]
    return int(head[9:12]), {name.lower(): value for name, _, value in names}, content


def test_a_page_of_another_site_gets_nothing_whether_it_rebinds_its_name_or_not(http):
    for path in ("/v1/recommend", "/v1/events", "/v1/features/user/u1"):
        status, _, content = asked(http, path, "Host: rebound.example")
        assert (status, json.loads(content)["errors"][0]["field"]) == (421, "host")
        assert asked(http, path, "Origin: https://elsewhere.example")[0] == 403


def test_every_answer_has_the_headers_for_browsers_whoever_gives_it(http):
    for path in ("/v1/recommend", "/-/routes"):
        status, headers, _ = asked(http, path)
        assert status == 200
        for name, value in STRICT:
            assert headers[name.decode()] == value.decode()


def test_no_header_steers_ray_and_only_a_valid_id_is_echoed(http):
    for header in ("X-Request-Timeout-Seconds: 0", "X-Request-Timeout-Seconds: 0.000001", "X-Session-Id: \xff"):
        assert asked(http, "/v1/recommend", header)[0] == 200
    assert asked(http, "/v1/recommend", "serve_multiplexed_model_id: m", "X-Request-Disconnect-Disabled: ?1")[0] == 200
    assert asked(http, "/v1/recommend", "X-Request-ID: mine")[1]["x-request-id"] == "mine"
    for value in ("x" * 129, "a\x1b[2Jb", "\xe9", ""):
        echoed = asked(http, "/v1/recommend", f"X-Request-ID: {value}")[1].get("x-request-id", "")
        assert echoed != value


@pytest.mark.parametrize(("size", "status"), [(200_000, 200), (2 << 20, 413)])
def test_a_large_body_is_read_up_to_the_limit(http, size, status):
    assert http.ask("/v1/recommend", raw=b"{}" + b" " * size)[0] == status
