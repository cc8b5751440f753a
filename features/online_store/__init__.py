"""Online stores: state rows by generation, with a single writing driver and many readers.

In: batches of events with their offsets; keys to read. Out: rows that are fenced against replays, and feature values.

Rows, markers and remembered ids are made and read above the port (port.py), so that two databases cannot disagree
on them.
"""

from features.online_store.batch_step import Batch, BatchStep, Counts, Ids, added, build_generation, write_rows
from features.online_store.breaker import GuardedRows
from features.online_store.changed import ChangedKeys
from features.online_store.conflicts import evicts
from features.online_store.generation import ShardWriter
from features.online_store.pending import RowsWithPending, done_end
from features.online_store.port import (
    Cells,
    Fence,
    Idle,
    Marker,
    Offsets,
    Pending,
    PendingEvent,
    Put,
    ReadableStore,
    RowStore,
    ShardStore,
    Store,
    ViewKeys,
    of_schema,
)
from features.online_store.reader import FeatureReader
from features.online_store.settings import DEADLINE_MS, StoreSettings, read_settings_of, settings_of, store_of
from features.online_store.store import FEAST, Cell, Erasure, OnlineStore
from features.online_store.stream_status import (
    ABSENT_AFTER_MS,
    STUCK_AFTER,
    age_ms,
    progress_text,
    read_status,
    sentence,
    status_file,
    stuck,
)
from features.online_store.sweep import Sweeper

__all__ = [
    "ABSENT_AFTER_MS",
    "Batch",
    "BatchStep",
    "Cell",
    "Cells",
    "ChangedKeys",
    "Counts",
    "DEADLINE_MS",
    "Erasure",
    "FEAST",
    "PendingEvent",
    "FeatureReader",
    "Fence",
    "GuardedRows",
    "Idle",
    "Ids",
    "Marker",
    "Offsets",
    "OnlineStore",
    "Pending",
    "Put",
    "ReadableStore",
    "RowStore",
    "RowsWithPending",
    "STUCK_AFTER",
    "ShardStore",
    "ShardWriter",
    "Store",
    "StoreSettings",
    "Sweeper",
    "ViewKeys",
    "added",
    "age_ms",
    "build_generation",
    "done_end",
    "evicts",
    "of_schema",
    "read_settings_of",
    "progress_text",
    "read_status",
    "redis",
    "sentence",
    "settings_of",
    "sqlite",
    "status_file",
    "store_of",
    "stuck",
    "write_rows",
]
