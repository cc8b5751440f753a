"""The age of events when their features can be read: a histogram with an objective (SLO).

A view has two: from an event until its row can be read (the stream's), and from the newest event of an entity until it
is read (the reader's: mostly the time that the entity was idle).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.arrays import Int64s

BOUNDS_MS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000, 86_400_000)
"""Upper ends (inclusive) of the histogram's classes; a further class has older events."""


class Freshness:
    """Counts of ages by class.

    Args:
        slo_ms: the age of an event, at most; a class ends there, so that the share within it is exact.
    """

    def __init__(self, slo_ms: float = 1_000) -> None:
        self.slo_ms = slo_ms
        self.bounds_ms = np.array(sorted({*map(float, BOUNDS_MS), float(slo_ms)}))
        self.counts: Int64s = np.zeros(len(self.bounds_ms) + 1, dtype=np.int64)
        self.sum_ms = 0

    def add(self, at: int, times: Sequence[Int64s]) -> None:
        """Add events of these times that were servable, or read, at ``at`` (ms); an event from the future has age 0."""
        for event_times in times:
            ages = np.maximum(at - event_times, 0)
            classes = np.searchsorted(self.bounds_ms, ages, side="left")
            self.counts = self.counts + np.bincount(classes, minlength=len(self.counts))
            self.sum_ms += int(ages.sum())

    def to_dict(self) -> dict[str, Any]:
        """The histogram as JSON values: its counts by upper end, and the share within the SLO (None without events)."""
        total = int(self.counts.sum())
        within = int(self.counts[: int(np.searchsorted(self.bounds_ms, self.slo_ms)) + 1].sum())
        return {
            "slo_ms": self.slo_ms,
            "within_slo": round(within / total, 6) if total else None,
            "count": total,
            "sum_ms": self.sum_ms,
            "le_ms": self.bounds_ms.tolist(),
            "counts": self.counts.tolist(),
        }


def percentiles_ms(ages_ms: Sequence[float] | Int64s, digits: int = 1) -> dict[str, float]:
    """Median and 99th percentile; empty without ages."""
    if not len(ages_ms):
        return {}
    percentiles = zip((50, 99), np.percentile(ages_ms, [50, 99]), strict=True)
    return {f"p{share}_ms": round(float(age), digits) for share, age in percentiles}


def ages_of(ages_ms: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, 99th percentile and largest of at least one age."""
    return {**percentiles_ms(ages_ms, digits), "max_ms": round(float(max(ages_ms)), digits)}


def quantile_ms(freshness: Mapping[str, Any], share: float) -> float | None:
    """The upper end of the class that the quantile is in; None without events, inf beyond the last class."""
    if not freshness["count"]:
        return None
    index = int(np.searchsorted(np.cumsum(freshness["counts"]), share * freshness["count"]))
    return float([*freshness["le_ms"], float("inf")][index])


def cumulative_s(freshness: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The histogram as Prometheus' buckets: (upper end in seconds, events up to it), the last one '+Inf'."""
    ends = [*(f"{end / 1000:g}" for end in freshness["le_ms"]), "+Inf"]
    return list(zip(ends, np.cumsum(freshness["counts"]).tolist(), strict=True))
