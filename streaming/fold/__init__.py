"""One micro-batch of messages into state rows, on the driver or on executors.

In: messages of a batch and its offsets. Out: rows in the online store, dead letters, and a report of the batch.
"""

from streaming.fold.crash_points import Reached, around_effects, crash_point
from streaming.fold.freshness import Freshness, ages_of, freshness_text, percentiles_ms, quantile_ms
from streaming.fold.handover import Handover
from streaming.fold.pruning import Pruning
from streaming.fold.shares import FoldShare, Recipe, packed, recipe_of, unpacked
from streaming.fold.sink import BatchReport, OnlineSink, by_stream

__all__ = [
    "BatchReport",
    "FoldShare",
    "Freshness",
    "Handover",
    "OnlineSink",
    "Pruning",
    "Reached",
    "Recipe",
    "ages_of",
    "around_effects",
    "by_stream",
    "crash_point",
    "freshness_text",
    "packed",
    "percentiles_ms",
    "quantile_ms",
    "recipe_of",
    "unpacked",
]
