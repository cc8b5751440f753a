"""Through a real topic: what a file or the simulated shop has is what a reader of the topic gets, whole and once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from features.definitions import Stream
from features.definitions.repo import load_repo
from features.errors import FormatError, HeadraceError, UsageError
from features.events.parsing import Parsed, Records, Verdict, parse
from features.formats.reading import read_events
from headrace.commands.stream.produce import generate, replay
from streaming.kafka.producer import EventProducer
from streaming.kafka.topic_admin import ensure_topics
from streaming.replay import Stop, Tally, in_file_order, in_time_order, limited, send_all

pytestmark = pytest.mark.integration
REPO = load_repo(Path(__file__).parents[2] / "feature_repo")
DEADLINE_S = 60
T0 = 1_700_000_000_000
RealFile = Callable[[str], Path]


@dataclass(frozen=True)
class Topic:
    """All that a topic holds, by partition and offset."""

    records: Records
    appended_at: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.records.values)


def read(servers: str, topic: str) -> Topic:
    """The whole topic; known_at as the rule has it: the header's, else the broker's."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False})
    try:
        ends = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(2)]
        left = sum(consumer.get_watermark_offsets(one, timeout=30)[1] for one in ends)
        consumer.assign(ends)
        messages: list[Any] = []
        until_s = time.monotonic() + DEADLINE_S
        while len(messages) < left and time.monotonic() < until_s:
            messages += consumer.consume(min(10_000, left - len(messages)), timeout=1.0)
    finally:
        consumer.close()
    assert len(messages) == left
    messages.sort(key=lambda one: (one.partition(), one.offset()))
    appended_at = np.array([one.timestamp()[1] for one in messages], dtype=np.int64)
    headers = [dict(one.headers() or ()) for one in messages]
    known_at = [int(header.get("known_at", stamp)) for header, stamp in zip(headers, appended_at.tolist(), strict=True)]
    values = pa.array([one.value() for one in messages], pa.binary())
    partitions, offsets = ([getattr(one, name)() for one in messages] for name in ("partition", "offset"))
    records = Records(values, np.array(known_at, np.int64), np.array(partitions, np.int32), np.array(offsets, np.int64))
    return Topic(records, appended_at)


def comparable(events: pa.Table) -> pa.Table:
    """The events without where they stand, in the order of their ids."""
    return events.drop_columns(["partition", "offset"]).sort_by("event_id").combine_chunks()


def own_topics(name: str) -> dict[str, Stream]:
    return {one.name: replace(one, topic=f"{name}.{one.name}") for one in REPO.streams.values()}


def file_events(path: Path, kind: str, streams: Mapping[str, Stream], stream: str = "activity") -> pa.Table:
    parts: list[Parsed] = [parsed for name, parsed in read_events(path, kind, streams) if name == stream]
    return pa.concat_tables([one.events for one in parts])


def played(servers: str, path: Path, kind: str, streams: Mapping[str, Stream], limit: int | None, speed: float | None):
    ensure_topics(servers, streams.values())
    tally, stop = Tally(), Stop()
    tables = limited(read_events(path, kind, streams), limit, Counter())
    order = in_file_order if speed is None else in_time_order
    send_all(order(tables, streams, 0), EventProducer(servers), stop, tally, speed)
    return tally


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "limit", "count"),
    [("taobao-clicks.parquet", "taobao", None, 96_168), ("online-retail.parquet", "online-retail", 70_000, 70_000)],
)
def test_every_event_of_a_real_file_comes_back_from_the_topic_as_it_was(
    kafka: str, unique_name: str, real_file: RealFile, name: str, kind: str, limit: int | None, count: int
):
    streams = own_topics(unique_name)
    tally = played(kafka, real_file(name), kind, streams, limit, None)
    assert (tally.sent.total(), tally.acknowledged, tally.failed, tally.unknown) == (count, count, 0, 0)
    topic = read(kafka, streams["activity"].topic)
    parsed = parse(topic.records, streams["activity"])
    assert Counter(parsed.verdicts.tolist()) == {Verdict.VALID: count}
    expected = file_events(real_file(name), kind, streams).slice(0, count)
    assert comparable(parsed.events).equals(comparable(expected))
    rows = np.array([int(one.rpartition("-")[2]) for one in parsed.events["event_id"].to_pylist()])
    steps = np.diff(rows)[np.diff(topic.records.partition) == 0]
    assert (steps > 0).all(), "each partition keeps the order of the file"


