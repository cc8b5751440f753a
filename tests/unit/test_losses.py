"""Gaps between what a query has read and what its topics have: counted, never read twice, never passed over."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import Stream, Topic
from features.epochs import EPOCHS, OFFSETS_AN_EPOCH, broker_offsets, epoch_of, epoch_starts, our_offsets
from features.errors import FormatError, LossError, StoreError
from features.online_store.pending import done_end
from features.online_store.port import Marker
from models.event_model import DECISIONS
from streaming.generations.checkpoints import Checkpoints, Generation
from streaming.kafka import Watermarks
from streaming.losses import (
    ARCHIVE,
    Gap,
    PinnedTopic,
    PinnedTopics,
    accept,
    keep_open,
    loss_error,
    loss_lines,
    read_losses,
)
from streaming.scoring.decision_log import DecisionLog
from streaming.spark import MESSAGES, OffsetLog, messages_by_topic
from streaming.supervisor import SupervisedQuery

EPOCH = OFFSETS_AN_EPOCH


@dataclass
class Log:
    """A topic of one partition: its id, and what each offset holds (None: no longer there)."""

    id: int = 0
    log: list[int | None] = field(default_factory=list)
    next: int = 0

    def append(self, count: int) -> None:
        self.log += range(self.next, self.next + count)
        self.next += count

    @property
    def low(self) -> int:
        return next((at for at, record in enumerate(self.log) if record is not None), len(self.log))

    def watermarks(self) -> Watermarks:
        return Watermarks({"t/0": self.low}, {"t/0": len(self.log)})


@given(
    st.lists(st.tuples(st.sampled_from(["append", "read", "expire", "anew", "cut"]), st.integers(1, 6)), max_size=30)
)
def test_every_record_is_read_once_or_in_a_gap_and_no_offset_is_used_twice(steps: list[tuple[str, int]]) -> None:
    topic, pins, standing = Log(), PinnedTopics(), {"t/0": 0}
    read: dict[int, int] = {}
    lost: set[int] = set()

    def settle() -> None:
        """What a start of the stream does, each loss accepted."""
        nonlocal pins, standing
        pins = pins.now({"t": str(topic.id)}, {"t/0": len(topic.log)}, [standing])
        logs = pins.logs(topic.watermarks())
        gaps = logs.gaps(ARCHIVE, standing)
        resumed = logs.resumed(standing)
        assert gaps or resumed == standing
        assert {gap.reason for gap in gaps} <= {"expired", "recreated", "truncated"}
        standing = resumed
        assert logs.gaps(ARCHIVE, standing) == []

    settle()
    for step, count in steps:
        before = {record for record in topic.log if record is not None}
        if step == "append":
            topic.append(count)
        elif step == "expire":
            last = min(topic.low + count, len(topic.log))
            topic.log[:last] = [None] * last
        elif step == "anew":
            topic.id, topic.log = topic.id + 1, []
        elif step == "cut":
            topic.log = topic.log[: max(len(topic.log) - count, topic.low)]
        else:
            start = standing["t/0"] % EPOCH
            for at in range(start, min(start + count, len(topic.log))):
                record = topic.log[at]
                assert record is not None
                assert record not in read.values()
                assert standing["t/0"] not in read
                read[standing["t/0"]] = record
                standing = {"t/0": standing["t/0"] + 1}
        lost |= before - set(topic.log) - set(read.values())
        settle()
    unread = topic.log[standing["t/0"] % EPOCH :]
    assert sorted([*read.values(), *lost, *[record for record in unread if record is not None]]) == list(
        range(topic.next)
    )


def logs_of(low: int, high: int, pinned: PinnedTopic | None = None):
    return PinnedTopics({"t": pinned or PinnedTopic("x")}).logs(
        Watermarks({"t/0": low, "t/1": 0}, {"t/0": high, "t/1": 0})
    )


def test_gaps_name_the_offsets_and_the_reason() -> None:
    assert logs_of(7, 9).gaps(ARCHIVE, {"t/0": 5, "t/1": 0}) == [Gap(ARCHIVE, "t", 0, 5, 7, "expired")]
    assert logs_of(5, 9).gaps(ARCHIVE, {"t/0": 5, "t/1": 0}) == []
    assert logs_of(7, 9).gaps(ARCHIVE, {"other/0": 5}) == []  # a topic that the query has not met begins where it does
    anew = logs_of(0, 30, PinnedTopic("y", 1, "recreated"))
    assert anew.gaps(ARCHIVE, {"t/0": 20}) == [Gap(ARCHIVE, "t", 0, 20, None, "recreated")]
    assert anew.resumed({"t/0": 20}) == {"t/0": EPOCH, "t/1": EPOCH}
    cut = logs_of(0, 12, PinnedTopic("x", 1, "truncated"))
    assert cut.gaps(ARCHIVE, {"t/0": 20}) == [Gap(ARCHIVE, "t", 0, 12, 20, "truncated")]
    assert cut.resumed({"t/0": 20}) == {"t/0": EPOCH + 12, "t/1": EPOCH}


def test_a_partition_that_was_never_met_counts_where_its_query_has_met_all() -> None:
    logs = logs_of(7, 9)
    assert logs.gaps(ARCHIVE, {"t/1": 0}) == [Gap(ARCHIVE, "t", 0, 0, 7, "expired")]
    assert logs.gaps(ARCHIVE, {"t/1": 0}, is_whole=False) == []


def test_a_broker_without_ids_pins_none_and_takes_none_for_new() -> None:
    pins = PinnedTopics().now({"t": None}, {"t/0": 5}, [{"t/0": 5}])
    assert pins.topics == {"t": PinnedTopic(None)}
    assert pins.now({"t": "x"}, {"t/0": 5}, [{"t/0": 5}]).topics == {"t": PinnedTopic("x")}


def test_a_topic_has_a_bounded_number_of_epochs() -> None:
    pins = PinnedTopics({"t": PinnedTopic("x", EPOCHS - 1)})
    with pytest.raises(FormatError, match="made anew at most 127 times"):
        pins.now({"t": "y"}, {"t/0": 5}, [])


def test_pins_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert PinnedTopics.read(tmp_path) == PinnedTopics()
    pins = PinnedTopics({"t": PinnedTopic("x", 2, "recreated"), "u": PinnedTopic(None)})
    pins.write(tmp_path)
    assert PinnedTopics.read(tmp_path) == pins


def test_accepted_losses_are_recorded_once(tmp_path: Path) -> None:
    gap, other = Gap(ARCHIVE, "t", 0, 5, 7, "expired"), Gap(ARCHIVE, "t", 0, 20, None, "recreated")
    assert read_losses(tmp_path) == {"open": [], "accepted": []}
    keep_open(tmp_path, [gap])
    assert [each["count"] for each in read_losses(tmp_path)["open"]] == [2]
    assert "the stream waits" in "\n".join(loss_lines(read_losses(tmp_path)))
    assert accept(tmp_path, [gap, other], 1_000) == [gap, other]
    assert accept(tmp_path, [gap], 2_000) == []
    record = read_losses(tmp_path)
    assert record["open"] == []
    assert [each["accepted_at"] for each in record["accepted"]] == [1_000, 1_000]
    lines = "\n".join(loss_lines(record))
    assert "offsets 5 to 6, 2 (deleted before they were read)" in lines
    assert "what was at offset 20 and after (the topic was deleted and made anew)" in lines


def test_the_error_shows_some_of_many_gaps() -> None:
    text = str(loss_error([Gap(ARCHIVE, "t", number, 5, 7, "expired") for number in range(9)]))
    assert "partition 4" in text
    assert "partition 5" not in text
    assert "4 more" in text
    assert "--accept-loss" in text


# --- offsets of epochs ------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, *ends: int) -> Path:
    for part in ("offsets", "commits"):
        (folder / part).mkdir(parents=True)
    for number, end in enumerate(ends):
        (folder / "offsets" / str(number)).write_text(f"v1\n{{}}\n{json.dumps({'t': {'0': end}})}")
        (folder / "commits" / str(number)).write_text("v1\n{}")
    return folder


def test_a_checkpoint_has_the_brokers_offsets_and_we_have_those_of_the_epoch(tmp_path: Path) -> None:
    log = OffsetLog(checkpoint(tmp_path, 4, 9), {"t/0": EPOCH + 2})
    assert log.between(0) == ({"t/0": EPOCH + 2}, {"t/0": EPOCH + 4})
    assert log.standing() == {"t/0": EPOCH + 9}
    assert broker_offsets(log.standing()) == {"t/0": 9}


@given(st.integers(0, EPOCHS - 1), st.integers(0, OFFSETS_AN_EPOCH - 1))
def test_offsets_go_to_their_epoch_and_back(epoch: int, offset: int) -> None:
    ours = our_offsets({"t/0": offset}, {"t": epoch * OFFSETS_AN_EPOCH})
    assert broker_offsets(ours) == {"t/0": offset}
    assert epoch_of(ours["t/0"]) == epoch
    assert epoch_starts(ours) == {"t": epoch * OFFSETS_AN_EPOCH}


def test_pending_events_are_pruned_by_the_brokers_offsets() -> None:
    assert done_end(Marker(3, {"t/0": EPOCH}, {"t/0": EPOCH + 4}, 3)) == {"t/0": 4}


# --- partitions ---


@given(st.integers(0, 3), st.integers(0, 5_000))
def test_a_partition_has_a_number_of_its_own_or_is_refused(topic: int, partition: int) -> None:
    stream = Stream("s", topic="t0", also=[Topic(f"t{number}") for number in (1, 2, 3)], fields={"user": "string"})
    row = {"topic": f"t{topic}", "partition": partition, "offset": 7, "timestamp": 1, "value": b"{}"}
    table = pa.Table.from_pylist([row | {"key": None, "headers": None}], schema=MESSAGES)
    if partition < 1_024 - (topic == 3):  # the last number of all is that of imported records
        (messages,) = messages_by_topic(table, [stream])
        assert messages.records.partition.tolist() == [1_024 * topic + partition]
    else:
        with pytest.raises(FormatError, match=f"topic 't{topic}' requires at most 1,02[34] partitions; got"):
            messages_by_topic(table, [stream])


# --- what moves -------------------------------------------------------------------------------------------------------


def test_a_stopped_generation_stays_for_its_readers(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    first, second = Generation(1, {"t/0": 0}, {}), Generation(2, {"t/0": 0}, {})
    checkpoints.start(first)
    checkpoints.start(second)
    checkpoints.stop([first])
    assert [each.is_stopped for each in checkpoints.older()] == [True]
    current = checkpoints.current()
    assert current is not None
    assert not current.is_stopped
    checkpoints.stop([second])
    current = checkpoints.current()
    assert current is not None
    assert current.is_stopped
    assert current.stream_id == 2
    assert [each.stream_id for each in checkpoints.older()] == [1]


def test_decisions_go_on_behind_what_is_lost_and_keep_what_is_unsent(tmp_path: Path) -> None:
    stream = Stream("s", topic="t", fields={"user": "string"})
    log = DecisionLog(tmp_path, stream)
    log.keep(DECISIONS.empty_table(), {"t/0": 100, "t/1": 3})
    log.skip({"t/0": 100, "t/1": 3})
    assert log.reach == {"t/0": 100, "t/1": 3}
    log.skip({"t/0": 150, "t/1": 3, "t/2": 9})
    assert log.reach == {"t/0": 150, "t/1": 3}
    assert DecisionLog(tmp_path, stream).reach == {"t/0": 150, "t/1": 3}
    assert log.lacks({"t/0": 151})
    assert not log.lacks({"t/0": 150, "t/1": 3})


class FailedQuery:
    isActive = False  # noqa: N815  # Spark's name

    def exception(self) -> str:
        return "OffsetOutOfRangeException"


def test_a_query_that_failed_looks_for_losses_and_waits_where_nothing_is_known() -> None:
    found: list[Exception] = [
        StoreError("Kafka", "an answer", "none"),
        loss_error([Gap(ARCHIVE, "t", 0, 5, 7, "expired")]),
    ]

    def look() -> None:
        raise found.pop(0)

    query = SupervisedQuery("fold", lambda _: FailedQuery(), lambda *_: None, lambda _: None, look)  # type: ignore[arg-type, return-value]
    query.tick(0)
    query.tick(1)
    assert query.state == "waiting"
    assert query.restarts == 1
    query.tick(100)
    with pytest.raises(LossError, match="offsets 5 to 6"):
        query.tick(101)
    assert query.state == "failed"
    assert "--accept-loss" in str(query.error)
