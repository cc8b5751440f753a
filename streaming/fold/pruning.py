"""Deletes pending events that the rows have by now: now and then, after a batch, without delaying the next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from features.errors import StoreError
from features.online_store import ReadableStore, done_end

EVERY_S = 0.5


class Pruning:
    """Deletes pending events that the generation's readers no longer need; tried again later if the store fails."""

    def __init__(self, rows: ReadableStore, views: Sequence[str], stream_id: int) -> None:
        self._rows, self._views, self._stream_id = rows, tuple(views), stream_id
        self._pending = rows.pending()
        self._pruned_s = float("-inf")

    def after_batch(self) -> None:
        """Delete the entries before the end of the last whole batch, unless that was done a moment ago.

        While readers of any view have another generation, which may be behind, everything stays.
        """
        now_s = time.monotonic()
        if now_s < self._pruned_s + EVERY_S:
            return
        self._pruned_s = now_s
        with suppress(StoreError):
            if any(self._rows.current(view) != self._stream_id for view in self._views):
                return
            # By the store's present marker: one that has lost its last writes needs the entries before them again.
            marker = self._rows.generation(self._stream_id).marker()
            if marker is not None:
                self._pending.prune(done_end(marker))
