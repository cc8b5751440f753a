"""What a service answers before its items are read, and without a thread to answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from serving_world import REPO, fill, settings

from features.definitions.repo import load_repo
from features.errors import StoreError
from features.events.parsing import from_columns
from features.online_store import FeatureReader
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from features.times import now_ms
from models.registry import Pinned
from serving.http import ProblemError, schema
from serving.recommendations import Recommendations
from serving.service import Service


class EmptyRegistry:
    """A registry without a version."""

    def find(self, name: str) -> Pinned | None:
        return None

    def fetch(self, pinned: Pinned) -> AbstractContextManager[Path]:
        raise AssertionError(pinned)

    def report(self, pinned: Pinned, reason: str, tag: str = "") -> None:
        raise AssertionError(reason)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service of one thread that has not begun to read, over a store in which users viewed items 3, 4 and 9."""
    rows, repo = SqliteRows(tmp_path / "online.db"), load_repo(REPO)
    fill(rows, repo)
    config = settings(tmp_path / "online.db", "").model_copy(update={"threads": 1, "max_waiting": 1})
    return Service(config, repo, FeatureReader(rows, repo), rows, lambda _: EmptyRegistry(), None)


@contextmanager
def occupied(service: Service) -> Iterator[None]:
    """The service's thread has work, and as much waits as may."""
    done = threading.Event()
    waiting = [service._workers._pool.submit(done.wait) for _ in range(2) if service._workers._waiting.acquire()]
    try:
        yield
    finally:
        done.set()
        for work in waiting:
            work.result()
            service._workers._waiting.release()


def read_items(recommendations: Recommendations) -> None:
    recommendations.items.refresh(list, now_ms())


def test_before_the_items_are_read_a_right_filter_has_to_wait_and_a_wrong_one_is_told(service):
    made = service.default
    with pytest.raises(StoreError, match="Ask again"):
        asyncio.run(made.recommend(schema.RecommendRequest(filter={"category": "mug"})))
    with pytest.raises(ProblemError) as caught:
        asyncio.run(made.recommend(schema.RecommendRequest(filter={"colour": "red"})))
    assert caught.value.status == 422
    with pytest.raises(ProblemError):
        asyncio.run(made.similar(schema.SimilarRequest(item_id="item3", filter={"price": "low"})))
    read_items(made)
    assert asyncio.run(made.recommend(schema.RecommendRequest(filter={"category": "mug"}))).items == []


def test_a_store_without_items_is_read_and_a_filter_leaves_none(tmp_path):
    rows, repo = SqliteRows(tmp_path / "online.db"), load_repo(REPO)
    service = Service(settings(tmp_path, ""), repo, FeatureReader(rows, repo), rows, lambda _: EmptyRegistry(), None)
    read_items(service.default)
    answer = asyncio.run(service.default.recommend(schema.RecommendRequest(filter={"category": "mug"})))
    assert answer.items == []


def test_without_a_thread_a_ranking_has_each_item_once_and_a_wrong_filter_is_told(service):
    made = service.default
    read_items(made)
    with occupied(service):
        asked = schema.RankRequest(user_id="u1", items=["unheard", "item3", "item9", "other", "item3"])
        answer = asyncio.run(made.rank(asked))
        with pytest.raises(ProblemError):
            asyncio.run(made.recommend(schema.RecommendRequest(filter={"price": "low"})))
    assert answer.fallback.reason == "overloaded"
    assert [item.item_id for item in answer.items] == ["item9", "item3", "unheard", "other"]
    assert [item.source for item in answer.items][2:] == ["unknown", "unknown"]


def test_all_that_a_user_did_in_thirty_days_is_left_out(tmp_path):
    day, now = 86_400_000, now_ms()
    rows, repo = SqliteRows(tmp_path / "online.db"), load_repo(REPO)
    own = [("item1", now - 29 * day), *((f"item{2 + number % 20}", now - 9 * day + number) for number in range(400))]
    others = [(f"item{number}", now - day) for number in range(30)]
    events = [("u1", *event) for event in own] + [("u2", *event) for event in others]
    table = pa.table(
        {
            "event_id": [str(number) for number in range(len(events))],
            "event_time": pa.array([at for _, _, at in events]),
            "event_type": ["view"] * len(events),
            "user_id": [user for user, _, _ in events],
            "item_id": [item for _, item, _ in events],
        }
    )
    views = [repo.views[name] for name in ("user_activity", "item_activity")]
    folded = {"activity": from_columns(table, repo.streams["activity"]).events}
    build_generation(rows.generation(1), views, 1, folded, Marker(0, {}, {}, 0), now)
    for view in views:
        rows.set_current(view.name, 1)
    service = Service(
        settings(tmp_path / "online.db", ""), repo, FeatureReader(rows, repo), rows, lambda _: EmptyRegistry(), None
    )
    read_items(service.default)
    asked = schema.RecommendRequest(user_id="u1", k=30, exclude_seen=True)
    answer = asyncio.run(service.default.recommend(asked))
    assert {item.item_id for item in answer.items} == {"item0", *(f"item{number}" for number in range(22, 30))}
