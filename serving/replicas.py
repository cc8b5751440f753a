"""The metrics of all replicas of a run: each writes its own to a file, and any of them answers with all."""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from features.machine import replaced
from serving.metrics import Metrics, rendered

LIVE_S = 10.0
"""A replica whose file is older than this has ended."""

OLDEST = ("headrace_items_read_timestamp_seconds", "headrace_recommender_items_read_timestamp_seconds")
"""Gauges whose lowest value stands for all replicas; of the others it is the highest."""

CREATED = "_created"

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name and labels."""


class ReplicaFamily(msgspec.Struct):
    """A metric of one replica."""

    name: str
    help: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


class ReplicaSnapshot(msgspec.Struct):
    """A replica's metrics at an instant (epoch s)."""

    at: float
    ended: bool
    families: list[ReplicaFamily]


_decoder = msgspec.msgpack.Decoder(ReplicaSnapshot)


class ReplicaMetrics:
    """The metrics of this replica, and of the others that write to the same folder.

    Args:
        folder: of the run; None if there are no others.
        clock: epoch seconds.
    """

    def __init__(self, metrics: Metrics, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self._metrics, self._folder, self._clock = metrics, folder, clock
        self._name = uuid.uuid4().hex
        self._ended = False
        self._writing = threading.Lock()

    def write(self) -> None:
        """The others see the metrics as they are now."""
        if self._folder is not None:
            self._put(self._folder)

    def end(self) -> None:
        """What this replica has counted stays; what it measures of itself ends."""
        self._ended = True
        self.write()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format: counts are the sum of all replicas, also of those that have ended."""
        # Written first, so that no replica says less of this one later.
        own = self._own() if self._folder is None else self._put(self._folder)
        return rendered(merge([own, *self._others()], self._clock()))

    def _own(self) -> ReplicaSnapshot:
        families = [_family(metric) for metric in self._metrics.registry.collect()]
        return ReplicaSnapshot(self._clock(), self._ended, families)

    def _put(self, folder: Path) -> ReplicaSnapshot:
        with self._writing, replaced(folder / f"{self._name}.metrics") as fresh:  # never less than one before it
            snapshot = self._own()
            fresh.write_bytes(msgspec.msgpack.encode(snapshot))
        return snapshot

    def _others(self) -> Iterable[ReplicaSnapshot]:
        paths = [] if self._folder is None else sorted(self._folder.glob("*.metrics"))
        return [_decoder.decode(path.read_bytes()) for path in paths if path.stem != self._name]


def _family(metric: Metric) -> ReplicaFamily:
    samples = [(sample.name, sample.labels, sample.value) for sample in metric.samples]
    return ReplicaFamily(metric.name, metric.documentation, metric.type, samples)


def merge(replicas: Sequence[ReplicaSnapshot], now: float) -> list[Metric]:
    """The metrics of all replicas: counts and histograms are added up, gauges are those of the live ones."""
    live = GaugeMetricFamily("headrace_replicas", "Replicas that answer", sum(_is_live(one, now) for one in replicas))
    families: dict[str, tuple[ReplicaFamily, dict[Key, float]]] = {}
    for replica in replicas:
        for family in replica.families:
            values = families.setdefault(family.name, (family, {}))[1]
            if family.type != "gauge" or _is_live(replica, now):
                _add(values, family)
    return [live, *(_metric(family, values) for family, values in families.values())]


def _is_live(replica: ReplicaSnapshot, now: float) -> bool:
    return not replica.ended and now - replica.at <= LIVE_S


def _add(values: dict[Key, float], family: ReplicaFamily) -> None:
    for name, labels, value in family.samples:
        key = name, tuple(labels.items())
        before = values.get(key)
        if before is None or math.isnan(before):
            values[key] = value
        elif family.name in OLDEST or name.endswith(CREATED):
            values[key] = min(before, value)
        else:
            values[key] = max(before, value) if family.type == "gauge" else before + value


def _metric(family: ReplicaFamily, values: dict[Key, float]) -> Metric:
    metric = Metric(family.name, family.help, family.type)
    metric.samples = [Sample(name, dict(labels), value) for (name, labels), value in values.items()]
    return metric
