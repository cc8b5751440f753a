"""Replicas in a real Ray: their number follows the load, no request is lost, and any of them tells of all."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from metric_samples import sample
from serving_world import REPO, Http, Models, fill, settings, until

from features.definitions.repo import load_repo
from features.online_store.sqlite.rows import SqliteRows
from serving.server.ray_server import served

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
BODY = json.dumps({"user_id": "u1", "k": 3}).encode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    repo = load_repo(REPO)
    store = tmp_path_factory.mktemp("store") / "online.db"
    fill(SqliteRows(store), repo)
    models = Models(tmp_path_factory.mktemp("registry"), repo)
    models.promote(models.register(step=1))
    return store, models.uri


@dataclass
class Clients:
    """What clients of /v1/recommend got: answers by status, and connections that ended without one."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    fallbacks: int = 0


@contextmanager
def clients(http: Http, count: int, seen: Clients) -> Iterator[None]:
    """So many clients ask one request after the other, each on a connection of its own, until the block ends."""
    stopping, lock = threading.Event(), threading.Lock()

    def ask() -> None:
        while not stopping.is_set():
            request = urllib.request.Request(http.url + "/v1/recommend", BODY, {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    used, status = json.loads(answer.read())["fallback"]["used"], answer.status
            except urllib.error.HTTPError as error:
                used, status = False, error.code
            except (OSError, ValueError) as error:
                with lock:
                    seen.lost.append(repr(error))
                continue
            with lock:
                seen.statuses[status] += 1
                seen.fallbacks += used

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)


def replicas(http: Http) -> int:
    return int(sample(http.text("/metrics"), "headrace_replicas"))


def has_model(http: Http) -> bool:
    return http.ask("/readyz")[0] == 200 and http.ask("/v1/models")[1]["current"] is not None


def test_replicas_follow_the_load_and_no_request_is_lost_when_one_ends(world):
    store, uri = world
    scaled = {"most_replicas": 2, "requests_a_replica": 0.5, "scale_up_after_s": 1, "scale_down_after_s": 2}
    with served(settings(store, uri, replicas=1, **scaled)) as url:
        http, seen = Http(url), Clients()
        until(lambda: has_model(http), "a model")
        assert replicas(http) == 1
        with clients(http, 6, seen):
            until(lambda: replicas(http) == 2, "a second replica")
            before = sum(seen.statuses.values())
            until(lambda: sum(seen.statuses.values()) > before + 200, "answers of two replicas")
        until(lambda: replicas(http) == 1, "one replica")
        assert (set(seen.statuses), seen.lost, seen.fallbacks) == ({200}, [], 0)
        counted = {"method": "POST", "route": "/v1/recommend", "status": "200"}
        assert sample(http.text("/metrics"), "headrace_http_requests_total", **counted) == seen.statuses[200]


def test_of_two_replicas_one_is_killed_and_the_other_answers_what_it_had_not(world):
    store, uri = world
    with served(settings(store, uri, replicas=2)) as url:
        http, seen = Http(url), Clients()
        until(lambda: has_model(http) and replicas(http) == 2, "two replicas")
        assert {psutil.Process(each).nice() for each in replica_processes()} == {psutil.Process().nice()}
        with clients(http, 4, seen):
            until(lambda: seen.statuses[200] > 100, "answers")
            victim = min(replica_processes())
            os.kill(victim, signal.SIGSTOP)
            before = seen.statuses[200]
            until(lambda: seen.statuses[200] > before + 50, "requests of which the stopped replica has some")
            os.kill(victim, signal.SIGKILL)
            until(lambda: len(replica_processes() - {victim}) == 2 and replicas(http) == 2, "another replica")
            before = seen.statuses[200]
            until(lambda: seen.statuses[200] > before + 100, "answers after it")
    assert (set(seen.statuses), seen.lost) == ({200}, [])


def test_a_post_that_changes_something_is_sent_to_one_replica_and_its_end_is_a_problem(world):
    store, uri = world
    with served(settings(store, uri, replicas=1)) as url:
        http, answers = Http(url), []
        until(lambda: has_model(http), "a model")
        os.kill(*(victim := replica_processes()), signal.SIGSTOP)
        posting = [threading.Thread(target=lambda: answers.append(event_posted(url)), daemon=True) for _ in range(8)]
        for one in posting:
            one.start()
        posting[0].join(1)  # HAProxy has given them to the replica by then
        os.kill(*victim, signal.SIGKILL)
        for one in posting:
            one.join(60)
    problems = [answer for answer in answers if answer is not None]
    assert len(answers) == len(posting)
    assert problems
    for status, content_type, retry_after, document in problems:
        assert (status, content_type, retry_after) == (503, "application/problem+json", "1")
        assert (document["status"], document["retry_after_s"]) == (503, 1)
        assert "a running replica" in document["detail"]


def event_posted(url: str) -> tuple[int, str, str, dict[str, Any]] | None:
    """Status, content type, Retry-After and document of a posted event's problem.

    None where the connection ended: HAProxy does so if a replica ends on a connection that it has used before.
    """
    request = urllib.request.Request(url + "/v1/events", b"{}", {"content-type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.headers["retry-after"], json.loads(error.read())
    except ConnectionError:
        return None
    pytest.fail("a stopped replica has answered")


def replica_processes() -> set[int]:
    found = set()
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended meanwhile
            if one.status() != psutil.STATUS_ZOMBIE and "ServeReplica" in one.name() + " ".join(one.cmdline()):
                found.add(one.pid)
    return found