def test_two_streams_of_a_file_reach_their_own_topics(kafka: str, unique_name: str, real_file: RealFile):
    streams = own_topics(unique_name)
    tally = played(kafka, real_file("movielens-small"), "movielens", streams, 12_000, None)
    assert tally.sent == {streams["catalogue"].topic: 9_125, streams["activity"].topic: 2_875}
    for name in ("catalogue", "activity"):
        parsed = parse(read(kafka, streams[name].topic).records, streams[name])
        expected = file_events(real_file("movielens-small"), "movielens", streams, name)
        assert comparable(parsed.events).equals(comparable(expected.slice(0, parsed.events.num_rows)))


def lines(folder: Path, *events: Mapping[str, Any] | str) -> Path:
    path = folder / "events.jsonl"
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in events))
    return path


def event(number: int, time_ms: int, **more: object) -> dict[str, Any]:
    given = {"event_id": f"e{number}", "event_time": time_ms, "event_type": "view", "user_id": "u", "item_id": "i"}
    return given | more


def test_at_a_speed_events_come_in_the_order_of_time_and_not_before_they_are_due(
    kafka: str, unique_name: str, tmp_path: Path
):
    streams = {"activity": own_topics(unique_name)["activity"]}
    path = lines(tmp_path, event(3, T0 + 60_000), event(1, T0), event(2, T0 + 30_000))
    before = time.time_ns() // 1_000_000
    assert played(kafka, path, "jsonl", streams, None, 60.0).acknowledged == 3
    topic = read(kafka, streams["activity"].topic)
    assert parse(topic.records, streams["activity"]).events["event_id"].to_pylist() == ["e1", "e2", "e3"]
    # Each may come late on a busy machine, but none early; a few ms are for clocks that are being adjusted.
    assert (topic.appended_at - before >= np.array([0, 500, 1_000]) - 5).all()


def test_two_streams_at_a_speed_keep_one_clock(kafka: str, unique_name: str, real_file: RealFile):
    """Labels become known a week after their payments: they are sent among the payments of a week later."""
    streams = own_topics(unique_name)
    tables = list(limited(read_events(real_file("card-transactions.parquet"), "cards", streams), 200_000, Counter()))
    batches = list(in_time_order(iter(tables), streams, 0))
    due = np.concatenate([batch.due_ms for batch in batches])
    assert (np.diff(due) >= 0).all()
    sent = [(topic, int(dict(headers)["known_at"])) for batch in batches for topic, (_, _, headers) in batch.messages]
    assert [known for _, known in sent] == due.tolist()
    topics = [topic for topic, _ in sent]
    assert Counter(topics) == Counter({streams[name].topic: 0 for name, _ in tables}) + Counter(
        streams[name].topic for name, events in tables for _ in range(events.num_rows)
    )
    assert topics.index(streams["fraud_labels"].topic) > 10_000


