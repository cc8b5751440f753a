"""The oracle against tables worked out by hand, the stated errors of sketches, and that a comparison sees faults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.checks.naive_aggregations import Expected, hash_48
from features.checks.oracle import Disagreement, compared, disagreements, oracle
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions import aggregations as agg
from features.definitions.expressions import above, ratio
from features.definitions.windows import Window
from features.events.columns import EventColumns
from features.events.parsing import event_schema
from features.history.point_in_time_join import Spine, point_in_time
from features.rows.matrix import Status
from features.rows.tables import hashes_of

T0 = 1_700_000_000_000
"""A whole multiple of every tile here: times below are in seconds after it."""
ME = {"user_id": "me"}
user = Entity("user", keys={"user_id": "string"})
FIELDS = {"user_id": "string", "kind": "string", "price": "float64", "units": "int64", "member": "bool"}
events = Stream("events", topic="t.events", fields=FIELDS, dedupe_horizon="10m")
MINUTE = Window("1m", tile="10s")


def ms(seconds: float) -> int:
    return T0 + round(1_000 * seconds)


def event(seconds: float, price: float | None = 1.0, **others: Any) -> dict[str, Any]:
    """An event that was known at once, unless ``known`` (s) says otherwise."""
    known = others.pop("known", seconds)
    given = {"user_id": "me", "kind": "buy", "units": 1, "member": True, "event_id": None, "partition": 0, "offset": 0}
    return {**given, "event_time": ms(seconds), "known_at": ms(known), "price": price, **others}


def numbered(several: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "offset": place, "event_id": one["event_id"] or f"e{place}"} for place, one in enumerate(several)]


def view_of(*aggregations: agg.Aggregation, windows: Sequence[Any] = (MINUTE,), ttl: str | None = "2d") -> FeatureView:
    return FeatureView("v", [FeatureSet(user, events, aggregations, windows, name="x")], ttl=ttl)


def asked(aggregation: agg.Aggregation, several: Sequence[dict[str, Any]], at: float, window: Window = MINUTE) -> Any:
    """The oracle's value of one aggregation of my events at a time, in s."""
    answer = oracle(view_of(aggregation, windows=[window]), ME, ms(at), {"events": numbered(several)})
    assert not isinstance(answer, Status)
    (expected,) = answer.values()
    return expected.value


# --- each aggregation ------------------------------------------------------------------------------------------------

# The window at 100 s is [40 s, 110 s): the first event and the last one stand just outside.
AHEAD = event(110, 8.0, known=100)
PRICES = [event(39.999, 1.0), event(40, 2.0), event(70, 5.0), event(70, -3.0), event(99.999, 4.0), AHEAD]
OUTSIDE = [event(39.999, 1.0), AHEAD]
# Seconds from the mean of 69.99975, and values from the mean of 2: -29.99975, .00025, .00025, 29.99925; 0, 3, -5, 2.
RISE = 30 * (3 * 0.00025 - 5 * 0.00025 + 2 * 29.99925) / (29.99975**2 + 2 * 0.00025**2 + 29.99925**2)
WEIGHTS = [2 ** -(59.999 / 30), 2 ** -(29.999 / 30), 2 ** -(29.999 / 30), 1.0]
WEIGHTED = (2 * WEIGHTS[0] + 5 * WEIGHTS[1] - 3 * WEIGHTS[2] + 4) / sum(WEIGHTS)
ROUNDED = (agg.DecayedCount, agg.Variance, agg.StdDev, agg.ZScore, agg.Slope, agg.ExponentialMean)
DECAYED = 2 ** -(60 / 30) + 2 ** -(30 / 30) + 2 ** -(30 / 30) + 2 ** -(0.001 / 30)


