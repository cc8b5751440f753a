"""Readers around FeatureReader: one observes the age of the features, one has the clock of the stream."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView
from features.online_store import FeatureReader, ReadableStore
from features.rows import FeatureMatrix, Status


class Reader(Protocol):
    """The features of entities now, from the online store (see features.online_store.reader)."""

    def view(self, name: str, schema_hash: int | None = None) -> FeatureView:
        """The view, or another definition of it which has rows. Raises StoreError, and UsageError where none has."""

    def read(
        self, view_name: str, keys: pa.Array, as_of: int | None = None, schema_hash: int | None = None
    ) -> FeatureMatrix:
        """One row for each key, by the view of the repo or by another definition. Raises as ``view``."""


class ObservedReader:
    """Observes the reads of one entity by view; reads of many entities are the service's own, not a request's.

    Args:
        ages: prometheus_client's Histogram with the label view, in seconds.
        without_pending: its Counter with the label view, of reads that lack pending events.
    """

    def __init__(self, reader: Reader, ages: Any, without_pending: Any) -> None:
        self._reader, self._ages, self._without_pending = reader, ages, without_pending

    def view(self, name: str, schema_hash: int | None = None) -> FeatureView:
        """As the reader's."""
        return self._reader.view(name, schema_hash)

    def read(
        self, view_name: str, keys: pa.Array, as_of: int | None = None, schema_hash: int | None = None
    ) -> FeatureMatrix:
        """As the reader's."""
        matrix = self._reader.read(view_name, keys, as_of, schema_hash)
        if matrix.without_pending:
            self._without_pending.labels(view_name).inc()
        if len(keys) == 1:
            observe_ages(self._ages, view_name, matrix)
        return matrix


def observe_ages(ages: Any, view: str, matrix: FeatureMatrix) -> None:
    """Counts the age of each entity's newest event, but for those that were not found."""
    found = matrix.status != Status.NOT_FOUND
    for age_ms in (matrix.as_of - matrix.newest_event)[found].tolist():
        ages.labels(view).observe(max(age_ms, 0) / 1000)


class StreamClockReader:
    """Reads as of the newest known_at seen in any row, so that in a replay a user of last year's file is PRESENT.

    Reading all items periodically, as the service does, keeps the clock at the stream's newest event.
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
        self._now = newest  # rows are read as of their own clock at least: this one is newer than ours
        return self._reader.read(view_name, keys, None, schema_hash)
