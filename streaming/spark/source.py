"""Messages of Spark's Kafka source as records of our streams, and the offsets of a batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s, single_array
from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.epochs import epoch_start, epoch_starts, our_offsets
from features.errors import FenceError, FormatError
from features.events import WHOLE, Envelopes, Parsed, Records
from features.history import IMPORT_PARTITION
from features.online_store import Offsets
from streaming.kafka import ELEMENT, FIRST_PLACE, FIRST_TIME, KNOWN_AT, PLACE_PATTERN

MESSAGES = pa.schema(
    {"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64(), "timestamp": pa.int64()}
    | {"key": pa.binary(), "value": pa.binary()}
    | {"headers": pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))}
)
"""A batch's messages as Spark hands them over (session.COLUMNS)."""


@dataclass(frozen=True)
class Messages:
    """A topic's messages of a batch, as a stream reads them.

    Args:
        stream: the part of a stream (Stream.parts) that they are read as.
        table: the rows as read (session.COLUMNS).
        records: the same, as parse() takes them.
    """

    stream: Stream
    table: pa.Table
    records: Records


def messages_by_topic(
    table: pa.Table, streams: Iterable[Stream], epochs: Mapping[str, int] | None = None
) -> list[Messages]:
    """The messages of each stream and topic that has any, in the batch's order.

    Args:
        epochs: topic → the start of its epoch (features/epochs.py), where that is not 0.

    Raises:
        FormatError: a topic has more partitions than a stream has numbers for.
    """
    topics = single_array(table["topic"])
    messages = []
    for stream in streams:
        for number, part in enumerate(stream.parts):
            rows = table.filter(pc.equal(topics, part.topic))
            if rows.num_rows:
                records = _records(rows, part, number * PARTITIONS_OF_A_TOPIC, (epochs or {}).get(part.topic, 0))
                messages.append(Messages(part, rows, records))
    return messages


def _records(rows: pa.Table, part: Stream, first: int, epoch: int) -> Records:
    """The rows to parse, their topic's partitions numbered from ``first``, and its offsets from ``epoch``."""
    partition, offset = (np.asarray(rows[name]) for name in ("partition", "offset"))
    check_partitions(part.topic, int(partition.max()) + 1, first)
    return Records(
        single_array(rows["value"]),
        known_at(rows),
        partition.astype(np.int32) + first,
        offset.astype(np.int64) + epoch,
        first_places(rows),
        chosen_elements(rows) if part.each is not None else None,
        _envelopes(rows) if part.uses_records else None,
    )


def _envelopes(rows: pa.Table) -> Envelopes:
    """What the rows have beside their messages; their times are those at which they were written first."""
    return Envelopes(single_array(rows["key"]), single_array(rows["headers"]), _earlier_times(rows, FIRST_TIME))


def check_partitions(topic: str, count: int, first: int = 0) -> None:
    """Raise FormatError unless a stream has numbers for so many partitions of a topic, from ``first`` on."""
    most = min(PARTITIONS_OF_A_TOPIC, IMPORT_PARTITION - first)
    if count > most:
        next_step = "Copy it to a topic with fewer partitions, and read that."
        raise FormatError(f"topic '{topic}'", f"at most {most:,} partitions", f"{count:,}", next_step)


def known_at(rows: pa.Table) -> Int64s:
    """The known_at of each message, in ms: the time of its header if that is earlier than the broker's.

    Nothing is known before the broker has it, so a later header would only put an entity's clock wrong.
    """
    return _earlier_times(rows, KNOWN_AT)


def _earlier_times(rows: pa.Table, header: str) -> Int64s:
    """The broker's time of each message, or that of its header if it is earlier."""
    appended = np.asarray(rows["timestamp"]).astype(np.int64)
    row, texts = _headers(rows, header, r"^[0-9]{1,18}$")
    times = appended.copy()
    times[row] = np.minimum(np.asarray(texts.cast(pa.int64())), appended[row])
    return times


def first_places(rows: pa.Table) -> pa.Array | None:
    """Where each message that was sent again stood first, by its header; null for the others, None for no such."""
    row, texts = _headers(rows, FIRST_PLACE, PLACE_PATTERN)
    if not len(row):
        return None
    places = np.full(rows.num_rows, None, dtype=object)
    places[row] = texts.to_numpy(zero_copy_only=False)
    return pa.array(places, pa.string())


