"""What a service answers before its items are read, and without a thread to answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from asgi import asked
from serving_world import REPO, EmptyRegistry, fill, settings

from features.definitions.repo import load_repo
from features.errors import CorruptRowError, StoreError
from features.events.parsing import from_columns
from features.online_store import FeatureReader
from features.online_store.batch_step import build_generation
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from features.times import now_ms
from serving.app import app_of
from serving.http import ProblemError, schema
from serving.metrics import Metrics
from serving.recommend import FallbackReason, ItemQuery, ModelAnswer, Recommendation, UserRead, UserReader
from serving.recommendations import FAILING_S, STALE_S, Question, Recommendations
from serving.replicas import ReplicaMetrics
from serving.service import Service


def service_in(folder: Path, **more: float) -> Service:
    """A service that has not begun to read, over a store in which users viewed items 3, 4 and 9."""
    rows, repo = SqliteRows(folder / "online.db"), load_repo(REPO)
    fill(rows, repo)
    config = settings(folder / "online.db", "").model_copy(update=more)
    return Service(config, repo, FeatureReader(rows, repo), rows, EmptyRegistry, None)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Of one thread."""
    return service_in(tmp_path, threads=1, max_waiting=1)


@asynccontextmanager
async def occupied(service: Service) -> AsyncIterator[None]:
    """A request is worked on, and no other may wait."""
    begun, done = threading.Event(), threading.Event()

    def hold(works: Sequence[Question]) -> Iterator[ModelAnswer]:
        begun.set()
        done.wait(60)
        yield ModelAnswer(Recommendation([], None, by_model=False), None, UserRead())

    held = asyncio.create_task(service._batches.in_time("held", None, hold))
    await asyncio.to_thread(begun.wait, 60)
    try:
        yield
    finally:
        done.set()
        await held


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
    service = Service(settings(tmp_path, ""), repo, FeatureReader(rows, repo), rows, EmptyRegistry, None)
    read_items(service.default)
    answer = asyncio.run(service.default.recommend(schema.RecommendRequest(filter={"category": "mug"})))
    assert answer.items == []


def test_a_request_without_room_is_refused_at_once_and_one_after_it_is_answered(service):
    app, body = app_of(service), b'{"user_id": "u1"}'
    read_items(service.default)

    async def main() -> None:
        async with occupied(service):
            for path, asked_for in (
                ("recommend", body),
                ("rank", b'{"items": ["a"]}'),
                ("similar", b'{"item_id": "a"}'),
            ):
                answer = await asked(app, f"/v1/{path}", [asked_for])
                assert (answer.status, answer.headers["retry-after"]) == (429, "1")
                assert answer.headers["content-type"] == "application/problem+json"
                assert (answer.json["status"], answer.json["retry_after_s"]) == (429, 1)
            wrong = await asked(app, "/v1/recommend", [b'{"filter": {"price": "low"}}'])
            assert wrong.status == 422
        assert (await asked(app, "/v1/recommend", [body])).status == 200

    asyncio.run(main())
    text = service.replicas.text().decode()
    assert 'headrace_http_requests_total{method="POST",route="/v1/recommend",status="429"} 1.0' in text
    assert 'headrace_fallbacks_total{reason="no_model"} 1.0' in text


@pytest.fixture
def late(tmp_path: Path) -> Recommendations:
    """Recommendations without any time, whose items have been read."""
    made = service_in(tmp_path, deadline_ms=0).default
    read_items(made)
    return made


def test_at_the_deadline_a_ranking_has_each_item_once(late):
    request = schema.RankRequest(user_id="u1", items=["unheard", "item3", "item9", "other", "item3"])
    answer = asyncio.run(late.rank(request))
    assert answer.fallback.reason == "deadline"
    assert [item.item_id for item in answer.items] == ["item9", "item3", "unheard", "other"]
    assert [item.source for item in answer.items][2:] == ["unknown", "unknown"]


def test_at_the_deadline_an_item_is_not_similar_to_itself(late):
    answer = asyncio.run(late.similar(schema.SimilarRequest(item_id="item9", exclude=["item4"])))
    assert answer.fallback.reason == "deadline"
    assert [item.item_id for item in answer.items] == ["item3"]


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
    service = Service(settings(tmp_path / "online.db", ""), repo, FeatureReader(rows, repo), rows, EmptyRegistry, None)
    read_items(service.default)
    request = schema.RecommendRequest(user_id="u1", k=30, exclude_seen=True)
    answer = asyncio.run(service.default.recommend(request))
    assert {item.item_id for item in answer.items} == {"item0", *(f"item{number}" for number in range(22, 30))}


