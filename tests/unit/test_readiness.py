"""Readiness and status say which query does not get on, since when and why; a damaged row is no reason to try again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from metric_samples import sample

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count
from features.errors import CorruptRowError
from features.events.parsing import from_columns
from features.online_store.batch_step import write_rows
from features.online_store.port import Marker
from features.online_store.sqlite.rows import SqliteRows
from features.online_store.stream_status import HANGS_AFTER_MS, STUCK_AFTER, progress_text, stuck
from features.rows.matrix import BatchKey
from features.times import moment_text
from headrace.metrics import metrics_text
from streaming.status import status_lines, stream_metrics
from streaming.supervisor import SupervisedQuery

T0 = 1_700_000_000_000
REFS = Stream("refs", topic="t", fields={"user_id": "string"})
VIEW = FeatureView("all", sets=[FeatureSet(Entity("user", {"user_id": "string"}), REFS, [Count()], ["1h"])])


class Started:
    """A query that Spark runs: each call of ``step`` is a batch, or (without one) a look that finds nothing new."""

    def __init__(self, handle: Callable[[Any, int], None]) -> None:
        self.isActive = True  # Spark's name
        self.lastProgress: dict[str, Any] | None = None  # Spark's name
        self._handle, self._error = handle, ""

    def step(self, *, has_records: bool = True) -> None:
        try:
            if has_records:
                self._handle(None, 0)
        except Exception as error:  # noqa: BLE001  # as Spark does
            self.isActive, self._error = False, str(error)
        else:
            self.lastProgress = {"timestamp": "2026-07-01T12:00:00Z"}

    def exception(self) -> str:
        return self._error


class World:
    """A supervised query, Spark's runs of it, and its log; ``error`` is raised by batches."""

    def __init__(self) -> None:
        self.runs: list[Started] = []
        self.said: list[str] = []
        self.error: Exception | None = ValueError("a reason")
        self.now_s = 0.0
        self.query = SupervisedQuery("fold", self._start, self._handle, self.said.append)  # type: ignore[arg-type]

    def _start(self, handle: Any) -> Started:
        self.runs.append(Started(handle))
        return self.runs[-1]

    def _handle(self, _frame: Any, _batch_id: int) -> None:
        if self.error is not None:
            raise self.error

    def turn(self, *, has_records: bool = True) -> None:
        """The query starts if it is due, has a step, and is looked at."""
        self.now_s += 100
        self.query.tick(self.now_s)
        self.runs[-1].step(has_records=has_records)
        self.query.tick(self.now_s)

    def status(self) -> dict[str, Any]:
        query = self.query
        told = {"state": query.state, "error": query.error, "failures": query.failures, "restarts": query.restarts}
        told |= {"failing_since": query.failing_since, "batch_id": 3, "batch_ms": 2.0, "rows_per_s": 0.0, "lag": 9}
        known = {"state": "running", "pid": 1, "bootstrap": "b:1", "updated_at": T0}
        return known | {"queries": {"fold": told | {"counts": {}}}}


def test_a_query_that_fails_again_and_again_is_said_not_to_get_on_since_its_first_failure() -> None:
    world = World()
    since = []
    for attempt in range(1, STUCK_AFTER + 2):
        world.turn()
        since.append(world.query.failing_since)
        assert world.query.failures == attempt
        assert ("fold" in stuck(world.status())) == (attempt >= STUCK_AFTER)
    assert len(set(since)) == 1
    text = f"query 'fold' has not got on since {moment_text(since[0] or 0)}: ValueError: a reason"
    assert progress_text(world.status()) == text
    assert f"    {text} (4 failures in a row)" in status_lines(world.status())
    metrics = metrics_text(stream_metrics(world.status()))
    assert sample(metrics, "headrace_stream_failures", query="fold") == STUCK_AFTER + 1
    assert [line for line in world.said if "does not get on since" in line] == [
        f"query 'fold': does not get on since {moment_text(since[0] or 0)}, 3 failures in a row"
    ]


