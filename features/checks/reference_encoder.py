"""State rows to bytes, many rows at once: the reference for the compiled fold, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Column, Entries, Int64s, row_bounds
from features.hashing import Uint64s
from features.rows import (
    EXACT,
    HUNDREDTHS,
    MAGIC,
    RAW,
    VERSION,
    WHOLE,
    WIDTH_LIMITS,
    Layout,
    RowState,
    TableSpec,
    binary_array,
    checksums,
    different,
    offsets_of,
    zigzag,
)


@dataclass(frozen=True)
class _Block:
    """A column of n rows as bytes: a code (form and width) for each row, and the concatenated binary values."""

    codes: NDArray[np.uint8]
    pieces: tuple[pa.Array, ...]


def encode(state: RowState, layout: Layout) -> pa.Array:
    """The binary value of each row."""
    n = len(state.headers)
    if not n:
        return pa.array([], type=pa.binary())
    bounds = [row_bounds(entries.row, n) for entries in state.tables]
    counts = np.column_stack([np.diff(bound) for bound in bounds]) if bounds else np.zeros((n, 0), dtype=np.int64)
    blocks: list[_Block] = []
    for table_spec, entries, bound in zip(layout.tables, state.tables, bounds, strict=True):
        blocks += _encode_table(table_spec, entries, bound, state.headers["clock"])
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


def _fixed(matrix: NDArray[np.uint8]) -> pa.Array:
    n, width = matrix.shape
    return binary_array(np.arange(n + 1) * width, np.ascontiguousarray(matrix))


def _padded(pieces: list[pa.Array]) -> pa.Array:
    lengths = sum(pc.binary_length(piece).to_numpy().astype(np.int64) for piece in pieces)
    padding = -lengths % 8
    zeros = binary_array(np.concatenate([[0], np.cumsum(padding)]), np.zeros(int(padding.sum()), dtype=np.uint8))
    return pc.binary_join_element_wise(*pieces, zeros, pa.scalar(b"", type=pa.binary()))


def _sealed(rows: pa.Array) -> pa.Array:
    offsets, data = offsets_of(rows), np.frombuffer(rows.buffers()[2], dtype=np.uint8).copy()
    sums = checksums(data, offsets)
    positions = offsets[:-1, None] + np.arange(4, 8)
    data[positions] = sums.astype("<u4").view(np.uint8).reshape(-1, 4)
    return binary_array(offsets, data)


def _encode_table(table_spec: TableSpec, entries: Entries, bounds: Int64s, clock: Int64s) -> list[_Block]:
    blocks = [_encode_numbers(_stored_times(table_spec, entries, bounds, clock), bounds)]
    for spec in table_spec.table.columns:
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


def _stored_times(table_spec: TableSpec, entries: Entries, bounds: Int64s, clock: Int64s) -> Uint64s:
    """Tiles: the distance to the next one, for the last to the clock, in finest tiles. Exact times: ms to the clock."""
    if table_spec.table.exact_times:
        return zigzag(clock[entries.row] - entries.time)
    unit = table_spec.tiling.finest_ms
    anchor = (clock // unit)[entries.row]
    tile = entries.time // unit
    if table_spec.table.sorted_by_hash:
        return zigzag(anchor - tile)
    following = np.append(tile[1:], 0)
    last = bounds[1:][np.diff(bounds) > 0] - 1
    following[last] = anchor[last]
    return zigzag(following - tile)


def _widths(values: Uint64s, bounds: Int64s) -> NDArray[np.uint8]:
    """The bytes of the largest number of each row."""
    largest = np.zeros(len(bounds) - 1, dtype=np.uint64)
    filled = np.diff(bounds) > 0
    if len(values):
        largest[filled] = np.maximum.reduceat(values, bounds[:-1][filled])
    return np.searchsorted(WIDTH_LIMITS, largest).astype(np.uint8)


def _encode_numbers(values: Uint64s, bounds: Int64s, widths: NDArray[np.uint8] | None = None) -> _Block:
    widths = _widths(values, bounds) if widths is None else widths
    counts = np.diff(bounds)
    pieces = []
    present = different(widths[counts > 0])
    for width in present[present > 0]:
        chosen = (widths == width) & (counts > 0)
        picked = values if len(present) == 1 else values[np.repeat(chosen, counts)]
        sizes = np.where(chosen, counts, 0) * int(width)
        pieces.append(binary_array(np.concatenate([[0], np.cumsum(sizes)]), low_bytes(picked, int(width))))
    return _Block(widths, tuple(pieces))


def low_bytes(values: Uint64s, width: int) -> NDArray[np.uint8]:
    """The ``width`` low bytes of each value, concatenated."""
    if width in (1, 2, 4):
        return values.astype(f"<u{width}").view(np.uint8)
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)[:, :width]


def _encode_floats(values: NDArray[np.float64], bounds: Int64s) -> _Block:
    """Each row's column in the first form that is exact."""
    with np.errstate(invalid="ignore", over="ignore"):
        hundredths = np.rint(values * 100)
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
    ends = offsets_of(texts)
    lengths = _encode_numbers(np.diff(ends).astype(np.uint64), bounds)
    data = texts.buffers()[2]
    encoded = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]] if data is not None else np.empty(0, np.uint8)
    return _Block(lengths.codes, (*lengths.pieces, binary_array(ends[bounds] - ends[0], encoded)))
