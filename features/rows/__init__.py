"""State rows: an entity's tiles and recent events in the online store, folded from events and finalized at read.

In: rows as bytes, events of a batch, instants. Out: changed rows, or a ``FeatureMatrix``. Whole batches at a time.
"""

from features.rows.decoder import decode, layout_of
from features.rows.entities import EntityEvents, entity_events, event_columns, rows_of_events
from features.rows.finalizing import finalize, statuses
from features.rows.folding import Fold, can_take, fold, fold_nothing, foldable, make_ready, tried, without_unfoldable
from features.rows.layout import (
    EXACT,
    HEADER,
    HUNDREDTHS,
    MAGIC,
    RAW,
    VERSION,
    WHOLE,
    WIDTH_LIMITS,
    Layout,
    RowState,
    binary_array,
    checksums,
    different,
    newest_events,
    offsets_of,
    zigzag,
)
from features.rows.matrix import BatchKey, FeatureMatrix, PackedRows, Status, joined
from features.rows.plan import Plan, TableSpec, large_row_line, large_rows, plan_of
from features.rows.portions import in_portions
from features.rows.tables import HASH_BITS, REST, Distinct, FilteredStream, Frequencies, Histogram, Table

__all__ = [
    "BatchKey",
    "Distinct",
    "EXACT",
    "EntityEvents",
    "FeatureMatrix",
    "Fold",
    "HASH_BITS",
    "HEADER",
    "HUNDREDTHS",
    "Histogram",
    "TableSpec",
    "FilteredStream",
    "Frequencies",
    "Layout",
    "MAGIC",
    "PackedRows",
    "Plan",
    "RAW",
    "REST",
    "RowState",
    "Status",
    "Table",
    "VERSION",
    "WHOLE",
    "WIDTH_LIMITS",
    "binary_array",
    "can_take",
    "checksums",
    "decode",
    "different",
    "entity_events",
    "event_columns",
    "finalize",
    "fold",
    "fold_nothing",
    "foldable",
    "in_portions",
    "joined",
    "large_row_line",
    "large_rows",
    "layout_of",
    "make_ready",
    "newest_events",
    "offsets_of",
    "plan_of",
    "rows_of_events",
    "statuses",
    "tried",
    "without_unfoldable",
    "zigzag",
]
