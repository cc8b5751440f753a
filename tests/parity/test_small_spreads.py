"""Variances of large values that differ little: the same on every path, to nine digits of the exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from worlds import T0, spine_of, table_of, view_of

from features.checks.oracle import disagreements, oracle
from features.definitions.aggregations import StdDev, Sum, Variance, ZScore
from features.double_double import added, centred, multiplied, sums_of_runs
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
    assert centred(3.0, *squares, *sums, *sums) == 0.0
    assert centred(2.0, 5.0, 0.0, 3.0, 0.0, 3.0, 0.0) == 1.0
