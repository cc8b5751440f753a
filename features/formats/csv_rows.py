"""CSV files as tables of cells, in bounded chunks: a row that is broken is refused alone, whatever stands beside it.

A row has as many cells as the header and ends where its line does, or inside a quoted cell later. A quote that begins a
cell ends it before the next separator or the row's end; a row that breaks this, or whose quoted cell never ends, is
refused as one line, and the next line is a row again. Only an empty cell without quotes is null. Lines of nothing are
no rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from features.errors import FormatError
from features.events import Problems, show, typed
from features.formats.files import BOM, LONGEST_LINE, PROBLEM, InputFile, format_errors, require_columns, with_problems

HEADER_BYTES = 1 << 16
SPARE = 1 << 16
"""The bytes of memory beside those of a block, for the end of the block before."""
LONGEST_ROW = 1 << 20
"""The bytes in which a row with a quoted cell has to end."""
OTHER_KINDS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PK\x03\x04": "an Excel workbook or a zip file",
    b"PAR1": "a Parquet file",
}
"""First bytes → what a file is that is no CSV."""
BROKEN = "a row requires {} cells, and a quoted cell quotes around all of it"
NEWLINE, RETURN, QUOTE = b'\n\r"'
BLANK = re.compile(rb"[\r\n]*+")


def csv_header(source: InputFile) -> list[str]:
    """The column names of a CSV file."""
    with format_errors(source, "a whole CSV file"), pa.input_stream(str(source.path)) as stream:
        head = stream.read(HEADER_BYTES)
    kind = next((kind for mark, kind in OTHER_KINDS.items() if head.startswith(mark)), None)
    if kind:
        raise FormatError(source.where, "a CSV file in UTF-8", kind, "Save it as CSV in UTF-8.")
    return _names(head)


def _names(head: bytes) -> list[str]:
    text = head.removeprefix(BOM).decode(errors="replace")
    return next((row for row in csv.reader(io.StringIO(text, newline="")) if row), [])


def csv_cells(source: InputFile, columns: Iterable[str], tabs: bool = False) -> Iterator[pa.Table]:
    """These columns of a CSV file as bytes, all null in a row that is refused, and PROBLEM: the reason why it is.

    Args:
        tabs: the file is separated by tabs and has no header; its columns are ``columns``, in their order.
    """
    columns = list(dict.fromkeys(columns))
    names = columns if tabs else csv_header(source)
    if not tabs:
        require_columns(source, columns, names)
    rows = _Rows(len(names), tuple(names.index(name) for name in columns), b"\t" if tabs else b",")
    with format_errors(source, "a whole CSV file"), pa.input_stream(str(source.path)) as stream:
        header, at_end = not tabs, False
        block = _Block(stream, source.block_bytes)
        while not at_end:
            at_end = not block.read()
            end = block.end if at_end else block.last_line_end()
            if end == 0 and block.end > LONGEST_LINE:
                raise FormatError(source.where, f"lines of at most {LONGEST_LINE >> 20} MiB", "a longer one")
            start = rows.after_header(block.data(0, block.end)) if header and end else 0
            header &= not end
            table, used = rows.read(block.data(start, end), at_end)
            block.drop(start + used)
            if table.num_rows:
                yield table.rename_columns([*columns, PROBLEM])


def read_csv(source: InputFile, dtypes: Mapping[str, str], tabs: bool = False) -> Iterator[pa.Table]:
    """These columns of a CSV file with their dtypes, and PROBLEM: why a row is refused, whose bad cell is null."""
    for cells in csv_cells(source, dtypes, tabs):
        problems: Problems = {}
        columns = {name: typed(cells[name], dtype, name, problems) for name, dtype in dtypes.items()}
        yield pa.table({**columns, PROBLEM: with_problems(cells[PROBLEM], problems)})


class _Block:
    """The bytes of a file that are looked at now, in memory that is used again for those that follow."""

    def __init__(self, stream: Any, size: int) -> None:
        self._stream, self._size = stream, size
        first = stream.read(len(BOM)).removeprefix(BOM)
        self._memory = bytearray(size + SPARE)
        self._memory[: len(first)] = first
        self.end = len(first)

    def read(self) -> int:
        """Append the next ``size`` bytes at most; their number."""
        if len(self._memory) < self.end + self._size:
            self._memory = self._memory[: self.end] + bytearray(self._size + SPARE)
        count = int(self._stream.readinto(memoryview(self._memory)[self.end : self.end + self._size]))
        self.end += count
        return count

    def last_line_end(self) -> int:
        """The end of the last whole line; of a file that ends its lines with returns alone, too."""
        return self._memory.rfind(b"\n", 0, self.end) + 1 or self._memory.rfind(b"\r", 0, max(self.end - 1, 0)) + 1

    def data(self, start: int, end: int) -> memoryview:
        """These bytes, until they are dropped."""
        return memoryview(self._memory)[start:end]

    def drop(self, count: int) -> None:
        """Move what follows the first ``count`` bytes to the beginning."""
        self._memory[: self.end - count] = self._memory[count : self.end]
        self.end -= count


@dataclass(frozen=True)
class _Rows:
    """The rows of a file: the number of their cells, the places of those to read, and the separator."""

    cells: int
    wanted: tuple[int, ...]
    separator: bytes

    def after_header(self, data: memoryview) -> int:
        """The end of the first row that is not empty."""
        first = BLANK.match(data)
        row = self._row.match(data, first.end() if first else 0)
        return row.end() if row else bytes(data).find(b"\n") + 1 or len(data)

    def read(self, data: memoryview, at_end: bool) -> tuple[pa.Table, int]:
        """The rows of whole lines, and the bytes that they take: a last row that may go on is left."""
        cells = self._all(data) if self._regular(data) else None
        if cells is not None:
            return cells.append_column(PROBLEM, pa.nulls(len(cells), pa.string())), len(data)
        return self._one_by_one(bytes(data), at_end)

    def _all(self, data: memoryview) -> pa.Table | None:
        """The cells of all rows, where each has the right number of them."""
        try:
            return self._parsed(data)
        except pa.ArrowInvalid:
            return None

    def _parsed(self, data: bytes | memoryview) -> pa.Table:
        import pyarrow.csv as pacsv

        names = [str(number) for number in range(self.cells)]
        wanted = [names[place] for place in self.wanted]
        if not data:
            return pa.table({name: pa.array([], pa.binary()) for name in wanted})
        return pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            pacsv.ParseOptions(newlines_in_values=True, delimiter=self.separator.decode()),
            pacsv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.binary()),
                include_columns=wanted,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _regular(self, data: memoryview) -> bool:
        """True if quotes are where a quoted cell begins or ends, or in pairs inside, as far as the block shows."""
        octets = np.frombuffer(data, dtype=np.uint8)
        quotes = np.flatnonzero(octets == QUOTE)
        if len(quotes) % 2:
            return False
        return bool(self._may_open(octets, quotes[::2]).all() and self._may_close(octets, quotes[1::2]).all())

    def _in_place(self, octets: NDArray[np.uint8], quotes: Int64s, opens: Bools) -> Bools:
        """True for quotes that begin a cell or end one, or are one of two that stand for one, given which open."""
        in_place: Bools = np.where(opens, self._may_open(octets, quotes), self._may_close(octets, quotes))
        return in_place

    def _may_open(self, octets: NDArray[np.uint8], quotes: Int64s) -> Bools:
        """True for quotes that a cell may begin with, or that stand behind another."""
        opens: Bools = self._edge.take(octets.take(quotes - 1, mode="wrap")) | (quotes == 0)
        return opens

    def _may_close(self, octets: NDArray[np.uint8], quotes: Int64s) -> Bools:
        """True for quotes that a cell may end with, or that stand before another."""
        closes: Bools = self._edge.take(octets.take(quotes + 1, mode="clip"))
        return closes

    @cached_property
    def _edge(self) -> Bools:
        """Byte → True if it stands beside a quoted cell: a separator, a line's end or another quote."""
        edge: Bools = np.zeros(256, dtype=bool)
        edge[[NEWLINE, RETURN, QUOTE, self.separator[0]]] = True
        return edge

    # --- blocks with a row that is no line or is broken ---------------------------------------------------------------

    def _one_by_one(self, data: bytes, at_end: bool) -> tuple[pa.Table, int]:
        """As read(): every row judged alone; only lines with quotes out of place are looked at one at a time."""
        starts, ends, cells = self._lines(data)
        reasons: Problems = {}
        whole = np.ones(len(starts), dtype=bool)
        used, done = len(data), 0
        for line in np.flatnonzero(cells < 0).tolist():
            if starts[line] < done:
                continue
            row_end = self._row_end(data, int(starts[line]))
            if row_end is None and not at_end and len(data) - int(starts[line]) < LONGEST_ROW:
                used = int(starts[line])
                whole[line:] = False
                break
            if not row_end:
                reasons[line] = f"bad_row: {BROKEN.format(self.cells)}; got {_shown(data[starts[line] : ends[line]])}"
                continue
            done = row_end
            last = int(np.searchsorted(ends, row_end))
            whole[line + 1 : last + 1] = False
            ends[line], cells[line] = row_end, self.cells
        blank = (cells == 1) & (self._stripped(data, starts, ends) == 0)
        whole &= ~blank
        for line in np.flatnonzero(whole & (cells != self.cells) & (cells >= 0)).tolist():
            reasons[line] = f"bad_row: a row requires {self.cells} cells, as the header has; got {cells[line]}"
        bad = np.zeros(len(starts), dtype=bool)
        bad[list(reasons)] = True
        rows = np.flatnonzero(whole)
        good = whole & ~bad
        parsed = self._parsed(b"".join(data[a:b] for a, b in _runs(starts, ends, good)))
        places = np.cumsum(good)[rows] - 1
        table = parsed.take(pa.array(places, mask=bad[rows]))
        return table.append_column(PROBLEM, pa.array([reasons.get(row) for row in rows.tolist()], pa.string())), used

    def _lines(self, data: bytes) -> tuple[Int64s, Int64s, Int64s]:
        """Start, end and number of cells of each line; -1 cells where its quotes do not show them."""
        octets = np.frombuffer(data, dtype=np.uint8)
        returns = np.flatnonzero(octets == RETURN)
        alone = returns[octets[np.minimum(returns + 1, len(octets) - 1)] != NEWLINE] if len(returns) else returns
        ends = np.sort(np.concatenate([np.flatnonzero(octets == NEWLINE), alone])) + 1
        if len(ends) == 0 or ends[-1] < len(data):
            ends = np.append(ends, len(data))
        starts = np.concatenate([[0], ends[:-1]])
        quotes = np.flatnonzero(octets == QUOTE)
        line = np.searchsorted(ends, quotes, side="right")
        first = np.searchsorted(quotes, starts)
        out_of_place = ~self._in_place(octets, quotes, (np.arange(len(quotes)) - first[line]) % 2 == 0)
        odd = np.bincount(line, minlength=len(ends)) % 2 == 1
        odd[line[out_of_place]] = True
        separators = np.flatnonzero(octets == self.separator[0])
        at = np.searchsorted(ends, separators, side="right")
        outside = (np.searchsorted(quotes, separators) - first[at]) % 2 == 0
        cells = np.bincount(at[outside], minlength=len(ends)) + 1
        return starts, ends, np.where(odd, -1, cells)

    def _stripped(self, data: bytes, starts: Int64s, ends: Int64s) -> Int64s:
        """The length of each line that is at most two bytes without its end; others as they are."""
        lengths = ends - starts
        for line in np.flatnonzero(lengths <= len(b"\r\n")).tolist():
            lengths[line] = len(data[starts[line] : ends[line]].strip(b"\r\n"))
        return lengths

    def _row_end(self, data: bytes, start: int) -> int | None:
        """The end of the row that starts there; 0 where it is broken, None where a quoted cell does not end."""
        stop = min(len(data), start + LONGEST_ROW)
        row = self._row.match(data, start, stop)
        if row and (row.end() < stop or stop == len(data)):
            return row.end()
        return None if self._open.match(data, start, stop) else 0

    @cached_property
    def _cell(self) -> bytes:
        separator = re.escape(self.separator)
        return rb'(?:"(?:[^"]|"")*+"|(?:[^"\r\n' + separator + rb"][^\r\n" + separator + rb"]*+)?+)"

    @cached_property
    def _row(self) -> re.Pattern[bytes]:
        """A row with the right number of cells, and its end."""
        more = rb"(?:%b%b){%d}" % (re.escape(self.separator), self._cell, self.cells - 1)
        return re.compile(self._cell + more + rb"(?:\r\n|\n|\r|\Z)")

    @cached_property
    def _open(self) -> re.Pattern[bytes]:
        """A row whose data ends inside a quoted cell."""
        before = rb"(?:%b%b){0,%d}+" % (self._cell, re.escape(self.separator), max(self.cells - 1, 0))
        return re.compile(before + rb'"(?:[^"]|"")*+\Z')


def _runs(starts: Int64s, ends: Int64s, good: Bools) -> Iterator[tuple[int, int]]:
    """Start and end of the bytes of good rows that follow each other."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield int(starts[first]), int(ends[stop - 1])


def _shown(line: bytes) -> str:
    return show(line.strip(b"\r\n").decode(errors="replace"))
