"""Feature values of the past: of any entity as of any instant, from events in memory or in the archive.

In: views, events by stream or archive tables, and a spine (keys and times). Out: a ``FeatureMatrix`` a view, as the
online store had them then.
"""

from features.history.archive import (
    ALWAYS,
    IMPORT_PARTITION,
    IMPORTED,
    ArchiveTable,
    Span,
    deduplicated,
    open_table,
    open_tables,
)
from features.history.archive_reader import ROWS_IN_MEMORY, SPARE, ArchiveReader, Tables, columns_of, without
from features.history.hash_partitions import HashPartitions
from features.history.on_spark import history_on_spark
from features.history.point_in_time_join import LedgerPositions, Spine, point_in_time
from features.history.spines import SpineRequest, first_known, history
from features.history.stored_columns import StoredColumns
from features.history.within_batch import features_before

__all__ = [
    "ALWAYS",
    "ArchiveTable",
    "SpineRequest",
    "HashPartitions",
    "IMPORTED",
    "IMPORT_PARTITION",
    "LedgerPositions",
    "ROWS_IN_MEMORY",
    "ArchiveReader",
    "SPARE",
    "Span",
    "Spine",
    "StoredColumns",
    "Tables",
    "columns_of",
    "deduplicated",
    "features_before",
    "first_known",
    "history",
    "history_on_spark",
    "open_table",
    "open_tables",
    "point_in_time",
    "without",
]
