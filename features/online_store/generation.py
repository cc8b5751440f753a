"""One driver's way into a generation: batch.Store over the cells of any database."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from features.batch import Marker
from features.duplicates import Decision, Prior
from features.online_store.cells import DEFINITIONS, STATE, Cells, Cursor, Put, Sweep, Version, rows_table
from features.online_store.memory_of_ids import Memory, merged, packed, prior_of
from features.rows import HEADER
from features.state import PackedRows

NEWEST = HEADER.fields["newest"][1] if HEADER.fields else 0
"""The octet of a row at which the time of its newest event stands."""


class Generation:
    """A batch.Store: every write checks the version that begin() or the write before has left.

    Args:
        horizons_ms: by stream, its dedupe_horizon: ids are forgotten when they can no longer matter (see
            memory_of_ids.py); an id of a stream that is not named is never forgotten.
    """

    def __init__(self, cells: Cells, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> None:
        self._cells = cells
        self._horizons_ms = dict(horizons_ms or {})
        self._version: Version = (0,)
        self._asked: dict[str, tuple[int, pa.Array, Prior]] = {}
        self.stream_id = stream_id

    def begin(self) -> None:
        self._version = self._cells.version(self.stream_id)
        self._asked.clear()

    def _write(self, puts: Mapping[str, Put], drop: tuple[str, ...] = ()) -> None:
        self._version = self._cells.write(self.stream_id, self._version, puts, drop)

    def _state(self, key: str) -> bytes | None:
        return self._cells.get(self.stream_id, STATE, [key])[0]

    def marker(self) -> Marker | None:
        value = self._state("marker")
        return None if value is None else Marker(**json.loads(value))

    def publish(self, marker: Marker) -> None:
        self._write({STATE: Put(["marker"], [_marker_bytes(marker)])})

    def describe(self, definitions: str) -> None:
        """Keep the definitions of its views (definitions/stored.py) with it."""
        self._write({STATE: Put([DEFINITIONS], [definitions.encode()])})

    def described(self) -> str | None:
        """What describe() kept; None where nothing was."""
        value = self._state(DEFINITIONS)
        return None if value is None else value.decode()

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        found = self._cells.get(self.stream_id, rows_table(view), keys.to_pylist())
        return pa.array(found, type=pa.binary())

    def put_rows(self, view: str, rows: PackedRows) -> None:
        self._write({rows_table(view): Put(rows.keys.to_pylist(), rows.values.to_pylist())})

    def sweep(self, view: str, below_ms: int, cursor: Cursor) -> tuple[Cursor, int]:
        """Delete rows whose newest event is older than ``below_ms`` from one page of the view's.

        Returns:
            Where the next page begins ((0, 0) at first, and after the last), and how many went.
        """
        sweep = Sweep(NEWEST, below_ms)
        self._version, cursor, gone = self._cells.sweep(self.stream_id, self._version, rows_table(view), sweep, cursor)
        return cursor, gone

    def remembered(self, stream: str, ids: pa.Array, batch_id: int) -> Prior:
        memory = self._memory(stream, batch_id)
        texts = ids.to_pylist()
        tables = [self._cells.get(self.stream_id, table, texts) for table in memory.tables]
        prior = prior_of(merged(tables, len(texts)), batch_id)
        self._asked[stream] = (batch_id, ids, prior)
        return prior

    def remember(self, stream: str, decision: Decision, batch_id: int) -> None:
        entries = packed(decision.last, self._before(stream, decision.ids, batch_id), batch_id)
        memory = self._memory(stream, batch_id)
        table, state = memory.with_batch(decision.last, batch_id)
        self._write(
            {table: Put(decision.ids.to_pylist(), entries), STATE: Put([f"memory/{stream}"], [state])},
            drop=tuple(memory.forgotten),
        )

    def _before(self, stream: str, ids: pa.Array, batch_id: int) -> Prior:
        """What was accepted before the batch; asked once, as a write tells if it has changed since begin()."""
        asked_for, asked_ids, prior = self._asked.get(stream, (None, None, None))
        if prior is not None and asked_for == batch_id and ids.equals(asked_ids):
            return prior
        return self.remembered(stream, ids, batch_id)

    def _memory(self, stream: str, batch_id: int) -> Memory:
        """The stream's memory as it was before the batch."""
        return Memory.before(stream, self._state(f"memory/{stream}"), batch_id, self._horizons_ms.get(stream))


def _marker_bytes(marker: Marker) -> bytes:
    fields = {"batch_id": marker.batch_id, "start": dict(marker.start), "end": dict(marker.end), "done": marker.done}
    return json.dumps(fields).encode()
