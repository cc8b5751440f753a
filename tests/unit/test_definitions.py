"""Definitions: what follows from them, what is refused, and when a stored row changes its meaning."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream
from features.definitions.aggregations import (
    Aggregation,
    Change,
    Count,
    DecayedCount,
    DistinctCount,
    ExponentialMean,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Ratio,
    Slope,
    StdDev,
    Sum,
    TimeSinceLast,
    Variance,
    ZScore,
)
from features.definitions.expressions import OneOf, above, at_most, hour_within, log1p, product, ratio
from features.definitions.windows import Window
from features.errors import DefinitionError

ROOT = Path(__file__).parents[2]
FIELDS = {
    "user_id": "string",
    "item_id": "string",
    "kind": "string",
    "price": "float64",
    "quantity": "int64",
    "paid": "bool",
}
user = Entity("user", keys={"user_id": "string"})


def stream(**changes: object) -> Stream:
    settings = {"name": "activity", "topic": "shop.activity", "fields": FIELDS} | changes
    return Stream(**settings)  # type: ignore[arg-type]


def feature_set(*aggregations: Aggregation, windows: object = ("1h",), **changes: object) -> FeatureSet:
    return FeatureSet(user, stream(), aggregations or (Count(),), windows, **changes)  # type: ignore[arg-type]


def view(*sets: FeatureSet, **changes: object) -> FeatureView:
    settings = {"name": "user_activity", "sets": sets or (feature_set(),)} | changes
    return FeatureView(**settings)  # type: ignore[arg-type]


# --- what follows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregation", "name", "dtype"),
    [
        (Count(), "user_count_1h", "int64"),
        (Count("price"), "user_price_count_1h", "int64"),
        (Count(where={"kind": "view"}), "user_view_count_1h", "int64"),
        (Sum("price"), "user_price_sum_1h", "float64"),
        (Sum("quantity"), "user_quantity_sum_1h", "float64"),
        (Mean("price"), "user_price_mean_1h", "float64"),
        (Min("price"), "user_price_min_1h", "float64"),
        (Max("quantity"), "user_quantity_max_1h", "int64"),
        (Last("item_id"), "user_item_id_last_1h", "string"),
        (Last("quantity"), "user_quantity_last_1h", "int64"),
        (Last("paid"), "user_paid_last_1h", "bool"),
        (LastK("item_id", 20), "user_item_id_last_20_1h", "list<string>"),
        (DistinctCount("item_id"), "user_item_id_distinct_count_1h", "float64"),
        (TimeSinceLast(), "user_ms_since_last_1h", "int64"),
        (DecayedCount("30m"), "user_decayed_count_30m_1h", "float64"),
        (Quantile("price", 0.5), "user_price_p50_1h", "float64"),
        (Quantile("price", 0.999), "user_price_p99_9_1h", "float64"),
        (Variance("price"), "user_price_variance_1h", "float64"),
        (StdDev("quantity", where={"paid": True}), "user_paid_quantity_stddev_1h", "float64"),
        (ZScore("price"), "user_price_zscore_1h", "float64"),
        (Change("quantity"), "user_quantity_change_1h", "float64"),
        (Slope("price"), "user_price_slope_per_1h_1h", "float64"),
        (ExponentialMean("price", "30m"), "user_price_exponential_mean_30m_1h", "float64"),
        (
            Ratio(Count(where={"kind": "purchase"}), Count(where={"kind": "view"})),
            "user_purchase_count_per_view_count_1h",
            "float64",
        ),
    ],
)
def test_name_and_dtype_of_a_feature_follow_from_its_aggregation(
    aggregation: Aggregation, name: str, dtype: str
) -> None:
    (feature,) = view(feature_set(aggregation)).features
    assert (feature.name, feature.dtype) == (name, dtype)


@pytest.mark.parametrize(
    ("where", "label"),
    [
        ({"kind": "view"}, "view"),
        ({"kind": "add-to-cart"}, "add_to_cart"),
        ({"kind": ["view", "Click"]}, "view_or_click"),
        ({"kind": "view", "paid": True}, "view_paid"),
        ({"paid": False}, "not_paid"),
        ({"quantity": -3}, "quantity_minus3"),
        ({"price": above(0.5)}, "price_above_0_5"),
        ({"price": at_most(-2)}, "price_at_most_minus2"),
        ({"quantity": above(12_345_678)}, "quantity_above_12345678"),
    ],
)
def test_a_filter_gives_the_feature_its_label(where: dict[str, object], label: str) -> None:
    assert view(feature_set(where=where)).names == (f"user_{label}_count_1h",)


def test_a_name_takes_the_place_of_the_label_of_a_filter() -> None:
    assert view(feature_set(where={"kind": "view"}, name="seen")).names == ("user_seen_count_1h",)


def test_features_are_in_the_order_of_sets_then_aggregations_then_windows_then_derived() -> None:
    first = feature_set(Count(), Sum("price"), windows=["7d", "5m"])
    second = feature_set(Count(), windows=["1h"], where={"kind": "view"})
    derived = {"b": ratio("user_view_count_1h", "user_count_7d"), "a": log1p("user_b")}
    assert view(first, second, derived=derived).names == (
        "user_count_7d",
        "user_count_5m",
        "user_price_sum_7d",
        "user_price_sum_5m",
        "user_view_count_1h",
        "user_b",
        "user_a",
    )


def test_columns_of_a_stream_are_its_fields_in_order_then_the_computed_ones() -> None:
    computed = stream(computed={"amount": product("price", "quantity")})
    assert computed.dtypes == FIELDS | {"amount": "float64"}
    assert list(computed.dtypes) == [*FIELDS, "amount"]


@given(st.integers(1, 40_000))
def test_a_window_without_a_tile_has_the_largest_divisor_up_to_a_sixtieth(length: int) -> None:
    divisors = [tile for tile in range(1, max(length // 60, 1) + 1) if length % tile == 0]
    assert Window(length).requested_tile_ms == divisors[-1]


def test_windows_of_a_view_get_tiles_that_nest() -> None:
    tiling = view(feature_set(windows=["30d", "5m", "24h", "1h", "7d"])).tiling
    tiles_s = {window.label: tiling.bounds(window).tile_ms // 1_000 for window in tiling.windows}
    assert tiles_s == {"5m": 5, "1h": 60, "24h": 1_440, "7d": 10_080, "30d": 40_320}


def test_a_window_is_the_same_however_its_length_is_written() -> None:
    assert Window("1d") == Window("24h") == Window(86_400_000)
    assert hash(Window("60m", delay="7d")) == hash(Window("1h", delay="168h"))


def test_a_delay_is_part_of_a_features_name_and_of_the_views_horizon() -> None:
    delayed = view(feature_set(windows=[Window("1d", delay="7d"), "7d"]))
    assert delayed.names == ("user_count_24h_delay_7d", "user_count_7d")
    assert delayed.horizon_ms == delayed.ttl_ms == 8 * 86_400_000


def test_definitions_are_equal_and_hash_alike_when_they_say_the_same() -> None:
    assert view(feature_set(where={"kind": ["a", "b"]})) == view(feature_set(where={"kind": OneOf(("a", "b"))}))
    assert hash(view()) == hash(view())


# --- what is refused ------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str, str]] = {
    "entity name in capitals": (lambda: Entity("User", {"user_id": "string"}), "entity 'User'", "'User'"),
    "entity without keys": (lambda: Entity("user", {}), "entity 'user'", "{}"),
    "entity whose keys are a list": (lambda: Entity("user", ["user_id"]), "entity 'user'", "['user_id']"),  # type: ignore[arg-type]
    "entity key of a float": (lambda: Entity("user", {"user_id": "float64"}), "key 'user_id'", "'float64'"),
    "stream name": (lambda: stream(name="shop.activity"), "stream 'shop.activity'", "'shop.activity'"),
    "topic with a space": (lambda: stream(topic="shop activity"), "stream 'activity'", "'shop activity'"),
    "format": (lambda: stream(format="xml"), "stream 'activity'", "'xml'"),
    "time unit": (lambda: stream(time_unit="minutes"), "stream 'activity'", "'minutes'"),
    "time unit that is a list": (lambda: stream(time_unit=["ms"]), "stream 'activity'", "['ms']"),
    "no fields": (lambda: stream(fields={}), "stream 'activity'", "{}"),
    "no event time": (lambda: stream(event_time=None), "event_time", "None"),
    "empty event id": (lambda: stream(event_id=""), "event_id", "''"),
    "dedupe horizon": (lambda: stream(dedupe_horizon="1 hour"), "dedupe_horizon", "'1 hour'"),
    "field dtype": (lambda: stream(fields={"user_id": "text"}), "field 'user_id'", "'text'"),
    "field name": (lambda: stream(fields={"userId": "string"}), "field 'userId'", "'userId'"),
    "field name that every event has": (
        lambda: stream(fields={"event_time": "int64"}),
        "field 'event_time'",
        "'event_time'",
    ),
    "field path with an empty part": (lambda: Field("string", path="user..id"), "a field with path", "'user..id'"),
    "enum of numbers": (lambda: Field("int64", enum=["1"]), "a field with enum", "['1']"),
    "empty enum": (lambda: Field("string", enum=[]), "a field with enum", "[]"),
    "enum that is a text": (lambda: Field("string", enum="view"), "a field with enum", "'view'"),
    "computed that is a list": (lambda: stream(computed=["price"]), "computed", "['price']"),
    "computed by a text": (lambda: stream(computed={"amount": "price * 2"}), "computed field 'amount'", "'price * 2'"),
    "computed from a text column": (
        lambda: stream(computed={"a": product("price", "kind")}),
        "computed field 'a'",
        "'kind'",
    ),
    "computed from an unknown column": (
        lambda: stream(computed={"a": product("cost")}),
        "computed field 'a'",
        "'cost'",
    ),
    "computed from a list": (lambda: stream(computed={"a": product(["price"])}), "computed field 'a'", "['price']"),  # type: ignore[arg-type]
    "computed from nothing": (lambda: stream(computed={"a": product()}), "computed field 'a'", "()"),
    "an hour of a number": (
        lambda: stream(computed={"a": hour_within("price", 0, 6)}),
        "computed field 'a'",
        "'price' (float64)",
    ),
    "a product of times": (
        lambda: stream(computed={"a": product("event_time")}),
        "computed field 'a'",
        "'event_time' (time)",
    ),
    "computed under a taken name": (lambda: stream(computed={"price": product("quantity")}), "'price'", "taken"),
    "key that the stream lacks": (
        lambda: FeatureSet(Entity("card", {"card_id": "string"}), stream(), [Count()], ["1h"]),
        "feature set of 'card' on 'activity'",
        "no such field",
    ),
    "key of another dtype": (
        lambda: FeatureSet(Entity("user", {"user_id": "int64"}), stream(), [Count()], ["1h"]),
        "feature set of 'user' on 'activity'",
        "string",
    ),
    "entity by name": (lambda: FeatureSet("user", stream(), [Count()], ["1h"]), "a feature set", "'user'"),  # type: ignore[arg-type]
    "set's name": (lambda: feature_set(name="Net spend"), "name", "'Net spend'"),
    "no aggregations": (lambda: FeatureSet(user, stream(), [], ["1h"]), "feature set", "[]"),
    "aggregation by name": (lambda: FeatureSet(user, stream(), ["count"], ["1h"]), "feature set", "'count'"),  # type: ignore[list-item]
    "no windows": (lambda: feature_set(windows=[]), "feature set", "[]"),
    "window that is no list": (lambda: feature_set(windows="1h"), "feature set", "'1h'"),
    "window without a unit": (lambda: feature_set(windows=["60"]), "a window", "'60'"),
    "window of a fraction": (lambda: feature_set(windows=[1.5]), "a window", "1.5"),
    "window of nothing": (lambda: Window("0s"), "window '0s'", "'0s'"),
    "window that lasts for ever": (lambda: Window("999999999d"), "window '999999999d'", "999999999d"),
    "delay": (lambda: Window("1h", delay="later"), "window '1h'", "'later'"),
    "tile longer than its window": (lambda: Window("1h", tile="2h"), "window '1h'", "'2h'"),
    "tile that does not nest": (
        lambda: view(feature_set(windows=["5m", Window("1h", tile="7s")])),
        "feature view 'user_activity': window 1h",
        "'7s'",
    ),
    "where that is no mapping": (lambda: feature_set(where="view"), "feature set", "'view'"),
    "where on an unknown column": (lambda: feature_set(where={"type": "view"}), "feature set", "'type'"),
    "where on another dtype": (lambda: feature_set(where={"kind": 3}), "where 'kind'", "3"),
    "where with a number for a bool": (lambda: feature_set(where={"paid": 1}), "where 'paid'", "1"),
    "where with an empty list": (lambda: feature_set(where={"kind": []}), "where 'kind'", "[]"),
    "where with a mixed list": (lambda: feature_set(where={"kind": ["a", 1]}), "where 'kind'", "1"),
    "where with a null": (lambda: feature_set(where={"kind": None}), "where 'kind'", "None"),
    "where with a NaN": (lambda: feature_set(where={"price": float("nan")}), "where 'price'", "nan"),
    "where above a text": (lambda: feature_set(where={"price": above("9")}), "where 'price'", "'9'"),  # type: ignore[arg-type]
    "where above on a text column": (lambda: feature_set(where={"kind": above(9)}), "where 'kind'", "9"),
    "where with an integer too large": (lambda: feature_set(where={"quantity": 2**63}), "where 'quantity'", str(2**63)),
    "where that leaves no name": (lambda: feature_set(where={"kind": "日本"}), "feature set", "日本"),
    "aggregation's where": (lambda: feature_set(Count(where={"type": "view"})), "Count", "'type'"),
    "sum of texts": (lambda: feature_set(Sum("kind")), "Sum", "'kind' (string)"),
    "mean of bools": (lambda: feature_set(Mean("paid")), "Mean", "'paid' (bool)"),
    "last of an unknown column": (lambda: feature_set(Last("brand")), "Last", "'brand' (no such field)"),
    "count of an unknown column": (lambda: feature_set(Count("brand")), "Count", "'brand' (no such field)"),
    "last 0": (lambda: feature_set(LastK("item_id", 0)), "LastK's k", "0"),
    "last 2.5": (lambda: feature_set(LastK("item_id", 2.5)), "LastK's k", "2.5"),  # type: ignore[arg-type]
    "distinct k": (lambda: feature_set(DistinctCount("item_id", 8)), "DistinctCount's k", "8"),
    "half-life": (lambda: feature_set(DecayedCount("soon")), "half_life", "'soon'"),
    "half-life of a mean": (lambda: feature_set(ExponentialMean("price", 0)), "ExponentialMean's half_life", "0"),
    "slope per nothing": (lambda: feature_set(Slope("price", per=0)), "Slope's per", "0"),
    "slope of a text": (lambda: feature_set(Slope("item_id")), "Slope", "'item_id' (string)"),
    "z-score in a ratio": (lambda: feature_set(Ratio(ZScore("price"), Count())), "Ratio", "ZScore"),
    "half-life of nothing": (lambda: feature_set(DecayedCount(0)), "half_life", "0"),
    "quantile above one": (lambda: feature_set(Quantile("price", 95)), "Quantile's q", "95"),
    "quantile's error": (lambda: feature_set(Quantile("price", 0.5, 0)), "relative_error", "0"),
    "ratio of a text": (lambda: feature_set(Ratio(Last("kind"), Count())), "Ratio", "kind"),
    "ratio of ratios": (lambda: feature_set(Ratio(Ratio(Count(), Count()), Count())), "Ratio", "Ratio("),
    "ratio of nothing": (lambda: feature_set(Ratio(Count(), None)), "Ratio", "None"),  # type: ignore[arg-type]
    "view name": (lambda: view(name="User"), "feature view 'User'", "'User'"),
    "view without sets": (lambda: FeatureView("v", []), "feature view 'v'", "[]"),
    "view of another thing": (lambda: FeatureView("v", [user]), "feature view 'v'", "user"),  # type: ignore[list-item]
    "view of two entities": (
        lambda: view(feature_set(), FeatureSet(Entity("item", {"item_id": "string"}), stream(), [Count()], ["1h"])),
        "feature view 'user_activity'",
        "item, user",
    ),
    "two streams of one name": (
        lambda: view(feature_set(), FeatureSet(user, stream(topic="other"), [Sum("price")], ["1h"])),
        "feature view 'user_activity'",
        "'activity'",
    ),
    "one feature twice": (
        lambda: view(feature_set(), feature_set()),
        "feature view 'user_activity'",
        "'user_count_1h'",
    ),
    "one window twice": (
        lambda: view(feature_set(windows=["24h", "1d"])),
        "feature view 'user_activity'",
        "'user_count_24h'",
    ),
    "version 0": (lambda: view(version=0), "feature view 'user_activity'", "0"),
    "version True": (lambda: view(version=True), "feature view 'user_activity'", "True"),
    "ttl shorter than a window": (lambda: view(ttl="59m"), "feature view 'user_activity'", "'59m'"),
    "ttl without a unit": (lambda: view(ttl="60"), "feature view 'user_activity'", "'60'"),
    "derived that is a list": (lambda: view(derived=["x"]), "derived", "['x']"),
    "derived under a bad name": (lambda: view(derived={"X": log1p("user_count_1h")}), "derived feature 'X'", "'X'"),
    "derived under a taken name": (
        lambda: view(derived={"count_1h": log1p("user_count_1h")}),
        "'count_1h'",
        "'user_count_1h'",
    ),
    "derived from an unknown feature": (
        lambda: view(derived={"x": log1p("count_1h")}),
        "derived feature 'x'",
        "'count_1h'",
    ),
    "derived from itself": (lambda: view(derived={"x": log1p("user_x")}), "derived feature 'x'", "'user_x'"),
    "derived from a list": (
        lambda: view(feature_set(LastK("item_id", 3)), derived={"x": log1p("user_item_id_last_3_1h")}),
        "derived feature 'x'",
        "list<string>",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_definition_says_where_it_is_what_is_required_and_what_came(what: str) -> None:
    make, where, got = WRONG[what]
    with pytest.raises(DefinitionError) as caught:
        make()
    error = caught.value
    assert where in error.where
    assert got in error.got
    assert error.required
    assert str(error).startswith(f"{error.where} requires {error.required}; got {error.got}.")


# --- when a stored row changes its meaning --------------------------------------------------------------------------

CHANGES: dict[str, Callable[[], FeatureView]] = {
    "version": lambda: view(version=2),
    "window": lambda: view(feature_set(windows=["2h"])),
    "tile": lambda: view(feature_set(windows=[Window("1h", tile="5m")])),
    "delay": lambda: view(feature_set(windows=[Window("1h", delay="1h")])),
    "aggregation": lambda: view(feature_set(Sum("price"))),
    "aggregation's setting": lambda: view(feature_set(DistinctCount("item_id", 64))),
    "aggregation's other setting": lambda: view(feature_set(DistinctCount("item_id", 128))),
    "filter": lambda: view(feature_set(where={"kind": "view"})),
    "filter's value": lambda: view(feature_set(where={"kind": "click"})),
    "second set": lambda: view(feature_set(), feature_set(where={"kind": "view"})),
    "topic": lambda: view(FeatureSet(user, stream(topic="other"), [Count()], ["1h"])),
    "key": lambda: view(FeatureSet(Entity("user", {"kind": "string"}), stream(), [Count()], ["1h"])),
    "field's path": lambda: view(
        FeatureSet(user, stream(fields=FIELDS | {"user_id": Field("string", "u")}), [Count()], ["1h"])
    ),
}


def test_each_change_of_meaning_has_a_schema_hash_of_its_own() -> None:
    hashes = [make().schema_hash for make in CHANGES.values()]
    assert len({view().schema_hash, *hashes}) == len(CHANGES) + 1


def test_a_change_that_no_stored_row_shows_keeps_the_schema_hash() -> None:
    same = [
        view(description="Another text.", ttl="30d", derived={"x": log1p("user_count_1h")}),
        view(feature_set(windows=["60m"])),
        view(feature_set(windows=[Window(3_600_000)])),
    ]
    assert {one.schema_hash for one in same} == {view().schema_hash}


def test_the_schema_hash_is_the_same_in_every_process() -> None:
    program = (
        "from features.definitions.repo import load_repo\n"
        f"for view in load_repo({str(ROOT / 'feature_repo')!r}).views.values(): print(view.name, view.schema_hash)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(said) == 1
    assert "user_activity" in said.pop()
