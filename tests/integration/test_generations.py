"""A day of a simulated shop, squeezed: its definitions change and its rows are rebuilt while traffic goes on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from features.checks.comparison import report
from features.checks.stores import Verifier, VerifyRequest
from features.definitions.repo import FeatureRepo, load_repo
from features.online_store.port import of_schema
from features.online_store.sqlite.rows import SqliteRows
from features.rows.folding import fold
from features.rows.matrix import BatchKey, PackedRows
from headrace.loop import Loop, own_repo, share_jars
from headrace.settings import read_settings
from headrace.simulators.shop import ShopSimulator
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.watermarks import read_watermarks
from streaming.replay import Stop, Tally, in_file_order, send_all

pytestmark = pytest.mark.integration
LOG = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent.parent
DAY_MS = 24 * 60 * 60 * 1000
UNTIL = 1_750_000_000_000
WITHIN_S = 180.0
BEFORE, AFTER = 'HABIT = ["24h", "7d", "30d"]', 'HABIT = ["24h", "7d", "14d", "30d"]'
PLANTED = 10
FIGURES = ("compared", "mismatch", "missing", "extra", "wrong_entities")
OPTIONS = {
    "HEADRACE_STREAM__SPARK_MEMORY": "512m",
    "HEADRACE_STREAM__ARCHIVE_TRIGGER_S": "1",
    "HEADRACE_STREAM__MAX_OFFSETS_PER_TRIGGER": "5000",
}


@dataclass
class Shop:
    """The project, its running parts, and the events of its day."""

    loop: Loop
    events: pa.Table
    repo: FeatureRepo
    sent: int = 0

    @property
    def rows(self) -> SqliteRows:
        return SqliteRows(self.loop.home / "online.db")

    def change(self, before: str, after: str) -> None:
        path = self.loop.repo / "shop.py"
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1
        path.write_text(text.replace(before, after), encoding="utf-8")
        self.repo = load_repo(self.loop.repo)

    # --- traffic ---

    def send(self, count: int, per_s: float | None = None) -> None:
        """The next events of the day: at once, or so many a second."""
        some = self.events.slice(self.sent, count)
        self.sent += len(some)
        producer, tally = EventProducer(self.loop.bootstrap), Tally()
        pieces = 1 if per_s is None else max(round(len(some) / per_s * 10), 1)
        size = -(-len(some) // pieces)
        for start in range(0, len(some), size):
            piece = in_file_order(iter([("activity", some.slice(start, size))]), self.repo.streams, 0)
            send_all(piece, producer, Stop(), tally, None)
            if per_s is not None:
                threading.Event().wait(0.1)  # traffic, not a test that waits
        tally.check("the day")

    def answer_today(self) -> None:
        """A service logs an answer by the wall's clock, which is far ahead of the day's."""
        answer = {"event_id": "a1", "event_time": time.time_ns() // 1_000_000, "recommendation_id": "a1", "items": "[]"}
        producer = EventProducer(self.loop.bootstrap)
        producer.send(self.repo.streams["served"].topic, b"a1", json.dumps(answer).encode())
        producer.flush()

    @contextmanager
    def traffic(self, count: int, per_s: float) -> Iterator[threading.Thread]:
        """So many events come meanwhile."""
        sending = threading.Thread(target=self.send, args=(count, per_s))
        sending.start()
        try:
            yield sending
        finally:
            sending.join()

    # --- the stream ---

    def wait(self, what: str, ready: Callable[[], Any]) -> Any:
        return self.loop.wait(what, ready, WITHIN_S)

    def is_drained(self) -> bool:
        topics = [stream.topic for stream in self.repo.streams.values()]
        high = read_watermarks(self.loop.bootstrap, topics).high
        status = self.loop.status()
        ends = [place for query in status.get("queries", {}).values() for place in query["end"].items()]
        return status.get("state") == "running" and all(high[place] == offset for place, offset in ends)

    def has_todays_rows(self) -> bool:
        """Readers of all of today's definitions have rows."""
        return all(self.rows.current(of_schema(one.name, one.schema_hash)) for one in self.repo.views.values())

    def rebuilt(self) -> dict[str, int | None]:
        return {name: self.rows.current(name) for name in self.repo.views}

    # --- verification ---

    def verified(self, repo: FeatureRepo, sample: int | None = None) -> dict[str, Any]:
        verifier = Verifier(self.rows, repo, self.loop.home / "offline", self.loop.home, lambda _: None)
        asked = VerifyRequest(sample, UNTIL + DAY_MS, seed=7)
        found = [verifier.verify(view, asked) for view in repo.views.values()]
        return report(found, {view.name: len(view.features) for view in repo.views.values()})

    def headrace(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "headrace", *arguments]
        environment = self.loop.environment | OPTIONS
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=WITHIN_S
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def a_shop(
    tmp_path: Path, kafka: str, unique_name: str, spark_jars: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ShopSimulator, float], Shop]]:
    """Makes a shop whose stream has not started."""
    for name, value in OPTIONS.items():
        monkeypatch.setenv(name, value)
    settings, home = read_settings(ROOT, os.environ), tmp_path / "home"
    home.mkdir()
    share_jars(ROOT / settings.home, home)
    repo = own_repo(ROOT / "feature_repo", home)
    (repo / "cards.py").unlink()
    with Loop(ROOT, settings, home, repo, 0, f"sqlite:///{home / 'mlflow.db'}") as loop:
        loop.bootstrap = kafka

        def made(simulator: ShopSimulator, per_user_day: float) -> Shop:
            shop = Shop(loop, simulator.history(1, UNTIL, per_user_day), load_repo(repo))
            shop.change('topic="shop.activity"', f'topic="{unique_name}"')
            shop.change('topic="shop.items"', f'topic="{unique_name}.items"')
            shop.change('"shop.served"', f'"{unique_name}.served"')
            ensure_topics(kafka, shop.repo.streams.values())
            shop.answer_today()
            return shop

        yield made


