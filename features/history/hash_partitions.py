"""Tables split over files by a hash, so that a single bucket at a time is in memory, with all rows of its keys."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST = 512
"""Files that are open at once."""


class HashPartitions:
    """``count`` files in a folder of the caller's; rows are added to the file of their hash, then read file by file."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._count = min(count, MOST)
        self._writers: dict[int, pa.RecordBatchFileWriter] = {}
        self._schema: pa.Schema | None = None

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> HashPartitions:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def bucket_of(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The bucket of each hash."""
        return (hashes % np.uint64(self._count)).astype(np.int64)

    def add(self, table: pa.Table, hashes: NDArray[np.uint64]) -> None:
        """Add the rows to their buckets."""
        self._schema = table.schema
        bucket_of_row = self.bucket_of(hashes)
        order = np.argsort(bucket_of_row, kind="stable")
        ends = np.cumsum(np.bincount(bucket_of_row, minlength=self._count))
        ordered = table.take(pa.array(order))
        for bucket in np.unique(bucket_of_row).tolist():
            start = int(ends[bucket - 1]) if bucket else 0
            self._writer(bucket).write_table(ordered.slice(start, int(ends[bucket]) - start))

    def close(self) -> None:
        """End the adding of rows: they can be read then."""
        for writer in self._writers.values():
            writer.close()

    def read(self, bucket: int) -> pa.Table | None:
        """The bucket's rows in the order in which they were added; None for none."""
        if bucket not in self._writers:
            return None
        with pa.memory_map(str(self._path(bucket))) as file:
            return pa.ipc.open_file(file).read_all()

    def _path(self, bucket: int) -> Path:
        return self._folder / f"{bucket}.arrow"

    def _writer(self, bucket: int) -> pa.RecordBatchFileWriter:
        if bucket not in self._writers:
            self._writers[bucket] = pa.ipc.new_file(str(self._path(bucket)), self._schema)
        return self._writers[bucket]
