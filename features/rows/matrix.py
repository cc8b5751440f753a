"""State rows by key, and the features that are computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Int64s, pieces_of


class Status(IntEnum):
    """The status of an entity in a read: three of Feast's FieldStatus."""

    PRESENT = 0
    OUTSIDE_MAX_AGE = 1
    NOT_FOUND = 2


@dataclass(frozen=True)
class BatchKey:
    """The batch that writes: its generation (stream_id), its number, and the time of writing in ms."""

    stream_id: int
    batch_id: int
    written_at: int


@dataclass(frozen=True)
class PackedRows:
    """State rows by key: text keys, and a binary value or null (no row yet) for each."""

    keys: pa.Array
    values: pa.Array

    def __len__(self) -> int:
        return len(self.keys)

    def slice(self, start: int, length: int) -> PackedRows:
        """Some of the rows, without copying."""
        return PackedRows(self.keys.slice(start, length), self.values.slice(start, length))

    def pieces(self, most_rows: int, most_bytes: int) -> Iterator[PackedRows]:
        """The rows in their order, in slices of at most so many rows and bytes of values; a larger row is alone."""
        lengths = pc.fill_null(pc.binary_length(self.values), 0).to_numpy(zero_copy_only=False)
        for start, stop in pieces_of(lengths, most_bytes, most_rows):
            yield self.slice(start, stop - start)

    def filter(self, mask: NDArray[np.bool_]) -> PackedRows:
        """The rows for which the mask is true."""
        return self if mask.all() else PackedRows(self.keys.filter(pa.array(mask)), self.values.filter(pa.array(mask)))


@dataclass(frozen=True)
class FeatureMatrix:
    """The features of n entities: an Arrow column per feature, null where it has no value or the entity is not PRESENT.

    ``as_of`` is the instant in ms that each row was finalized at: that of the read, or the row's clock when that is
    later. ``without_pending`` where events that were accepted a moment ago may be missing, as they could not be read.
    """

    names: tuple[str, ...]
    columns: tuple[pa.Array, ...]
    status: NDArray[np.int8]
    as_of: Int64s
    newest_event: Int64s
    without_pending: bool = False

    def row(self, at: int) -> FeatureMatrix:
        """The matrix of one of the entities, without copying."""
        columns = tuple(column.slice(at, 1) for column in self.columns)
        one = slice(at, at + 1)
        return FeatureMatrix(
            self.names, columns, self.status[one], self.as_of[one], self.newest_event[one], self.without_pending
        )

    def to_table(self) -> pa.Table:
        """The features as an Arrow table."""
        return pa.table(dict(zip(self.names, self.columns, strict=True)))

    def to_numpy(self, names: Sequence[str] | None = None) -> NDArray[np.float64]:
        """(n, features) in float64, NaN for null; for numeric features only."""
        by_name = dict(zip(self.names, self.columns, strict=True))
        columns = [by_name[name] for name in (names or self.names)]
        return np.column_stack(
            [column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for column in columns]
        )


def joined(parts: Sequence[FeatureMatrix]) -> FeatureMatrix:
    """The matrices, of one view, as one."""
    if len(parts) == 1:
        return parts[0]
    return FeatureMatrix(
        parts[0].names,
        tuple(pa.concat_arrays(columns) for columns in zip(*(part.columns for part in parts), strict=True)),
        np.concatenate([part.status for part in parts]),
        np.concatenate([part.as_of for part in parts]),
        np.concatenate([part.newest_event for part in parts]),
        any(part.without_pending for part in parts),
    )
