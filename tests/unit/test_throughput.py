"""`headrace bench throughput`: the load that it sends and what it makes of what the stream says."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa

from features.definitions import Stream
from features.events.parsing import Records, Verdict, parse
from headrace.bench.loop.throughput import ProgressSample, best_limit, details, figures_of
from headrace.simulators.zipf import KINDS, Templates, ZipfLoad, zipf
from streaming.fold.observed_store import Stopwatch

NAMES = ("user_id", "session_id", "item_id", "category")
FIELDS = {"event_type": "string", "price": "float64", "quantity": "int64", "rating": "float64", "position": "int64"}
STREAM = Stream("activity", topic="t", fields={**FIELDS, **dict.fromkeys(NAMES, "string")})
NOW = 1_790_000_000_000


def test_the_load_is_events_of_this_time_with_ids_of_their_own_but_for_a_few_that_repeat_or_break():
    templates = Templates(ZipfLoad(users=50, items=20), STREAM, 500)
    several = templates.batch(0, 3_000, NOW) + templates.batch(3_000, 3_000, NOW)
    places = np.zeros(6_000, np.int32), np.arange(6_000)
    values = pa.array([one["value"] for one in several], pa.binary())
    parsed = parse(Records(values, np.full(6_000, NOW), *places), STREAM)
    broken = int((parsed.verdicts == Verdict.DEAD_LETTER).sum())
    assert 0 < broken < 60
    assert set(parsed.events["event_time"].to_pylist()) == {NOW}
    assert set(parsed.events["event_type"].to_pylist()) <= set(KINDS)
    distinct = len(parsed.events["event_id"].unique())
    assert 5_800 < distinct < parsed.events.num_rows
    assert [one["key"].decode() for one in several[:500]] == [
        json.loads(one["value"].removeprefix(b"broken"))["user_id"] for one in several[:500]
    ]


def test_by_zipfs_law_the_first_is_as_frequent_as_the_second_twice():
    counts = np.bincount(zipf(np.random.default_rng(1), 1_000, 200_000), minlength=1_000)
    assert 1.8 < counts[0] / counts[1] < 2.2
    assert 8 < counts[0] / counts[9] < 12


def test_figures_are_of_what_came_between_the_first_and_the_last_word_of_the_stream():
    samples = [ProgressSample(float(at), 100 * at, 1_000 - at, {"fold": 10.0 * at}) for at in range(5, 25)]
    figures = figures_of(samples)
    assert (figures["per_s"], figures["events"], figures["seconds"]) == (100, 1_900, 19.0)
    assert figures["us_per_event"] == {"fold": 100.0}
    assert figures["lag"] == {"first_quarter": 993, "last_quarter": 978, "end": 976}
    ours = {"sqlite": {**figures, "limit": 1}, "redis": {**figures, "limit": 3}}
    limits = {"spark_parse_noop": best_limit(ours), "fold_alone": {"per_s": 2}}
    assert ours == {"sqlite": figures, "redis": figures}
    lines = dict(details({"ours": ours, "limits": limits}))
    assert lines["sqlite"].startswith("100 events/s for 19 s")
    assert lines["limits"].endswith("no sink 3 events/s")


def test_a_stage_inside_another_stops_the_outer_ones_time():
    watch, began = Stopwatch(), time.perf_counter()
    with watch.at("outer"), watch.at("inner"):
        inside = time.perf_counter()
        while time.perf_counter() < inside + 0.02:
            pass
        inner_ms = 1e3 * (time.perf_counter() - inside)
    took_ms = 1e3 * (time.perf_counter() - began)
    assert inner_ms <= watch.spent_ms["inner"] <= sum(watch.spent_ms.values()) <= took_ms
    assert watch.spent_ms["outer"] <= took_ms - inner_ms
