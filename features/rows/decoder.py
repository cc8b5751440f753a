"""Decodes state rows, many at once; the error for a damaged or foreign row names it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Column, Entries, Int64s, concatenated
from features.definitions import FeatureView
from features.errors import CorruptRowError, ForeignRowError, HeadraceError
from features.hashing import Uint64s
from features.rows.layout import (
    HEADER,
    HUNDREDTHS,
    LARGEST_INTEGER,
    MAGIC,
    RAW,
    SMALLEST_INTEGER,
    VERSION,
    WIDTH_MASKS,
    Layout,
    RowState,
    binary_array,
    checksums,
    different,
    headers_at,
    offsets_of,
    unzigzag,
)
from features.rows.matrix import PackedRows
from features.rows.plan import TableSpec, plan_of


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
    headers[present] = headers_at(data, offsets[:-1][present])
    _check_identity(headers, data, offsets, present, keys, layout)
    return RowState(headers, _decode_tables(headers, data, offsets, present, layout))


def _readable(rows: pa.Array) -> tuple[NDArray[np.uint8], Int64s]:
    """The bytes of all rows, with 8 to spare at the end, and n + 1 offsets from 0."""
    offsets = offsets_of(rows)
    buffer = rows.buffers()[2]
    content = np.frombuffer(buffer, dtype=np.uint8) if buffer is not None else np.empty(0, np.uint8)
    data = np.zeros(int(offsets[-1] - offsets[0]) + 8, dtype=np.uint8)
    data[:-8] = content[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0]


def _name(keys: Sequence[object] | pa.Array, index: int) -> str:
    key = keys[int(index)]
    return repr(key.as_py() if isinstance(key, pa.Scalar) else key)


def _corrupt(layout: Layout, keys: Sequence[object] | pa.Array, index: int, got: str) -> CorruptRowError:
    where = f"feature view '{layout.view}': row {_name(keys, index)}"
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
    stored = headers[present]
    bad = np.flatnonzero((stored["magic"] != MAGIC) | (stored["version"] != VERSION))
    if len(bad):
        raise _corrupt(layout, keys, present[bad[0]], "bytes that no version of this codec wrote")
    if len(present):
        bounds = np.concatenate([[0], offsets[1:][present]])
        bad = np.flatnonzero(checksums(data, bounds) != stored["checksum"])
        if len(bad):
            raise _corrupt(layout, keys, present[bad[0]], "bytes that do not match their checksum")
    foreign = (stored["schema_hash"] != np.uint64(layout.schema_hash)) | (
        stored["stream_id"] != np.uint64(layout.stream_id)
    )
    if foreign.any():
        first = int(np.flatnonzero(foreign)[0])
        where = f"feature view '{layout.view}': row {_name(keys, present[first])}"
        required = f"definition {layout.schema_hash:016x} of stream {layout.stream_id:016x}"
        got = f"{stored['schema_hash'][first]:016x} of {stored['stream_id'][first]:016x}"
        raise ForeignRowError(where, required, got, "Run 'headrace features plan' to see what changed.")


class _Reader:
    """Walks through the rows' columns, all rows at once; ``at`` is the index of each row's next byte."""

    def __init__(self, data: NDArray[np.uint8], at: Int64s) -> None:
        self.data = data
        # Overlapping 8-byte words at every byte, so that one gather reads a number of any width.
        self.words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
        self.at = at

    def numbers(self, position: Int64s, row: Int64s, widths: NDArray[np.uint8], counts: Int64s) -> Uint64s:
        """The next column: numbers of each row's width; ``position`` is an entry's index in its row."""
        present = different(widths)
        if len(present) == 1:
            width = int(present[0])
            values: Uint64s = self.words[self.at[row] + position * width] & WIDTH_MASKS[width]
        else:
            each = widths.astype(np.int64)[row]
            values = self.words[self.at[row] + position * each] & WIDTH_MASKS[each]
        self.at = self.at + counts * widths
        return values

    def texts(self, lengths: Int64s, bounds: Int64s) -> pa.Array:
        """The next bytes: each row's concatenated texts."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        sizes = ends[bounds[1:]] - ends[bounds[:-1]]
        text_bytes = self.data[concatenated(self.at, sizes)]
        self.at = self.at + sizes
        return binary_array(ends, text_bytes).cast(pa.string())


