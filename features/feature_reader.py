"""Features of entities now: one read of the online store, finalized."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features.errors import UsageError
from features.repo import FeatureRepo
from features.state import FeatureMatrix, PackedRows, finalize

NO_GENERATION = 0


class ReadableRows(Protocol):
    """An online store, as readers see it (SqliteRows, RedisRows)."""

    def read(self, view: str, keys: pa.Array, /) -> tuple[pa.Array, int | None]:
        """The row of each key (null where there is none), and their generation (None: the view has none)."""


def wall_clock_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class FeatureReader:
    """Reads the views of a repo; may be shared by threads where the store may.

    Args:
        clock: what ``as_of`` is where none is asked for (ms).
    """

    def __init__(self, rows: ReadableRows, repo: FeatureRepo, clock: Callable[[], int] = wall_clock_ms) -> None:
        self._rows = rows
        self._repo = repo
        self._clock = clock

    def read(self, view_name: str, keys: pa.Array, as_of: int | None = None) -> FeatureMatrix:
        """The features of each key (text, see columns.entity_keys) as of now or ``as_of`` (ms), in the keys' order.

        NOT_FOUND where a key is null, and everywhere as long as the view has no generation.

        Raises:
            StoreError: the store does not answer.
            UsageError: the repo has no such view.
        """
        view = self._repo.views.get(view_name)
        if view is None:
            known = ", ".join(self._repo.views)
            raise UsageError("a read of features", f"a feature view of the repo ({known})", f"'{view_name}'")
        values, stream_id = self._rows.read(view_name, keys.fill_null(""))
        if keys.null_count:
            values = pc.if_else(keys.is_valid(), values, None)
        at = self._clock() if as_of is None else as_of
        return finalize(view, PackedRows(keys, values), at, NO_GENERATION if stream_id is None else stream_id)
