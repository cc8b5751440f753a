"""A driver's handle of a generation: a Store over the cells of any database."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from features.arrays import pieces_of
from features.errors import FenceError
from features.events import Decision, Prior
from features.hashing import Uint64s, prints_of
from features.online_store.changed import ChangeLog, decoded, log_cell
from features.online_store.conflicts import for_reader
from features.online_store.port import (
    BYTES_A_WRITE,
    DEFINITIONS,
    NO_CONDITIONS,
    STATE,
    Cells,
    Cursor,
    Fence,
    Idle,
    Marker,
    Put,
    ShardStore,
    Store,
    Sweep,
    Version,
    ViewKeys,
    WriteConditions,
    binaries,
    rows_table,
    shard_cell,
)
from features.online_store.seen_ids import Block, Memory, index_of
from features.rows import HEADER, PackedRows
from features.times import now_ms

NEWEST = HEADER.fields["newest"][1] if HEADER.fields else 0
"""The byte of a row at which the time of its newest event stands."""


@dataclass(frozen=True)
class _Lookup:
    """A look-up of a batch's ids in a stream's memory: the ids, their fingerprints, and what was accepted for them."""

    batch_id: int
    ids: pa.Array
    prints: Uint64s
    prior: Prior


class ShardWriter(ShardStore):
    """A ShardStore over the cells of any database: what an executor opens to write its share of a batch's rows."""

    def __init__(self, cells: Cells, fence: Fence, name: str) -> None:
        self._cells, self._fence, self._cell = cells, fence, shard_cell(name)
        self._token = cells.get(fence.stream_id, STATE, [self._cell])[0] or b""

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        return _rows(self._cells, self._fence.stream_id, view, keys)

    def put_rows(self, view: str, rows: PackedRows) -> None:
        after = secrets.token_hex(8).encode()
        puts = {**_put(view, rows), STATE: Put([self._cell], [after])}
        conditions = WriteConditions({self._cell: self._token}, moves_version=False)
        self._cells.write(self._fence.stream_id, self._fence.version, puts, (), conditions)
        self._token = after

    def token(self) -> str:
        return self._token.decode()


def _rows(cells: Cells, stream_id: int, view: str, keys: pa.Array) -> pa.Array:
    return binaries(cells.get(stream_id, rows_table(view), keys.to_pylist()))


def _put(view: str, rows: PackedRows) -> dict[str, Put]:
    return {rows_table(view): Put(rows.keys.to_pylist(), rows.values.to_pylist())}


