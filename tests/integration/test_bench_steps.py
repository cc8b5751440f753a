"""The steps of a request: the time that was spent in parts of the service, which add up to all of it."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from mlflow_marks import MLFLOW_TEST
from serving_world import REPO, Models, fill, settings

from features.definitions import load_repo
from features.online_store.sqlite.rows import SqliteRows
from headrace.bench.loop.serve.steps import Sampler, ask, living, steps_of
from headrace.loop import LoopError

pytestmark = MLFLOW_TEST


def test_the_steps_of_a_served_request_add_up_to_its_time(tmp_path, monkeypatch):
    repo = load_repo(REPO)
    fill(SqliteRows(tmp_path / "online.db"), repo)
    models = Models(tmp_path, repo)
    models.promote(models.register(1))
    config = settings(tmp_path / "online.db", models.uri)
    bodies = [{"user_id": "u1"}] * 300
    began = time.perf_counter()
    steps = steps_of(config, "/v1/recommend", bodies, 20)
    most_ms = 1e3 * (time.perf_counter() - began) / 280
    assert 0 < sum(steps.values()) <= most_ms
    assert steps["http"] > 0
    assert steps["retrieval"] > 0


def test_a_request_without_a_model_is_no_step_of_an_answer(tmp_path):
    fill(SqliteRows(tmp_path / "online.db"), load_repo(REPO))
    models = Models(tmp_path, load_repo(REPO))
    models.promote(models.register(1))
    config = settings(tmp_path / "online.db", models.uri)
    with pytest.raises(LoopError, match="unknown_user"):
        steps_of(config, "/v1/recommend", [{"user_id": "nobody"}], 0)


def test_an_application_is_asked_without_a_socket():
    async def echo(scope, receive, send):
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps([scope["path"], body.decode()]).encode()})

    async def asked():
        async with living(echo):
            return await ask(echo, "POST", "/v1/x", b"hello")

    assert asyncio.run(asked()) == (201, ["/v1/x", "hello"])


@pytest.mark.parametrize(("name", "step"), [("answer_0", "retrieval"), ("kafka-acknowledgements", "waiting")])
def test_only_threads_that_answer_are_in_a_step(name: str, step: str):
    """Another thread may be in a module of the service at any time."""
    ended, begun = threading.Event(), threading.Event()
    names = {"ended": ended, "begun": begun}
    code = compile("def work():\n    begun.set()\n    ended.wait()\n", "/x/models/recommender/retrieval.py", "exec")
    exec(code, names)
    thread = threading.Thread(target=names["work"], name=name)
    thread.start()
    try:
        assert begun.wait(5)
        assert Sampler()._now() == step
    finally:
        ended.set()
        thread.join()