@pytest.mark.parametrize(
    ("aggregation", "value", "of_nothing"),
    [
        (agg.Count(), 4, 0),
        (agg.Count("price"), 4, 0),
        (agg.Count(where={"price": above(2)}), 2, 0),
        (agg.Sum("price"), 8.0, 0.0),
        (agg.Sum("units"), 4.0, 0.0),
        (agg.Mean("price"), 2.0, None),
        (agg.Min("price"), -3.0, None),
        (agg.Max("price"), 5.0, None),
        (agg.Last("price"), 4.0, None),
        (agg.First("price"), 2.0, None),
        (agg.First("price", where={"price": above(2)}), 5.0, None),
        (agg.MostFrequent("price"), -3.0, None),  # of four values that occur once, the smallest
        (agg.MostFrequent("price", k=3), None, None),
        (agg.MostFrequent("kind"), "buy", None),
        (agg.LastK("price", 3), [4.0, -3.0, 5.0], []),
        (agg.LastK("price", 9), [4.0, -3.0, 5.0, 2.0], []),
        (agg.DistinctCount("price"), 4.0, 0.0),
        (agg.DistinctCount("kind"), 1.0, 0.0),
        (agg.TimeSinceLast(), 1, None),
        (agg.TimeSinceLast(where={"price": -3.0}), 30_000, None),
        (agg.DecayedCount("30s"), DECAYED, 0.0),
        (agg.Quantile("price", 0.0), -3.0, None),
        (agg.Quantile("price", 0.5), 2.0, None),  # rank floor(0.5 · 3) = 1 of -3, 2, 4, 5
        (agg.Quantile("price", 1.0), 5.0, None),
        (agg.Variance("price"), 38 / 3, None),  # 0, 9, 25, 4 from the mean of 2, over 4 - 1
        (agg.StdDev("price"), math.sqrt(38 / 3), None),
        (agg.ZScore("price"), 2 / math.sqrt(38 / 3), None),
        (agg.ZScore("units"), None, None),
        (agg.Change("price"), 7.0, None),
        (agg.Slope("price", per="30s"), RISE, None),
        (agg.ExponentialMean("price", "30s"), WEIGHTED, None),
        (agg.Variance("price", where={"price": 5.0}), None, None),
        (agg.Change("price", where={"price": 5.0}), None, None),
        (agg.Ratio(agg.Sum("price"), agg.Count()), 2.0, None),
        (agg.Ratio(agg.Count(where={"price": above(2)}), agg.Count()), 0.5, None),
        (agg.Ratio(agg.Count(), agg.Count(where={"kind": "return"})), None, None),
        (agg.Ratio(agg.Count(), agg.Count(), where={"kind": "return"}), None, None),
    ],
    ids=lambda value: value.label if isinstance(value, agg.Aggregation) else "",
)
def test_an_aggregation_is_what_a_hand_gets(aggregation: agg.Aggregation, value: Any, of_nothing: Any) -> None:
    found = asked(aggregation, PRICES, 100)
    assert found == (pytest.approx(value, rel=1e-12) if isinstance(aggregation, ROUNDED) and value else value)
    assert asked(aggregation, OUTSIDE, 100) == of_nothing


def test_a_null_is_no_value_but_its_event_counts() -> None:
    several = [event(90, 3.0), event(95, None, kind=None)]
    assert asked(agg.Count(), several, 100) == 2
    assert asked(agg.Count("price"), several, 100) == 1
    assert asked(agg.Mean("price"), several, 100) == 3.0
    assert asked(agg.Last("price"), several, 100) == 3.0
    assert asked(agg.LastK("kind", 2), several, 100) == ["buy"]
    assert asked(agg.TimeSinceLast(), several, 100) == 5_000
    assert asked(agg.Count(where={"kind": ["buy", "return"]}), several, 100) == 1


def test_a_ratios_own_filter_and_its_parts_filters_all_hold() -> None:
    several = [event(90, 1.0, member=True), event(91, 1.0, member=False), event(92, 9.0, member=True)]
    dear = agg.Ratio(agg.Count(where={"price": above(5)}), agg.Count(), where={"member": True})
    assert asked(dear, several, 100) == 0.5


def test_of_two_events_in_one_millisecond_the_later_offset_is_last() -> None:
    assert asked(agg.LastK("price", 2), [event(90, 1.0), event(90, 2.0)], 100) == [2.0, 1.0]
    assert asked(agg.First("price"), [event(90, 1.0), event(90, 2.0)], 100) == 1.0
    swapped = [event(90, 2.0, known=91), event(90, 1.0, known=90)]
    assert asked(agg.Last("price"), swapped, 100) == 1.0


