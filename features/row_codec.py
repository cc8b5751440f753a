"""The bytes of state rows: many rows encoded and decoded at once, each one a self-checking value.

A row is, little-endian, padded with zeros to a multiple of 8 bytes:

    header (56 bytes)   magic 'HR' | version | directory width | checksum (u32) | schema hash (u64) | stream id (u64)
                        | batch id | newest event time | clock | written at (i64 each, ms)
    directory           how many entries each table has (2 or 4 bytes each)
    codes               one byte for each column of each table: high nibble the form, low nibble bytes a number (0 to 8)
    columns             each table's times, then its columns; a text column's lengths are followed by the texts

Numbers take as many bytes as the largest of the row's column needs. Times are stored as the difference to the next (tiles,
in units of the finest tile) or to the clock. Floats are whole numbers or hundredths where that loses nothing, as
spending and counts mostly are; else 8 bytes. The checksum is the multilinear hash of the row's 8-byte words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.aggregations import Kept
from features.entries import Column, Entries, concatenated, row_bounds
from features.errors import CorruptRowError, ForeignRowError
from features.hashing import Uint64s, mix, segment_sums, weights
from features.tables import Distinct

Int64s = NDArray[np.int64]
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


@dataclass(frozen=True)
class Layout:
    """What the rows of one view consist of: its identity and its tables, in order."""

    view: str
    schema_hash: int
    stream_id: int
    kept: tuple[Kept, ...]


@dataclass(frozen=True)
class RowState:
    """n decoded rows: headers (a structured array) and each table's entries."""

    headers: NDArray[np.void]
    tables: tuple[Entries, ...]


