"""The status of the stream: counts that survive a restart, recent rates and ages, and the file that others read."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from features.arrays import Int64s
from features.machine import write_json
from features.online_store import Counts, Offsets, added, status_file, stuck
from features.redaction import redacted_values
from streaming.fold import cumulative_s, percentiles_ms, quantile_ms

if TYPE_CHECKING:
    from prometheus_client.core import Metric

RATE_OVER_MS = 10_000
AGES_OVER_MS = 60_000
AGES_A_BATCH = 256
NOTHING = Counts(0, 0, 0, 0)
GAUGES = {
    "rows_per_s": "Records folded a second.",
    "lag": "Records that the broker has and the query has not finished.",
    "batch_ms": "Time of the last batch.",
    "restarts": "Restarts of the query.",
    "failures": "Failures of the query in a row: from 3 on, it does not get on.",
    "batch_id": "Number of the last batch.",
    "remembered_ids": "Event ids in memory that tell repetitions, of 32 bytes each.",
}
"""Help texts of the numbers of a query that are gauges."""


@dataclass(frozen=True)
class Totals:
    """Counts of all batches so far; ``before`` is without the last, which may run again."""

    batch_id: int = -1
    before: Counts = NOTHING
    after: Counts = NOTHING

    def with_batch(self, batch_id: int, counts: Counts) -> Totals:
        """The totals with this batch counted once, however often it runs."""
        before = self.before if batch_id == self.batch_id else self.after
        return Totals(batch_id, before, added(before, counts))

    @classmethod
    def read(cls, path: Path) -> Totals:
        """The totals in the file; none when there is no file."""
        if not path.exists():
            return cls()
        totals = json.loads(path.read_text(encoding="utf-8"))
        return cls(totals["batch_id"], Counts(**totals["before"]), Counts(**totals["after"]))

    def write(self, path: Path) -> None:
        """Replace the file."""
        write_json(path, asdict(self))


@dataclass
class RecentBatches:
    """Records of the newest batches and their ages, for rates and percentiles; one thread adds and others read."""

    records: deque[tuple[int, int]] = field(default_factory=deque)
    ages: deque[tuple[int, Int64s]] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, now: int, records: int, ages_ms: Int64s) -> None:
        """Add a finished batch of so many records."""
        step = max(len(ages_ms) // AGES_A_BATCH, 1)
        with self.lock:
            self.records.append((now, records))
            self.ages.append((now, ages_ms[::step]))
            self._forget(now)

    def per_s(self, now: int) -> float:
        """Records a second."""
        with self.lock:
            self._forget(now)
            return sum(count for _, count in self.records) / (RATE_OVER_MS / 1000)

    def age_ms(self, now: int) -> dict[str, float]:
        """Percentiles of the time from the broker to the row; empty without records."""
        with self.lock:
            self._forget(now)
            newest = [ages for _, ages in self.ages]
        return percentiles_ms(np.concatenate([np.empty(0, np.int64), *newest]))

    def _forget(self, now: int) -> None:
        while self.records and self.records[0][0] < now - RATE_OVER_MS:
            self.records.popleft()
        while self.ages and self.ages[0][0] < now - AGES_OVER_MS:
            self.ages.popleft()


def lag(end: Offsets, latest: Offsets) -> int:
    """The number of records that the broker has and the query has not finished."""
    return sum(max(last - end.get(name, 0), 0) for name, last in latest.items())


def _freshness_line(freshness: Mapping[str, Any]) -> str:
    """The freshness of a view in words."""
    p50, p99 = (quantile_ms(freshness, share) for share in (0.5, 0.99))
    within = f"{100 * freshness['within_slo']:.1f} % within {freshness['slo_ms']:g} ms of the event"
    return f"{within} (p50 up to {p50:g} ms, p99 up to {p99:g})"


# --- the file -------------------------------------------------------------------------------------------------------


def write_status(home: Path, status: Mapping[str, Any]) -> None:
    """Replace the status file."""
    write_json(status_file(home), redacted_values(status))


def stream_metrics(status: Mapping[str, Any]) -> list[Metric]:
    """The status as Prometheus' metric families."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    up = GaugeMetricFamily("headrace_stream_up", "1 while the stream runs.", int(status["state"] == "running"))
    gauges = {key: GaugeMetricFamily(f"headrace_stream_{key}", text, labels=["query"]) for key, text in GAUGES.items()}
    records = CounterMetricFamily("headrace_stream_records_total", "Records by their end.", labels=["query", "end"])
    cannot = CounterMetricFamily(
        "headrace_stream_cannot_be_folded_total",
        "Records that are dead letters because an error was raised with each of them, since the start.",
        labels=["query"],
    )
    servable = HistogramMetricFamily(
        "headrace_stream_servable_age_seconds", "From an event until its row can be read.", labels=["query", "view"]
    )
    age = GaugeMetricFamily(
        "headrace_stream_age_ms", "Percentile of the time from the broker to the row.", labels=["query", "quantile"]
    )
    for name, query in status.get("queries", {}).items():
        for key, gauge in gauges.items():
            if query.get(key) is not None:
                gauge.add_metric([name], query[key])
        for end, count in query.get("counts", {}).items():
            records.add_metric([name, end], count)
        if "cannot_be_folded" in query:
            cannot.add_metric([name], query["cannot_be_folded"])
        for view, freshness in query.get("freshness", {}).items():
            servable.add_metric([name, view], cumulative_s(freshness), freshness["sum_ms"] / 1000)
        for key, age_ms in query.get("age", {}).items():
            age.add_metric([name, key[1:3]], age_ms)
    return [up, *gauges.values(), records, cannot, servable, age]


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """The status for a person."""
    if status["state"] == "absent":
        return ["stream: not running. Start it with 'headrace stream'."]
    lines = [f"stream: {status['state']} · process {status['pid']} · Kafka {status['bootstrap']}"]
    lines += ["  a new generation is being made from the archive"] if status.get("building") else []
    lines += [f"  {status['build_error']}"] if status.get("build_error") else []
    lines += [f"  warning: {warning['found']}" for warning in status.get("warnings", [])]
    for name, query in status["queries"].items():
        age = query.get("age", {})
        fresh = f" · fresh in {age['p50_ms']:.0f} ms (p99 {age['p99_ms']:.0f})" if age else ""
        behind = "unknown" if query["lag"] is None else f"{query['lag']:,}"
        rate = f"{query['rows_per_s']:,.0f}/s · lag {behind} · batch {query['batch_id']}"
        took = f" in {query['batch_ms']:.0f} ms" if query["batch_ms"] is not None else ""
        counts = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in query["counts"].items())
        lines.append(f"  {name}: {query['state']} · {rate}{took}{fresh}" + (f" · {counts}" if counts else ""))
        for view, freshness in query.get("freshness", {}).items():
            lines += [f"    {view}: {_freshness_line(freshness)}"] if freshness["count"] else []
        if query.get("cannot_be_folded"):
            lines.append(f"    {query['cannot_be_folded']:,} records cannot be folded: see 'headrace deadletters list'")
        if name in stuck(status):
            lines.append(f"    {stuck(status)[name]} ({query['failures']} failures in a row)")
        elif query["error"]:
            lines.append(f"    {query['error']}")
    sizes = [f"{view} {size:,.0f}" for view, size in status.get("bytes_per_row", {}).items()]
    return lines + ([f"  bytes an entity: {' · '.join(sizes)}"] if sizes else [])
