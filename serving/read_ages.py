"""How old what is read is: from an entity's newest event to the read that answers a request."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from features.state import FeatureMatrix, Status

AGES_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600, 86_400, 604_800)
"""Upper ends of the histogram's classes, in seconds."""


class Reader(Protocol):
    """The features of entities now (features.feature_reader)."""

    def read(self, view_name: str, keys: pa.Array, as_of: int | None = None) -> FeatureMatrix:
        """One row for each key."""


class ObservedReader:
    """A reader whose reads of one entity are observed, by view; those of many are the service's own and not a request.

    Args:
        ages: prometheus_client's Histogram with the label view, in seconds.
    """

    def __init__(self, reader: Reader, ages: Any) -> None:
        self._reader, self._ages = reader, ages

    def read(self, view_name: str, keys: pa.Array, as_of: int | None = None) -> FeatureMatrix:
        """As the reader's."""
        matrix = self._reader.read(view_name, keys, as_of)
        if len(keys) == 1 and matrix.status[0] != Status.NOT_FOUND:
            age_ms = max(int(matrix.as_of[0]) - int(matrix.newest_event[0]), 0)
            self._ages.labels(view_name).observe(age_ms / 1000)
        return matrix
