"""Typed event columns as the kernels take them: numpy values, codes of texts, entity keys, the order of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s, single_array
from features.definitions import Condition, Entity, Stream, matches

PARTITION_BITS = 12

FEW = 64
"""So many texts are compared sooner than Arrow is called."""


@dataclass(frozen=True)
class Values:
    """A column: one number or one code of ``pool`` for each event, and which are not null."""

    numbers: Int64s | Floats
    valid: Bools
    pool: pa.Array | None = None


class EventColumns:
    """One stream's events, with each column converted once, when it is first asked for."""

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
        """The column as numbers, or as codes where it holds texts."""
        if column not in self._values:
            self._values[column] = _values(self._events[column], self.stream.dtypes[column])
        return self._values[column]

    def matches(self, conditions: tuple[tuple[str, Condition], ...]) -> Bools:
        """Which events meet all the conditions."""
        if conditions not in self._matches:
            verdicts = [self._meets(column, condition) for column, condition in conditions]
            self._matches[conditions] = reduce(np.logical_and, verdicts, np.ones(len(self), dtype=bool))
        return self._matches[conditions]

    def _meets(self, column: str, condition: Condition) -> Bools:
        """Which events meet the condition; of a column of texts each different one is asked once."""
        if self.stream.dtypes[column] != "string":
            return matches(self._events, {column: condition})
        values = self.values(column)
        if values.pool is None or not len(values.pool):
            return np.zeros(len(self), dtype=bool)
        if isinstance(condition, str) and len(values.pool) < FEW:
            verdicts = np.array([text == condition for text in values.pool.to_pylist()])
        else:
            verdicts = matches(pa.table({column: values.pool}), {column: condition})
        met: Bools = values.valid & verdicts[values.numbers]
        return met

    def take(self, places: Int64s) -> EventColumns:
        """The events at these places, in this order."""
        return EventColumns(self._events.take(pa.array(places)), self.stream)

    def entity_keys(self, entity: Entity) -> pa.Array:
        """Each event's key of the entity as text, null where a part of the key is."""
        return entity_keys({name: self._events[name] for name in entity.keys}, entity)


def integers(column: pa.ChunkedArray | pa.Array) -> Int64s:
    """A column without nulls as int64."""
    return np.asarray(column.to_numpy(), dtype=np.int64)


def sequence(partition: Int64s, offset: Int64s) -> Int64s:
    """One number per record of a topic, different for each, rising with the offset: it decides ties of event_time."""
    return (offset << PARTITION_BITS) | partition


def _values(column: pa.ChunkedArray | pa.Array, dtype: str) -> Values:
    flat = single_array(column)
    valid = np.asarray(flat.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    if dtype == "string":
        encoded = flat.dictionary_encode()
        codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
        return Values(np.asarray(codes, dtype=np.int64), valid, encoded.dictionary)
    if dtype == "float64":
        return Values(np.asarray(pc.fill_null(flat, 0.0).to_numpy(zero_copy_only=False), dtype=np.float64) + 0.0, valid)
    filled = pc.fill_null(flat.cast(pa.int64()), 0)
    return Values(np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64), valid)


def entity_keys(columns: Mapping[str, pa.ChunkedArray | pa.Array], entity: Entity) -> pa.Array:
    """The key of each row as text: the value itself, or for a composite key its parts, each with its length before it.

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
    """The key text of one entity, as entity_keys makes it."""
    columns = {name: pa.array([values[name]]).cast(pa.string()) for name in entity.keys}
    return str(entity_keys(columns, entity)[0].as_py())


def arrow_type(dtype: str) -> pa.DataType:
    """The Arrow type of a feature's dtype."""
    if dtype.startswith("list<"):
        return pa.list_(arrow_type(dtype[5:-1]))
    return {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}[dtype]
