"""The bytes of state rows: many rows encoded and decoded at once, each with a checksum.

A row is, little-endian, padded with zeros to a multiple of 8 bytes:

    header (56 bytes)   magic 'HR' | version | directory width | checksum (u32) | schema hash (u64) | stream id (u64)
                        | batch id | newest event time | clock | written at (i64 each, ms)
    directory           how many entries each table has (2 or 4 bytes each)
    codes               one byte for each column of each table: high nibble the form, low nibble bytes a number (0 to 8)
    columns             each table's times, then its columns; a text column's lengths are followed by the texts

Numbers take as many bytes as the largest of the row's column needs. Times are stored as the difference to the next
(tiles, in units of the finest tile) or to the clock. Floats are whole numbers or hundredths where that loses nothing,
as spending and counts mostly are; else 8 bytes. Min and max of integers are integers; older rows have floats of 8 bytes
where they exceed 2^53, which are read as the integers that they were rounded to. The checksum is the multilinear hash
of the row's 8-byte words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Entries, Int64s
from features.errors import MOST_ROW_BYTES, RowsTooLargeError
from features.hashing import Uint64s, mix, segment_sums, weights
from features.rows.plan import TableSpec

VERSION = 1

MAGIC = int.from_bytes(b"HR", "little")

HEADER = np.dtype(
    [
        ("magic", "<u2"),
        ("version", "u1"),
        ("directory", "u1"),
        ("checksum", "<u4"),
        ("schema_hash", "<u8"),
        ("stream_id", "<u8"),
        ("batch_id", "<i8"),
        ("newest", "<i8"),
        ("clock", "<i8"),
        ("written_at", "<i8"),
    ]
)

WHOLE, HUNDREDTHS, RAW = 0, 1, 2
"""Forms of a float column."""

WIDTH_MASKS = np.array([0] + [(1 << (8 * width)) - 1 for width in range(1, 8)] + [2**64 - 1], dtype=np.uint64)

WIDTH_LIMITS = WIDTH_MASKS[:8]

EXACT = 2.0**53

SMALLEST_INTEGER, LARGEST_INTEGER = -(2.0**63), 2.0**63 - 1024
"""The smallest and the largest float64 that is an int64."""


@dataclass(frozen=True)
class Layout:
    """The parts of a view's rows: its identity and its tables, in order."""

    view: str
    schema_hash: int
    stream_id: int
    tables: tuple[TableSpec, ...]


@dataclass(frozen=True)
class RowState:
    """n decoded rows: headers (a structured array) and each table's entries."""

    headers: NDArray[np.void]
    tables: tuple[Entries, ...]


def different(widths: NDArray[np.uint8]) -> Int64s:
    """The widths that occur."""
    return np.flatnonzero(np.bincount(widths, minlength=9))


def zigzag(values: Int64s) -> Uint64s:
    """Signed numbers as unsigned ones, small magnitudes staying small."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: Uint64s) -> Int64s:
    """The inverse of zigzag."""
    one = np.uint64(1)
    return (values >> one).view(np.int64) ^ -(values & one).view(np.int64)


def binary_array(offsets: Int64s, data: NDArray[np.uint8]) -> pa.Array:
    """n binary values from n + 1 offsets into their bytes. Raises RowsTooLargeError for 2 GiB of them."""
    if offsets[-1] > MOST_ROW_BYTES:
        raise RowsTooLargeError(len(offsets) - 1, int(offsets[-1]))
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def offsets_of(rows: pa.Array) -> Int64s:
    """The n + 1 offsets of n binary values in their buffer."""
    offsets = np.frombuffer(rows.buffers()[1], dtype=np.int32)[rows.offset : rows.offset + len(rows) + 1]
    return offsets.astype(np.int64)


def headers_at(data: NDArray[np.uint8], starts: Int64s) -> NDArray[np.void]:
    """The headers of the rows that begin at these bytes."""
    return np.ascontiguousarray(data[starts[:, None] + np.arange(HEADER.itemsize)]).view(HEADER).reshape(-1)


def newest_events(rows: pa.Array) -> Int64s:
    """The time (ms) of the newest event of each row; no row is null."""
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    headers = headers_at(np.frombuffer(rows.buffers()[2], dtype=np.uint8), offsets_of(rows)[:-1])
    return headers["newest"].astype(np.int64)


def checksums(data: NDArray[np.uint8], offsets: Int64s) -> NDArray[np.uint32]:
    """The hash of each row's words, its checksum field taken as zero."""
    words = data[: offsets[-1]].view(np.uint64)
    starts, ends = offsets[:-1] // 8, offsets[1:] // 8
    lengths = ends - starts
    position = np.arange(len(words)) - np.repeat(starts, lengths)
    first = words[starts]
    words = words.copy()
    words[starts] = first & np.uint64(0xFFFFFFFF)
    with np.errstate(over="ignore"):
        sums = segment_sums(words * weights(int(lengths.max(initial=1)) + 1).take(position), starts, ends)
    return (mix(sums ^ lengths.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)