# --- which events count ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "count"),
    [
        (39.999, 1),  # [-30, 40): only the one at 39.999
        (40, 2),  # [-20, 50): the one at 40.000 joins with its tile, which starts now
        (100, 4),  # [40, 110)
        (109.999, 4),
        (110, 4),  # [50, 120): the one at 40.000 leaves with its tile, the one at 110 joins with its own
        (160, 1),  # [100, 170)
        (170, 1),  # [110, 180): the one at exactly 110 is the first inside
        (179.999, 1),
        (180, 0),  # [120, 190)
    ],
)
def test_both_ends_of_a_window_move_by_tiles(at: float, count: int) -> None:
    assert asked(agg.Count(), PRICES, at) == count


@pytest.mark.parametrize(
    ("at", "count"),
    [
        (60, 2),  # [-20, 40)
        (100, 4),  # [20, 80)
        (109.999, 4),
        (110, 3),  # [30, 90): the one at 20 has left
        (120, 3),  # [40, 100): 39.999 has left, 99.999 has come
        (130, 3),  # [50, 110): 40 has left, 100 has come
        (180, 1),  # [100, 160)
        (190, 0),
    ],
)
def test_both_ends_of_a_delayed_window_are_floored(at: float, count: int) -> None:
    several = [event(20), event(39.999), event(40), event(70), event(99.999), event(100)]
    several = several if at != 130 else [*several, event(125)]  # one that no delayed window sees yet
    assert asked(agg.Count(), several, at, Window("1m", tile="10s", delay="20s")) == count


def test_an_event_ahead_of_the_clock_counts_from_when_its_tile_starts() -> None:
    several = [event(90), event(104, known=98)]
    assert [asked(agg.Count(), several, at) for at in (97, 98, 99.999, 100, 103)] == [1, 1, 1, 2, 2]
    assert asked(agg.TimeSinceLast(), several, 103) == 0
    assert asked(agg.DecayedCount("30s"), several[1:], 102) == pytest.approx(2 ** (2 / 30))


@pytest.mark.parametrize("window", ["1h", "24h", "36h"])
def test_an_event_at_as_of_counts_in_every_window_also_where_a_tile_starts(window: str) -> None:
    """A daily file would lose its newest day: its times are all starts of tiles."""
    assert asked(agg.Count(), [event(0)], 0, Window(window)) == 1


def test_an_event_counts_from_when_it_is_known() -> None:
    several = [event(90), event(50, known=95)]
    assert [asked(agg.Count(), several, at) for at in (94.999, 95)] == [1, 2]


def test_an_event_that_is_older_than_the_horizon_when_it_becomes_known_never_counts() -> None:
    several = [event(90), event(39.999, known=100), event(40, known=100)]
    # [30, 100) holds both; only the second was known within a minute.
    assert asked(agg.Count(), several, 100, Window("1m", tile="30s")) == 2


def test_a_repeated_id_counts_once_within_the_horizon_and_again_beyond_it() -> None:
    day = Window("1d", tile="10s")
    repeated = [event(at, price, event_id="same") for at, price in ((0, 1.0), (600, 2.0), (600.001, 3.0), (1_200, 4.0))]
    assert asked(agg.LastK("price", 9), repeated, 2_000, day) == [3.0, 1.0]


def test_the_first_record_of_an_id_wins_whoever_it_is_of() -> None:
    several = [event(90, event_id="same", user_id="another"), event(91, event_id="same"), event(92)]
    assert asked(agg.Count(), several, 100) == 1


def test_another_entitys_events_are_not_mine() -> None:
    assert asked(agg.Count(), [event(90), event(91, user_id="another"), event(92, user_id=None)], 100) == 1


@pytest.mark.parametrize(
    ("age_s", "status"),
    [
        (60, None),
        (60.001, Status.OUTSIDE_MAX_AGE),
        (120, Status.OUTSIDE_MAX_AGE),
        (120.001, Status.NOT_FOUND),
    ],
)
def test_an_entity_ages_by_its_newest_known_event(age_s: float, status: Status | None) -> None:
    several = [event(-30), event(0), event(1, known=10_000)]
    answer = oracle(view_of(agg.Count(), ttl=None), ME, ms(age_s), {"events": numbered(several)})
    assert (answer if isinstance(answer, Status) else None) == status