class GenerationStore(Store):
    """A Store: every write checks the version that begin() or the write before has left.

    Args:
        horizons_ms: by stream, its dedupe_horizon: ids are forgotten when they can no longer matter (see
            seen_ids); an id of a stream that is not named is never forgotten.
    """

    def __init__(self, cells: Cells, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> None:
        self._cells = cells
        self._horizons_ms = dict(horizons_ms or {})
        self._version: Version = (0,)
        self._lookups: dict[str, _Lookup] = {}
        self.stream_id = stream_id

    def begin(self) -> None:
        self._version = self._cells.version(self.stream_id)
        self._lookups.clear()

    def fence(self) -> Fence:
        return Fence(self.stream_id, self._version)

    def shard(self, name: str) -> ShardWriter:
        return ShardWriter(self._cells, self.fence(), name)

    def _write(
        self, puts: Mapping[str, Put], drop: tuple[str, ...] = (), conditions: WriteConditions = NO_CONDITIONS
    ) -> None:
        self._version = self._cells.write(self.stream_id, self._version, puts, drop, conditions)

    def _state(self, key: str) -> bytes | None:
        return self._cells.get(self.stream_id, STATE, [key])[0]

    def marker(self) -> Marker | None:
        value = self._state("marker")
        return None if value is None else Marker(**json.loads(value))

    def publish(self, marker: Marker, shards: Mapping[str, str] | None = None, changed: ViewKeys | None = None) -> None:
        tokens = {shard_cell(name): token.encode() for name, token in (shards or {}).items()}
        cells = {"marker": _marker_bytes(marker), **self._logs(marker, changed or {})}
        self._write({STATE: Put(list(cells), list(cells.values()))}, conditions=WriteConditions(tokens))

    def _logs(self, marker: Marker, changed: ViewKeys) -> dict[str, bytes]:
        """Cell → the log of a view's changes, with those of the marker's batch."""
        names = {view: log_cell(view) for view in changed}
        values = self._cells.get(self.stream_id, STATE, list(names.values())) if names else []
        logs = zip(names.items(), values, strict=True)
        before = marker.batch_id - 1  # the first log of a generation knows the changes of its batch alone
        return {
            name: (decoded(value) or ChangeLog(before)).with_batch(marker.batch_id, changed[view]).encoded()
            for (view, name), value in logs
        }

    def describe(self, definitions: str) -> None:
        """Keep the definitions of its views (definitions/serialized.py) with it."""
        self._write({STATE: Put([DEFINITIONS], [definitions.encode()])})

    def described(self) -> str | None:
        """The definitions that describe() kept; None without any."""
        value = self._state(DEFINITIONS)
        return None if value is None else value.decode()

    def rows(self, view: str, keys: pa.Array) -> pa.Array:
        return _rows(self._cells, self.stream_id, view, keys)

    def put_rows(self, view: str, rows: PackedRows) -> None:
        self._write(_put(view, rows))

    def sweep(self, view: str, below_ms: int, cursor: Cursor) -> tuple[Cursor, int]:
        """Delete rows whose newest event is older than ``below_ms`` from a page of the view's rows.

        Returns:
            Where the next page begins ((0, 0) at first, and after the last), and how many rows were deleted.
        """
        sweep = Sweep(NEWEST, below_ms)
        self._version, cursor, gone = self._cells.sweep(self.stream_id, self._version, rows_table(view), sweep, cursor)
        return cursor, gone

    def remembered(self, stream: str, ids: pa.Array, batch_id: int, *, wait: bool = True) -> Prior:
        return self._lookup(stream, ids, batch_id, wait=wait).prior

    def remember(self, stream: str, decision: Decision, batch_id: int, idle: Idle | None = None) -> None:
        lookup, last = self._lookup(stream, decision.ids, batch_id), decision.last
        new = (last.seq != lookup.prior.seq) | (last.known_at != lookup.prior.known_at)
        block = Block.of(lookup.prints[new], Prior(last.seq[new], last.known_at[new]))
        memory = self._memory(stream, batch_id)
        change = memory.with_batch(block, batch_id, self._read, idle, now_ms())
        # The state that names the new cells comes last: until then nobody reads them, and a run again replaces them.
        *first, last_cells = _in_pieces(change.cells)
        for cells in first:
            self._write({change.table: cells})
        puts = {change.table: last_cells} if last_cells.keys else {}
        self._write({**puts, STATE: Put([f"memory/{stream}"], [change.state])}, drop=change.drop)
        index_of(self._cells, self.stream_id, stream).wrote(change, memory.mark)

    def remembered_ids(self) -> int:
        return sum(index_of(self._cells, self.stream_id, stream).count for stream in self._horizons_ms)

    def _lookup(self, stream: str, ids: pa.Array, batch_id: int, *, wait: bool = True) -> _Lookup:
        """The events accepted before the batch; read once, as a write fails if they have changed since begin()."""
        lookup = self._lookups.get(stream)
        if lookup is None or lookup.batch_id != batch_id or not ids.equals(lookup.ids):
            prints, index = prints_of(ids), index_of(self._cells, self.stream_id, stream)
            read = self._read if wait else self._read_by_reader
            prior = index.prior(self._memory(stream, batch_id), prints, read, wait=wait)
            lookup = _Lookup(batch_id, ids, prints, prior)
            self._lookups[stream] = lookup
        return lookup

    def _read(self, table: str, keys: Sequence[str]) -> list[bytes | None]:
        values = self._cells.get(self.stream_id, table, keys)
        if None in values:  # as of a table that was dropped meanwhile, or of one that the store has lost
            self._cells.version(self.stream_id)
        return values

    def _read_by_reader(self, table: str, keys: Sequence[str]) -> list[bytes | None]:
        try:
            return self._read(table, keys)
        except FenceError as error:
            raise for_reader(error) from error

    def _memory(self, stream: str, batch_id: int) -> Memory:
        """The stream's memory as it was before the batch."""
        return Memory.before(stream, self._state(f"memory/{stream}"), batch_id, self._horizons_ms.get(stream))


def _in_pieces(cells: Mapping[str, bytes]) -> list[Put]:
    """The cells in writes of at most BYTES_A_WRITE, or of one cell; a write of nothing where there are none."""
    keys, values = list(cells), list(cells.values())
    sizes = np.array([len(value) for value in values], dtype=np.int64)
    return [Put(keys[start:stop], values[start:stop]) for start, stop in pieces_of(sizes, BYTES_A_WRITE)] or [
        Put([], [])
    ]


def _marker_bytes(marker: Marker) -> bytes:
    fields = {"batch_id": marker.batch_id, "start": dict(marker.start), "end": dict(marker.end), "done": marker.done}
    return json.dumps(fields).encode()
