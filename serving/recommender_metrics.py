"""Metrics of one recommender: its own families by name, and its part in those of the service."""

from __future__ import annotations

import warnings
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from serving.metrics import SECONDS, Metrics

NAMED = "recommender"


class RecommenderFamilies:
    """The families with the label recommender, in the registry of the service's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.seconds = Histogram(
            "headrace_recommender_seconds",
            "Time to answer, by recommender",
            [NAMED],
            buckets=SECONDS,
            registry=registry,
        )
        self.fallbacks = Counter(
            "headrace_recommender_fallbacks_total",
            "Answers that were a fallback, by recommender",
            [NAMED, "reason"],
            registry=registry,
        )
        self.model_answers = Counter(
            "headrace_recommender_model_answers_total",
            "Attempts of a model to answer, by recommender, version, alias and how they ended: answered, failed",
            [NAMED, "version", "alias", "status"],
            registry=registry,
        )
        self.canary_stopped = Gauge(
            "headrace_recommender_canary_stopped",
            "1 for a canary of the recommender that was stopped here",
            [NAMED, "version"],
            registry=registry,
        )
        self.items = Gauge(
            "headrace_recommender_items",
            "Items whose features are in memory, by recommender",
            [NAMED],
            registry=registry,
        )
        self.items_read_at = Gauge(
            "headrace_recommender_items_read_timestamp_seconds",
            "When item features were read last, by recommender",
            [NAMED],
            registry=registry,
        )


class RecommenderMetrics:
    """The metrics of one recommender.

    Families without the label recommender count every recommender's requests; those about items and versions are of the
    default one.
    """

    def __init__(self, service: Metrics, families: RecommenderFamilies, name: str, is_default: bool) -> None:
        self.service, self._families, self._name, self._is_default = service, families, name, is_default
        self._seconds: Any = families.seconds.labels(name)  # to find it by its label takes longer than to count
        self._serving: str | None = None
        self._stopped: str | None = None

    def answered(self, took_s: float, reason: str | None) -> None:
        """Counts an answer and its time; ``reason`` is that of a fallback."""
        self.service.recommend_seconds.observe(took_s)
        self._seconds.observe(took_s)
        if reason is not None:
            self.service.fallbacks.labels(reason).inc()
            self._families.fallbacks.labels(self._name, reason).inc()

    def model_answered(self, version: str, alias: str, status: str, took_s: float) -> None:
        """Counts an attempt of this version to answer."""
        self._families.model_answers.labels(self._name, version, alias, status).inc()
        if self._is_default:
            self.service.model_seconds.labels(alias).observe(took_s)
            self.service.model_answers.labels(version, alias, status).inc()

    def items_read(self, count: int, read_at_s: float) -> None:
        """Items whose features are in memory, and since when."""
        self._families.items.labels(self._name).set(count)
        self._families.items_read_at.labels(self._name).set(read_at_s)
        if self._is_default:
            self.service.items.set(count)
            self.service.items_read_at.set(read_at_s)

    def serving(self, version: str) -> None:
        """This version serves from now on."""
        if self._serving is not None:
            _remove(self.service.model, self._name, self._serving)
        self._serving = version
        self.service.model.labels(self._name, version).set(1)

    def canary_stopped(self, version: str) -> None:
        """The canary of this version was stopped here."""
        if self._stopped is not None:
            _remove(self._families.canary_stopped, self._name, self._stopped)
            if self._is_default:
                _remove(self.service.canary_stopped, self._stopped)
        self._stopped = version
        self._families.canary_stopped.labels(self._name, version).set(1)
        if self._is_default:
            self.service.canary_stopped.labels(version).set(1)

    def failed(self, part: str) -> None:
        """Counts failed work of a part."""
        self.service.failed(part)


def _remove(gauge: Gauge, *labels: str) -> None:
    """Removes a series.

    prometheus_client warns that files of several processes would keep it, where their variable is set: Feast's server
    sets it when it is imported, but the service's registry has no such files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        gauge.remove(*labels)
