"""Typed event columns, the input of the kernels: numpy values, codes of texts, entity keys, the order of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s, single_array
from features.definitions import PARTITIONS_OF_A_TOPIC, Condition, Entity, Stream, accepts_null, matches
from features.epochs import OFFSETS_AN_EPOCH
from features.errors import FormatError

PARTITION_BITS = 12

ELEMENT_BITS = 10
MOST_ELEMENTS, MOST_RECORDS = 1 << ELEMENT_BITS, OFFSETS_AN_EPOCH >> ELEMENT_BITS
"""Elements of a record, and records of a partition (17 thousand million), that offsets of events have room for."""

FEW_TEXTS = 64
"""Fewer texts than this are compared faster in Python than by a call of Arrow."""


@dataclass(frozen=True)
class Values:
    """A column: a number, or a code of ``pool``, for each event; ``valid`` is False for a null."""

    numbers: Int64s | Floats
    valid: Bools
    pool: pa.Array | None = None


class EventColumns:
    """A stream's events; each column is converted once, on first use."""

    def __init__(self, events: pa.Table, stream: Stream) -> None:
        self.stream = stream
        self._events = events
        self._values: dict[str, Values] = {}
        self._matches: dict[tuple[tuple[str, Condition], ...], Bools] = {}
        self.time: Int64s = integers(events["event_time"])
        self.known_at: Int64s = integers(events["known_at"])
        self.seq: Int64s = sequence(integers(events["partition"]), integers(events["offset"]))

    def __len__(self) -> int:
        return int(self._events.num_rows)

    def values(self, column: str) -> Values:
        """The column as numbers, or as codes if it holds texts."""
        if column not in self._values:
            self._values[column] = _values(self._events[column], self.stream.dtypes[column])
        return self._values[column]

    def matches(self, conditions: tuple[tuple[str, Condition], ...]) -> Bools:
        """True for each event that meets all the conditions."""
        if conditions not in self._matches:
            masks = [self._meets(column, condition) for column, condition in conditions]
            self._matches[conditions] = reduce(np.logical_and, masks, np.ones(len(self), dtype=bool))
        return self._matches[conditions]

    def _meets(self, column: str, condition: Condition) -> Bools:
        """True for each event that meets the condition; it is evaluated once for each different text."""
        if self.stream.dtypes[column] != "string":
            return matches(self._events, {column: condition})
        if accepts_null(condition):
            return matches(self._events, {column: condition})
        values = self.values(column)
        if values.pool is None or not len(values.pool):
            return np.zeros(len(self), dtype=bool)
        if isinstance(condition, str) and len(values.pool) < FEW_TEXTS:
            mask = np.array([text == condition for text in values.pool.to_pylist()])
        else:
            mask = matches(pa.table({column: values.pool}), {column: condition})
        matched: Bools = values.valid & mask[values.numbers]
        return matched

    def take(self, indices: Int64s) -> EventColumns:
        """The events at these indices, in this order."""
        return EventColumns(self._events.take(pa.array(indices)), self.stream)

    def entity_keys(self, entity: Entity) -> pa.Array:
        """Each event's key of the entity as text, null if a part of the key is null."""
        return entity_keys({name: self._events[name] for name in entity.keys}, entity)


def integers(column: pa.ChunkedArray | pa.Array) -> Int64s:
    """A column without nulls as int64."""
    return np.asarray(column.to_numpy(), dtype=np.int64)


def sequence(partition: Int64s, offset: Int64s) -> Int64s:
    """A unique number per record of a topic, rising with the offset: it decides ties of event_time."""
    return (offset << PARTITION_BITS) | partition


def element_offsets(offsets: Int64s, elements: Int64s) -> Int64s:
    """The offset of each element as an event: where its record begins, and its number in the record.

    Raises FormatError for a record whose number has no room for elements.
    """
    numbers = offsets % OFFSETS_AN_EPOCH
    if len(numbers) and int(numbers.max()) >= MOST_RECORDS:
        next_step = "Copy the topic to a new one, and read that."
        raise FormatError(
            "an offset", f"at most {MOST_RECORDS:,} records of a partition", f"{numbers.max():,}", next_step
        )
    return offsets - numbers + (numbers << ELEMENT_BITS) + np.maximum(elements, 0)


def record_offsets(events: pa.Table, stream: Stream) -> Int64s:
    """The offset of each event's record: its own, except where every element of a record is an event."""
    offsets, parts = integers(events["offset"]), stream.parts
    if all(part.each is None for part in parts):
        return offsets
    has_elements = np.zeros(1 << PARTITION_BITS, dtype=bool)
    for number, part in enumerate(parts):
        has_elements[number * PARTITIONS_OF_A_TOPIC :][:PARTITIONS_OF_A_TOPIC] = part.each is not None
    numbers = offsets % OFFSETS_AN_EPOCH
    whole = offsets - numbers + (numbers >> ELEMENT_BITS)
    return np.where(has_elements[integers(events["partition"])], whole, offsets)


def _values(column: pa.ChunkedArray | pa.Array, dtype: str) -> Values:
    array = single_array(column)
    valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    if dtype == "string":
        encoded = array.dictionary_encode()
        codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
        return Values(np.asarray(codes, dtype=np.int64), valid, encoded.dictionary)
    if dtype == "float64":
        return Values(
            np.asarray(pc.fill_null(array, 0.0).to_numpy(zero_copy_only=False), dtype=np.float64) + 0.0, valid
        )
    filled = pc.fill_null(array.cast(pa.int64()), 0)
    return Values(np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64), valid)


def entity_keys(columns: Mapping[str, pa.ChunkedArray | pa.Array], entity: Entity) -> pa.Array:
    """The key of each row as text: the value itself, or for a composite key its parts, each preceded by its length.

    The lengths keep ('1', '23') and ('12', '3') apart. Null where any part is null.
    """
    parts = [single_array(columns[name]).cast(pa.string()) for name in entity.keys]
    if len(parts) == 1:
        return parts[0]
    pieces = []
    for part in parts:
        pieces += [pc.binary_length(part).cast(pa.string()), pa.scalar(":"), part, pa.scalar(",")]
    return pc.binary_join_element_wise(*pieces, "")


def encode_key(values: Mapping[str, object], entity: Entity) -> str:
    """The key text of an entity, equal to that of entity_keys."""
    columns = {name: pa.array([values[name]]).cast(pa.string()) for name in entity.keys}
    return str(entity_keys(columns, entity)[0].as_py())


def arrow_type(dtype: str) -> pa.DataType:
    """The Arrow type of a feature's dtype."""
    if dtype.startswith("list<"):
        return pa.list_(arrow_type(dtype[5:-1]))
    return {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}[dtype]
