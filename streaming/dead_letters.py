"""Dead letters: records that are no valid events, kept beside their topic to be inspected and sent again.

A dead letter has its record's key, bytes and headers, and five headers more. It may be there twice (the batch that sent
it ran again); the topic, partition, offset and time in its headers identify it: a topic that was made anew has other
records at the same offsets. A record that was sent again leaves a receipt among the letters: a message without a value,
of the same place and time, with the header ``hr_replayed``.

A record that is sent again has a header with the place at which it stood first, however often it is refused and sent
again: where messages have no ids of their own, that place is the event's id, so that it counts once. Another has its
first time, for streams that take the time of their events from the record.

Where every element of a record is an event, a refused one is a letter of its own, with the bytes of the whole record
and a header that names the element; sent again, the record is taken for that element alone.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from features.definitions import Stream
from features.errors import HeadraceError
from features.events import WHOLE, Parsed, Verdict
from streaming.kafka import (
    DEAD,
    ELEMENT,
    FIRST_PLACE,
    FIRST_TIME,
    FORGOTTEN,
    PLACE_PATTERN,
    EventProducer,
    Record,
    admin_client,
    dead_letter_topic,
    read_topic,
    read_watermarks,
    topics,
)

PREFIX = "hr_"
TOPIC, PARTITION, OFFSET, REASON, TIME = (
    f"{PREFIX}{name}" for name in ("topic", "partition", "offset", "reason", "time")
)
REPLAYED = f"{PREFIX}replayed"
ACK_S = 60.0

IS_PLACE = re.compile(PLACE_PATTERN.replace("$", r"\Z").encode())

Place = tuple[str, int, int] | tuple[str, int, int, int]
"""Topic, partition, offset of the record that was refused; and the number of the element, if only that was."""
RawHeaders = tuple[tuple[str, bytes | None], ...]


class DeadLetterError(HeadraceError):
    """Raised when dead letters cannot be kept, or the requested dead letter does not exist."""


@dataclass(frozen=True)
class DeadLetter:
    """A record that was refused.

    Args:
        place: its topic, partition and offset, and the element of it that was refused, if others were not.
        reason: "code: details".
        time_ms: the broker's time of the record.
        key, value, headers: unchanged.
        is_replayed: it has been sent again.
    """

    place: Place
    reason: str
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: RawHeaders
    is_replayed: bool = False

    @property
    def code(self) -> str:
        """The kind of reason."""
        return self.reason.partition(":")[0]


# --- to Kafka -------------------------------------------------------------------------------------------------------


def send_dead_letters(producer: EventProducer, stream: Stream, messages: pa.Table, parsed: Parsed) -> int:
    """Send a dead letter for each record of that verdict; returns their number once Kafka has acknowledged them.

    Args:
        producer: of the cluster that has the topic.
        stream: of the records' topic.
        messages: the records as read, with the columns partition, offset, timestamp (ms), key, value, headers.
        parsed: their verdicts, in the same order.

    Raises:
        DeadLetterError: Kafka did not acknowledge them all. Some may be there; sending all again does no harm.
    """
    rows = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
    refused, numbers = messages.take(pa.array(parsed.records[rows])).to_pylist(), parsed.numbers[rows].tolist()
    reasons = parsed.reasons.take(pa.array(rows)).to_pylist()
    with Acknowledged(producer, dead_letter_topic(stream.topic)) as send:
        for record, number, reason in zip(refused, numbers, reasons, strict=True):
            original = tuple((header["key"], header["value"]) for header in record["headers"] or ())
            if record["value"] is None and any(name == FORGOTTEN for name, _ in original):
                continue  # a letter would keep the key of whoever was forgotten
            place: Place = (stream.topic, record["partition"], record["offset"])
            if number != WHOLE:
                place = (*place[:3], number)
            send(record["key"], record["value"], letter_headers(original, place, reason, record["timestamp"]))
    return len(refused)


def letter_headers(headers: RawHeaders, place: Place, reason: str, time_ms: int) -> RawHeaders:
    """The record's headers and ours, which replace those of an earlier refusal."""
    topic, partition, offset, *element = place
    ours = {TOPIC: topic, PARTITION: str(partition), OFFSET: str(offset), REASON: reason, TIME: str(time_ms)}
    ours |= {ELEMENT: str(element[0])} if element else {}
    return (*original_headers(headers), *((name, value.encode()) for name, value in ours.items()))


