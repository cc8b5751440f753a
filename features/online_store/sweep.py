"""Deletes rows of entities that were not seen for long: those that are NOT_FOUND to every reader.

A row goes when its newest event is older than twice the view's ttl by the clock of the view's own streams, as
finalize() says. Wall-clock time alone, or the clock of a stream of another time, would delete the rows of a replayed
stream; the streams' clocks alone, the rows of all entities without an event since a record from the future. A page at a
time, so that no batch waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from features.definitions import FeatureView
from features.online_store.generation import GenerationStore
from features.online_store.port import Cells, Cursor
from features.times import now_ms

START: Cursor = (0, 0)


class Sweeper:
    """Sweeps the views of a generation in turn; only for its driver, between batches.

    Args:
        every_s: the time between two pages of tick().
    """

    def __init__(self, cells: Cells, stream_id: int, views: Sequence[FeatureView], every_s: float = 1.0) -> None:
        self._every_s, self._swept_s = every_s, float("-inf")
        self._generation = GenerationStore(cells, stream_id)
        self._views = tuple(views)
        self._number, self._cursor = 0, START

    def tick(self, clocks_ms: Mapping[str, int]) -> None:
        """Sweep a page, unless the last sweep was less than every_s ago.

        Args:
            clocks_ms: by stream, the newest known_at; a view none of whose streams is named is not swept.
        """
        now_s = time.monotonic()
        if now_s < self._swept_s + self._every_s:
            return
        self._swept_s = now_s
        clock_ms = max((clocks_ms.get(stream.name, 0) for stream in self._views[self._number].streams), default=0)
        if clock_ms:
            self.page(min(clock_ms, now_ms()))
        else:
            self._next_view()

    def page(self, clock_ms: int) -> int:
        """Sweep the next page; the number of rows that were deleted.

        Args:
            clock_ms: the clock of the view that is swept next.

        Raises:
            LeaseError, FenceError: as a batch's.
        """
        view = self._views[self._number]
        self._generation.begin()
        self._cursor, gone = self._generation.sweep(view.name, clock_ms - 2 * view.ttl_ms, self._cursor)
        if self._cursor == START:
            self._next_view()
        return gone

    def _next_view(self) -> None:
        self._number = (self._number + 1) % len(self._views)
