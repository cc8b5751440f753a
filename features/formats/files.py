"""Files to Arrow tables: Parquet, CSV and lines of text in bounded chunks, with ids of their rows.

A chunk is a number of rows of Parquet, or of bytes of text, so that a file may be larger than memory. An error of a
library on a damaged file becomes a FormatError that names the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import single_array
from features.definitions import Stream
from features.errors import FormatError
from features.events import ARROW, Problems, ms_of_numbers, ms_of_timestamps

Columns = Any
"""A pa.ChunkedArray or pa.Array; pyarrow has no stubs to tell them apart."""

PROBLEM = "__problem"
"""The column of a table that says why a row is refused; null where it is not."""

CHUNK_ROWS = 65_536
BYTES_PER_ROW = 128
"""The assumed size of a row of text, for chunks that are measured in bytes."""
LONGEST_LINE = 64 << 20
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class InputFile:
    """A file or folder to read; for a mapped format with its stream (``target``) and our column → the file's.

    ``keys`` are the stream's fields that are keys of entities.
    """

    path: Path
    target: Stream | None = None
    columns: Mapping[str, str] | None = None
    chunk_rows: int = CHUNK_ROWS
    keys: frozenset[str] = frozenset()

    @property
    def block_bytes(self) -> int:
        """The size of a chunk of text."""
        return max(self.chunk_rows * BYTES_PER_ROW, 1 << 16)

    @property
    def where(self) -> str:
        """Its name in errors."""
        return f"file '{self.path}'"


def file_digest(path: Path) -> str:
    """The first 8 hex digits of the SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def row_ids(above: str | Columns, rows: Columns) -> Columns:
    """Event ids for records without one: the file's digest (or the id of the record around an element), '-', row."""
    return pc.binary_join_element_wise(
        pa.scalar(above) if isinstance(above, str) else above, pc.cast(rows, pa.string()), pa.scalar("-")
    )


def numbered(tables: Iterable[pa.Table], path: Path) -> Iterator[pa.Table]:
    """The tables with the row number in the file as ``offset``, and ``event_id`` made of it unless they have one."""
    digest = file_digest(path)
    start = 0
    for table in tables:
        rows = pa.chunked_array([np.arange(start, start + table.num_rows, dtype=np.int64)])
        start += table.num_rows
        ids = table["event_id"] if "event_id" in table.column_names else row_ids(digest, rows)
        yield pa.table({**_columns(table), "offset": rows, "event_id": ids})


def _columns(table: pa.Table) -> dict[str, Columns]:
    return dict(zip(table.column_names, table.columns, strict=True))


def with_problems(column: Columns, problems: Problems) -> Columns:
    """The column PROBLEM with these reasons for rows that have none yet."""
    if not problems:
        return column
    texts = column.to_pylist()
    for row, text in problems.items():
        texts[row] = texts[row] or text
    return pa.chunked_array([pa.array(texts, pa.string())])


@contextmanager
def format_errors(source: InputFile, required: str) -> Iterator[None]:
    """Turns a library's error on a damaged file into a FormatError."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        got = f"{type(error).__name__}: {error}".rstrip(". ")
        next_step = "Fetch or write the file anew, or choose another format."
        raise FormatError(source.where, required, got, next_step) from error


def require_columns(source: InputFile, required: Iterable[str], present: Iterable[str]) -> None:
    """Raises FormatError unless the file has each of the columns exactly once."""
    required, present = list(required), list(present)
    repeated = [name for name in required if present.count(name) > 1]
    if repeated:
        raise FormatError(
            source.where, f"one column {repeated[0]!r}", f"{present.count(repeated[0])} of that name", "Rename one."
        )
    missing = [name for name in required if name not in present]
    if missing:
        raise FormatError(source.where, f"column {', '.join(map(repr, missing))}", ", ".join(present) or "no columns")


def parquet_columns(source: InputFile) -> pa.Schema:
    """The schema of a Parquet file."""
    import pyarrow.parquet as pq

    with format_errors(source, "a whole Parquet file"):
        return pq.read_schema(source.path)


def read_parquet(source: InputFile, columns: Iterable[str]) -> Iterator[pa.Table]:
    """These columns of a Parquet file, ``chunk_rows`` rows at a time."""
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(columns))
    require_columns(source, columns, parquet_columns(source).names)
    with format_errors(source, "a whole Parquet file"), pq.ParquetFile(source.path) as file:
        for batch in file.iter_batches(source.chunk_rows, columns=columns):
            yield pa.table(batch)


def read_lines(source: InputFile) -> Iterator[list[bytes]]:
    """The lines of a text file, about ``block_bytes`` of them at a time; the last may lack its newline."""
    rest = b""
    with format_errors(source, "a whole text file"), pa.input_stream(str(source.path)) as stream:
        rest = stream.read(len(BOM)).removeprefix(BOM)
        while block := stream.read(source.block_bytes):
            *lines, rest = (rest + block).split(b"\n")
            if lines:
                yield lines
            if len(rest) > LONGEST_LINE:
                raise FormatError(source.where, f"lines of at most {LONGEST_LINE >> 20} MiB", "a longer one")
    if rest:
        yield [rest]


def to_ms(column: Columns, unit: str, where: str) -> Columns:
    """A time column for from_columns: int64 ms of numbers and timestamps (no zone: UTC); text is unchanged."""
    if pa.types.is_timestamp(column.type):
        return ms_of_timestamps(single_array(column))
    if pa.types.is_integer(column.type):
        within = (
            pc.min_element_wise(column, pa.scalar(2**63 - 1, pa.uint64()))
            if pa.types.is_uint64(column.type)
            else column
        )
        return ms_of_numbers(single_array(within).cast(pa.int64()), unit)
    if _is_text(column.type):
        return cast(column, "string", where)
    raise FormatError(where, "integers, timestamps or RFC 3339 text", str(column.type))


def cast(column: Columns, dtype: str, where: str) -> Columns:
    """The column in our dtype. Raises FormatError if the conversion would lose information."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if column.type == ARROW[dtype]:
        return column
    if not (pa.types.is_null(column.type) or any(holds(column.type) for holds in LOSSLESS[dtype])):
        next_step = "Declare the field with that dtype, or write the column anew."
        raise FormatError(where, dtype, str(column.type), next_step)
    try:
        return pc.cast(column, ARROW[dtype], safe=dtype != "float64")
    except pa.ArrowInvalid as error:
        raise FormatError(where, dtype, f"{column.type} ({error})") from error


def _is_text(dtype: pa.DataType) -> bool:
    return dtype in (pa.string(), pa.large_string(), pa.string_view())


LOSSLESS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "string": (_is_text, pa.types.is_integer),
    "int64": (pa.types.is_integer, pa.types.is_floating),
    "float64": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    "bool": (),
}
"""Our dtype → Arrow types of files that convert to it. Floats may be pandas' integers with nulls: whole ones pass."""