def _decode_tables(
    headers: NDArray[np.void], data: NDArray[np.uint8], offsets: Int64s, present: Int64s, layout: Layout
) -> tuple[Entries, ...]:
    n, tables = len(headers), len(layout.tables)
    columns = sum(1 + len(spec.table.columns) for spec in layout.tables)
    reader = _Reader(data, offsets[:-1] + HEADER.itemsize)
    width = headers["directory"].astype(np.int64)
    counts = np.zeros((n, tables), dtype=np.int64)
    index = reader.at[present, None] + np.arange(tables) * width[present, None]
    counts[present] = (reader.words[index] & WIDTH_MASKS[width[present]][:, None]).astype(np.int64)
    codes = np.zeros((n, columns), dtype=np.uint8)
    codes[present] = data[(reader.at + width * tables)[present, None] + np.arange(columns)]
    reader.at = reader.at + width * tables + columns
    clock = headers["clock"].astype(np.int64)
    decoded, column = [], 0
    for number, spec in enumerate(layout.tables):
        decoded.append(_decode_table(spec, reader, counts[:, number], codes[:, column:], clock))
        column += 1 + len(spec.table.columns)
    return tuple(decoded)


def _decode_table(spec: TableSpec, reader: _Reader, counts: Int64s, codes: NDArray[np.uint8], clock: Int64s) -> Entries:
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(bounds[-1]) - bounds[row]
    widths, forms = codes & np.uint8(15), codes >> np.uint8(4)
    time = _times(spec, unzigzag(reader.numbers(position, row, widths[:, 0], counts)), row, bounds, clock)
    columns: dict[str, Column] = {}
    pool: pa.Array | None = None
    for number, column in enumerate(spec.table.columns, start=1):
        numbers = reader.numbers(position, row, widths[:, number], counts)
        if column.codec == "float":
            columns[column.name] = _floats(numbers, forms[:, number][row])
        elif column.codec == "text":
            pool = reader.texts(numbers.astype(np.int64), bounds)
            columns[column.name] = np.arange(len(pool))
        elif column.codec in ("integer", "code"):
            columns[column.name] = _integers(numbers, forms[:, number][row])
        else:
            columns[column.name] = numbers if column.codec == "hash" else numbers.astype(np.int64)
    return Entries(row, time, columns, pool)


def _times(spec: TableSpec, stored: Int64s, row: Int64s, bounds: Int64s, clock: Int64s) -> Int64s:
    if spec.table.exact_times:
        return subtracted(clock[row], stored)
    unit = spec.tiling.finest_ms
    anchor = clock // unit
    if spec.table.sorted_by_hash:
        return subtracted(anchor[row], stored) * unit
    running = np.concatenate([[0], np.cumsum(stored)])
    behind = running[bounds[1:]][row] - running[:-1]
    return subtracted(anchor[row], behind) * unit


def subtracted(minuend: Int64s, subtrahend: Int64s) -> Int64s:
    """The difference, as the integers that both are."""
    return np.subtract(minuend, subtrahend, dtype=np.int64)


def _floats(numbers: Uint64s, form: NDArray[np.uint8]) -> NDArray[np.float64]:
    values = unzigzag(numbers).astype(np.float64)
    hundredths = form == HUNDREDTHS
    if hundredths.any():
        values[hundredths] /= 100
    raw = form == RAW
    if raw.any():
        values[raw] = numbers[raw].view(np.float64)
    return values


def _integers(numbers: Uint64s, form: NDArray[np.uint8]) -> Int64s:
    values = unzigzag(numbers)
    raw = form == RAW
    if raw.any():
        floats = numbers[raw].view(np.float64)
        values[raw] = np.clip(floats, SMALLEST_INTEGER, LARGEST_INTEGER).astype(np.int64)
    return values


def layout_of(view: FeatureView, stream_id: int) -> Layout:
    """The layout of the rows of this view and stream."""
    return Layout(view.name, view.schema_hash, stream_id, plan_of(view).tables)


def refused(view: FeatureView, rows: PackedRows, stream_id: int) -> Exception:
    """The error of the first row that is damaged or foreign, among rows that a kernel refused."""
    try:
        decode(rows.values, rows.keys, layout_of(view, stream_id))
    except HeadraceError as error:
        return error
    return AssertionError("a row that only the compiled kernels refuse")
