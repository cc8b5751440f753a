"""What earlier imports of a file brought: a file that grew or was mended brings only the rows that are new in it.

Rows are compared by content: their times, fields and own ids, each as often as it stands there. An id that is made of
the file's digest and the row does not count, nor does a column in which the earlier rows have no value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools
from features.definitions import Stream
from features.history import IMPORT_PARTITION, IMPORTED, ArchiveTable, open_table
from streaming.archive.sink import Archive

ROW_ID = r"\A[0-9a-f]{8}-[0-9]+(-[0-9]+)?\z"
"""An id that is made of a file's digest and the row, and the element in the row."""


def import_topic(digest: str, name: str) -> str:
    """The topic of the events that a file brought, by its digest and its name."""
    return f"{IMPORTED}{digest}:{name}"


def file_of(topic: str) -> tuple[str, str]:
    """Digest and name of the file that brought the topic's events; no name in tables of version 0.1."""
    digest, _, name = topic.removeprefix(IMPORTED).partition(":")
    return digest, name


class EarlierRows:
    """The rows of a stream that other versions of the file of this name brought, and that no row of it has met yet."""

    def __init__(self, archive: Archive, stream: Stream, digest: str, name: str) -> None:
        self._hashes: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._left = np.zeros(0, np.int64)
        table = open_table(archive.folder, stream)  # late rows too
        topics = [] if table is None else [topic for topic in table.imported() if _other(topic, digest, name)]
        if table is not None and topics:
            rows = table.only((pc.field("partition") == IMPORT_PARTITION) & pc.field("topic").isin(topics))
            self._columns = _columns_with_values(rows, ["event_id", "event_time", "known_at", *stream.mapped])
            hashes = [self._hashed(batch) for batch in rows.batches(self._columns)]
            self._hashes, self._left = np.unique(np.concatenate([self._hashes, *hashes]), return_counts=True)

    @property
    def left(self) -> int:
        """The number of rows that no row of the file has met."""
        return int(self._left.sum())

    def met_by(self, events: pa.Table) -> Bools:
        """True for each event that is one of the rows; of equal events as many as there are rows."""
        met: Bools = np.zeros(len(events), dtype=bool)
        if not len(self._hashes) or not len(events):
            return met
        hashes = self._hashed(events.select(self._columns))
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        equal = np.flatnonzero(self._hashes[at] == hashes)
        order = equal[np.argsort(at[equal], kind="stable")]
        place = at[order]
        found = order[np.arange(len(order)) - np.searchsorted(place, place) < self._left[place]]
        np.subtract.at(self._left, at[found], 1)
        met[found] = True
        return met

    def _hashed(self, events: pa.Table) -> NDArray[np.uint64]:
        import polars as pl

        frame = pl.DataFrame(pl.from_arrow(pa.table([_content(events, name) for name in self._columns], self._columns)))
        hashes: NDArray[np.uint64] = frame.hash_rows(seed=0).to_numpy()
        return hashes


def _other(topic: str, digest: str, name: str) -> bool:
    of_digest, of_name = file_of(topic)
    return of_name == name and of_digest != digest


def _columns_with_values(rows: ArchiveTable, names: Sequence[str]) -> list[str]:
    """The columns in which some row has a value."""
    found: set[str] = set()
    for batch in rows.batches(names):
        found |= {name for name in names if name not in found and _content(batch, name).null_count < len(batch)}
        if len(found) == len(names):
            break
    return [name for name in names if name in found]


def _content(events: pa.Table, name: str) -> pa.ChunkedArray:
    """The column, without ids that say where a row stood."""
    column = events[name]
    return pc.if_else(pc.match_substring_regex(column, ROW_ID), None, column) if name == "event_id" else column
