"""The proof: every file below the project's folders is searched for the id, also within compressed ones.

Parquet files are read column by column, archives member by member, all others byte by byte.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.hashing import Uint64s

PIECE, OVERLAP = 1 << 22, 1 << 12

ZIPPED = (".npz", ".zip", ".skops", ".jar", ".whl")

ROWS = 1 << 14

LOOK = 1 << 13
"""Bytes of a file's beginning by which it is text or not."""


def files_of(folders: Iterable[Path], without: Iterable[Path]) -> Iterator[Path]:
    """Every file of the folders, once, and not of those that are left out."""
    left_out = [path.resolve() for path in without]
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            whole = path.resolve()
            if whole not in seen and path.is_file() and not any(whole.is_relative_to(each) for each in left_out):
                seen.add(whole)
                yield path


def is_binary(path: Path) -> bool:
    """True for a file that is no text, and none that is read by its columns."""
    if path.suffix == ".parquet":
        return False
    try:
        with path.open("rb") as file:
            return b"\0" in file.read(LOOK)
    except FileNotFoundError:
        return False


def times_in(path: Path, pattern: re.Pattern[bytes]) -> int:
    """How many times the file has the id; 0 for a file that has gone meanwhile."""
    try:
        if path.suffix == ".parquet":
            return _in_parquet(path, pattern)
        if path.suffix in ZIPPED and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return sum(_in_bytes(archive.open(name), pattern) for name in archive.namelist())
        with path.open("rb") as file:
            return _in_bytes(file, pattern)
    except FileNotFoundError:
        return 0


def _in_bytes(file: object, pattern: re.Pattern[bytes]) -> int:
    count, rest = 0, b""
    while piece := file.read(PIECE):  # type: ignore[attr-defined]
        whole = rest + piece
        # What begins in the overlap is found in the next piece.
        keep = min(OVERLAP, len(whole)) if len(piece) == PIECE else 0
        count += sum(1 for found in pattern.finditer(whole) if found.start() < len(whole) - keep)
        rest = whole[len(whole) - keep :]
    return count + (len(pattern.findall(rest)) if rest else 0)


def _in_parquet(path: Path, pattern: re.Pattern[bytes]) -> int:
    import pyarrow.parquet as pq

    count = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            for column in batch.columns:
                count += _in_column(column, pattern)
    return count


def _in_column(column: pa.Array, pattern: re.Pattern[bytes]) -> int:
    kind = column.type
    if pa.types.is_nested(kind):
        return sum(len(pattern.findall(str(value).encode())) for value in column.to_pylist())
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_integer(kind):
        column = column.cast(pa.string())
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return 0
    values = (value for value in column.drop_null().to_pylist())
    return sum(len(pattern.findall(value if isinstance(value, bytes) else value.encode())) for value in values)


def hashed_in(path: Path, hashes: Uint64s) -> bool:
    """True if the file is a model's candidate tables, and the users in it have one of these hashes."""
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return "users" in arrays.files and bool(np.isin(arrays["users"], hashes).any())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