@pytest.mark.parametrize("has_records", [True, False], ids=["a batch", "nothing new"])
def test_a_query_that_gets_on_again_is_well(has_records: bool) -> None:
    """By a batch, or by a look at its topics that found nothing new: after an outage nobody need send a record."""
    world = World()
    for _ in range(STUCK_AFTER):
        world.turn()
    world.error = None
    world.turn(has_records=has_records)
    assert (world.query.failures, world.query.failing_since, world.query.error) == (0, None, None)
    assert progress_text(world.status()) == "ok"
    world.error = ValueError("another")
    world.turn()
    assert (world.query.failures, world.query.restarts) == (1, STUCK_AFTER + 1)


def test_a_damaged_row_ends_the_query_with_what_mends_it_and_its_state_stays(tmp_path: Path) -> None:
    """Else the same batch is tried for ever: a row does not mend itself."""
    store, world = SqliteRows(tmp_path / "online.db"), World()
    handle = store.generation(7, {"refs": 3_600_000})
    handle.begin()
    handle.publish(Marker(-1, {}, {"t/0": 0}, -1))
    event = pa.table({"event_id": ["e"], "event_time": [T0], "user_id": ["u1"]})
    events = {"refs": from_columns(event, REFS).events}
    write_rows(handle, VIEW, events, BatchKey(7, 0, T0))
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        (number,) = connection.execute("SELECT id FROM tables WHERE name LIKE 'rows/all%'").fetchone()
        key, value = (column[1] for column in connection.execute(f"PRAGMA table_info(cells_{number})").fetchall()[:2])
        connection.execute(f"UPDATE cells_{number} SET {value} = substr({value}, 1, 40) WHERE {key} IS NOT NULL")
        connection.commit()
    world.error = None
    world.query._handle = lambda *_: write_rows(handle, VIEW, events, BatchKey(7, 1, T0))
    with pytest.raises(CorruptRowError, match="Run 'headrace features rebuild'"):
        world.turn()
    world.query.stop()
    assert (world.query.state, world.query.restarts) == ("failed", 0)
    ended = world.status() | {"state": "stopped"}
    assert progress_text(ended).startswith("query 'fold' has not got on since 20")
    assert "Run 'headrace features rebuild'" in progress_text(ended)


@pytest.mark.parametrize("inside", [True, False], ids=["in a batch", "between batches"])
def test_a_query_that_hangs_without_an_error_is_said_not_to_get_on(
    monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """It runs, and neither ends a step of a batch nor looks for another."""
    now = [T0]
    monkeypatch.setattr("streaming.supervisor.now_ms", lambda: now[0])
    seen: dict[str, Any] = {}

    def hangs(*_: Any) -> None:
        seen["moved"] = world.query.moved_at
        now[0] += HANGS_AFTER_MS
        seen["status"] = told()
        now[0] += 1
        seen["stuck"] = stuck(told())
        world.query.moved()
        seen["after"] = stuck(told())

    def told() -> dict[str, Any]:
        status = world.status() | {"updated_at": now[0]}
        status["queries"]["fold"]["moved_at"] = world.query.moved_at
        return status

    world = World()
    world.error = None
    world.query._handle = hangs if inside else lambda *_: None
    world.query.tick(100)
    world.runs[-1].step(has_records=True)
    if inside:
        assert (seen["moved"], stuck(seen["status"]), seen["after"]) == (T0, {}, {})
        found = seen["stuck"]
    else:
        world.runs[-1].lastProgress = None
        now[0] += HANGS_AFTER_MS
        assert stuck(told()) == {}
        now[0] += 1
        found = stuck(told())
        assert progress_text(told()) == found["fold"]
        assert f"    {found['fold']}" in "\n".join(status_lines(told()))
    assert found == {
        "fold": f"query 'fold' has not got on since {moment_text(T0)}: "
        "it hangs, without an error; end the stream and start it again"
    }
    world.query.state = "stopped"
    assert stuck(told()) == {}


def test_a_look_that_finds_nothing_new_is_something_that_a_query_does() -> None:
    world = World()
    world.error = None
    assert world.query.moved_at is None
    world.turn(has_records=False)
    world.query._moved_at = 5
    assert world.query.moved_at == 1_782_907_200_000  # its last look: 2026-07-01T12:00:00Z


def test_without_a_stream_here_nothing_is_said_to_be_stuck() -> None:
    assert progress_text({"state": "absent"}) == "not running"
    assert progress_text({"state": "stopped", "queries": {}}) == "not running"
    world = World()
    for _ in range(STUCK_AFTER):
        world.turn()
    assert stuck(world.status() | {"state": "absent"}) == {}
