"""Which dead letters are events of the archive already: sent again, they would count twice.

The stream itself drops what is sent again within a stream's dedupe_horizon; the archive knows what came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import PARTITIONS_OF_A_TOPIC, FeatureRepo, Stream, duration_ms
from features.events import MOST_ELEMENTS, WHOLE, parse, record_offsets
from features.history import Span, open_table
from streaming.dead_letters import DeadLetter, Place, replay_headers
from streaming.spark import MESSAGES, Messages, Schemas, messages_by_topic

ROW = ["event_id", "known_at", "partition", "offset"]

RECORD = "record"
"""The offset of the event's record, beside these columns of a row."""


def archived(
    letters: Sequence[DeadLetter], repo: FeatureRepo, offline: Path, schemas: Schemas | None = None
) -> list[DeadLetter]:
    """The letters whose events the archive has, be it from their own record or from one of the same id.

    A letter that today's definitions refuse is not among them, nor one of a topic that they do not read.

    Args:
        offline: the folder of the archive's tables.
    """
    messages = messages_by_topic(pa.Table.from_pylist([*map(_message, letters)], MESSAGES), repo.streams.values())
    found = {place for of_topic in messages for place in _archived(of_topic, repo, offline, schemas)}
    return [letter for letter in letters if (letter.place, letter.time_ms) in found]


def _message(letter: DeadLetter) -> dict[str, object]:
    topic, partition, offset = letter.place[:3]
    headers = [{"key": name, "value": value} for name, value in replay_headers(letter)]
    place = {"topic": topic, "partition": partition, "offset": offset}
    return {**place, "timestamp": letter.time_ms, "value": letter.value, "headers": headers}


def _archived(
    messages: Messages, repo: FeatureRepo, offline: Path, schemas: Schemas | None
) -> Iterable[tuple[Place, int]]:
    """Place and time of the messages whose events the stream's table has."""
    name = messages.stream.name
    stream, horizon_ms = repo.streams[name], duration_ms(messages.stream.dedupe_horizon)
    parsed = parse(messages.records, messages.stream, None, schemas, keys=repo.keys_of(name))
    table = open_table(offline, stream)
    if table is None or not parsed.events.num_rows:
        return
    ids = parsed.events["event_id"].unique()
    since = pc.min(parsed.events["known_at"]).as_py() - horizon_ms
    rows: dict[str, list[Mapping[str, Any]]] = {}
    own = table.only(pc.field("event_id").isin(ids)).events(ROW, Span(since))
    for row, offset in zip(own.to_pylist(), record_offsets(own, stream).tolist(), strict=True):
        rows.setdefault(row["event_id"], []).append({**row, RECORD: offset})
    times = messages.table["timestamp"].to_pylist()
    offsets = record_offsets(parsed.events, stream).tolist()
    for event, at, offset in zip(parsed.events.select(ROW).to_pylist(), parsed.rows.tolist(), offsets, strict=True):
        known_ms, time_ms = event["known_at"] - horizon_ms, times[parsed.records[at]]
        if any(_is_it(row, stream, known_ms, time_ms) for row in rows.get(event["event_id"], ())):
            place: Place = (messages.stream.topic, event["partition"] % PARTITIONS_OF_A_TOPIC, offset)
            yield (place if parsed.numbers[at] == WHOLE else (*place[:3], int(parsed.numbers[at]))), time_ms


def _is_it(row: Mapping[str, Any], stream: Stream, since_ms: int, time_ms: int) -> bool:
    """True for a row of the event that was refused at ``time_ms``, not of one before, or in a topic made anew."""
    number, partition = divmod(row["partition"], PARTITIONS_OF_A_TOPIC)
    topic = stream.topics[number] if number < len(stream.topics) else ""
    own_place = f"{topic}-{partition}-{row[RECORD]}"
    has_own_place = row["event_id"] in (own_place, f"{own_place}-{row['offset'] % MOST_ELEMENTS}")
    return bool(row["known_at"] >= since_ms and (not has_own_place or row["known_at"] <= time_ms))