def test_an_entity_without_events_is_not_found() -> None:
    assert oracle(view_of(agg.Count()), ME, ms(0), {}) is Status.NOT_FOUND


# --- sketches --------------------------------------------------------------------------------------------------------


def test_hashes_of_columns_are_those_of_the_oracle() -> None:
    texts = ["", "a", "b", "ab", "ba", "\0", "éü", "日本", "x" * 9, "long " * 2_000, None]
    numbers = [0, 1, -1, 2**63 - 1, -(2**63), 2**32, 2**53 + 1]
    prices = [0.0, -0.0, 1.0, -1.0, 0.1, 1e300, 5e-324]
    table = pa.table(
        {
            **{
                name: pa.array([0], pa.int64()).take(pa.array([0] * 11))
                for name in ("event_time", "known_at", "offset")
            },
            "partition": pa.array([0] * 11, pa.int32()),
            "user_id": texts,
            "units": numbers + [None] * 4,
            "price": prices + [None] * 4,
            "member": [True, False] + [None] * 9,
        }
    )
    columns = EventColumns(table, events)
    for name in ("user_id", "units", "price", "member"):
        found = hashes_of(columns.values(name)).tolist()
        values = table[name].to_pylist()
        assert [h for h, v in zip(found, values, strict=True) if v is not None] == [
            hash_48(value) for value in values if value is not None
        ]
    assert len({hash_48(value) for value in (1, 1.0, "1")}) == 3


def table_of(users: Sequence[str], **columns: Any) -> pa.Table:
    """Events of these users, all half a minute before T0 + 60 s."""
    count = len(users)
    filled: dict[str, Any] = {name: pa.nulls(count, event_schema(events).field(name).type) for name in FIELDS}
    filled |= {"event_id": [f"e{n}" for n in range(count)], "partition": [0] * count, "offset": np.arange(count)}
    filled |= {"event_time": np.full(count, ms(30)), "known_at": np.full(count, ms(30)), "user_id": users, **columns}
    return pa.table(filled).select(event_schema(events).names).cast(event_schema(events))


def features_of(view: FeatureView, table: pa.Table, users: Sequence[str]) -> np.ndarray[Any, Any]:
    spine = Spine(pa.array(users), np.full(len(users), ms(60)))
    return point_in_time(view, spine, {"events": table}).to_numpy()


def test_distinct_counts_have_the_stated_standard_error_and_no_bias(seed: int) -> None:
    sets, size, ks = 128, 4_000, (64, 256, 1_024)
    rng = np.random.default_rng(seed)
    users = [f"u{number}" for number in range(sets)]
    values = np.concatenate([rng.choice(2**40, size, replace=False) for _ in users])
    sets_of = [FeatureSet(user, events, [agg.DistinctCount("units", k=k)], ["1h"], name=f"k{k}") for k in ks]
    found = (
        features_of(FeatureView("v", sets_of), table_of(np.repeat(users, size).tolist(), units=values), users) / size
    )
    for column, k in enumerate(ks):
        stated = 1 / math.sqrt(k - 2)
        assert found[:, column].std() < 1.3 * stated
        assert abs(found[:, column].mean() - 1) < 4 * stated / math.sqrt(sets)


def test_a_distinct_count_is_exact_up_to_k() -> None:
    found = features_of(
        view_of(agg.DistinctCount("units", k=64)), table_of(["me"] * 200, units=np.arange(200) % 64), ["me"]
    )
    assert found.tolist() == [[64.0]]


DISTRIBUTIONS = {
    "lognormal": lambda rng: rng.lognormal(3, 2, 3_001),
    "uniform": lambda rng: rng.uniform(0, 1, 3_001),
    "negative": lambda rng: -rng.lognormal(0, 3, 3_001),
    "both signs": lambda rng: rng.normal(0, 100, 3_001),
    "zeros": lambda rng: np.zeros(3_001),
    "mostly zeros": lambda rng: np.where(rng.random(3_001) < 0.7, 0.0, rng.normal(0, 1, 3_001)),
    "cents": lambda rng: np.round(rng.exponential(20, 3_001), 2),
    "one value": lambda rng: np.array([19.99]),
    "two values": lambda rng: np.array([1e-8, 1e14]),
}


