"""Dead letters through a real broker: refused, listed, shown, and sent again."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import TopicPartition
from confluent_kafka.admin import ConfigResource

from features.definitions import Field, Stream
from features.events.parsing import Parsed, Records, Verdict, parse
from headrace.cli import cli
from streaming.dead_letters import DeadLetterError, read_dead_letters, replay, replay_headers, send_dead_letters
from streaming.kafka.consumer import Record, read_topic
from streaming.kafka.producer import FIRST_PLACE, FIRST_TIME, EventProducer
from streaming.kafka.topic_admin import admin_client, dead_letter_topic, ensure_topics

pytestmark = pytest.mark.integration

GOOD = b'{"event_id": "e1", "event_time": 1700000000000, "user_id": "ada", "price": 1.5}'
BAD = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "empty": b"",
    "a wrong type": b'{"event_id": "e2", "event_time": 1700000000000, "user_id": "ada", "price": "much"}',
    "no time": b'{"event_id": "e3", "user_id": "ada"}',
    "the future": b'{"event_id": "e4", "event_time": 4070908800000, "user_id": "ada"}',
    "a tombstone": None,
}


@pytest.fixture
def stream(kafka: str, unique_name: str) -> Stream:
    made = Stream("clicks", topic=unique_name, fields={"user_id": Field("string", required=True), "price": "float64"})
    ensure_topics(kafka, [made])
    return made


@pytest.fixture
def producer(kafka: str) -> EventProducer:
    return EventProducer(kafka)


def as_table(records: list[Record]) -> pa.Table:
    headers = pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))
    return pa.table(
        {
            "partition": pa.array([one.partition for one in records], pa.int32()),
            "offset": pa.array([one.offset for one in records], pa.int64()),
            "timestamp": pa.array([one.timestamp_ms for one in records], pa.int64()),
            "key": pa.array([one.key for one in records], pa.binary()),
            "value": pa.array([one.value for one in records], pa.binary()),
            "headers": pa.array(
                [[{"key": name, "value": value} for name, value in one.headers] or None for one in records], headers
            ),
        }
    )


def judged(table: pa.Table, stream: Stream) -> Parsed:
    known_at, partition, offset = (np.asarray(table[name]) for name in ("timestamp", "partition", "offset"))
    return parse(Records(table["value"].combine_chunks(), known_at, partition, offset), stream)


def refuse_all(kafka: str, producer: EventProducer, stream: Stream) -> list[Record]:
    """The topic has each kind of bad record among good ones, and each bad one is a dead letter; returns the topic."""
    for kind, value in BAD.items():
        producer.send(stream.topic, b"ada", GOOD)
        producer.send(stream.topic, kind.encode(), value, [("kind", kind.encode()), ("nothing", None)])
    assert producer.flush() == 0
    records = list(read_topic(kafka, stream.topic))
    table = as_table(records)
    assert send_dead_letters(producer, stream, table, judged(table, stream)) == len(BAD)
    return records


def deadletters(kafka: str, *arguments: str) -> Result:
    environment = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": f'"{kafka}"'}
    return CliRunner().invoke(cli, ["deadletters", *arguments], env=environment, prog_name="headrace")


def test_each_kind_of_bad_record_is_kept_as_it_came_with_its_place_time_and_reason(kafka, producer, stream):
    came = {record.key: record for record in refuse_all(kafka, producer, stream) if record.key != b"ada"}
    letters = {letter.key: letter for letter in read_dead_letters(kafka, stream.topic)}
    assert set(letters) == {kind.encode() for kind in BAD}
    for key, letter in letters.items():
        record = came[key]
        assert (letter.value, letter.headers) == (record.value, record.headers)
        assert letter.place == (stream.topic, record.partition, record.offset)
        assert letter.time_ms == record.timestamp_ms
        assert ": " in letter.reason


def test_a_batch_that_runs_again_sends_its_letters_again_and_each_is_still_one(kafka, producer, stream):
    table = as_table(refuse_all(kafka, producer, stream))
    send_dead_letters(producer, stream, table, judged(table, stream))
    assert len(list(read_topic(kafka, dead_letter_topic(stream.topic)))) == 2 * len(BAD)
    assert len(read_dead_letters(kafka, stream.topic)) == len(BAD)


def test_a_letter_that_kafka_does_not_take_stops_the_batch(kafka, stream, unique_name):
    """Else the batch would be committed, and the record gone."""
    table = as_table([Record(unique_name, 0, 0, 1, None, b"{", ())])
    nowhere = Stream("nowhere", topic=f"{unique_name}-nowhere", fields={"user_id": "string"})
    impatient = EventProducer(kafka, {"message.timeout.ms": 500})
    with pytest.raises(DeadLetterError, match=r"keep every record sent to it; got 0 of 1 acknowledged \("):
        send_dead_letters(impatient, nowhere, table, judged(table, nowhere))


def test_a_replayed_record_is_in_its_topic_again_as_it_came_and_is_no_longer_waiting(kafka, producer, stream):
    before = refuse_all(kafka, producer, stream)
    letters = read_dead_letters(kafka, stream.topic)
    assert replay(producer, letters[:2]) == 2
    after = read_dead_letters(kafka, stream.topic)
    assert [letter.place for letter in after if letter.is_replayed] == [letter.place for letter in letters[:2]]
    places = {(record.partition, record.offset) for record in before}
    new = [one for one in read_topic(kafka, stream.topic) if (one.partition, one.offset) not in places]
    sent = sorted((letter.key, letter.value or b"", replay_headers(letter)) for letter in letters[:2])
    for letter in letters[:2]:
        first = (FIRST_PLACE, "-".join(map(str, letter.place)).encode()), (FIRST_TIME, str(letter.time_ms).encode())
        assert sorted(replay_headers(letter)) == sorted((*letter.headers, *first))
    assert sorted((one.key, one.value or b"", one.headers) for one in new) == sent


def test_the_command_line_lists_shows_and_replays(kafka, producer, stream):
    refuse_all(kafka, producer, stream)
    listed = json.loads(deadletters(kafka, "list", "--topic", stream.topic, "--json").stdout)
    assert len(listed) == len(BAD)
    wrong = next(one for one in listed if one["key"] == "a wrong type")
    assert wrong["reason"].startswith("wrong_type: ")
    assert wrong["headers"] == [["kind", "a wrong type"], ["nothing", None]]

    shown = deadletters(kafka, "show", wrong["place"])
    assert '"price": "much"' in shown.stdout
    assert json.loads(deadletters(kafka, "show", wrong["place"], "--json").stdout) == wrong
    blob = next(one for one in listed if one["key"] == "not UTF-8")
    assert blob["value"] == {"base64": "//4="}

    assert json.loads(deadletters(kafka, "replay", wrong["place"], "--json").stdout) == {"replayed": 1, "archived": 0}
    left = deadletters(kafka, "list", "--topic", stream.topic)
    assert wrong["place"] not in left.stdout
    assert f"{len(BAD) - 1} of {len(BAD) - 1} shown: " in left.stderr
    assert wrong["place"] in deadletters(kafka, "list", "--topic", stream.topic, "--all").stdout

    everything = deadletters(kafka, "replay", "--topic", stream.topic)
    assert everything.stdout == f"{len(BAD) - 1} sent again\n"
    assert "no dead letters" in deadletters(kafka, "list", "--topic", stream.topic).stderr


def test_a_place_without_a_dead_letter_is_asked_wrongly(kafka, stream):
    result = deadletters(kafka, "show", f"{stream.topic}/0/7")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"dead letter '{stream.topic}/0/7' requires a place that 'headrace deadletters list' shows" in result.stderr


def test_late_and_valid_records_are_no_dead_letters(kafka, producer, stream):
    table = as_table([Record(stream.topic, 0, 0, 1_700_000_000_000, b"ada", GOOD, ())])
    parsed = judged(table, stream)
    assert parsed.verdicts.tolist() == [Verdict.VALID]
    assert send_dead_letters(producer, stream, table, parsed) == 0
    assert list(read_topic(kafka, dead_letter_topic(stream.topic))) == []


def test_a_topic_of_dead_letters_is_bounded_and_what_is_gone_is_counted(kafka, producer, stream):
    refuse_all(kafka, producer, stream)
    dead = dead_letter_topic(stream.topic)
    admin = admin_client(kafka)
    resource = ConfigResource(ConfigResource.Type.TOPIC, dead)
    config = next(iter(admin.describe_configs([resource]).values())).result(30)
    assert (config["retention.ms"].value, config["retention.bytes"].value) == ("-1", str(2**30))
    assert "gone" not in deadletters(kafka, "list", "--topic", stream.topic).stderr
    next(iter(admin.delete_records([TopicPartition(dead, 0, 2)]).values())).result(30)
    listed = deadletters(kafka, "list", "--topic", stream.topic, "--json")
    assert len(json.loads(listed.stdout)) == len(BAD) - 2
    assert listed.stderr.startswith("2 older ones are gone")
