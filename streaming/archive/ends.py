"""Where the records of each partition end in a table: transactions that the commit of the records sets.

    headrace-archive/<topic>/<partition>    the first offset after those in the table

So a record is in the table once, whoever brings it: another driver, or the same after its checkpoint was lost. Of a
partition without such a transaction, as in tables of earlier versions, the end is read from the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.definitions import PARTITIONS_OF_A_TOPIC, Stream
from features.events import integers, record_offsets
from features.history import ArchiveTable

if TYPE_CHECKING:
    from deltalake import DeltaTable


def unseen(table: DeltaTable | None, stream: Stream, events: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """The events at or behind the table's ends, and the transactions for the commit that adds them."""
    numbers, index = np.unique(integers(events["partition"]), return_inverse=True)
    names = [_name(stream, number) for number in numbers.tolist()]
    ends = {} if table is None else _ends(table, stream, names)
    before = np.array([ends.get(name, 0) for name in names], dtype=np.int64)
    offset = record_offsets(events, stream)
    fresh = offset >= before[index]
    after = before.copy()
    np.maximum.at(after, index[fresh], offset[fresh] + 1)
    moved = ends | dict(zip(names, after.tolist(), strict=True))
    kept = events if fresh.all() else events.filter(pa.array(fresh))
    return kept, {_transaction(name): end for name, end in moved.items()}


def _ends(table: DeltaTable, stream: Stream, names: Sequence[str]) -> dict[str, int]:
    """The ends of these partitions in the table, and of all that have records and no transaction."""
    ends: dict[str, int] = {}
    for name in names:
        end = table.transaction_version(_transaction(name))
        if end is not None:
            ends[name] = end
    if len(ends) < len(names):
        found = ArchiveTable(table, stream).end()
        ends |= {name: end for name, end in found.items() if table.transaction_version(_transaction(name)) is None}
    return ends


def _transaction(name: str) -> str:
    return f"headrace-archive/{name}"


def _name(stream: Stream, partition: int) -> str:
    return f"{stream.topics[partition // PARTITIONS_OF_A_TOPIC]}/{partition % PARTITIONS_OF_A_TOPIC}"
