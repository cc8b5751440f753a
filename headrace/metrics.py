"""Metrics of a status in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def metrics_text(families: Iterable[Metric]) -> str:
    """The metric families as one text; one without samples is left out."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Families(Collector):
        def collect(self) -> Iterable[Metric]:
            return [family for family in families if family.samples]

    registry = CollectorRegistry()
    registry.register(Families())
    return generate_latest(registry).decode()
