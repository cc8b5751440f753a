"""Kafka's part: a tombstone on compacted topics, dead letters taken out, and until when other topics keep records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from features.times import moment_text
from streaming.dead_letters import Acknowledged
from streaming.forget.subject import Subject
from streaming.kafka import (
    DEAD,
    FORGOTTEN,
    EventProducer,
    Record,
    TopicReader,
    admin_client,
    read_topic,
    read_watermarks,
)

DELETE_WITHIN_S = 30.0


@dataclass(frozen=True)
class KeptTopic:
    """A topic in which Kafka may go on keeping the subject's records.

    Args:
        until: RFC 3339; 'for ever' where nothing is deleted by age.
        tombstone: a record without a value is sent under the subject's key, which compaction keeps in its place.
    """

    topic: str
    until: str
    tombstone: bool


def kept_topics(bootstrap: str, options: Mapping[str, Any], names: Iterable[str], now_ms: int) -> list[KeptTopic]:
    """Of these topics those that are there. Raises StoreError where the cluster does not answer."""
    found = []
    for name, facts in TopicReader(bootstrap, options).facts(sorted(set(names))).items():
        compacted = "compact" in (facts.cleanup or "")
        deletes = facts.cleanup is None or "delete" in facts.cleanup
        if deletes and facts.retention_ms is not None and facts.retention_ms >= 0:
            until = moment_text(now_ms + facts.retention_ms)
        else:
            until = "its next compaction" if compacted else "for ever"
        found.append(KeptTopic(name, until, compacted))
    return found


def send_tombstones(producer: EventProducer, topics: Iterable[KeptTopic], subject: Subject) -> list[str]:
    """The compacted topics, which have a tombstone under the subject's key once this returns.

    Raises:
        DeadLetterError: Kafka did not acknowledge one.
    """
    compacted = [topic.topic for topic in topics if topic.tombstone]
    for name in compacted:
        with Acknowledged(producer, name) as send:
            send(subject.text.encode(), None, ((FORGOTTEN, b"1"),))
    return compacted


def forget_letters(
    producer: EventProducer, bootstrap: str, options: Mapping[str, Any], topic: str, subject: Subject, *, dry_run: bool
) -> int:
    """The number of the topic's dead letters that name the subject, which are taken out of it.

    The others are sent to its end again, and then all up to the present end are deleted: a crash between the two leaves
    letters twice, which are read once. Kafka frees the bytes when the segment that they are in is full or old.
    """
    if not topic.endswith(DEAD) or subject.pattern is None:
        return 0
    ends = read_watermarks(bootstrap, [topic], options).high
    records = list(read_topic(bootstrap, topic, options))
    others = [record for record in records if not _names(record, subject.pattern)]
    if len(others) < len(records) and not dry_run:
        with Acknowledged(producer, topic) as send:
            for each in others:
                if each.offset < ends.get(f"{topic}/{each.partition}", 0):
                    send(each.key, each.value, each.headers)
        _delete_up_to(bootstrap, options, topic, ends)
    return len(records) - len(others)


def _names(record: Record, pattern: re.Pattern[bytes]) -> bool:
    """True if the key, the value or a header of the record has the id."""
    texts = (record.key, record.value, *(value for _, value in record.headers))
    return any(pattern.search(text or b"") for text in texts)


def _delete_up_to(bootstrap: str, options: Mapping[str, Any], topic: str, ends: Mapping[str, int]) -> None:
    """Delete the topic's records before these ends, by 'topic/partition'."""
    from confluent_kafka import TopicPartition

    places = [TopicPartition(topic, int(name.rpartition("/")[2]), offset) for name, offset in ends.items()]
    admin = admin_client(bootstrap, options)
    for future in admin.delete_records(places, request_timeout=DELETE_WITHIN_S).values():
        future.result(DELETE_WITHIN_S)
