"""The fold of a micro-batch of messages into state rows, on the driver or on executors.

In: messages of a batch and its offsets. Out: rows in the online store, dead letters, and a report of the batch.
"""

from streaming.fold.crash_points import Reached, around_effects, crash_point
from streaming.fold.freshness import Freshness, ages_of, cumulative_s, percentiles_ms, quantile_ms
from streaming.fold.parsed_batches import ParsedBatches
from streaming.fold.pruning import Pruning
from streaming.fold.shares import BatchScoring, FoldJob, FoldShare, fold_job, packed, packed_parts, unpacked
from streaming.fold.sink import BatchReport, FoldTarget, OnlineSink, by_stream, send_refused

__all__ = [
    "BatchReport",
    "BatchScoring",
    "FoldShare",
    "FoldTarget",
    "Freshness",
    "ParsedBatches",
    "OnlineSink",
    "Pruning",
    "Reached",
    "FoldJob",
    "ages_of",
    "around_effects",
    "by_stream",
    "crash_point",
    "cumulative_s",
    "packed",
    "packed_parts",
    "percentiles_ms",
    "quantile_ms",
    "send_refused",
    "fold_job",
    "unpacked",
]
