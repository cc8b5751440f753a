"""One driver's way into a generation: batch.Store over the cells of any database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from features.batch import Marker
from features.duplicates import Decision, Prior
from features.hashing import Uint64s, fingerprints
from features.online_store.cells import DEFINITIONS, STATE, Cells, Cursor, Put, Sweep, Version, rows_table
from features.online_store.memory_of_ids import Index, Memory
from features.online_store.seen_ids import Block
from features.rows import HEADER
from features.state import PackedRows

NEWEST = HEADER.fields["newest"][1] if HEADER.fields else 0
"""The octet of a row at which the time of its newest event stands."""


@dataclass(frozen=True)
class _Asked:
    """What was asked of a stream's memory for a batch: its ids, their fingerprints, and the answer."""

    batch_id: int
    ids: pa.Array
    prints: Uint64s
    prior: Prior


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
        self._asked: dict[str, _Asked] = {}
        self._index: dict[str, Index] = {}
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
        return self._asked_for(stream, ids, batch_id).prior

    def remember(self, stream: str, decision: Decision, batch_id: int) -> None:
        asked, last = self._asked_for(stream, decision.ids, batch_id), decision.last
        new = (last.seq != asked.prior.seq) | (last.known_at != asked.prior.known_at)
        block = Block.of(asked.prints[new], Prior(last.seq[new], last.known_at[new]))
        change = self._memory(stream, batch_id).with_batch(block, batch_id, self._read)
        cells = {change.table: Put(list(change.cells), list(change.cells.values()))} if change.cells else {}
        self._write({**cells, STATE: Put([f"memory/{stream}"], [change.state])}, drop=change.drop)
        self._index[stream].written = change

    def _asked_for(self, stream: str, ids: pa.Array, batch_id: int) -> _Asked:
        """What was accepted before the batch; asked once, as a write tells if it has changed since begin()."""
        asked = self._asked.get(stream)
        if asked is None or asked.batch_id != batch_id or not ids.equals(asked.ids):
            prints, index = fingerprints(ids), self._index.setdefault(stream, Index())
            asked = _Asked(batch_id, ids, prints, index.prior(self._memory(stream, batch_id), prints, self._read))
            self._asked[stream] = asked
        return asked

    def _read(self, table: str, keys: Sequence[str]) -> list[bytes | None]:
        return self._cells.get(self.stream_id, table, keys)

    def _memory(self, stream: str, batch_id: int) -> Memory:
        """The stream's memory as it was before the batch."""
        return Memory.before(stream, self._state(f"memory/{stream}"), batch_id, self._horizons_ms.get(stream))


def _marker_bytes(marker: Marker) -> bytes:
    fields = {"batch_id": marker.batch_id, "start": dict(marker.start), "end": dict(marker.end), "done": marker.done}
    return json.dumps(fields).encode()