# --- users that are read together -------------------------------------------------------------------------------------


class Counting:
    """A reader that keeps how many entities each read was for."""

    def __init__(self, reader: FeatureReader) -> None:
        self._reader, self.reads = reader, []

    def view(self, name, schema_hash=None):
        return self._reader.view(name, schema_hash)

    def read(self, view_name, keys, as_of=None, schema_hash=None):
        self.reads.append(keys.to_pylist())
        return self._reader.read(view_name, keys, as_of, schema_hash)


def test_users_of_a_batch_are_read_once_and_as_each_alone(tmp_path):
    rows, repo = SqliteRows(tmp_path / "online.db"), load_repo(REPO)
    fill(rows, repo)
    now, metrics = now_ms(), Metrics()
    reader = Counting(FeatureReader(rows, repo, lambda: now))
    users = UserReader("user_activity", "item_id", repo, reader, rows, None, pytest.fail, metrics.read_age)
    asked_for = [(ItemQuery(user, 10), {}) for user in ("u1", "nobody", None, "u3", "u1")]
    together = users.read_all(asked_for, None)
    assert reader.reads == [["u1", "nobody", "u3"]]
    for (query, own), read in zip(asked_for, together, strict=True):
        alone = users.read(query, own, None)
        assert (read.problem, read.status, read.recent) == (alone.problem, alone.status, alone.recent)
        if alone.matrix is None:
            assert read.matrix is None
        else:
            assert read.matrix.to_table().equals(alone.matrix.to_table())
            assert (read.matrix.as_of, read.matrix.newest_event) == (alone.matrix.as_of, alone.matrix.newest_event)
    assert 'headrace_read_age_seconds_count{view="user_activity"} 2.0' in ReplicaMetrics(metrics, None).text().decode()


def test_a_row_that_is_damaged_is_its_own_users_trouble_alone(tmp_path):
    rows, repo = SqliteRows(tmp_path / "online.db"), load_repo(REPO)
    fill(rows, repo)
    failures: list[Exception] = []

    class Damaged(Counting):
        def read(self, view_name, keys, as_of=None, schema_hash=None):
            if "u3" in keys.to_pylist():
                raise CorruptRowError("row of u3", "a state row", "something else")
            return super().read(view_name, keys, as_of, schema_hash)

    reader = Damaged(FeatureReader(rows, repo))
    users = UserReader("user_activity", "item_id", repo, reader, rows, None, failures.append, Metrics().read_age)
    reads = users.read_all([(ItemQuery(user, 10), {}) for user in ("u1", "u3", "u4")], None)
    assert [read.problem for read in reads] == [None, FallbackReason.STORE_DOWN, None]
    assert len(failures) == 1


# --- readiness --------------------------------------------------------------------------------------------------------


def test_it_is_ready_once_items_and_registry_were_read_and_while_the_store_answers(service, monkeypatch):
    made, clock = service.default, [0.0]
    monkeypatch.setattr("serving.recommendations.time.monotonic", lambda: clock[0])
    follow = made.items.follow

    def fails(*_: object) -> None:
        raise StoreError("the store", "an answer", "none")

    made.models.look()
    assert not made.ready  # the items have not been read
    made._follow_items()
    assert made.ready
    monkeypatch.setattr(made.items, "follow", fails)
    with pytest.raises(StoreError):
        made._follow_items()
    assert made.ready  # one failure is no outage
    clock[0] += FAILING_S + 1
    assert not made.ready
    assert service.readiness().store.startswith("the store requires an answer")
    monkeypatch.setattr(made.items, "follow", follow)
    made._follow_items()
    assert (made.ready, service.readiness().store) == (True, "ok")
    clock[0] += STALE_S + 1
    assert not made.ready  # a read that hangs fails neither


def test_it_is_not_ready_without_a_model_while_the_registry_does_not_answer(service):
    made = service.default
    made._follow_items()
    assert not made.ready  # the registry has not been asked
    made.models.look()
    assert made.ready
    made.models.champion.registry_problem = "no answer"
    assert not made.ready