def zigzag(values: Int64s) -> Uint64s:
    """Signed numbers as unsigned ones, small magnitudes staying small."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: Uint64s) -> Int64s:
    """The inverse of zigzag."""
    one = np.uint64(1)
    return (values >> one).view(np.int64) ^ -(values & one).view(np.int64)


# --- encoding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """One column of n rows, as bytes: a form and width for each row, and one binary value per row."""

    codes: NDArray[np.uint8]
    pieces: tuple[pa.Array, ...]


def encode(state: RowState, layout: Layout) -> pa.Array:
    """One binary value per row."""
    n = len(state.headers)
    if not n:
        return pa.array([], type=pa.binary())
    bounds = [row_bounds(entries.row, n) for entries in state.tables]
    counts = np.column_stack([np.diff(bound) for bound in bounds]) if bounds else np.zeros((n, 0), dtype=np.int64)
    blocks: list[_Block] = []
    for kept, entries, bound in zip(layout.kept, state.tables, bounds, strict=True):
        blocks += _encode_table(kept, entries, bound, state.headers["clock"])
    headers = state.headers.copy()
    wide = bool(counts.size and counts.max() > np.iinfo(np.uint16).max)
    headers["magic"], headers["version"], headers["directory"], headers["checksum"] = (
        MAGIC,
        VERSION,
        4 if wide else 2,
        0,
    )
    headers["schema_hash"], headers["stream_id"] = layout.schema_hash, layout.stream_id
    directory = counts.astype("<u4" if wide else "<u2")
    codes = np.column_stack([block.codes for block in blocks]) if blocks else np.zeros((n, 0), dtype=np.uint8)
    pieces = [
        _fixed(headers.view(np.uint8).reshape(n, -1)),
        _fixed(directory.view(np.uint8).reshape(n, -1)),
        _fixed(codes),
    ]
    pieces += [piece for block in blocks for piece in block.pieces]
    return _sealed(_padded(pieces))


def _fixed(octets: NDArray[np.uint8]) -> pa.Array:
    n, width = octets.shape
    return _binary(np.arange(n + 1) * width, np.ascontiguousarray(octets))


def _binary(offsets: Int64s, data: NDArray[np.uint8]) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)


def _padded(pieces: list[pa.Array]) -> pa.Array:
    lengths = sum(pc.binary_length(piece).to_numpy().astype(np.int64) for piece in pieces)
    padding = -lengths % 8
    zeros = _binary(np.concatenate([[0], np.cumsum(padding)]), np.zeros(int(padding.sum()), dtype=np.uint8))
    return pc.binary_join_element_wise(*pieces, zeros, pa.scalar(b"", type=pa.binary()))


def _sealed(rows: pa.Array) -> pa.Array:
    offsets, data = _offsets(rows), np.frombuffer(rows.buffers()[2], dtype=np.uint8).copy()
    sums = _checksums(data, offsets)
    places = offsets[:-1, None] + np.arange(4, 8)
    data[places] = sums.astype("<u4").view(np.uint8).reshape(-1, 4)
    return _binary(offsets, data)


def _checksums(data: NDArray[np.uint8], offsets: Int64s) -> NDArray[np.uint32]:
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


def _offsets(rows: pa.Array) -> Int64s:
    offsets = np.frombuffer(rows.buffers()[1], dtype=np.int32)[rows.offset : rows.offset + len(rows) + 1]
    return offsets.astype(np.int64)


def _encode_table(kept: Kept, entries: Entries, bounds: Int64s, clock: Int64s) -> list[_Block]:
    blocks = [_encode_numbers(_stored_times(kept, entries, bounds, clock), bounds)]
    for spec in kept.table.columns:
        column = entries.columns[spec.name]
        if spec.codec == "float":
            blocks.append(_encode_floats(column, bounds))
        elif spec.codec == "text":
            blocks.append(_encode_texts(column, entries.pool, bounds))
        elif spec.codec in ("integer", "code"):
            blocks.append(_encode_numbers(zigzag(column), bounds))
        else:
            blocks.append(_encode_numbers(column.view(np.uint64), bounds))
    return blocks


def _stored_times(kept: Kept, entries: Entries, bounds: Int64s, clock: Int64s) -> Uint64s:
    """Tiles in time order: units of the finest tile up to the next tile, or (last) to the clock. Others: ms to the clock."""
    if kept.table.exact_times:
        return zigzag(clock[entries.row] - entries.time)
    unit = kept.tiling.finest_ms
    anchor = (clock // unit)[entries.row]
    tile = entries.time // unit
    if isinstance(kept.table, Distinct):
        return zigzag(anchor - tile)
    following = np.append(tile[1:], 0)
    last = bounds[1:][np.diff(bounds) > 0] - 1
    following[last] = anchor[last]
    return zigzag(following - tile)


def _widths(values: Uint64s, bounds: Int64s) -> NDArray[np.uint8]:
    """Bytes that the largest number of each row needs."""
    largest = np.zeros(len(bounds) - 1, dtype=np.uint64)
    filled = np.diff(bounds) > 0
    if len(values):
        largest[filled] = np.maximum.reduceat(values, bounds[:-1][filled])
    return np.searchsorted(WIDTH_LIMITS, largest).astype(np.uint8)


def _encode_numbers(values: Uint64s, bounds: Int64s, widths: NDArray[np.uint8] | None = None) -> _Block:
    widths = _widths(values, bounds) if widths is None else widths
    counts = np.diff(bounds)
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    pieces = []
    present = np.unique(widths[counts > 0])
    for width in present[present > 0]:
        chosen = (widths == width) & (counts > 0)
        picked = octets if len(present) == 1 else octets[np.repeat(chosen, counts)]
        sizes = np.where(chosen, counts, 0) * int(width)
        pieces.append(_binary(np.concatenate([[0], np.cumsum(sizes)]), picked[:, :width]))
    return _Block(widths, tuple(pieces))


def _encode_floats(values: NDArray[np.float64], bounds: Int64s) -> _Block:
    """Each row's column in the first form that loses nothing."""
    hundredths = np.rint(values * 100)
    with np.errstate(invalid="ignore"):
        small = np.abs(hundredths) < EXACT
        whole = (np.rint(values) == values) & (np.abs(values) < EXACT)
        exact = (hundredths / 100 == values) & small
    rows = len(bounds) - 1
    form = np.where(_all_of(whole, bounds, rows), WHOLE, np.where(_all_of(exact, bounds, rows), HUNDREDTHS, RAW))
    per_entry = np.repeat(form, np.diff(bounds))
    numbers = np.ascontiguousarray(values).view(np.uint64).copy()
    for chosen_form, source in ((WHOLE, values), (HUNDREDTHS, hundredths)):
        chosen = per_entry == chosen_form
        numbers[chosen] = zigzag(source[chosen].astype(np.int64))
    widths = np.where(form == RAW, np.uint8(8), _widths(numbers, bounds))
    block = _encode_numbers(numbers, bounds, widths)
    return _Block((block.codes | (form << 4)).astype(np.uint8), block.pieces)


