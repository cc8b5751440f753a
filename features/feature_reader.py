"""Features of entities now: one read of the online store, finalized.

view and keys ──stored──► rows' bytes and their generation ──finalize──► features
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from features.answers import make_ready
from features.definitions import FeatureView
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

    Making one takes as long as it takes to load the compiled kernels, so that no read does.

    Args:
        clock: what ``as_of`` is where none is asked for (ms).
    """

    def __init__(self, rows: ReadableRows, repo: FeatureRepo, clock: Callable[[], int] = wall_clock_ms) -> None:
        self._rows = rows
        self._repo = repo
        self._clock = clock
        for view in repo.views.values():
            make_ready(view)

    def read(self, view_name: str, keys: pa.Array, as_of: int | None = None) -> FeatureMatrix:
        """The features of each key (text, see columns.entity_keys) as of now or ``as_of`` (ms), in the keys' order.

        NOT_FOUND where a key is null, and everywhere as long as the view has no generation.

        Raises:
            StoreError: the store does not answer.
            UsageError: the repo has no such view.
        """
        view = self._view(view_name)
        rows, stream_id = self.stored(view, keys)
        return finalize(view, rows, self._clock() if as_of is None else as_of, stream_id)

    def stored(self, view: FeatureView, keys: pa.Array) -> tuple[PackedRows, int]:
        """What the store has of each key, null where that is nothing, and the generation that the rows are of."""
        values, stream_id = self._rows.read(view.name, keys.fill_null("") if keys.null_count else keys)
        if keys.null_count:
            values = pc.if_else(keys.is_valid(), values, None)
        return PackedRows(keys, values), NO_GENERATION if stream_id is None else stream_id

    def _view(self, name: str) -> FeatureView:
        view = self._repo.views.get(name)
        if view is None:
            known = ", ".join(self._repo.views)
            raise UsageError("a read of features", f"a feature view of the repo ({known})", f"'{name}'")
        return view
