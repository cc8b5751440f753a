"""A click that one replica accepts changes what the next recommendation of another retrieves: real Kafka and store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import serving_world
from mlflow_marks import MLFLOW_TEST
from serving_world import MODEL, REPO, Http, Models, fill, plain, settings, until

from features.definitions.repo import load_repo
from features.online_store.sqlite.rows import SqliteRows
from streaming.kafka.topic_admin import ensure_topics

pytestmark = [*MLFLOW_TEST, pytest.mark.filterwarnings("ignore")]

ITEMS, POPULAR, STEP, CLICKS = 500, 150, 1, 100
"""Items far beyond those that popularity alone retrieves; item n goes with item n + STEP."""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, kafka: str) -> Iterator[tuple[Http, Http]]:
    root: Path = tmp_path_factory.mktemp("clicks")
    repo = load_repo(REPO)
    ensure_topics(kafka, repo.streams.values())
    fill(SqliteRows(root / "online.db"), repo)
    models = Models(root, repo)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(serving_world, "ITEMS", tuple(f"item{number}" for number in range(ITEMS)))
        models.promote(models.register(STEP))
    one, other = (settings(root / "online.db", models.uri, bootstrap_servers=kafka) for _ in range(2))
    with plain(one) as first, plain(other) as second:
        until(lambda: all(http.recommend(user_id="u1")["model"] for http in (first, second)), "the model")
        yield first, second


def view(user: str, item: str) -> dict[str, object]:
    known = {"event_id": uuid.uuid4().hex, "event_time": time.time_ns() // 1_000_000}
    return known | {"event_type": "view", "user_id": user, "item_id": item}


def named(answer: dict) -> dict[str, str]:
    """Item → the source that named it."""
    return {item["item_id"]: item["source"] for item in answer["items"]}


def test_the_next_recommendation_of_the_other_replica_has_what_goes_with_the_click(replicas) -> None:
    wrong = []
    for number in range(CLICKS):
        here, there = replicas if number % 2 else replicas[::-1]
        user, item = f"clicker{number % 10}", POPULAR + 3 * number
        goes_with = f"item{item + STEP}"
        before = named(there.recommend(user_id=user))
        assert here.ask("/v1/events", view(user, f"item{item}"))[0] == 202
        answer = there.recommend(user_id=user)
        after = named(answer)
        changed = goes_with not in before and after.get(goes_with) == "similar"
        if not changed or answer["fallback"]["used"] or answer["model"]["name"] != MODEL:
            wrong.append((number, user, goes_with, before, after, answer["fallback"]))
    assert wrong == []


def test_a_session_without_a_user_is_followed_too(replicas) -> None:
    here, there = replicas
    session = uuid.uuid4().hex
    before = named(there.recommend(session_id=session))
    event = view("", "item400") | {"session_id": session}
    event.pop("user_id")
    assert here.ask("/v1/events", event)[0] == 202
    after = named(there.recommend(session_id=session))
    assert "item401" not in before
    assert after["item401"] == "similar"