def original_headers(headers: RawHeaders) -> RawHeaders:
    """The headers without those of a refusal."""
    kept = (FIRST_PLACE, FIRST_TIME)
    return tuple((name, value) for name, value in headers if not name.startswith(PREFIX) or name in kept)


class Acknowledged:
    """A block that sends to a topic, and ends only when Kafka has acknowledged everything.

    Raises:
        DeadLetterError: at the block's end, if it has not.
    """

    def __init__(self, producer: EventProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._sent = 0
        self._error = ""
        # A producer is shared by threads, and calls back from whichever of them asks it for its answers.
        self._answered = threading.Condition()
        self._acknowledged = self._refused = 0

    def __enter__(self) -> Callable[[bytes | None, bytes | None, RawHeaders], None]:
        return self._send

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._sent:
            deadline = time.monotonic() + ACK_S
            self._producer.flush(ACK_S)
            with self._answered:  # another thread may have taken the last answers, and be about to count them
                self._answered.wait_for(self._is_answered, deadline - time.monotonic())
            if self._acknowledged < self._sent:
                got = f"{self._acknowledged} of {self._sent} acknowledged ({self._error or 'no answer'})"
                raise DeadLetterError(f"topic '{self._topic}'", "Kafka to keep every record sent to it", got)

    def _send(self, key: bytes | None, value: bytes | None, headers: RawHeaders) -> None:
        self._producer.send(self._topic, key, value, headers, self._acknowledge)
        self._sent += 1

    def _acknowledge(self, error: Any, _message: Any) -> None:
        with self._answered:
            if error is None:
                self._acknowledged += 1
            else:
                self._refused, self._error = self._refused + 1, error.str()
            self._answered.notify_all()

    def _is_answered(self) -> bool:
        return self._acknowledged + self._refused >= self._sent


# --- from Kafka -----------------------------------------------------------------------------------------------------


def read_dead_letters(
    bootstrap_servers: str, topic: str | None = None, client_options: Mapping[str, Any] | None = None
) -> list[DeadLetter]:
    """Every dead letter once, of a topic or of all, in the order of their offsets.

    Raises:
        TopicError: the cluster does not answer.
        ReadError: a topic cannot be read to its end.
    """
    dead, _ = _topics_of_letters(bootstrap_servers, topic, client_options)
    records = (record for name in dead for record in read_topic(bootstrap_servers, name, client_options))
    return letters_of(records)


def deleted_letters(
    bootstrap_servers: str, topic: str | None = None, client_options: Mapping[str, Any] | None = None
) -> int:
    """The number of letters and receipts, of a topic or of all, that the broker has deleted: its topics are bounded.

    Raises:
        TopicError, StoreError: the cluster does not answer.
    """
    dead, existing = _topics_of_letters(bootstrap_servers, topic, client_options)
    there = [name for name in dead if name in existing]
    return sum(read_watermarks(bootstrap_servers, there, client_options).low.values()) if there else 0


def _topics_of_letters(
    bootstrap_servers: str, topic: str | None, client_options: Mapping[str, Any] | None
) -> tuple[list[str], Mapping[str, int]]:
    """The topics of the letters of a topic, or of all, and all that there are with the number of their partitions."""
    existing = topics(admin_client(bootstrap_servers, client_options), bootstrap_servers)
    every = sorted(name for name in existing if name.endswith(DEAD))
    return [dead_letter_topic(topic)] if topic else every, existing


def letters_of(records: Iterable[Record]) -> list[DeadLetter]:
    """The dead letters in the records of dead-letter topics, each once, in the order of their offsets."""
    found: dict[tuple[Place, int], DeadLetter] = {}
    for letter in _letters(records):
        identity = letter.place, letter.time_ms
        known = found.get(identity)
        is_replayed = letter.is_replayed or (known is not None and known.is_replayed)
        # A receipt has no bytes: the letter itself is kept, whichever of the two comes first.
        whole = letter if known is None or not letter.is_replayed else known
        found[identity] = DeadLetter(**{**vars(whole), "is_replayed": is_replayed})
    return [found[identity] for identity in sorted(found)]


def _letters(records: Iterable[Record]) -> Iterator[DeadLetter]:
    for record in records:
        letter = _letter(record)
        if letter is not None:
            yield letter


def _letter(record: Record) -> DeadLetter | None:
    """The letter, or None for a record that is none."""
    ours = {name: value.decode(errors="replace") for name, value in record.headers if value and name.startswith(PREFIX)}
    try:
        place: Place = (ours[TOPIC], int(ours[PARTITION]), int(ours[OFFSET]))
        place = (*place[:3], int(ours[ELEMENT])) if ELEMENT in ours else place
        reason, time_ms = ours[REASON], int(ours[TIME])
    except (KeyError, ValueError):
        return None
    headers = original_headers(record.headers)
    return DeadLetter(place, reason, time_ms, record.key, record.value, headers, REPLAYED in ours)


# --- back to Kafka --------------------------------------------------------------------------------------------------


def replay(producer: EventProducer, letters: Iterable[DeadLetter]) -> int:
    """Send the records to the end of their topics again, and mark them as replayed; returns how many.

    Their bytes, keys and headers are unchanged, and one header says where they stood first; the broker's time is now. A
    crash between the two leaves records that are sent once more next time: the second is a duplicate of the first.

    Raises:
        DeadLetterError: Kafka did not acknowledge them all.
    """
    by_topic = _by_topic(letters)
    for topic, of_topic in by_topic.items():
        with Acknowledged(producer, topic) as send:
            for letter in of_topic:
                send(letter.key, letter.value, replay_headers(letter))
        send_receipts(producer, topic, of_topic)
    return sum(map(len, by_topic.values()))


def mark_replayed(producer: EventProducer, letters: Iterable[DeadLetter]) -> None:
    """Mark the letters as replayed. Raises DeadLetterError where Kafka did not acknowledge it."""
    for topic, of_topic in _by_topic(letters).items():
        send_receipts(producer, topic, of_topic)


def _by_topic(letters: Iterable[DeadLetter]) -> Mapping[str, Sequence[DeadLetter]]:
    by_topic: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_topic.setdefault(letter.place[0], []).append(letter)
    return by_topic


def replay_headers(letter: DeadLetter) -> RawHeaders:
    """The headers with which the record is sent again."""
    _, _, _, *element = letter.place
    others = tuple((name, value) for name, value in letter.headers if name != FIRST_PLACE)
    others += tuple((ELEMENT, str(number).encode()) for number in element)
    if all(name != FIRST_TIME for name, _ in others):
        others += ((FIRST_TIME, str(letter.time_ms).encode()),)
    named = [value for name, value in letter.headers if name == FIRST_PLACE and value and IS_PLACE.search(value)]
    return (*others, (FIRST_PLACE, named[-1] if named else "-".join(map(str, letter.place[:3])).encode()))


def send_receipts(producer: EventProducer, topic: str, letters: Iterable[DeadLetter]) -> None:
    """Mark the letters of this topic as replayed. Raises DeadLetterError where Kafka did not acknowledge it."""
    with Acknowledged(producer, dead_letter_topic(topic)) as send:
        for letter in letters:
            receipt = letter_headers((), letter.place, letter.reason, letter.time_ms)
            send(letter.key, None, (*receipt, (REPLAYED, b"1")))
