"""How old events are when something happens to them: a histogram by age, with a bound that most should keep.

Two of them are of use for a view: from an event until its row can be read (the stream's), and from the newest event of
an entity until it is read (the reader's: mostly how long the entity was idle).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.arrays import Int64s

BOUNDS_MS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 3_600_000, 86_400_000)
"""Upper ends (inclusive) of the histogram's classes; one more has what is older."""


class Freshness:
    """Counts of ages by class.

    Args:
        slo_ms: the age that an event should have at most; a class ends there, so that the share is exact.
    """

    def __init__(self, slo_ms: float = 1_000) -> None:
        self.slo_ms = slo_ms
        self.bounds_ms = np.array(sorted({*map(float, BOUNDS_MS), float(slo_ms)}))
        self.counts: Int64s = np.zeros(len(self.bounds_ms) + 1, dtype=np.int64)
        self.sum_ms = 0

    def add(self, at: int, times: Sequence[Int64s]) -> None:
        """Events of these times were servable, or read, at ``at`` (ms); one from the future has no age."""
        for several in times:
            ages = np.maximum(at - several, 0)
            classes = np.searchsorted(self.bounds_ms, ages, side="left")
            self.counts = self.counts + np.bincount(classes, minlength=len(self.counts))
            self.sum_ms += int(ages.sum())

    def told(self) -> dict[str, Any]:
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
    """Median and 99th percentile; empty where there is no age."""
    if not len(ages_ms):
        return {}
    found = zip((50, 99), np.percentile(ages_ms, [50, 99]), strict=True)
    return {f"p{share}_ms": round(float(age), digits) for share, age in found}


def ages_of(ages_ms: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Median, 99th percentile and largest; of one age at least."""
    return {**percentiles_ms(ages_ms, digits), "max_ms": round(float(max(ages_ms)), digits)}


def quantile_ms(told: Mapping[str, Any], share: float) -> float | None:
    """The upper end of the class that the quantile is in; None without events, inf beyond the last class."""
    if not told["count"]:
        return None
    place = int(np.searchsorted(np.cumsum(told["counts"]), share * told["count"]))
    return float([*told["le_ms"], float("inf")][place])


def freshness_text(name: str, labels: Mapping[str, str], told: Mapping[str, Any]) -> list[str]:
    """The histogram as lines of Prometheus' text format, in seconds."""
    given = "".join(f'{label}="{value}",' for label, value in labels.items())
    ends = [*(f"{end / 1000:g}" for end in told["le_ms"]), "+Inf"]
    running = np.cumsum(told["counts"]).tolist()
    lines = [f'{name}_bucket{{{given}le="{end}"}} {count}' for end, count in zip(ends, running, strict=True)]
    inside = given.rstrip(",")
    return [*lines, f"{name}_sum{{{inside}}} {told['sum_ms'] / 1000:g}", f"{name}_count{{{inside}}} {told['count']}"]