def chosen_elements(rows: pa.Table) -> Int64s | None:
    """The element for which alone a message is sent again, by its header; WHOLE for the others, None for no such."""
    row, texts = _headers(rows, ELEMENT, r"^[0-9]{1,9}$")
    if not len(row):
        return None
    elements = np.full(rows.num_rows, WHOLE)
    elements[row] = np.asarray(texts.cast(pa.int64()))
    return elements


def _headers(rows: pa.Table, name: str, pattern: str) -> tuple[Int64s, pa.Array]:
    """The messages (as row numbers) with a header of that name that matches, and its text; once for each header."""
    headers = single_array(rows["headers"])
    entries = headers.flatten()
    if not len(entries):
        return np.empty(0, np.int64), pa.array([], pa.string())
    named = pc.fill_null(pc.equal(entries.field("key"), name), fill_value=False)
    values = entries.field("value").filter(named)
    matches = pc.fill_null(pc.match_substring_regex(values, pattern), fill_value=False)
    row = np.asarray(pc.list_parent_indices(headers).filter(named).filter(matches)).astype(np.int64)
    return row, values.filter(matches).cast(pa.string())


@dataclass(frozen=True)
class OffsetLog:
    """Spark's own record, in its checkpoint, of the offsets that it planned for each batch before it ran it.

    A batch's records do not show empty partitions, nor records that a topic no longer has; the log does, and Spark
    replays by it.

    Args:
        checkpoint: folder of the query.
        first: the offsets at which batch 0 starts; they say in which epoch its topics are.
    """

    checkpoint: Path
    first: Offsets

    @property
    def epochs(self) -> dict[str, int]:
        """Topic → the start of its epoch."""
        return epoch_starts(self.first)

    def between(self, batch_id: int) -> tuple[Offsets, Offsets]:
        """[start, end) of a batch that is running or has just run."""
        start = self.first if batch_id == 0 else self._end(batch_id - 1)
        return start, self._end(batch_id)

    def committed(self) -> int:
        """The last batch that Spark has committed; -1 for none."""
        done = [int(path.name) for path in (self.checkpoint / "commits").glob("[0-9]*") if path.name.isdecimal()]
        return max(done, default=-1)

    def standing(self) -> Offsets:
        """The end offsets of the batches that Spark has committed."""
        committed = self.committed()
        return self.first if committed < 0 else self._end(committed)

    def _end(self, batch_id: int) -> Offsets:
        path = self.checkpoint / "offsets" / str(batch_id)
        try:
            planned = flat_offsets(json.loads(path.read_text(encoding="utf-8").splitlines()[-1]))
            return our_offsets(planned, self.epochs)
        except (OSError, ValueError, IndexError, AttributeError) as error:
            required = "a checkpoint with the offsets of the running batch and the one before it"
            step = "Run 'headrace features rebuild' to go on with a checkpoint that is whole."
            raise FenceError(f"batch {batch_id}", required, f"{type(error).__name__}: {error}", step) from error


def flat_offsets(by_topic: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """{'topic': {'0': 5}} as {'topic/0': 5}."""
    return {
        f"{topic}/{part}": int(at) for topic, parts in sorted(by_topic.items()) for part, at in sorted(parts.items())
    }


def nested_offsets(offsets: Offsets) -> dict[str, dict[str, int]]:
    """{'topic/0': 5} as {'topic': {'0': 5}}: as Spark writes and reads offsets."""
    nested: dict[str, dict[str, int]] = {}
    for name, offset in offsets.items():
        topic, _, partition = name.rpartition("/")
        nested.setdefault(topic, {})[partition] = offset
    return nested


def records_between(start: Offsets, end: Offsets) -> int:
    """The number of offsets in [start, end); a partition that is not in start begins where its epoch does."""
    return sum(offset - start.get(name, epoch_start(offset)) for name, offset in end.items())


SendDeadLetters = Callable[[Stream, Messages, Parsed], object]
"""Returns when the broker has acknowledged the stream's dead letters of the batch."""

Schemas = Callable[[int], str]
