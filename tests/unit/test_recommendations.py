"""What a service answers before its items are read, and without a thread to answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from serving_world import REPO, fill, settings

from features.definitions.repo import load_repo
from features.errors import StoreError
from features.online_store import FeatureReader
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
    return Service(config, repo, FeatureReader(rows, repo), rows, EmptyRegistry(), None)


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
    made = service.recommendations
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
    service = Service(settings(tmp_path, ""), repo, FeatureReader(rows, repo), rows, EmptyRegistry(), None)
    read_items(service.recommendations)
    answer = asyncio.run(service.recommendations.recommend(schema.RecommendRequest(filter={"category": "mug"})))
    assert answer.items == []


def test_without_a_thread_a_ranking_has_each_item_once_and_a_wrong_filter_is_told(service):
    made = service.recommendations
    read_items(made)
    with occupied(service):
        asked = schema.RankRequest(user_id="u1", items=["unheard", "item3", "item9", "other", "item3"])
        answer = asyncio.run(made.rank(asked))
        with pytest.raises(ProblemError):
            asyncio.run(made.recommend(schema.RecommendRequest(filter={"price": "low"})))
    assert answer.fallback.reason == "overloaded"
    assert [item.item_id for item in answer.items] == ["item9", "item3", "unheard", "other"]
    assert [item.source for item in answer.items][2:] == ["unknown", "unknown"]
