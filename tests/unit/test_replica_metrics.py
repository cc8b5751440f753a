"""The metrics of several replicas, as any of them tells them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hand_clock import Clock
from metric_samples import sample

from serving.metrics import Metrics
from serving.recommender_metrics import RecommenderFamilies
from serving.replicas import LIVE_S, ReplicaMetrics


@pytest.fixture
def clock() -> Clock:
    return Clock(1_900_000_000.0)


def replica(folder: Path, clock: Clock) -> tuple[Metrics, ReplicaMetrics]:
    metrics = Metrics()
    return metrics, ReplicaMetrics(metrics, folder, clock)


def test_counts_and_histograms_are_those_of_all_replicas_whoever_is_asked(tmp_path, clock):
    one, ones = replica(tmp_path, clock)
    other, others = replica(tmp_path, clock)
    for metrics, count, took_s in ((one, 3, 0.004), (other, 4, 0.3)):
        for _ in range(count):
            metrics.fallbacks.labels("deadline").inc()
            metrics.recommend_seconds.observe(took_s)
    other.fallbacks.labels("no_user").inc()
    ones.write()
    others.write()
    for text in (ones.text().decode(), others.text().decode()):
        assert sample(text, "headrace_fallbacks_total", reason="deadline") == 7
        assert sample(text, "headrace_fallbacks_total", reason="no_user") == 1
        assert sample(text, "headrace_recommend_seconds_count") == 7
        assert sample(text, "headrace_recommend_seconds_bucket", le="0.005") == 3
        assert sample(text, "headrace_recommend_seconds_sum") == pytest.approx(1.212)
        assert sample(text, "headrace_fallback_ratio") == pytest.approx(8 / 7)
        assert sample(text, "headrace_replicas") == 2


def test_what_one_replica_has_said_of_itself_no_other_says_less_of(tmp_path, clock):
    """A sum that falls is a restart to Prometheus, which then counts it all once more."""
    one, ones = replica(tmp_path, clock)
    _, others = replica(tmp_path, clock)
    ones.write()
    one.events.labels("accepted").inc(5)
    assert sample(ones.text().decode(), "headrace_events_total", status="accepted") == 5
    assert sample(others.text().decode(), "headrace_events_total", status="accepted") == 5


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_replica_counted_outlives_it_and_what_it_measured_does_not(tmp_path, clock, killed):
    one, ones = replica(tmp_path, clock)
    other, others = replica(tmp_path, clock)
    one.events.labels("accepted").inc(2)
    one.items.set(50)
    other.items.set(30)
    ones.write()
    assert sample(others.text().decode(), "headrace_items") == 50
    if killed:
        clock.now += LIVE_S + 1
    else:
        ones.end()
    text = others.text().decode()
    assert sample(text, "headrace_events_total", status="accepted") == 2
    assert (sample(text, "headrace_items"), sample(text, "headrace_replicas")) == (30, 1)


def test_of_items_read_at_several_times_the_oldest_is_told(tmp_path, clock):
    one, ones = replica(tmp_path, clock)
    other, others = replica(tmp_path, clock)
    for metrics, at in ((one, clock.now - 7), (other, clock.now - 1)):
        RecommenderFamilies(metrics).items_read_at.labels("shop").set(at)
        metrics.items_read_at.set(at)
    ones.write()
    text = others.text().decode()
    assert sample(text, "headrace_items_read_timestamp_seconds") == clock.now - 7
    assert 'headrace_items_age_seconds{recommender="shop"}' in text


def test_shares_are_of_the_reads_of_all_replicas(tmp_path, clock):
    one, ones = replica(tmp_path, clock)
    other, others = replica(tmp_path, clock)
    for metrics, age_s in ((one, 1.0), (other, 2 * 86_400.0), (other, 2 * 86_400.0), (other, 5.0)):
        metrics.read_age.labels("by_user").observe(age_s)
    ones.write()
    assert sample(others.text().decode(), "headrace_reads_within_slo_ratio", view="by_user") == 0.5


def test_several_may_ask_a_replica_while_it_writes(tmp_path, clock):
    _, ones = replica(tmp_path, clock)
    _, others = replica(tmp_path, clock)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(one) for _ in range(50) for one in (ones.text, others.text, ones.write, others.write)]
    assert [one.exception() for one in asked if one.exception()] == []
    assert sample(ones.text().decode(), "headrace_replicas") == 2


def test_a_replica_alone_needs_no_folder(clock):
    metrics = Metrics()
    metrics.events.labels("late").inc()
    text = ReplicaMetrics(metrics, None, clock).text().decode()
    assert sample(text, "headrace_events_total", status="late") == 1
