"""Pending events that the rows have by now are deleted: now and then, behind a batch, and never in its way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from features.errors import StoreError
from features.online_store import ReadableStore, done_end

EVERY_S = 0.5


class Pruning:
    """Deletes what the generation's readers need no more; a store that does not answer keeps it until the next time."""

    def __init__(self, rows: ReadableStore, views: Sequence[str], stream_id: int) -> None:
        self._rows, self._views, self._stream_id = rows, tuple(views), stream_id
        self._pending = rows.pending()
        self._pruned_s = float("-inf")

    def after_batch(self) -> None:
        """Entries before the end of the last whole batch are gone, unless that was done a moment ago.

        While readers of any view have another generation, which may be behind, everything stays.
        """
        now_s = time.monotonic()
        if now_s < self._pruned_s + EVERY_S:
            return
        self._pruned_s = now_s
        with suppress(StoreError):
            if any(self._rows.current(view) != self._stream_id for view in self._views):
                return
            # By what the store says now: one that has lost its last writes needs the entries of before them again.
            marker = self._rows.generation(self._stream_id).marker()
            if marker is not None:
                self._pending.prune(done_end(marker))