def test_a_message_that_the_broker_refuses_is_counted_and_told(kafka: str, unique_name: str, tmp_path: Path):
    from confluent_kafka.admin import AdminClient, NewTopic

    stream = own_topics(unique_name)["activity"]
    small = NewTopic(stream.topic, 2, config={"max.message.bytes": "400"})
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([small])[stream.topic].result(30)
    noise = np.random.default_rng(1).integers(33, 126, 2_000).astype(np.uint8).tobytes().decode()
    path = lines(tmp_path, event(1, T0), event(2, T0, category=noise, user_id="other"))
    tally = played(kafka, path, "jsonl", {"activity": stream}, None, 1_000.0)
    assert (tally.sent.total(), tally.failed) == (2, 1)
    with pytest.raises(HeadraceError, match=r"requires all 2 messages acknowledged; got 1 acknowledged, 1 refused"):
        tally.check("the replay")


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def project(unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stream]:
    """A project of its own in the working directory, whose streams have topics that no other test has."""
    folder = tmp_path / "feature_repo"
    folder.mkdir()
    fields = '{"event_type": "string", "user_id": "string", "item_id": "string", "price": "float64"}'
    text = "from features.definitions import Stream\n"
    text += f'activity = Stream("activity", topic="{unique_name}.activity", fields={fields})\n'
    item = '{"item_id": "string", "title": "string"}'
    text += f'catalogue = Stream("catalogue", topic="{unique_name}.items", fields={item})\n'
    (folder / "shop.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return dict(load_repo(folder).streams)


def run(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_replay_says_what_it_sent_and_what_was_no_event(kafka: str, project: dict[str, Stream], tmp_path: Path):
    path = lines(tmp_path, event(1, T0), "no json", event(2, T0 + 1))
    given = (path, "--format", "jsonl", "--stream", "activity", "--bootstrap-servers", kafka)
    done = run(replay, *given, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["sent"], told["acknowledged"], told["refused"], told["stopped"]) == (2, 2, 1, False)
    assert told["topics"] == {project["activity"].topic: 2}
    assert done.stderr == "1 records of the file are no events and were not sent: 1 not_json\n"
    assert len(read(kafka, project["activity"].topic)) == 2


def test_now_shifts_the_times_so_that_the_last_event_is_now(kafka: str, project: dict[str, Stream], tmp_path: Path):
    path = lines(tmp_path, event(1, T0), event(2, T0 + 60_000))
    before = time.time_ns() // 1_000_000
    done = run(replay, path, "--format", "jsonl", "--stream", "activity", "--bootstrap-servers", kafka, "--now")
    assert done.exit_code == 0, done.output
    topic = read(kafka, project["activity"].topic)
    events = parse(topic.records, project["activity"]).events
    assert events["known_at"].to_pylist() == events["event_time"].to_pylist()
    first, last = events["event_time"].to_pylist()
    assert before <= last <= time.time_ns() // 1_000_000
    assert last - first == 60_000


def test_limit_sends_the_first_of_the_file(kafka: str, project: dict[str, Stream], real_file: RealFile):
    path = real_file("taobao-clicks.parquet")
    done = run(replay, path, "--format", "taobao", "--limit", 1_000, "--bootstrap-servers", kafka, "--json")
    assert json.loads(done.stdout)["acknowledged"] == 1_000
    parsed = parse(read(kafka, project["activity"].topic).records, project["activity"])
    expected = file_events(path, "taobao", project).slice(0, 1_000)
    assert comparable(parsed.events).equals(comparable(expected))


def started(verb: str, *arguments: object) -> subprocess.Popen[str]:
    program = f"from headrace.commands.stream.produce import {verb}; {verb}()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_messages(servers: str, topic: str) -> None:
    """Return when the topic has some messages."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "log_level": 0})
    until_s = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < until_s:
            try:
                ends = [consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=1)[1] for n in range(2)]
            except KafkaException:
                continue  # the topic is not there yet
            if sum(ends):
                return
            consumer.poll(0.05)
    finally:
        consumer.close()
    pytest.fail(f"topic {topic} stayed empty")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_that_is_stopped_has_all_that_it_sent_acknowledged_and_says_that_it_is_not_whole(
    kafka: str, project: dict[str, Stream], real_file: RealFile, number: signal.Signals
):
    path = real_file("taobao-clicks.parquet")
    process = started("replay", path, "--format", "taobao", "--speed", 1, "--json", "--bootstrap-servers", kafka)
    wait_for_messages(kafka, project["activity"].topic)
    process.send_signal(number)
    said, complained = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, complained) == (1, "")
    told = json.loads(said)
    assert told["stopped"]
    assert 0 < told["sent"] == told["acknowledged"] == len(read(kafka, project["activity"].topic)) < 96_168


def test_generate_sends_the_catalogue_then_events_as_they_happen_until_it_is_stopped(
    kafka: str, project: dict[str, Stream]
):
    process = started("generate", "--rate", 200, "--items", 50, "--users", 100, "--json", "--bootstrap-servers", kafka)
    wait_for_messages(kafka, project["activity"].topic)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, complained) == (0, "")
    told = json.loads(said)
    items, events = (read(kafka, project[name].topic) for name in ("catalogue", "activity"))
    assert len(items) == 50
    assert told["sent"] == told["acknowledged"] == len(items) + len(events)
    assert items.appended_at.max() <= events.appended_at.min()
    parsed = parse(events.records, project["activity"])
    assert set(parsed.verdicts.tolist()) == {Verdict.VALID}
    assert (events.records.known_at == events.appended_at).all()
    assert (np.asarray(parsed.events["event_time"]) <= events.appended_at).all()


def test_generate_ends_after_so_many_seconds(kafka: str, project: dict[str, Stream]):
    given = ("--seconds", 1, "--rate", 100, "--items", 20, "--users", 50, "--bootstrap-servers", kafka)
    done = run(generate, *given, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["sent"] == told["acknowledged"] > 20
    assert told["topics"][project["catalogue"].topic] == 20


@pytest.mark.usefixtures("project")
def test_what_cannot_be_replayed_is_said_at_once(tmp_path: Path):
    path = lines(tmp_path, event(1, T0))
    wrong = {
        (path, "--format", "nope"): "a file's format requires one of online-retail, ",
        (path,): "replay requires --format, one of ",
        (tmp_path / "none", "--format", "taobao"): "requires a file that exists; got nothing there",
        (path, "--format", "taobao", "--speed", "fast"): "--speed requires 'max' or a number above 0",
        (path, "--format", "taobao", "--speed", "-1"): "--speed requires 'max' or a number above 0",
        (path, "--format", "jsonl"): "requires the name of the stream that the rows are of",
        (path, "--format", "csv", "--stream", "activity", "--column", "x"): "--column requires OURS=THEIRS",
    }
    for arguments, message in wrong.items():
        error = run(replay, *arguments).exception
        assert isinstance(error, UsageError)
        assert message in str(error)


@pytest.mark.usefixtures("project")
def test_a_file_that_is_not_of_its_format_is_refused_before_anything_is_sent(kafka: str, tmp_path: Path):
    error = run(replay, lines(tmp_path, "x"), "--format", "taobao", "--bootstrap-servers", kafka).exception
    assert isinstance(error, FormatError)
    assert "requires a whole Parquet file" in str(error)


@pytest.mark.usefixtures("project")
def test_without_a_broker_the_next_step_is_said(tmp_path: Path):
    given = (replay, lines(tmp_path, event(1, T0)), "--format", "jsonl", "--stream", "activity")
    absent, silent = run(*given).exception, run(*given, "--bootstrap-servers", "127.0.0.1:1").exception
    assert isinstance(absent, HeadraceError)
    assert "Start it: headrace stream" in str(absent)
    assert isinstance(silent, HeadraceError)
    assert "Kafka requires a cluster at 127.0.0.1:1; got no answer" in str(silent)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("option", "value"), [("--rate", "0"), ("--rate", "-5"), ("--users", "0"), ("--items", "0"), ("--seconds", "0")]
)
def test_a_shop_that_cannot_be_is_refused(option: str, value: str):
    assert isinstance(run(generate, option, value).exception, UsageError)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("asked", [("--users", "0"), ("--items", "2"), ("--rate", "0"), ("--history", "-1")])
def test_cards_that_cannot_be_are_refused(asked: tuple[str, str]):
    assert isinstance(run(generate, "--domain", "cards", *asked).exception, UsageError)
