"""Which instant a read without one is of: the wall's, or that of a stream which is replayed with its times kept."""

from __future__ import annotations

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView
from features.online_store import FeatureReader, ReadableStore
from features.rows import FeatureMatrix


class StreamClockReader:
    """Reads as of the newest known_at that was ever seen in a row: a user of last year's file is there, not long gone.

    Reading all items now and then, as the service does, keeps the clock at the stream's newest event.
    """

    def __init__(self, rows: ReadableStore, repo: FeatureRepo) -> None:
        self._now = 0
        self._reader = FeatureReader(rows, repo, lambda: self._now)

    def view(self, name: str, schema_hash: int | None = None) -> FeatureView:
        """As FeatureReader.view."""
        return self._reader.view(name, schema_hash)

    def read(
        self, view_name: str, keys: pa.Array, as_of: int | None = None, schema_hash: int | None = None
    ) -> FeatureMatrix:
        """The features of each key as of the stream's clock or ``as_of`` (ms). Raises what FeatureReader does."""
        matrix = self._reader.read(view_name, keys, as_of, schema_hash)
        newest = int(matrix.as_of.max(initial=0))
        if as_of is not None or newest <= self._now:
            return matrix
        self._now = newest  # a row is read as of its own clock at least, so this one was newer than we knew
        return self._reader.read(view_name, keys, None, schema_hash)
