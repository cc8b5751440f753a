"""Metrics of the service, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

READ_AGE_SLO_S = 86_400.0
"""A day: most users that the service answers have events of the last day, unless its features are old."""

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)

OVERLAPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one replica, in a registry of their own.

    Args:
        read_age_slo_s: the highest age that the newest event of an entity should have when a request reads it.
    """

    def __init__(self, read_age_slo_s: float = READ_AGE_SLO_S) -> None:
        self.registry = registry = CollectorRegistry()
        self.recommend_seconds = Histogram(
            "headrace_recommend_seconds", "Time to answer /v1/recommend", buckets=SECONDS, registry=registry
        )
        self.http_seconds = Histogram(
            "headrace_http_seconds", "Time to answer a request, by route", ["route"], buckets=SECONDS, registry=registry
        )
        self.loop_lag = Histogram(
            "headrace_loop_lag_seconds",
            "How late the event loop does what it was to do at an instant",
            buckets=SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "headrace_queue_seconds",
            "From a request's arrival to the beginning of its batch",
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_requests = Histogram(
            "headrace_batch_requests",
            "Requests that were answered together",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.read_age = Histogram(
            "headrace_read_age_seconds",
            "From an entity's newest event to a read of it",
            ["view"],
            buckets=sorted({*AGES_S, read_age_slo_s}),  # a bucket ends at the SLO, so that the share is exact
            registry=registry,
        )
        Gauge(READ_AGE_SLO, "What reads are held to", registry=registry).set(read_age_slo_s)
        self.without_pending = Counter(
            "headrace_reads_without_pending_total",
            "Reads without the events that were accepted a moment ago, as these could not be read in time",
            ["view"],
            registry=registry,
        )
        self.pending = Gauge(
            "headrace_pending_events", "Accepted events, by entity, that the stream has not folded", registry=registry
        )
        self.pending_bytes = Gauge("headrace_pending_bytes", "Bytes of the pending events", registry=registry)
        self.pending_refused = Counter(
            "headrace_pending_refused_total",
            "Accepted events, by entity, without room among the pending: they count once the stream has folded them",
            registry=registry,
        )
        self.requests = Counter(
            "headrace_http_requests_total", "Answered requests", ["method", "route", "status"], registry=registry
        )
        self.access_refused = Counter(
            "headrace_access_refused_total",
            "Requests not let in, by reason: none, several, unknown, expired, scope, tenant, stream, rate",
            ["reason"],
            registry=registry,
        )
        self.fallbacks = Counter(
            "headrace_fallbacks_total", "Recommendations that were a fallback", ["reason"], registry=registry
        )
        self.events = Counter("headrace_events_total", "Posted events by verdict", ["status"], registry=registry)
        self.failures = Counter(
            "headrace_failures_total",
            "Failed work by part: store, items, registry, model, keys",
            ["part"],
            registry=registry,
        )
        self.served_log = Counter(
            "headrace_served_log_total", "Sampled answers by what became of their event", ["status"], registry=registry
        )
        self.model_seconds = Histogram(
            "headrace_model_seconds",
            "Time of the model itself, by the alias that it answers by",
            ["alias"],
            buckets=SECONDS,
            registry=registry,
        )
        self.model_answers = Counter(
            "headrace_model_answers_total",
            "Attempts of a model to answer, by version, alias and how they ended: answered, failed",
            ["version", "alias", "status"],
            registry=registry,
        )
        self.canary_stopped = Gauge(
            "headrace_canary_stopped", "1 for a canary that was stopped here", ["version"], registry=registry
        )
        self.shadow = Counter(
            "headrace_shadow_total",
            "Questions for the challenger: scored, dropped, failed",
            ["status"],
            registry=registry,
        )
        self.shadow_overlap = Histogram(
            "headrace_shadow_overlap",
            "Share of the challenger's items that the champion answered too",
            buckets=OVERLAPS,
            registry=registry,
        )
        self.score_shadow = Counter(
            "headrace_score_shadow_total",
            "Scored events that an event model's challenger was asked about too: scored, dropped, failed",
            ["model", "status"],
            registry=registry,
        )
        self.score_shadow_difference = Histogram(
            "headrace_score_shadow_difference",
            "How far the challenger's score is from the champion's",
            ["model"],
            buckets=OVERLAPS,
            registry=registry,
        )
        self.score_shadow_flagged = Counter(
            "headrace_score_shadow_flagged_total",
            "Events that both were asked about, by which of them flagged it",
            ["model", "champion", "challenger"],
            registry=registry,
        )
        self.model = Gauge(
            "headrace_model_info", "1 for the version that serves", ["name", "version"], registry=registry
        )
        self.items = Gauge("headrace_items", "Items whose features are in memory", registry=registry)
        self.items_read_at = Gauge(
            "headrace_items_read_timestamp_seconds", "When item features were read last", registry=registry
        )

    def failed(self, part: str) -> None:
        """Counts failed work of this part."""
        self.failures.labels(part).inc()


AGES_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600, 86_400, 604_800)
"""Upper ends of the histogram's buckets, in seconds."""


READ_AGE_SLO = "headrace_read_age_slo_seconds"


def rendered(metrics: Sequence[Metric]) -> bytes:
    """The metrics, and the shares and ages that follow from them, in Prometheus' text format."""
    collected: Any = _Collected([*metrics, *_derived({metric.name: metric for metric in metrics})])
    return generate_latest(collected)


def _derived(metrics: dict[str, Metric]) -> Iterator[Metric]:
    within = GaugeMetricFamily(
        "headrace_reads_within_slo_ratio",
        f"Share of the reads whose entity's newest event was no older than {READ_AGE_SLO}",
        labels=["view"],
    )
    (slo,) = metrics[READ_AGE_SLO].samples
    for view, share in shares_within(metrics["headrace_read_age_seconds"], slo.value).items():
        within.add_metric([view], share)
    yield within
    answers = sum(one.value for one in metrics["headrace_recommend_seconds"].samples if one.name.endswith("_count"))
    fallbacks = sum(one.value for one in metrics["headrace_fallbacks"].samples if one.name.endswith("_total"))
    share = fallbacks / answers if answers else 0.0
    yield GaugeMetricFamily("headrace_fallback_ratio", "Share of the recommendations that were a fallback", share)
    ages = GaugeMetricFamily("headrace_items_age_seconds", "Since when item features were read", labels=["recommender"])
    read_at = metrics.get("headrace_recommender_items_read_timestamp_seconds")
    for sample in read_at.samples if read_at is not None else ():
        if sample.value:
            ages.add_metric([sample.labels["recommender"]], max(time.time() - sample.value, 0.0))
    yield ages


class _Collected:
    """What generate_latest takes."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def shares_within(ages: Metric, slo_s: float) -> dict[str, float]:
    """View → the share of its reads up to ``slo_s``, which must be the end of a bucket of the histogram."""
    samples = ages.samples
    total = {sample.labels["view"]: sample.value for sample in samples if sample.name.endswith("_count")}
    buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
    within = {sample.labels["view"]: sample.value for sample in buckets if float(sample.labels["le"]) == slo_s}
    return {view: count / total[view] for view, count in within.items() if total[view]}
