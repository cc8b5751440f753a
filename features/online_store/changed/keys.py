"""The keys of a view that have changed since a reader looked last, by one small read."""

from __future__ import annotations

import json

import pyarrow as pa

from features.definitions import FeatureView
from features.online_store.changed.log import ChangeLog, decoded, log_cell
from features.online_store.port import STATE, ReadableStore

UNKNOWN = -1
"""The generation before the first look."""


class ChangedKeys:
    """Follows the rows of a view that readers of its definition read; not for several threads."""

    def __init__(self, rows: ReadableStore, view: FeatureView) -> None:
        self._rows, self._view = rows, view
        self._stream_id: int | None = UNKNOWN
        self._done = -1

    def take(self) -> pa.Array | None:
        """The keys of rows that were changed since the last call; None where all may have been.

        Rows that are read after the call have these changes. What is pending, and what was deleted, is no change.
        Raises StoreError.
        """
        stream_id, done, log = self._look()
        before, since = self._stream_id, self._done
        self._stream_id, self._done = stream_id, done
        if stream_id != before or done < since:
            return None
        if done == since:
            return pa.array([], pa.string())
        keys = None if log is None else log.after(since)
        return None if keys is None else pa.array(keys, pa.string())

    def _look(self) -> tuple[int | None, int, ChangeLog | None]:
        """The generation, the last batch that is done, and the log."""
        view = self._view
        stream_id = self._rows.current_of(view.name, view.schema_hash)
        if stream_id is None:
            return None, -1, None
        marker, log = self._rows.get(stream_id, STATE, ["marker", log_cell(view.name)])
        return stream_id, -1 if marker is None else int(json.loads(marker)["done"]), decoded(log)
