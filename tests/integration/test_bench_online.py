"""The benches of the online store: both sides hold the same values, and the report says what it promises."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from features.times import now_ms
from headrace.bench.online import StoreBench, filled, interleaved, ratios, typical_events
from headrace.bench.redis_server import redis_server
from headrace.bench.workload import Workload, numeric_view, user_keys
from headrace.cli import cli

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Feast's, of pandas and pydantic
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_ours_and_stock_feast_are_asked_for_the_same_and_answer_the_same(tmp_path, monkeypatch, kind):
    now = now_ms()
    monkeypatch.setattr("features.times.time.time_ns", lambda: now * 1_000_000)
    view = numeric_view(50)
    requests = [[{"user_id": user} for user in user_keys(20)]] * 6
    with redis_server(tmp_path) as redis:
        if kind == "redis" and redis is None:
            pytest.skip("redis-server is not installed (apt-get install redis-server)")
        with StoreBench(tmp_path, redis).sides(kind) as sides:
            filled(sides, [view], typical_events(Workload(20, 100), now), user_keys(20), now)
            features = [f"{view.name}:{name}" for name in view.names]
            ours, stock = (
                one.get_online_features(features, requests[0]).to_dict() for one in (sides.ours, sides.stock)
            )
            times = interleaved(sides, view, requests)
    for name in view.names:
        assert ours[name] == pytest.approx(stock[name], nan_ok=True) or None in ours[name], name
    assert ours["user_purchase_price_sum_30d"] == stock["user_purchase_price_sum_30d"]
    assert all(0 < one["p50_ms"] <= one["to_dict"]["p50_ms"] for one in times)


def test_the_ratio_of_reads_is_that_of_the_store_where_it_is_worse():
    def side(ms):
        return {density: {size: {key: {"p50_ms": ms} for key in ("1", "100", "500")} for size in ("20", "50")}
                for density in ("typical", "dense")}  # fmt: skip

    found = {"ours": {"sqlite": side(2.0), "redis": side(1.0)}, "peer": {"sqlite": side(50.0), "redis": side(30.0)}}
    assert ratios(found)["ratio"] == 25.0
    assert set(ratios(found)["ratios"].values()) == {25.0}


def test_the_bench_of_writes_reports_rows_a_second_of_both_sides():
    result = CliRunner().invoke(cli, ["bench", "online-write", "--rows", "30", "--repeat", "1", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["bench"] == "online-write"
    assert report["peer"]["name"].startswith("feast ")
    assert report["ratio"] == min(report["ratios"].values())
    assert report["ours"]["sqlite"]["per_s"] > 0 < report["peer"]["sqlite"]["per_s"]
