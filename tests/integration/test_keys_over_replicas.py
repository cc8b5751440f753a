"""Keys at the real address, HAProxy before two replicas: any spelling of a path, one rate, a revoked key."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from serving_world import settings, until

from features.machine import free_port
from serving.access import added, revoked

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

SCRIPT = """
import sys
from serving.config import ServiceConfig
from serving.server import served
with served(ServiceConfig.model_validate_json(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""

OPEN = {"/healthz", "/readyz", "/-/healthz", "/-/routes"}
"""The last two are Ray's own: that it lives, and the one prefix that it serves."""

SPELT = [
    "{0}",
    "{0}/",
    "/{0}",
    "/.{0}",
    "/healthz/..{0}",
    "/%2e%2e{0}",
    "/healthz%2F..{0}",
    "{0}%0A",
    "{0}%00",
    "{0};x",
]


def asked(port: int, method: str, path: str, key: str | None = None) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer over a connection of its own, as any replica may give it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"content-type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        connection.request(method, path, b"{}" if method == "POST" else None, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}
    finally:
        connection.close()


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def whole(keys) -> str:
    return added(keys, "whole", ("read", "ops", "events:*"), "headrace", 1e6, 0).text


@pytest.fixture(scope="module")
def port(keys, whole, tmp_path_factory):
    folder, number = tmp_path_factory.mktemp("service"), free_port()
    config = settings(folder / "online.db", f"sqlite:///{folder / 'none.db'}", keys=str(keys), replicas=2)
    config = config.model_copy(update={"port": number})
    command = [sys.executable, "-c", SCRIPT, config.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        until(lambda: asked(number, "GET", "/metrics", whole)[0] == 200, "an answer")
        yield number
        process.communicate("")


def test_no_path_of_the_address_is_answered_without_a_key_but_the_probes(port, whole):
    document = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    document.request("GET", "/openapi.json", headers={"X-API-Key": whole})
    paths = json.loads(document.getresponse().read())["paths"]
    document.close()
    assert OPEN & set(paths) == {"/healthz", "/readyz"}
    for path, operations in paths.items():
        named = path.replace("{entity}", "user").replace("{entity_id}", "u1")
        for method in operations:
            for spelling in SPELT if path not in OPEN else ["/{0}", "{0}/", "{0};x"]:
                spelt = spelling.format(named)
                status, _ = asked(port, method.upper(), spelt)
                assert status in (400, 401), (method, spelt)  # 400 is HAProxy's, for what is no path
            if path not in OPEN:
                assert asked(port, method.upper(), named, whole)[0] not in (401, 403)
                assert asked(port, method.upper(), named, whole[:-1])[0] == 401


def test_two_replicas_have_one_rate(port, keys):
    """A request in 1,000 s: of forty, over connections of their own, one is answered."""
    slow = added(keys, "slow", ("ops",), "headrace", 0.001, 0).text
    until(lambda: all(asked(port, "GET", "/healthz", slow)[0] == 200 for _ in range(20)), "the key at both", 10)
    answers = [asked(port, "GET", "/v1/models", slow) for _ in range(40)]
    assert [status for status, _ in answers].count(200) == 1
    assert {status for status, _ in answers} == {200, 429}
    assert all(0 < int(headers["retry-after"]) <= 1_000 for status, headers in answers if status == 429)


def test_a_revoked_key_is_refused_by_both_within_five_seconds(port, keys):
    short = added(keys, "short", ("ops",), "headrace", 1e6, 0).text
    until(lambda: all(asked(port, "GET", "/v1/models", short)[0] == 200 for _ in range(20)), "the key", 10)
    revoked(keys, "short")
    threading.Event().wait(5)
    assert {asked(port, "GET", "/v1/models", short)[0] for _ in range(20)} == {401}