@pytest.mark.parametrize("error", [0.001, 0.01, 0.05, 0.2])
def test_quantiles_are_within_the_stated_error_of_the_item_of_their_rank(error: float, seed: int) -> None:
    rng, ranks = np.random.default_rng(seed), (0.0, 0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999, 1.0)
    samples = {name: draw(rng) for name, draw in DISTRIBUTIONS.items()}
    users = [name for name, sample in samples.items() for _ in sample]
    view = view_of(*(agg.Quantile("price", q, relative_error=error) for q in ranks), windows=["1h"], ttl=None)
    found = features_of(view, table_of(users, price=np.concatenate(list(samples.values()))), list(samples))
    for row, sample in enumerate(samples.values()):
        items = np.sort(sample)[np.floor(np.array(ranks) * (len(sample) - 1)).astype(int)]
        assert (np.abs(found[row] - items) <= error * np.abs(items) * (1 + 1e-9)).all(), list(samples)[row]


# --- comparison ------------------------------------------------------------------------------------------------------


def found_and_expected() -> tuple[FeatureView, Any, list[Any]]:
    share = {"share": ratio("user_x_price_sum_1m", "user_x_count_1m")}
    view = replace(view_of(agg.Count(), agg.Sum("price"), agg.LastK("price", 2)), derived=share)
    several = numbered(PRICES)
    expected = [oracle(view, key, ms(100), {"events": several}) for key in (ME, {"user_id": "nobody"})]
    table = pa.Table.from_pylist(several, schema=event_schema(events))
    spine = Spine(pa.array(["me", "nobody"]), np.array([ms(100)] * 2))
    return view, point_in_time(view, spine, {"events": table}), expected


def with_column(found: Any, place: int, values: list[Any]) -> Any:
    columns = list(found.columns)
    columns[place] = pa.array(values, columns[place].type)
    return replace(found, columns=tuple(columns))


def test_a_right_matrix_has_no_disagreement() -> None:
    assert disagreements(*swapped(found_and_expected())) == []


def swapped(three: tuple[FeatureView, Any, list[Any]]) -> tuple[FeatureView, list[Any], Any]:
    return three[0], three[2], three[1]


@pytest.mark.parametrize(
    ("place", "values", "what"),
    [
        (0, [5, None], "user_x_count_1m is 5, expected 4"),
        (0, [None, None], "user_x_count_1m is None"),
        (0, [4, 0], "user_x_count_1m is 0, expected null"),
        (1, [8.0 + 3e-8, None], "user_x_price_sum_1m is"),
        (1, [math.nan, None], "user_x_price_sum_1m is nan"),
        (2, [[5.0, 4.0], None], "user_x_price_last_2_1m is [5.0, 4.0]"),
        (2, [[4.0], None], "user_x_price_last_2_1m is [4.0]"),
        (3, [2.0000001, None], "user_share is not"),
    ],
)
def test_a_wrong_value_is_a_disagreement_that_names_it(place: int, values: list[Any], what: str) -> None:
    view, found, expected = found_and_expected()
    lines = disagreements(view, expected, with_column(found, place, values))
    assert any(what in line for line in lines), lines


def test_a_wrong_status_is_a_disagreement() -> None:
    view, found, expected = found_and_expected()
    wrong = replace(found, status=np.array([Status.PRESENT, Status.OUTSIDE_MAX_AGE], np.int8))
    assert compared(view, expected, wrong) == [Disagreement(1, "status", "OUTSIDE_MAX_AGE", "NOT_FOUND")]


def test_a_sum_may_differ_by_its_stated_tolerance_and_no_more() -> None:
    view, found, expected = found_and_expected()
    assert expected[0]["user_x_price_sum_1m"] == Expected(8.0, pytest.approx(1e-9 * 14))
    assert compared(view, expected, with_column(found, 1, [8.0 + 1e-8, None])) == []
    (worse,) = compared(view, expected, with_column(found, 1, [8.0 + 2.8e-8, None]))
    assert worse.excess == pytest.approx(2, rel=1e-3)
