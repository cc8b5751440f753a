"""A click that one replica accepts counts in the next read of another, and once for ever: real Kafka, Spark, stores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from metric_samples import sample
from serving_world import REPO, Http, plain, settings, until

from features.definitions.repo import load_repo
from features.history.archive import open_table
from features.online_store.reader import FeatureReader
from features.online_store.sqlite import pending
from features.online_store.sqlite.rows import SqliteRows
from streaming.kafka.topic_admin import ensure_topics

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
VIEWS = "user_view_count_1h"


@dataclass
class Shop:
    """The shop's definitions on topics of their own, its stream as a process, and two services on one store."""

    root: Path
    bootstrap: str
    one: Http
    other: Http

    def start_stream(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "from headrace.commands.stream.stream import stream; stream()"]
        with (self.root / "log.txt").open("ab") as log:
            return subprocess.Popen(command, cwd=self.root, env=dict(os.environ), stdout=log, stderr=log)

    @property
    def store(self) -> Path:
        return self.root / ".headrace" / "online.db"

    def folded(self, user: str) -> int:
        """How often the user has looked by the rows alone."""
        reader = FeatureReader(SqliteRows(self.store), load_repo(self.root / "feature_repo"))
        return reader.read("user_activity", pa.array([user])).to_table()[VIEWS][0].as_py() or 0

    def is_archived(self, recommendation_id: str) -> bool:
        """Whether the offline store has what was served so."""
        stream = load_repo(self.root / "feature_repo").streams["served"]
        table = open_table(self.root / ".headrace" / "offline", stream)
        return table is not None and recommendation_id in table.events()["recommendation_id"].to_pylist()

    def seen(self, http: Http, user: str) -> int:
        """How often by what a service says."""
        views = {one["view"]: one for one in http.ask(f"/v1/features/user/{user}")[1]["views"]}
        return views["user_activity"]["features"][VIEWS] or 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory, kafka: str, spark_jars: list[Path]) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("project")
    (root / ".headrace").mkdir()
    (root / ".headrace" / "jars").symlink_to(spark_jars[0].parent.parent)
    (root / "feature_repo").mkdir()
    topic = f"clicks-{uuid.uuid4().hex[:8]}"
    text = (REPO / "shop.py").read_text()
    for known in ("shop.activity", "shop.items", "shop.served"):
        text = text.replace(f'"{known}"', f'"{topic}.{known}"')
    (root / "feature_repo" / "shop.py").write_text(text)
    stream = "[stream]\nspark_memory = '512m'\narchive_trigger_s = 1\n"
    (root / "settings.toml").write_text(f"[kafka]\nbootstrap_servers = '{kafka}'\n{stream}")
    ensure_topics(kafka, load_repo(root / "feature_repo").streams.values())
    chosen = [
        settings(root / ".headrace" / "online.db", "", bootstrap_servers=kafka).model_copy(
            update={"repo": str(root / "feature_repo"), "served_log_share": 1.0}
        )
        for _ in range(2)
    ]
    with plain(chosen[0]) as one, plain(chosen[1]) as other:
        yield Shop(root, kafka, one, other)


def click(user: str, item: str = "i1", event_id: str | None = None, **more: object) -> dict:
    known = {"event_id": event_id or uuid.uuid4().hex, "event_time": time.time_ns() // 1_000_000, "user_id": user}
    return known | {"event_type": "view", "item_id": item} | more


def test_a_click_counts_in_the_next_read_of_any_replica_and_once_after_the_fold(shop: Shop) -> None:
    """Before the fold, while batches come and go, after it; repeated by the client or not."""
    stream = shop.start_stream()
    try:
        until(lambda: SqliteRows(shop.store).current("user_activity") is not None, "the stream's generation")
        users = [f"user{number}" for number in range(10)]
        counted = dict.fromkeys(users, 0)
        wrong = []
        for number in range(100):
            user, (here, there) = users[number % 10], ((shop.one, shop.other), (shop.other, shop.one))[number % 2]
            event = click(user)
            assert here.ask("/v1/events", event)[0] == 202
            counted[user] += 1
            if number % 7 == 0:  # the client has not heard the answer, and sends it again
                assert there.ask("/v1/events", event)[0] == 202
            if shop.seen(there, user) != counted[user]:
                wrong.append((number, user, counted[user]))
        assert wrong == []
        served = shop.one.recommend(user_id="user1", k=3)["recommendation_id"]
        until(lambda: all(shop.folded(user) == counted[user] for user in users), "the fold")
        assert [shop.seen(http, user) for http in (shop.one, shop.other) for user in users] == [*counted.values()] * 2
        until(lambda: not SqliteRows(shop.store).pending().of("user_activity", users), "the pruning")
        until(lambda: shop.is_archived(served), "the archive of what was served")
    finally:
        stream.terminate()
        stream.wait(60)
    gone = "user0"  # the stream is down: what is accepted counts all the same, and once when it is back
    for _ in range(3):
        assert shop.one.ask("/v1/events", click(gone))[0] == 202
    assert shop.folded(gone) == counted[gone]
    assert shop.seen(shop.other, gone) == counted[gone] + 3
    until(lambda: measured(shop.other, "headrace_pending_events") >= 3, "the measure of what is pending")
    assert measured(shop.other, "headrace_pending_bytes") > 0
    stream = shop.start_stream()
    try:
        until(lambda: shop.folded(gone) == counted[gone] + 3, "the fold after the restart")
        assert [shop.seen(http, gone) for http in (shop.one, shop.other)] == [counted[gone] + 3] * 2
        until(lambda: measured(shop.other, "headrace_pending_events") == 0, "the pruning")
    finally:
        stream.terminate()
        stream.wait(60)


def measured(http: Http, metric: str) -> float:
    return sample(http.text("/metrics"), metric)


def test_an_event_that_finds_no_room_among_the_pending_is_accepted_and_counted(shop: Shop, monkeypatch) -> None:
    before = measured(shop.one, "headrace_pending_refused_total")
    monkeypatch.setattr(pending, "MOST_ENTRIES", 0)
    assert shop.one.ask("/v1/events", click("nobody"))[0] == 202
    until(lambda: measured(shop.one, "headrace_pending_refused_total") > before, "the count")
    assert shop.seen(shop.one, "nobody") == 0


def test_a_session_is_known_to_every_replica_once_its_first_event_is_accepted(shop: Shop) -> None:
    """Nobody is named, and no model is there: only who asks is looked at."""
    session = uuid.uuid4().hex
    event = click("", "i7", session_id=session)
    event.pop("user_id")
    assert shop.one.ask("/v1/events", [event, event | {"event_id": "s2", "item_id": "i8"}])[0] == 202
    assert SqliteRows(shop.store).pending().session(session) == ("i8", "i7")
