"""Variances of large values that differ little: the same on every path, to nine digits of the exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from worlds import T0, spine_of, table_of, view_of

from features.checks.oracle import disagreements, oracle
from features.definitions.aggregations import ExponentialMean, Slope, StdDev, Sum, Variance, ZScore
from features.double_double import INTEGER_NOISE, NOISE, added, centred, multiplied, sums_of_runs
from features.history.point_in_time_join import point_in_time
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, FeatureMatrix, PackedRows

VIEW = view_of(["10m"], (Sum("price"), Variance("price"), StdDev("price"), ZScore("price")))
NAMES = [f"user_all_price_{kind}_10m" for kind in ("variance", "stddev", "zscore")]
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))
AS_OF = T0 + 100_000

sizes = st.sampled_from([0.0, 1.0, -273.15, 1e6, 1.7e12, -4e9])
steps = st.sampled_from([1e-3, 0.1, 1.0, 7e5])
finite = st.floats(-1e140, 1e140).filter(lambda x: x == 0 or abs(x) > 1e-140)


def events_of(prices: Sequence[float]) -> list[dict]:
    return [
        {"event_id": f"e{at}", "event_time": T0 + 1_000 * at, "known_at": T0 + 1_000 * at, "partition": 0, "offset": at}
        | {"user_id": "a", "price": price}
        for at, price in enumerate(prices)
    ]


def both(prices: Sequence[float], size: int, order: Sequence[int]) -> list[FeatureMatrix]:
    """What rows of the prices in this order, in batches of this size, and their history have."""
    table, rows = table_of(events_of(prices)), NOTHING
    for batch, start in enumerate(range(0, len(prices), size)):
        part = table.take(pa.array(list(order[start : start + size]), pa.int64()))
        rows = fold(VIEW, rows, {"events": part}, BatchKey(7, batch, T0))
    history = point_in_time(VIEW, spine_of(VIEW, [({"user_id": "a"}, AS_OF)]), {"events": table})
    return [finalize(VIEW, rows, AS_OF, 7), history]


def values_of(found: FeatureMatrix) -> list[float | None]:
    by_name = dict(zip(found.names, found.columns, strict=True))
    return [by_name[name][0].as_py() for name in NAMES]


@given(
    size=sizes,
    step=steps,
    numbers=st.lists(st.integers(-5, 5), min_size=2, max_size=40),
    batch=st.integers(1, 9),
    data=st.data(),
)
def test_a_spread_of_a_billionth_of_the_values_keeps_nine_digits(
    size: float, step: float, numbers: list[int], batch: int, data: st.DataObject
) -> None:
    assume(step >= 1e-9 * abs(size))
    prices = [size + step * number for number in numbers]
    exact = [Fraction(price) for price in prices]
    mean = sum(exact) / len(exact)
    variance = float(sum((value - mean) ** 2 for value in exact) / (len(exact) - 1))
    order = data.draw(st.permutations(range(len(prices))))
    for found in both(prices, batch, order):
        assert values_of(found)[:2] == [pytest.approx(variance, rel=1e-9), pytest.approx(variance**0.5, rel=1e-9)]
        expected = oracle(VIEW, {"user_id": "a"}, AS_OF, {"events": events_of(prices)})
        assert disagreements(VIEW, [expected], found) == []


@pytest.mark.parametrize("value", [0.1, -19.99, 1e9 + 0.1, 5e-324, 1e145])
@pytest.mark.parametrize("count", [2, 3, 7, 61])
def test_a_sensor_that_says_the_same_all_the_time_has_no_spread_and_no_zscore(value: float, count: int) -> None:
    for found in both([value] * count, 2, range(count)):
        assert values_of(found) == [0.0, 0.0, None]


@pytest.mark.parametrize("prices", [[1e200, 2e200], [1.7e308, -1.7e308], [1e160, 1.0, 2.0]])
def test_squares_that_leave_float64_have_no_variance(prices: list[float]) -> None:
    for found in both(prices, 1, range(len(prices))):
        assert values_of(found) == [None, None, None]


@given(finite, finite)
def test_a_product_of_two_floats_is_a_pair_to_the_bit(first: float, second: float) -> None:
    with np.errstate(all="ignore"):
        high, low = multiplied(np.float64(first), np.float64(second))
    if first * second == 0 or 1e-260 < abs(first * second) < 1e290:
        assert Fraction(float(high)) + Fraction(float(low)) == Fraction(first) * Fraction(second)


@given(st.lists(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=9), min_size=1, max_size=9))
def test_runs_of_pairs_are_added_to_a_hundred_bits(runs: list[list[float]]) -> None:
    flat = np.array([value for run in runs for value in run])
    starts = np.cumsum([0, *map(len, runs)])[:-1]
    high, low = sums_of_runs(*multiplied(flat, flat), starts)
    for run, first, rest in zip(runs, high, low, strict=True):
        exact = sum(Fraction(value) ** 2 for value in run)
        assert abs(Fraction(float(first)) + Fraction(float(rest)) - exact) <= exact * Fraction(2) ** -99 + Fraction(
            1e-300
        )


def test_what_is_the_same_but_for_rounding_is_no_difference() -> None:
    third = 1 / 3
    square = multiplied(third, third)
    squares, sums = added(*added(*square, *square), *square), added(*added(third, 0.0, third, 0.0), third, 0.0)
    assert centred(3.0, *squares, *sums, *sums, NOISE) == 0.0
    assert centred(2.0, 5.0, 0.0, 3.0, 0.0, 3.0, 0.0, INTEGER_NOISE) == 1.0


TRENDS = view_of(["10m"], (Slope("price", per="1s"), Slope("units", per="1m"), ExponentialMean("price", "10s")))


def trends(events: list[dict], size: int = 3) -> list[list[float | None]]:
    """The slopes of price and units and the weighted mean of price, of rows in batches of this size and of history."""
    table, rows = table_of(events), NOTHING
    for batch, start in enumerate(range(0, len(events), size)):
        rows = fold(TRENDS, rows, {"events": table.slice(start, size)}, BatchKey(7, batch, T0))
    history = point_in_time(TRENDS, spine_of(TRENDS, [({"user_id": "a"}, AS_OF)]), {"events": table})
    return [
        [column[0].as_py() for column in found.columns[:3]] for found in (finalize(TRENDS, rows, AS_OF, 7), history)
    ]


@given(
    size=st.sampled_from([0.0, 20.5, -1e9, 1e12]),
    rise=st.sampled_from([0.0, 1e-3, -7.25, 1e5]),
    seconds=st.lists(st.integers(0, 60), min_size=2, max_size=30, unique=True),
    batch=st.integers(1, 9),
)
def test_values_on_a_line_have_its_slope(size: float, rise: float, seconds: list[int], batch: int) -> None:
    assume(rise == 0 or abs(rise) >= 1e-9 * abs(size))
    events = [
        {**event, "event_time": T0 + 1_000 * second, "price": size + rise * second, "units": 3 - 2 * second}
        for event, second in zip(events_of(seconds), seconds, strict=True)
    ]
    for slope, of_integers, _ in trends(events, batch):
        assert slope == pytest.approx(rise, rel=1e-6)
        assert of_integers == pytest.approx(-120, rel=1e-9)


def test_a_level_line_rises_by_nothing_and_a_single_time_has_no_slope() -> None:
    level = [{**event, "units": 1} for event in events_of([0.1] * 47)]
    assert [found[:2] for found in trends(level)] == [[0.0, 0.0]] * 2
    at_once = [{**event, "event_time": T0, "units": 1} for event in events_of([1.0, 2.0])]
    assert [found[:2] for found in trends(at_once)] == [[None, None]] * 2
    a_millisecond_later = [*at_once, {**events_of([9.0])[0], "event_time": T0 + 1, "offset": 3, "units": 1}]
    assert [found[:2] for found in trends(a_millisecond_later)] == [[pytest.approx(7_500.0), 0.0]] * 2


def test_slope_and_weighted_mean_are_those_of_numpy_and_pandas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prices = (1e6 + np.cumsum(rng.normal(0, 1, 80))).tolist()
    events = [{**event, "units": 1} for event in events_of(prices)]
    times = pd.to_datetime([event["event_time"] for event in events], unit="ms")
    weighted = pd.Series(prices).ewm(halflife="10s", times=times).mean().iloc[-1]
    (rise, _) = np.polyfit(np.arange(80.0), np.array(prices) - 1e6, 1)
    for found in trends(events, 7):
        assert [found[0], found[2]] == [pytest.approx(rise, rel=1e-9), pytest.approx(weighted, rel=1e-12)]


def test_a_weighted_mean_is_of_any_age() -> None:
    """Thousands of half-lives behind as_of, where the weights themselves are 0."""
    events = [{**event, "units": 1} for event in events_of([3.0, 5.0])]
    late = view_of(["2h"], (ExponentialMean("price", "1s"),))
    rows = fold(late, NOTHING, {"events": table_of(events)}, BatchKey(7, 0, T0))
    as_of = T0 + 3_000_000
    history = point_in_time(late, spine_of(late, [({"user_id": "a"}, as_of)]), {"events": table_of(events)})
    for found in (finalize(late, rows, as_of, 7), history):
        assert found.columns[0].to_pylist() == [pytest.approx((3 / 2 + 5) / 1.5)]
