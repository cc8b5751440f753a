"""Kafka's part of forgetting: tombstones, dead letters taken out, and until when a topic keeps records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka.admin import NewTopic

from features.definitions import Entity, Field, Stream
from features.definitions.repo import FeatureRepo
from features.events.parsing import Records, Verdict, parse
from features.online_store.settings import StoreSettings
from streaming.dead_letters import letter_headers, read_dead_letters, send_dead_letters
from streaming.forget import Places, Subject, forget
from streaming.kafka.consumer import read_topic
from streaming.kafka.producer import FORGOTTEN, EventProducer
from streaming.kafka.topic_admin import admin_client, dead_letter_topic, ensure_topics

pytestmark = pytest.mark.integration

GONE, STAYS = "user-gone-0815", "user-stays-4711"
SUBJECT = Subject(Entity("user", keys={"user_id": "string"}), {"user_id": GONE})


@pytest.fixture
def stream(kafka: str, unique_name: str) -> Stream:
    """A topic that Kafka compacts, and keeps for an hour."""
    made = Stream("clicks", topic=unique_name, fields={"user_id": Field("string", required=True)})
    config = {"cleanup.policy": "compact,delete", "retention.ms": "3600000"}
    admin = admin_client(kafka)
    admin.create_topics([NewTopic(unique_name, 1, config=config)])[unique_name].result(30)
    ensure_topics(kafka, [made])
    return made


def test_a_compacted_topic_gets_a_tombstone_and_letters_of_the_subject_go(
    kafka: str, stream: Stream, tmp_path: Path
) -> None:
    producer, dead = EventProducer(kafka), dead_letter_topic(stream.topic)
    letters = [(GONE, b"{", "a"), (STAYS, b"[", "b"), ("", f'{{"user_id": "{GONE}"'.encode(), "c"), ("", b"(", GONE)]
    for number, (key, value, reason) in enumerate(letters):
        headers = letter_headers((), (stream.topic, 0, number), f"bad_json: {reason}", 1_700_000_000_000)
        producer.send(dead, key.encode(), value, headers)
    producer.send(stream.topic, GONE.encode(), b"{}")
    assert producer.flush(30) == 0
    home = tmp_path / "home"
    home.mkdir()
    repo = FeatureRepo(tmp_path, {}, {stream.name: stream}, {})
    store = StoreSettings(address=str(home / "online.db")).erasure()
    places = Places(repo, home, home / "offline", store, [home], [stream.topic], kafka)

    counted = forget(places, SUBJECT, 0, dry_run=True)
    assert (counted.deleted["dead_letters"], counted.tombstones) == ({dead: 3}, [])
    assert len(read_dead_letters(kafka, stream.topic)) == 4

    report = forget(places, SUBJECT, 0)
    assert (report.deleted["dead_letters"], report.tombstones, report.is_clean) == ({dead: 3}, [stream.topic], True)
    (left,) = read_dead_letters(kafka, stream.topic)
    assert (left.key, left.value, left.reason, left.place) == (
        STAYS.encode(),
        b"[",
        "bad_json: b",
        (stream.topic, 0, 1),
    )
    *_, last = read_topic(kafka, stream.topic)
    assert (last.key, last.value, dict(last.headers)[FORGOTTEN]) == (GONE.encode(), None, b"1")
    until = {each["what"]: each["until"] for each in report.kept if each["what"].startswith("records in topic")}
    assert until[f"records in topic {stream.topic}"] == "1970-01-01T01:00:00.000Z"
    assert until[f"records in topic {dead}"] == "for ever"

    header = pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))
    messages = pa.table(
        {
            "partition": pa.array([last.partition], pa.int32()),
            "offset": pa.array([last.offset], pa.int64()),
            "timestamp": pa.array([last.timestamp_ms], pa.int64()),
            "key": pa.array([last.key], pa.binary()),
            "value": pa.array([last.value], pa.binary()),
            "headers": pa.array([[{"key": name, "value": value} for name, value in last.headers]], header),
        }
    )
    known_at, partition, offset = (np.asarray(messages[name]) for name in ("timestamp", "partition", "offset"))
    parsed = parse(Records(messages["value"].combine_chunks(), known_at, partition, offset), stream)
    assert parsed.verdicts.tolist() == [Verdict.DEAD_LETTER]
    send_dead_letters(producer, stream, messages, parsed)
    assert GONE.encode() not in b"".join(each.key or b"" for each in read_topic(kafka, dead))
