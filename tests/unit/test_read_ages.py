"""Reads that answer requests are counted by how old the entity's newest event is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from features.rows.matrix import FeatureMatrix, Status
from serving.metrics import Metrics
from serving.recommend.readers import ObservedReader
from serving.replicas import ReplicaMetrics


class Answering:
    """A reader of entities whose newest event was 2 s before."""

    def __init__(self, status: Status) -> None:
        self.status = status
        self.age_ms = 2_000

    def read(
        self, view_name: str, keys: pa.Array, as_of: int | None = None, schema_hash: int | None = None
    ) -> FeatureMatrix:
        many, at = len(keys), np.full(len(keys), 10_000)
        return FeatureMatrix((), (), np.full(many, self.status, dtype=np.int8), at, at - self.age_ms)


def observed(status: Status, *reads: int) -> str:
    metrics = Metrics()
    for many in reads:
        ObservedReader(Answering(status), metrics.read_age, metrics.without_pending).read(
            "by_user", pa.array(["a"] * many)
        )
    return ReplicaMetrics(metrics, None).text().decode()


def test_a_read_of_one_entity_is_counted_in_the_class_of_its_age():
    text = observed(Status.PRESENT, 1, 1)
    assert 'headrace_read_age_seconds_bucket{le="1.0",view="by_user"} 0.0' in text
    assert 'headrace_read_age_seconds_bucket{le="2.5",view="by_user"} 2.0' in text


def test_the_share_of_reads_within_the_slo_is_exact_at_any_slo():
    metrics = Metrics(read_age_slo_s=2.25)
    text = ReplicaMetrics(metrics, None).text().decode()
    assert "headrace_read_age_slo_seconds 2.25" in text
    assert "headrace_reads_within_slo_ratio{" not in text
    for newest_s in (1.0, 2.25, 2.4, 7.0):
        reader = Answering(Status.PRESENT)
        reader.age_ms = int(1_000 * newest_s)
        ObservedReader(reader, metrics.read_age, metrics.without_pending).read("by_user", pa.array(["a"]))
    assert 'headrace_reads_within_slo_ratio{view="by_user"} 0.5' in ReplicaMetrics(metrics, None).text().decode()


def test_reads_of_many_and_of_nobody_are_not():
    assert "view=" not in observed(Status.PRESENT, 5) + observed(Status.NOT_FOUND, 1)
