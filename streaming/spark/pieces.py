"""A micro-batch's messages in tables of bounded bytes.

Spark plans a batch by numbers of records, and replays it as it was planned, whatever their size. All of a batch goes
through Java's heap at once where it is fetched whole. So a batch that may be too large is measured first, by Spark and
without its messages, and then read again a range of offsets at a time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.arrays import Int64s, pieces_of, single_array
from features.online_store import Offsets
from streaming.spark.session import COLUMNS, SOURCE
from streaming.spark.source import nested_offsets

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SHARE_OF_HEAP = 16
"""A table is at most this part of Java's heap, which has several copies of it on its way."""

OF_A_PIECE = {"kafka.max.poll.records": "50"}
"""Spark keeps the records of a consumer's last answer, for a while after a piece is read: one consumer a partition."""

_fetching = threading.Lock()
"""Held by the query that fetches one of a batch's tables: those of two queries at once are twice the copies."""

MOST_BYTES = 256 << 20

FEW = 16
"""So few messages are fetched without a look at their size, where that of the ones before is not known."""

SOME = 1_000
"""So many, where it is known; more only up to GROWTH times as many as in the batch before."""

GROWTH = 4

MARGIN = 1.25

RECORD_BYTES = 100
"""The bytes of a message beside its key, value and headers."""

SIZE = f"""
    coalesce(length(key), 0) + coalesce(length(value), 0) + {RECORD_BYTES}
    + aggregate(coalesce(headers, array()), 0, (sum, h) -> sum + length(h.key) + coalesce(length(h.value), 0))
    AS bytes
"""

UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def most_bytes(memory: str) -> int:
    """The most bytes of a table, by the setting of Java's heap ('512m', '1g'; MiB without a unit)."""
    digits = memory.strip().lower().removesuffix("b")
    number = digits.rstrip("kmgt")
    heap = int(number) * UNITS[digits[len(number) :] or "m"]
    return min(heap // SHARE_OF_HEAP, MOST_BYTES)


class BatchReader:
    """Reads the batches of a query.

    Args:
        options: of the Kafka source, beside ours.
        most: the most bytes of a table.
    """

    def __init__(self, bootstrap: str, options: Mapping[str, str], most: int) -> None:
        self._source = SOURCE | {"kafka.bootstrap.servers": bootstrap} | dict(options)
        self._most = most
        self._records, self._bytes = 0, 0

    def batch(self, frame: DataFrame, records: int) -> BatchPieces:
        """The messages of a batch of at most so many records."""
        return BatchPieces(self, frame, records)

    def tables(self, frame: DataFrame, records: int) -> Iterator[pa.Table]:
        """Its messages (COLUMNS) in tables of at most ``most`` bytes, or of one message.

        The messages of a partition come in the order of their offsets.
        """
        ranges = [] if self._is_small(records) else self._ranges(frame)
        tables = (self._read(frame, *each) for each in ranges) if len(ranges) > 1 else (frame.toArrow() for _ in "1")
        read_records = read_bytes = 0
        for table in tables:
            read_records, read_bytes = read_records + table.num_rows, read_bytes + table.nbytes
            yield table
        self._records, self._bytes = read_records, read_bytes

    def _is_small(self, records: int) -> bool:
        """True if the batch is small enough to be fetched whole, by the size of the messages before."""
        if not self._records:
            return records <= FEW
        is_like_before = records <= max(GROWTH * self._records, SOME)
        return is_like_before and MARGIN * records * self._bytes / self._records <= self._most

    def _ranges(self, frame: DataFrame) -> list[tuple[Offsets, Offsets]]:
        return ranges_of(frame.selectExpr("topic", "partition", "offset", SIZE).toArrow(), self._most)

    def _read(self, frame: DataFrame, start: Offsets, end: Offsets) -> pa.Table:
        starts, ends = nested_offsets(start), nested_offsets(end)
        partitions = {topic: [int(number) for number in parts] for topic, parts in starts.items()}
        own = {"startingOffsets": json.dumps(starts), "endingOffsets": json.dumps(ends)}
        source = self._source | OF_A_PIECE | own | {"assign": json.dumps(partitions)}
        messages = frame.sparkSession.read.format("kafka").options(**source).load().selectExpr(*COLUMNS)
        with _fetching:
            return messages.toArrow()


def fetched_in_parts(frame: DataFrame, most: int) -> Iterator[pa.Table]:
    """The rows of a persisted frame in tables of at most ``most`` bytes of their ``payload``, or of one row."""
    numbered = frame.selectExpr("*", "monotonically_increasing_id() AS row")
    sizes = numbered.selectExpr("row", "length(payload) AS bytes").toArrow().sort_by("row")
    rows = np.asarray(sizes["row"])
    for start, stop in pieces_of(np.asarray(sizes["bytes"]).astype(np.int64), most):
        part = numbered.where(f"row BETWEEN {rows[start]} AND {rows[stop - 1]}")
        yield (numbered if stop - start == len(rows) else part).drop("row").toArrow()


@dataclass(frozen=True)
class BatchPieces:
    """The messages of a batch in tables of bounded bytes, read from Kafka each time that they are iterated over."""

    reader: BatchReader
    frame: DataFrame
    records: int

    def __iter__(self) -> Iterator[pa.Table]:
        return self.reader.tables(self.frame, self.records)


def tables_of(messages: pa.Table | Iterable[pa.Table]) -> Iterable[pa.Table]:
    """A batch's messages as tables, of which it may be one."""
    return [messages] if isinstance(messages, pa.Table) else messages


def ranges_of(sizes: pa.Table, most: int) -> list[tuple[Offsets, Offsets]]:
    """Ranges [start, end) of offsets that together have each message once, and at most ``most`` bytes or one message.

    Every range has about as many messages of each partition, so that tasks share the work; ranges of a partition are
    in the order of its offsets.

    Args:
        sizes: topic, partition, offset and bytes of each message.
    """
    topics = single_array(sizes["topic"]).dictionary_encode()
    partition = np.asarray(sizes["partition"]).astype(np.int64)
    offset, size = (np.asarray(sizes[name]).astype(np.int64) for name in ("offset", "bytes"))
    names, place = np.unique(np.asarray(topics.indices).astype(np.int64) << 32 | partition, return_inverse=True)
    order = np.lexsort((offset, place))
    order = order[np.argsort(_ranks(place[order]), kind="stable")]
    ranges = [_range(order[first:last], place, offset) for first, last in pieces_of(size[order], most)]
    texts = [f"{topics.dictionary[name >> 32].as_py()}/{name & 0xFFFFFFFF}" for name in names.tolist()]
    return [(_named(start, texts), _named(end, texts)) for start, end in ranges]


def _named(offsets: Mapping[int, int], names: Sequence[str]) -> dict[str, int]:
    return {names[place]: at for place, at in offsets.items()}


def _ranks(place: Int64s) -> Int64s:
    """The number of each among those of its place, which stand together."""
    at = np.arange(len(place))
    is_first = np.diff(place, prepend=-1) != 0
    return at - np.maximum.accumulate(np.where(is_first, at, 0))


def _range(rows: Int64s, place: Int64s, offset: Int64s) -> tuple[dict[int, int], dict[int, int]]:
    places, index = np.unique(place[rows], return_inverse=True)
    least = np.full(len(places), np.iinfo(np.int64).max)
    most = np.zeros(len(places), dtype=np.int64)
    np.minimum.at(least, index, offset[rows])
    np.maximum.at(most, index, offset[rows] + 1)
    return dict(zip(places.tolist(), least.tolist(), strict=True)), dict(
        zip(places.tolist(), most.tolist(), strict=True)
    )
