"""The checks find what they are for: each law fails on the fault that it guards against, and samples are fair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.checks import laws as checks
from features.checks.laws import Report, Sizes, check_view, verdicts_add_up, verdicts_are_the_records_own
from features.checks.sampling import moments_along, records_of, sampled_entities, spread
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count, DistinctCount, LastK, Ratio, Sum
from features.definitions.views import used_columns
from features.definitions.windows import Window
from features.events.parsing import Parsed, from_columns
from features.rows import folding as state
from features.times import moment_text

T0 = 1_700_000_000_000
LAWS = [
    "history = oracle",
    "stream in random batches = oracle",
    "stream in random batches = history",
    "a batch folded again changes nothing more",
    "one batch = many batches",
    "rows survive the codec",
]
FEW = Sizes(entities=12, times=20)
user = Entity("user", keys={"user_id": "string"})
FIELDS = {"user_id": "string", "item": "string", "price": "float64", "kind": "string", "unused": "string"}
events = Stream("events", topic="t.events", fields=FIELDS, dedupe_horizon="10m")
view = FeatureView(
    "v",
    [
        FeatureSet(user, events, [Count(), Sum("price"), LastK("item", 3), DistinctCount("item")], ["1m", "10m"]),
        FeatureSet(user, events, [Count()], [Window("2m", delay="1m")], where={"kind": "a"}),
    ],
)


def parsed(seed: int, count: int = 400) -> Parsed:
    """Events of twenty users, the first of them busiest, in twenty minutes; one in ten repeats an id."""
    rng = np.random.default_rng(seed)
    ids = [f"e{rng.integers(number) if number and rng.random() < 0.1 else number}" for number in range(count)]
    columns = {
        "event_id": ids,
        "event_time": np.sort(rng.integers(T0, T0 + 1_200_000, count)),
        "user_id": [f"u{int(number)}" for number in 20 * rng.random(count) ** 2],
        "item": [f"i{number}" for number in rng.integers(0, 50, count)],
        "price": np.round(rng.normal(0, 10, count), 2),
        "kind": rng.choice(["a", "b"], count),
    }
    return from_columns(pa.table(columns), events)


def checked(several: Parsed, seed: int, sizes: Sizes = FEW) -> dict[str, Report]:
    reports = check_view(view, {"events": several.events}, sizes, np.random.default_rng(seed))
    return {report.law: report for report in reports}


def test_every_law_holds_and_compares_something(seed: int) -> None:
    found = checked(parsed(seed), seed)
    assert list(found) == LAWS
    assert {law: report.worst for law, report in found.items() if report.mismatches} == {}
    assert all(report.compared for report in found.values())
    assert found["history = oracle"].compared == 12 * 20 * len(view.features)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_the_laws_hold_at_a_few_times_too(seed: int, times: int) -> None:
    found = checked(parsed(seed), seed, Sizes(entities=12, times=times))
    assert {law: report.worst for law, report in found.items() if report.mismatches} == {}
    assert found["one batch = many batches"].compared


def test_a_check_tells_its_progress_and_repeats_itself_by_its_seed() -> None:
    said: list[str] = []
    several = {"events": parsed(1).events}
    first, second = (list(check_view(view, several, Sizes(5, 5), np.random.default_rng(3), said.append)) for _ in "12")
    assert first == second
    assert said[0].startswith("v: 5 entities x 5 times")


def failed(found: dict[str, Report]) -> set[str]:
    return {law for law, report in found.items() if report.mismatches}


def test_repetitions_that_are_counted_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "without_duplicates", lambda table, horizon_ms: table)
    found = checked(parsed(1), 1)
    assert {"history = oracle", "stream in random batches = oracle"} <= failed(found)
    assert "expected" in found["history = oracle"].worst[0]


def test_a_fence_that_lets_a_batch_in_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "is_open", lambda written_by, batch_id: written_by <= batch_id)
    found = checked(parsed(1), 1)
    assert "a batch folded again changes nothing more" in failed(found)
    assert "history = oracle" not in failed(found)


def test_late_knowledge_is_found_when_it_is_used_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """History that takes events as known when they happened, though they became known later."""
    late = parsed(1)
    known = pa.array(late.events["known_at"].to_numpy() + np.random.default_rng(1).integers(0, 40_000, len(late.rows)))
    place = late.events.schema.get_field_index("known_at")
    late = replace(late, events=late.events.set_column(place, "known_at", known))
    assert failed(checked(late, 1)) == set()
    point_in_time = checks.point_in_time

    def too_early(view: FeatureView, spine: Any, tables: Any) -> Any:
        early = {name: table.set_column(place, "known_at", table["event_time"]) for name, table in tables.items()}
        return point_in_time(view, spine, early)

    monkeypatch.setattr(checks, "point_in_time", too_early)
    assert {"history = oracle", "stream in random batches = history"} <= failed(checked(late, 1))


def test_a_verdict_that_depends_on_the_chunk_is_found() -> None:
    several = parsed(1)
    whole = verdicts_are_the_records_own("events", [several], [several])
    assert (whole.compared, whole.mismatches) == (400, 0)
    verdicts = several.verdicts.copy()
    verdicts[7] = 2
    other = verdicts_are_the_records_own("events", [several], [replace(several, verdicts=verdicts)])
    assert (other.mismatches, other.worst) == (1, ("record 7: '', then ''",))
    assert verdicts_are_the_records_own("events", [several], [parsed(1, 399)]).mismatches == 1


def test_a_record_without_an_end_is_found() -> None:
    several = parsed(1)
    report = verdicts_add_up(events, [several])
    assert report.mismatches == 0
    assert report.note.endswith("0 late, 0 dead letter")
    lost = replace(several, events=several.events.slice(1), rows=several.rows[1:])
    assert verdicts_add_up(events, [lost]).mismatches > 0


def test_a_sample_has_the_busiest_and_is_spread_over_the_rest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.concatenate([np.full(9_990, 1), np.arange(1_000, 2_000, 100)])
    chosen = spread(rng.permutation(sizes), 100, rng)
    assert len(chosen) == len(set(chosen.tolist())) == 100
    sizes = np.sort(sizes)[::-1]
    chosen = spread(sizes, 100, rng)
    assert set(range(5)) <= set(chosen.tolist())
    assert (chosen < 10).sum() >= 10  # those ten have six in ten of the events
    assert (chosen >= 10).sum() >= 45
    assert spread(sizes[:7], 100, rng).tolist() == list(range(7))


def test_the_records_that_matter_are_the_samples_and_those_of_the_same_ids() -> None:
    table = pa.table(
        {
            "event_id": ["1", "2", "2", "3"],
            "event_time": pa.array([T0] * 4),
            "known_at": pa.array([T0] * 4),
            "partition": pa.array([0] * 4, pa.int32()),
            "offset": pa.array(range(4)),
            **{name: pa.array(["x"] * 4) for name in ("item", "kind", "unused")},
            "price": [1.0] * 4,
            "user_id": ["ann", "bob", "ann", "bob"],
        }
    )
    sample = sampled_entities(view, {"events": table}, 9, np.random.default_rng(0))
    assert sorted(key["user_id"] for key in sample.keys) == ["ann", "bob"]
    ann = replace(sample, keys=[{"user_id": "ann"}], texts=pa.array(["ann"]))
    rows = records_of(view, {"events": table}, ann)["events"]
    assert [row["offset"] for row in rows] == [0, 1, 2]
    assert "unused" not in rows[0]


def test_the_columns_that_features_depend_on_are_those_of_filters_ratios_and_keys() -> None:
    ratio = Ratio(Sum("price"), Count(where={"kind": "a"}))
    one = FeatureView("w", [FeatureSet(user, events, [ratio], ["1m"])])
    assert used_columns(one, events)[5:] == ["user_id", "price", "kind"]


def test_moments_rise_and_end_after_everything_is_known(seed: int) -> None:
    several = {"events": parsed(seed).events}
    moments = moments_along(view, several, 20, np.random.default_rng(seed))
    assert moments == sorted(moments)
    assert len(moments) == 20
    assert moments[-1] >= several["events"]["known_at"].to_numpy().max() + view.ttl_ms


def test_a_moment_is_written_to_the_millisecond() -> None:
    assert moment_text(T0 + 1) == "2023-11-14T22:13:20.001Z"


@pytest.mark.parametrize("count", [16, 17, 40])
def test_a_distinct_count_is_the_same_on_every_path_on_both_sides_of_k(count: int) -> None:
    """A row that keeps k hashes of a tile cannot tell k values from more: it takes one more."""
    columns = {
        "event_id": [f"e{number}" for number in range(count)],
        "event_time": [T0 + number for number in range(count)],  # all in one tile
        "user_id": ["u"] * count,
        "item": [f"i{number}" for number in range(count)],
    }
    few = FeatureView("few", [FeatureSet(user, events, [DistinctCount("item", k=16)], ["10m"])])
    table = from_columns(pa.table(columns), events).events
    reports = check_view(few, {"events": table}, Sizes(1, 20), np.random.default_rng(0))
    assert {report.law: report.worst for report in reports if report.mismatches} == {}
