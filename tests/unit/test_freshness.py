"""Ages of events, counted by class."""

from __future__ import annotations

import math

import numpy as np
from metric_samples import sample

from headrace.metrics import metrics_text
from streaming.fold.freshness import BOUNDS_MS, Freshness, quantile_ms
from streaming.status import stream_metrics


def filled(*ages: int, slo_ms: float = 1_000) -> dict:
    found = Freshness(slo_ms)
    found.add(10_000_000, [10_000_000 - np.array(ages, dtype=np.int64)])
    return found.to_dict()


def test_an_age_at_a_bound_is_within_it_and_the_share_within_the_slo_is_exact():
    told = filled(50, 51, 700, 701, slo_ms=700)
    assert told["counts"][:2] == [1, 1]
    assert (told["count"], told["within_slo"], told["sum_ms"]) == (4, 0.75, 1_502)
    assert told["le_ms"] == sorted([*map(float, BOUNDS_MS), 700.0])


def test_an_event_from_the_future_has_no_age():
    assert filled(-5_000)["counts"][0] == 1


def test_nothing_has_no_share_and_no_quantile():
    told = Freshness().to_dict()
    assert (told["within_slo"], quantile_ms(told, 0.5)) == (None, None)


def test_a_quantile_is_the_end_of_its_class_and_beyond_the_last_one_infinite():
    told = filled(*[40] * 98, 90, 100_000_000)
    assert [quantile_ms(told, share) for share in (0.5, 0.98, 0.99)] == [50, 50, 100]
    assert math.isinf(quantile_ms(told, 1.0) or 0)


def test_prometheus_reads_running_counts_in_seconds():
    query = {"batch_id": 1, "counts": {}, "freshness": {"v": filled(40, 200)}}
    text = metrics_text(stream_metrics({"state": "running", "queries": {"q": query}}))
    age, view = "headrace_stream_servable_age_seconds", {"query": "q", "view": "v"}
    (first, *_) = [line for line in text.splitlines() if line.startswith(f"{age}_bucket")]
    assert first == f'{age}_bucket{{le="0.05",query="q",view="v"}} 1.0'
    assert sample(text, f"{age}_bucket", **view, le="0.25") == 2
    assert sample(text, f"{age}_bucket", **view, le="+Inf") == 2
    assert sample(text, f"{age}_sum", **view) == 0.24
    assert sample(text, f"{age}_count", **view) == 2
