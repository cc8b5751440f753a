"""The parts of the stream that need no Spark: records of a batch, offsets, both sinks, totals, waits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryHandle, MemoryStore
from metric_samples import sample

from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream
from features.definitions.aggregations import Count
from features.definitions.repo import FeatureRepo, load_repo
from features.errors import FenceError, LeaseError, UsageError
from features.events.columns import integers
from features.events.parsing import Parsed, Verdict
from features.online_store.batch_step import Counts, added
from features.online_store.port import Marker
from features.online_store.stream_status import age_ms, read_status, sentence
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from headrace.metrics import metrics_text
from streaming.alerts.status import delivery_metrics
from streaming.archive.sink import Archive, ArchiveSink
from streaming.fold.crash_points import around_effects, crash_point
from streaming.fold.freshness import Freshness
from streaming.fold.parsed_batches import ParsedBatches
from streaming.fold.sink import FoldTarget, OnlineSink
from streaming.generations.checkpoints import Checkpoints, Generation, build_from_archive, new_generation
from streaming.generations.lease import only_driver
from streaming.spark.source import (
    Messages,
    OffsetLog,
    flat_offsets,
    known_at,
    messages_by_topic,
    nested_offsets,
    records_between,
)
from streaming.status import Totals, lag, status_lines, stream_metrics, write_status
from streaming.supervisor import Backoff, reason

T0 = 1_700_000_000_000
SHOP = Stream("shop", topic="t", fields={"user_id": Field("string", required=True)})
NOTES = Stream("notes", topic="n", fields={"text": "string"})
USER = Entity("user", keys={"user_id": "string"})
VIEW = FeatureView("by_user", sets=[FeatureSet(USER, SHOP, [Count()], ["1h"])])
REPO = FeatureRepo(Path("repo"), {"user": USER}, {"shop": SHOP, "notes": NOTES}, {"by_user": VIEW})
HEADERS = pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))


def batch(*rows: dict[str, Any]) -> pa.Table:
    """Messages as session.read_topics() hands them over."""
    given = {"topic": "t", "partition": 0, "offset": 0, "timestamp": T0, "key": None, "value": b"", "headers": None}
    names = pa.schema(
        {"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64(), "timestamp": pa.int64()}
        | {"key": pa.binary(), "value": pa.binary(), "headers": HEADERS}
    )
    return pa.Table.from_pylist([given | row for row in rows], schema=names)


def event(number: int, user: str = "u1", ago: int = 0) -> bytes:
    return json.dumps({"event_id": f"e{number}", "event_time": T0 - ago, "user_id": user}).encode()


def headers(*values: bytes | None) -> list[dict[str, Any]]:
    return [{"key": "other", "value": b"1"}, *({"key": "known_at", "value": value} for value in values)]


def test_known_at_is_the_headers_time_where_it_is_an_earlier_one_and_the_brokers_otherwise() -> None:
    given = [None, [], headers(), headers(b"123"), headers(b"x"), headers(None), headers(b"\xff"), headers(b"5", b"7")]
    given.append(headers(str(T0 + 1).encode()))
    rows = batch(*({"headers": one} for one in given))
    assert known_at(rows).tolist() == [T0, T0, T0, 123, T0, T0, T0, 7, T0]
    assert known_at(batch()).tolist() == []


def test_a_batch_is_divided_by_topic_in_its_order() -> None:
    rows = batch({"offset": 1}, {"topic": "n", "offset": 2}, {"offset": 3, "partition": 1}, {"topic": "stranger"})
    found = {one.stream.name: one.records for one in messages_by_topic(rows, REPO.streams.values())}
    assert {name: records.offset.tolist() for name, records in found.items()} == {"shop": [1, 3], "notes": [2]}
    assert found["shop"].partition.tolist() == [0, 1]
    assert messages_by_topic(batch(), REPO.streams.values()) == []


# --- offsets --------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, *ends: dict[str, int], committed: int = -1) -> OffsetLog:
    """A checkpoint as Spark leaves it, that began at nothing."""
    for part in ("offsets", "commits"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, end in enumerate(ends):
        (folder / "offsets" / str(number)).write_text(f"v1\n{{}}\n{json.dumps(nested_offsets(end))}")
    for number in range(committed + 1):
        (folder / "commits" / str(number)).write_text("v1\n{}")
    return OffsetLog(folder, {"t/0": 3})


def test_a_batchs_offsets_are_what_spark_has_planned_also_of_partitions_that_were_empty(tmp_path: Path) -> None:
    log = checkpoint(tmp_path, {"t/0": 5, "t/1": 0}, {"t/0": 5, "t/1": 4}, committed=0)
    assert log.between(0) == ({"t/0": 3}, {"t/0": 5, "t/1": 0})
    assert log.between(1) == ({"t/0": 5, "t/1": 0}, {"t/0": 5, "t/1": 4})
    assert records_between(*log.between(1)) == 4
    assert (log.committed(), log.standing()) == (0, {"t/0": 5, "t/1": 0})
    assert (checkpoint(tmp_path / "new").committed(), checkpoint(tmp_path / "new").standing()) == (-1, {"t/0": 3})


@pytest.mark.parametrize("text", ["", "v1", 'v1\n{}\n{"t": ', "v1\n{}\n[]"])
def test_a_torn_checkpoint_is_refused_with_what_mends_it(tmp_path: Path, text: str) -> None:
    log = checkpoint(tmp_path, {"t/0": 5})
    (tmp_path / "offsets" / "0").write_text(text)
    with pytest.raises(FenceError, match="rebuild"):
        log.between(0)


def test_offsets_keep_topics_with_slashes_no_others_and_dots_apart() -> None:
    nested = {"a.b": {"0": 1, "10": 2}, "c": {"0": 3}}
    assert nested_offsets(flat_offsets(nested)) == nested


# --- sinks ----------------------------------------------------------------------------------------------------------


def online_sink(store: MemoryStore, log: OffsetLog, sent: list[Any]) -> OnlineSink:
    target = FoldTarget(REPO, MemoryHandle(store, 7), 7)
    return OnlineSink(target, log, lambda stream, *_: sent.append(stream.name))


def user_count(store: MemoryStore) -> int:
    keys = pa.array(["u1"])
    found = finalize(VIEW, PackedRows(keys, MemoryHandle(store, 7).rows("by_user", keys)), T0 + 1, 7)
    return int(found.columns[0][0].as_py())


def test_a_batch_is_folded_once_however_often_it_comes_and_its_counts_add_up(tmp_path: Path) -> None:
    store, sent, archive = MemoryStore(), [], Archive(tmp_path / "offline", REPO)
    log = checkpoint(tmp_path, {"t/0": 8, "n/0": 2})
    generation = new_generation({"t/0": 3})
    handle = MemoryHandle(store, 7)
    build_from_archive(handle, REPO, archive, type(generation)(7, generation.first, {}), T0)
    good = [{"offset": 3 + number, "value": event(number)} for number in (0, 1)]
    odd = [{"offset": 5, "value": event(0)}, {"offset": 6, "value": event(9, ago=10**8)}, {"offset": 7, "value": b"?"}]
    notes = [{"topic": "n", "offset": number, "value": event(number)} for number in (0, 1)]
    reports = [online_sink(store, log, sent).fold(batch(*good, *odd, *notes), 0) for _ in range(3)]
    assert [report.counts for report in reports] == [Counts(folded=4, duplicate=1, late=1, dead_letter=1)] * 3
    assert (reports[0].records, sent, user_count(store)) == (7, ["shop"] * 3, 2)


def test_a_batch_in_pieces_is_folded_and_archived_as_a_whole(tmp_path: Path) -> None:
    rows = [{"offset": 3 + at, "value": event(at % 4) if at % 3 else b"?"} for at in range(9)]
    found = []
    for name, tables in (("whole", batch(*rows)), ("pieces", [batch(*rows[at : at + 2]) for at in range(0, 9, 2)])):
        store, archive, log = (
            MemoryStore(),
            Archive(tmp_path / name / "offline", REPO),
            checkpoint(tmp_path / name, {"t/0": 12}),
        )
        handle, first = MemoryHandle(store, 7), new_generation({"t/0": 3}).first
        build_from_archive(handle, REPO, archive, Generation(7, first, {}), T0)
        report = online_sink(store, log, []).fold(tables, 0)
        appended = ArchiveSink(archive, REPO, log, lambda _: None, lambda *_: 0).append(tables, 0).appended
        offsets = sorted(archive.events(REPO.streams["shop"])["offset"].to_pylist())
        found.append((report.records, report.counts, user_count(store), report.appended_at.tolist(), appended, offsets))
    assert found[0] == found[1]
    assert found[0][0] == 9


def test_what_is_handed_over_to_the_archive_has_its_letters_already(tmp_path: Path) -> None:
    """Else the archive may end behind a refused record of a fold that is never run again."""
    handed = ParsedBatches(REPO.streams, 100)
    handed.begin({"t/0": 3})

    def failing(*_: Any) -> None:
        raise ConnectionError

    store = MemoryStore()
    handle = MemoryHandle(store, 7)
    handle.begin()
    handle.publish(Marker(-1, {"t/0": 3}, {"t/0": 3}, -1))
    for send in (failing, lambda *_: None):
        sink = OnlineSink(FoldTarget(REPO, handle, 7), checkpoint(tmp_path, {"t/0": 5}), send, handed_over=handed)
        messages = batch({"offset": 3, "value": event(0)}, {"offset": 4, "value": b"?"})
        if send is failing:
            with pytest.raises(ConnectionError):
                sink.fold(messages, 0)
            assert handed.take({"t/0": 3}, {"t/0": 5}, lambda: False) is None
        else:
            sink.fold(messages, 0)
    events = handed.take({"t/0": 3}, {"t/0": 5}, lambda: False)
    assert events is not None
    assert events["shop"]["offset"].to_pylist() == [3]


@given(*[st.lists(st.integers(0, 9), min_size=4, max_size=4)] * 2)
def test_counts_are_added_outcome_by_outcome(first: list[int], second: list[int]) -> None:
    both = added(Counts(*first), Counts(*second))
    assert both == Counts(*(one + other for one, other in zip(first, second, strict=True)))
    assert both.all == sum(first) + sum(second)


def test_the_archive_has_each_batch_once_and_a_new_generation_goes_on_where_it_ends(tmp_path: Path) -> None:
    archive, log = Archive(tmp_path / "offline", REPO), checkpoint(tmp_path, {"t/0": 7})
    letters: list[tuple[list[int], dict[str, int]]] = []

    def send(_stream: Stream, messages: Messages, parsed: Parsed) -> None:
        offsets = integers(messages.table["offset"])[parsed.verdicts == Verdict.DEAD_LETTER]
        letters.append((offsets.tolist(), archive.end()))

    sink = ArchiveSink(archive, REPO, log, lambda _: None, send)
    rows = [
        {"offset": 3, "value": event(0)},
        {"offset": 4, "value": event(0)},
        {"offset": 5, "value": event(1, ago=10**8)},
    ]
    rows.append({"offset": 6, "value": b"?"})
    assert [sink.append(batch(*rows), 0).appended for _ in range(3)] == [3, 0, 0]
    assert letters == [([6], {}), ([6], {"t/0": 6}), ([6], {"t/0": 6})]  # acknowledged before the rows are there
    assert archive.end() == {"t/0": 6}
    assert archive.events(SHOP)["offset"].to_pylist() == [3, 4]
    store = MemoryStore()
    build_from_archive(MemoryHandle(store, 7), REPO, archive, Generation(7, archive.end(), {}), T0)
    assert user_count(store) == 1
    again = checkpoint(tmp_path / "next", {"t/0": 8})
    log = OffsetLog(again.checkpoint, archive.end())
    online_sink(store, log, []).fold(batch(rows[3], {"offset": 7, "value": event(2)}), 0)
    assert user_count(store) == 2


def test_a_field_that_a_stream_has_gained_is_null_in_what_was_archived_before(tmp_path: Path) -> None:
    archive = Archive(tmp_path, REPO)
    sink = ArchiveSink(archive, REPO, checkpoint(tmp_path / "c", {"t/0": 9}), lambda _: None, lambda *_: 0)
    sink.append(batch({"offset": 0, "value": event(0)}), 0)
    wider = Stream("shop", topic="t", fields={"user_id": Field("string", required=True), "price": "float64"})
    repo = FeatureRepo(REPO.path, REPO.entities, {"shop": wider}, {})
    assert Archive(tmp_path, repo).events(wider)["price"].to_pylist() == [None]
    log = checkpoint(tmp_path / "c", {"t/0": 9}, {"t/0": 9})
    sink = ArchiveSink(Archive(tmp_path, repo), repo, log, lambda _: None, lambda *_: 0)
    sink.append(batch({"offset": 1, "value": event(1)[:-1] + b', "price": 2.5}'}), 1)
    assert sorted(Archive(tmp_path, repo).events(wider)["price"].to_pylist(), key=str) == [2.5, None]


def test_a_checkpoint_that_is_gone_is_no_generation_to_go_on_with(tmp_path: Path) -> None:
    checkpoints, generation = Checkpoints(tmp_path), new_generation({"t/0": 3}, REPO)
    assert checkpoints.current() is None
    checkpoints.start(generation)
    assert checkpoints.current() == generation
    checkpoints.path(generation).rmdir()
    assert checkpoints.current() is None


def test_a_second_driver_of_a_project_is_refused_with_the_process_that_drives_it(tmp_path: Path) -> None:
    with only_driver(tmp_path), pytest.raises(LeaseError, match=r"process \d+"), only_driver(tmp_path):
        pytest.fail("two drivers")
    with only_driver(tmp_path):
        pass


# --- status ---------------------------------------------------------------------------------------------------------


def test_totals_have_a_batch_once_however_often_it_comes_and_survive_a_restart(tmp_path: Path) -> None:
    totals = Totals().with_batch(0, Counts(3, 0, 0, 1)).with_batch(1, Counts(2, 1, 0, 0))
    totals.write(tmp_path / "counts.json")
    again = Totals.read(tmp_path / "counts.json").with_batch(1, Counts(2, 1, 0, 0)).with_batch(2, Counts(1, 0, 1, 0))
    assert again.after == Counts(6, 1, 1, 1)
    assert Totals.read(tmp_path / "none.json") == Totals()


def test_lag_counts_what_the_broker_has_and_the_query_has_not_finished() -> None:
    assert lag({"t/0": 5}, {"t/0": 8, "t/1": 2}) == 5


def test_the_status_says_when_it_is_old_and_reads_as_lines_and_as_metrics(tmp_path: Path) -> None:
    assert read_status(tmp_path, T0) == {"state": "absent"}
    query = {"state": "waiting", "error": "no broker", "restarts": 2, "batch_id": None, "batch_ms": None}
    query |= {"rows_per_s": 0.0, "age": {"p50_ms": 120.0, "p99_ms": 300.0}, "lag": None, "counts": {"folded": 4}}
    given = {"state": "running", "pid": 1, "bootstrap": "b:1", "updated_at": T0, "queries": {"fold": query}}
    write_status(tmp_path, given)
    assert read_status(tmp_path, T0 + 1) == given
    assert read_status(tmp_path, T0 + 60_000)["state"] == "absent"
    assert (age_ms(given, T0 + 5), sentence(given, T0)) == (
        None,
        "the stream is an unknown number of records behind (waiting)",
    )
    assert age_ms(given | {"queries": {"fold": query | {"lag": 0}}}, T0 + 5) == 5
    text = "\n".join(status_lines(given))
    assert "lag unknown" in text
    assert "fresh in 120 ms" in text
    assert "no broker" in text
    metrics = metrics_text(stream_metrics(given))
    assert sample(metrics, "headrace_stream_restarts", query="fold") == 2
    assert sample(metrics, "headrace_stream_records_total", query="fold", end="folded") == 4
    assert sample(metrics, "headrace_stream_age_ms", query="fold", quantile="99") == 300
    assert sample(metrics, "headrace_stream_up") == 1
    assert "headrace_stream_lag" not in metrics
    assert metrics_text(stream_metrics({"state": "absent"})).splitlines()[-1] == "headrace_stream_up 0.0"


def test_the_status_says_how_fresh_each_view_is_and_that_a_generation_is_being_made() -> None:
    fresh = Freshness(slo_ms=500)
    fresh.add(T0, [T0 - np.array([40, 40, 40, 900])])
    query = {"state": "running", "error": None, "batch_id": 1, "batch_ms": 2.0, "rows_per_s": 1.0, "lag": 0}
    query |= {"counts": {}, "freshness": {"by_user": fresh.to_dict()}}
    given = {"state": "running", "pid": 1, "bootstrap": "b", "queries": {"fold": query}, "building": True}
    lines = status_lines(given)
    assert "  a new generation is being made from the archive" in lines
    assert "    by_user: 75.0 % within 500 ms of the event (p50 up to 50 ms, p99 up to 1000)" in lines
    bucket = {"query": "fold", "view": "by_user", "le": "0.5"}
    assert sample(metrics_text(stream_metrics(given)), "headrace_stream_servable_age_seconds_bucket", **bucket) == 3


def test_the_deliveries_of_alerts_are_metrics_by_sink_and_an_unknown_number_is_none() -> None:
    hook = {"state": "delivering", "delivered": 12, "refused": 1, "waiting": None}
    table = {"state": "retrying", "delivered": 7, "refused": 0, "waiting": 5}
    text = metrics_text(delivery_metrics({"state": "stopped", "sinks": {"webhook": hook, "delta": table}}))
    assert sample(text, "headrace_alerts_up") == 0
    assert sample(text, "headrace_alerts_delivered_total", sink="webhook") == 12
    assert sample(text, "headrace_alerts_refused_total", sink="webhook") == 1
    assert sample(text, "headrace_alerts_waiting", sink="delta") == 5
    assert [sample(text, "headrace_alerts_sink_up", sink=name) for name in ("webhook", "delta")] == [1, 0]
    assert 'headrace_alerts_waiting{sink="webhook"}' not in text


def test_a_query_that_fails_again_waits_twice_as_long_up_to_a_bound_until_it_succeeds() -> None:
    backoff = Backoff()
    assert [backoff.next_s() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.succeeded()
    assert backoff.next_s() == 1


def test_a_crash_point_that_does_not_exist_is_refused_and_none_is_nothing() -> None:
    assert crash_point({}) is None
    with pytest.raises(UsageError, match="after rows"):
        crash_point({"HEADRACE_CRASH_AT": "somewhere:1"})


def test_a_watched_store_tells_before_and_after_each_effect(tmp_path: Path) -> None:
    told: list[str] = []
    archive, handle = Archive(tmp_path, REPO), MemoryHandle(MemoryStore(), 7)
    build_from_archive(around_effects(handle, told.append), REPO, archive, Generation(7, archive.end(), {}), T0)
    assert told == ["before remember", "after remember", "before publish", "after publish"]


def test_the_definitions_of_this_repo_can_be_archived() -> None:
    """A Delta table takes every dtype that a stream may have."""
    from streaming.archive.sink import archive_schema

    repo = load_repo(Path(__file__).resolve().parent.parent.parent / "feature_repo")
    types = {str(field.type) for stream in repo.streams.values() for field in archive_schema(stream)}
    assert types <= {"string", "int32", "int64", "double", "bool"}


def test_the_reason_of_a_failure_is_its_cause_in_one_line() -> None:
    java = (
        "Py4JJavaError: An error occurred.\n: org.x.SparkException: Job aborted\n\tat y\nCaused by: no broker\n\tat z"
    )
    assert reason(RuntimeError(java), None) == "no broker"
    assert reason(ValueError("wrong"), None) == "ValueError: wrong"
    assert reason(FenceError("a", "b", "c"), None) == "a requires b; got c."
    assert reason(None, "\nstopped\nmore") == "stopped"
    assert reason(None, "") == "it ended without an error"