def is_clean(when: str, found: dict[str, Any]) -> bool:
    LOG.warning("%s: %s", when, {name: found[name] for name in FIGURES})
    assert found["worst"] == []
    return found["compared"] > 0 and found["mismatch"] == found["missing"] == found["extra"] == 0


def plant(shop: Shop) -> set[str]:
    """Ten rows hold one more event than happened, as if it had been folded twice."""
    view = shop.repo.views["user_activity"]
    stream_id = shop.rows.current(view.name)
    assert stream_id is not None
    generation = shop.rows.generation(stream_id)
    generation.begin()
    marker = generation.marker()
    assert marker is not None
    # A row by the batch before the last can still be folded into, and stays one of a batch that was done.
    keys = shop.rows.keys(view.name).slice(0, PLANTED)
    values = generation.rows(view.name, keys)
    again = shop.events.filter(pa.compute.is_in(shop.events["user_id"], value_set=keys))
    from features.events.parsing import from_columns

    events = {"activity": from_columns(again, shop.repo.streams["activity"]).events}
    folded = fold(view, PackedRows(keys, values), events, BatchKey(stream_id, marker.done + 1, 0))
    generation.put_rows(view.name, _by_batch(folded, marker.done))
    return set(folded.keys.to_pylist())


def _by_batch(rows: PackedRows, batch_id: int) -> PackedRows:
    """The rows as if the batch had written them."""
    import numpy as np

    from features.rows.layout import HEADER, binary_array, checksums, offsets_of

    data = bytearray(rows.values.buffers()[2])
    offsets = offsets_of(rows.values)
    for start in offsets[:-1].tolist():
        header = np.frombuffer(data, HEADER, 1, start).copy()
        header["batch_id"] = batch_id
        data[start : start + HEADER.itemsize] = header.tobytes()
    octets = np.frombuffer(bytes(data), np.uint8).copy()
    sums = checksums(octets, offsets)
    for start, checksum in zip(offsets[:-1].tolist(), sums.tolist(), strict=True):
        octets[start + 4 : start + 8] = np.frombuffer(np.uint32(checksum).tobytes(), np.uint8)
    return PackedRows(rows.keys, binary_array(offsets, octets))


@pytest.mark.parametrize(
    ("users", "per_user_day", "per_s"), [(150, 60.0, 400.0), pytest.param(3_000, 60.0, 1_000.0, marks=pytest.mark.slow)]
)
def test_a_day_with_a_changed_definition_and_a_rebuild_says_the_same_online_as_offline(
    a_shop: Callable[[ShopSimulator, float], Shop], users: int, per_user_day: float, per_s: float
) -> None:
    """At rest and under load; readers of the definition before go on too; what is planted is found."""
    shop = a_shop(ShopSimulator(11, users, 60), per_user_day)
    part, rebuild = len(shop.events) // 4, [sys.executable, "-m", "headrace", "features", "rebuild"]
    before = shop.repo
    shop.send(part)
    stream = shop.loop.start("stream", "stream")
    shop.wait("the first quarter", lambda: shop.has_todays_rows() and shop.is_drained())
    assert is_clean("at rest", shop.verified(before))
    shop.loop.end(stream)

    shop.change(BEFORE, AFTER)
    first = shop.rebuilt()
    with shop.traffic(part, per_s):
        shop.loop.start("stream", "stream")
        shop.wait("rows of the changed definitions", shop.has_todays_rows)
        assert is_clean("under load, changed", shop.verified(shop.repo, sample=100))
        assert is_clean("under load, as before", shop.verified(before, sample=100))
    assert all(first[name] != current for name, current in shop.rebuilt().items())

    second = shop.rebuilt()
    with shop.traffic(part, per_s):
        subprocess.run(rebuild, cwd=ROOT, env=shop.loop.environment, check=True)
        assert all(second[name] != current for name, current in shop.rebuilt().items())
        assert is_clean("under load, rebuilt", shop.verified(shop.repo, sample=100))
    shop.send(part)

    shop.wait("all of the day", shop.is_drained)
    status, found = shop.headrace("features", "verify", "--all", "--json")
    assert status == 0
    assert is_clean("at rest, all", found)
    assert is_clean("at rest, as before", shop.verified(before))
    third = shop.rebuilt()
    subprocess.run(rebuild, cwd=ROOT, env=shop.loop.environment, check=True)
    assert all(third[name] != current for name, current in shop.rebuilt().items())
    planted = plant(shop)
    status, found = shop.headrace("features", "verify", "--all", "--json")
    LOG.warning("planted %d: %s", PLANTED, {name: found[name] for name in FIGURES})
    assert (status, found["wrong_entities"]) == (1, PLANTED)
    assert {one["entity"] for one in found["worst"]} <= planted