def _all_of(flags: NDArray[np.bool_], bounds: Int64s, rows: int) -> NDArray[np.bool_]:
    result = np.ones(rows, dtype=bool)
    filled = np.diff(bounds) > 0
    if len(flags):
        result[filled] = np.logical_and.reduceat(flags, bounds[:-1][filled])
    return result


def _encode_texts(codes: Column, pool: pa.Array | None, bounds: Int64s) -> _Block:
    texts = (pool if pool is not None else pa.array([], pa.string())).take(pa.array(codes)).cast(pa.binary())
    ends = _offsets(texts)
    lengths = _encode_numbers(np.diff(ends).astype(np.uint64), bounds)
    data = texts.buffers()[2]
    octets = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]] if data is not None else np.empty(0, np.uint8)
    return _Block(lengths.codes, (*lengths.pieces, _binary(ends[bounds] - ends[0], octets)))


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(rows: pa.Array, keys: Sequence[object] | pa.Array, layout: Layout) -> RowState:
    """The rows' headers and entries. A null value is a row that does not exist yet: zeros and no entries.

    Raises:
        CorruptRowError: a value is damaged or was never a state row; it names the first such key.
        ForeignRowError: a whole row of another definition or stream.
    """
    missing = np.asarray(rows.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    rows = rows.fill_null(b"") if missing.any() else rows
    data, offsets = _readable(rows)
    headers = np.zeros(len(rows), dtype=HEADER)
    present = np.flatnonzero(~missing)
    _check_sizes(offsets, present, keys, layout)
    octets = data[offsets[:-1][present, None] + np.arange(HEADER.itemsize)]
    headers[present] = np.ascontiguousarray(octets).view(HEADER).reshape(-1)
    _check_identity(headers, data, offsets, present, keys, layout)
    return RowState(headers, _decode_tables(headers, data, offsets, present, layout))


def _readable(rows: pa.Array) -> tuple[NDArray[np.uint8], Int64s]:
    """The bytes of all rows, with 8 to spare at the end, and n + 1 offsets from 0."""
    offsets = _offsets(rows)
    buffer = rows.buffers()[2]
    octets = np.frombuffer(buffer, dtype=np.uint8) if buffer is not None else np.empty(0, np.uint8)
    data = np.zeros(int(offsets[-1] - offsets[0]) + 8, dtype=np.uint8)
    data[:-8] = octets[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]


def _name(keys: Sequence[object] | pa.Array, place: int) -> str:
    key = keys[int(place)]
    return repr(key.as_py() if isinstance(key, pa.Scalar) else key)


def _corrupt(layout: Layout, keys: Sequence[object] | pa.Array, place: int, got: str) -> CorruptRowError:
    where = f"feature view '{layout.view}': row {_name(keys, place)}"
    return CorruptRowError(where, "a whole state row", got, "Run 'headrace features rebuild' to make it anew.")


def _check_sizes(offsets: Int64s, present: Int64s, keys: Sequence[object] | pa.Array, layout: Layout) -> None:
    sizes = np.diff(offsets)[present]
    bad = np.flatnonzero((sizes < HEADER.itemsize) | (sizes % 8 != 0))
    if len(bad):
        raise _corrupt(layout, keys, present[bad[0]], f"{sizes[bad[0]]} bytes")


def _check_identity(
    headers: NDArray[np.void],
    data: NDArray[np.uint8],
    offsets: Int64s,
    present: Int64s,
    keys: Sequence[object] | pa.Array,
    layout: Layout,
) -> None:
    found = headers[present]
    bad = np.flatnonzero((found["magic"] != MAGIC) | (found["version"] != VERSION))
    if len(bad):
        raise _corrupt(layout, keys, present[bad[0]], "bytes that no version of this codec wrote")
    if len(present):
        kept = np.concatenate([[0], offsets[1:][present]])
        bad = np.flatnonzero(_checksums(data, kept) != found["checksum"])
        if len(bad):
            raise _corrupt(layout, keys, present[bad[0]], "bytes that do not match their checksum")
    foreign = (found["schema_hash"] != np.uint64(layout.schema_hash)) | (
        found["stream_id"] != np.uint64(layout.stream_id)
    )
    if foreign.any():
        place = int(np.flatnonzero(foreign)[0])
        where = f"feature view '{layout.view}': row {_name(keys, present[place])}"
        required = f"definition {layout.schema_hash:016x} of stream {layout.stream_id:016x}"
        got = f"{found['schema_hash'][place]:016x} of {found['stream_id'][place]:016x}"
        raise ForeignRowError(where, required, got, "Run 'headrace features plan' to see what changed.")


class _Reader:
    """Walks through the rows' columns, all rows at once; ``at`` is where each row's next byte stands."""

    def __init__(self, data: NDArray[np.uint8], at: Int64s) -> None:
        self.data = data
        # Overlapping 8-byte words at every byte, so that one gather reads a number of any width.
        self.words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
        self.at = at

    def numbers(self, place: Int64s, row: Int64s, widths: NDArray[np.uint8], counts: Int64s) -> Uint64s:
        """The next column: numbers of each row's width; ``place`` is an entry's position in its row."""
        present = np.unique(widths)
        if len(present) == 1:
            width = int(present[0])
            values = self.words[self.at[row] + place * width] & WIDTH_MASKS[width]
        else:
            each = widths.astype(np.int64)[row]
            values = self.words[self.at[row] + place * each] & WIDTH_MASKS[each]
        self.at = self.at + counts * widths
        return values

    def texts(self, lengths: Int64s, bounds: Int64s) -> pa.Array:
        """The next bytes: each row's texts, one after the other."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        sizes = ends[bounds[1:]] - ends[bounds[:-1]]
        octets = self.data[concatenated(self.at, sizes)]
        self.at = self.at + sizes
        return _binary(ends, octets).cast(pa.string())


def _decode_tables(
    headers: NDArray[np.void], data: NDArray[np.uint8], offsets: Int64s, present: Int64s, layout: Layout
) -> tuple[Entries, ...]:
    n, tables = len(headers), len(layout.kept)
    columns = sum(1 + len(kept.table.columns) for kept in layout.kept)
    reader = _Reader(data, offsets[:-1] + HEADER.itemsize)
    width = headers["directory"].astype(np.int64)
    counts = np.zeros((n, tables), dtype=np.int64)
    places = reader.at[present, None] + np.arange(tables) * width[present, None]
    counts[present] = (reader.words[places] & WIDTH_MASKS[width[present]][:, None]).astype(np.int64)
    codes = np.zeros((n, columns), dtype=np.uint8)
    codes[present] = data[(reader.at + width * tables)[present, None] + np.arange(columns)]
    reader.at = reader.at + width * tables + columns
    clock = headers["clock"].astype(np.int64)
    decoded, column = [], 0
    for number, kept in enumerate(layout.kept):
        decoded.append(_decode_table(kept, reader, counts[:, number], codes[:, column:], clock))
        column += 1 + len(kept.table.columns)
    return tuple(decoded)


def _decode_table(kept: Kept, reader: _Reader, counts: Int64s, codes: NDArray[np.uint8], clock: Int64s) -> Entries:
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(bounds[-1]) - bounds[row]
    time = _times(kept, unzigzag(reader.numbers(place, row, codes[:, 0] & 15, counts)), row, bounds, clock)
    columns: dict[str, Column] = {}
    pool: pa.Array | None = None
    for position, spec in enumerate(kept.table.columns, start=1):
        numbers = reader.numbers(place, row, codes[:, position] & 15, counts)
        if spec.codec == "float":
            columns[spec.name] = _floats(numbers, (codes[:, position] >> 4)[row])
        elif spec.codec == "text":
            pool = reader.texts(numbers.astype(np.int64), bounds)
            columns[spec.name] = np.arange(len(pool))
        elif spec.codec in ("integer", "code"):
            columns[spec.name] = unzigzag(numbers)
        else:
            columns[spec.name] = numbers if spec.codec == "hash" else numbers.astype(np.int64)
    return Entries(row, time, columns, pool)


def _times(kept: Kept, stored: Int64s, row: Int64s, bounds: Int64s, clock: Int64s) -> Int64s:
    if kept.table.exact_times:
        return clock[row] - stored
    unit = kept.tiling.finest_ms
    anchor = clock // unit
    if isinstance(kept.table, Distinct):
        return (anchor[row] - stored) * unit
    running = np.concatenate([[0], np.cumsum(stored)])
    behind = running[bounds[1:]][row] - running[:-1]
    return (anchor[row] - behind) * unit


def _floats(numbers: Uint64s, form: NDArray[np.uint8]) -> NDArray[np.float64]:
    values = unzigzag(numbers).astype(np.float64)
    hundredths = form == HUNDREDTHS
    if hundredths.any():
        values[hundredths] /= 100
    raw = form == RAW
    if raw.any():
        values[raw] = numbers[raw].view(np.float64)
    return values
