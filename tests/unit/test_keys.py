"""A key means the same on every path, however it is written; what may have lost a digit is refused."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.routing import Match

from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream
from features.errors import UsageError
from features.events import key_column, parsed_key
from features.feast.objects import feast_entities, feast_view
from features.feast.offline_store import _SpineFrame
from features.feast.online_store import _keys
from headrace.commands.features.backfill import spine_requests
from serving.app import _add_v1

if TYPE_CHECKING:
    from serving.service import Service

T0 = 1_700_000_000_000
EXACT = 2**53
DTYPES = ["string", "int64"]
whole = st.integers(-EXACT + 1, EXACT - 1)


def entity_of(dtype: str) -> Entity:
    return Entity("thing", keys={"key": dtype})


def view_of(dtype: str) -> FeatureView:
    stream = Stream("s", topic="s", fields={"key": dtype})
    return FeatureView("things", sets=[FeatureSet(entity_of(dtype), stream, [Count()], ["1h"])])


def online(values: list[Any], dtype: str) -> list[str | None]:
    return list(_keys(entity_of(dtype), {"key": values}).to_pylist())


def history(values: list[Any], dtype: str) -> list[str | None]:
    frame = pd.DataFrame({"key": pd.Series(values, dtype=object), "event_timestamp": T0})
    view = view_of(dtype)
    spine = _SpineFrame(frame, "event_timestamp").of(feast_view(view, feast_entities(view.entity)), view)
    return list(spine.keys.to_pylist())


def backfill(values: list[Any], dtype: str) -> list[str | None]:
    table = pa.table({"key": pa.array(values, from_pandas=True), "event_timestamp": [T0] * len(values)})
    return list(spine_requests(table, [view_of(dtype)], "spine")[0].spine.keys.to_pylist())


def alone(values: list[Any], dtype: str) -> list[str | None]:
    """As on the command line and in a URL, which have texts alone."""
    return [None if value is None else str(parsed_key(entity_of(dtype), str(value))["key"]) for value in values]


PATHS = [online, history, backfill]


@pytest.mark.parametrize("dtype", DTYPES)
@given(numbers=st.lists(st.none() | whole, min_size=1))
def test_a_whole_number_is_one_key_on_every_path(dtype: str, numbers: list[int | None]) -> None:
    expected = [None if number is None else str(number) for number in numbers]
    floats = [None if number is None else float(number) for number in numbers]
    nans = [np.nan if number is None else float(number) for number in numbers]
    decimals = [None if number is None else Decimal(number) for number in numbers]
    for path in PATHS:
        for values in (numbers, expected, floats, nans, decimals):
            assert path(values, dtype) == expected, (path, values)
    for values in (numbers, expected):
        assert alone(values, dtype) == expected
    written = itertools.cycle([str, int, float])
    mixed = [None if number is None else next(written)(number) for number in numbers]
    assert history(mixed, dtype) == online(mixed, dtype) == expected


@given(numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_keep_all_their_digits(numbers: list[int]) -> None:
    expected = [str(number) for number in numbers]
    for dtype in DTYPES:
        for path in [*PATHS, alone]:
            assert path(numbers, dtype) == path(expected, dtype) == expected


@given(texts=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_texts_are_string_keys_as_they_are(texts: list[str | None]) -> None:
    for path in [*PATHS, alone]:
        assert path(texts, "string") == texts


NOT_KEYS = st.one_of(
    st.floats(allow_nan=False).filter(lambda x: abs(x) >= EXACT or x != int(x)),
    st.booleans(),
    st.binary(),
    st.lists(st.integers(), max_size=2),
    st.datetimes(),
    st.decimals(-10, 10, places=2).filter(lambda x: x != int(x)),
    st.integers(2**63, 2**70) | st.integers(-(2**70), -(2**63) - 1),
)
NOT_NUMBERS = st.sampled_from(
    ["", " ", "1.0", "1e3", "ann", "0x10", "1_000", "\u0663", "--1", "9" * 19, "9" * 5_000, "1 2"]
)


@pytest.mark.parametrize("dtype", DTYPES)
@given(value=NOT_KEYS, before=st.sampled_from([[], [5], ["5"], [None]]))
def test_what_is_no_key_is_refused_on_every_path(dtype: str, value: Any, before: list[Any]) -> None:
    for path in (online, history):
        with pytest.raises(UsageError, match=f"requires {dtype}"):
            path([*before, value], dtype)


@given(text=NOT_NUMBERS)
def test_a_text_that_is_no_integer_is_no_int64_key(text: str) -> None:
    for path in [*PATHS, alone]:
        with pytest.raises(UsageError, match="requires int64"):
            path([text], "int64")


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 2], pa.uint64()),
        pa.array([1, 2], pa.int8()),
        pa.array([1, 2], pa.float32()),
        pa.array(["1", "2"], pa.large_string()),
        pa.array(["1", "2"], pa.string_view()),
        pa.array(["1", "2"]).dictionary_encode(),
        pa.chunked_array([["1"], ["2"]]),
        pd.Series([1, 2], dtype="Int64"),
        pd.Series(["1", "2"], dtype="category"),
    ],
    ids=lambda values: f"{type(values).__name__} {getattr(values, 'type', getattr(values, 'dtype', ''))}",
)
def test_columns_of_every_kind_are_keys(values: Any) -> None:
    assert key_column(values, "int64", "x").to_pylist() == [1, 2]
    assert key_column(values, "string", "x").to_pylist() == ["1", "2"]


def test_the_values_of_a_composite_id_may_have_commas() -> None:
    pair = Entity("pair", keys={"a": "string", "n": "int64"})
    assert parsed_key(pair, "n=-3,a=x,y=z,,") == {"a": "x,y=z,,", "n": -3}
    assert parsed_key(pair, "a=x,y, n=3") == {"a": "x,y", "n": 3}
    assert parsed_key(pair, '{"a": "x,n=4", "n": 3}') == {"a": "x,n=4", "n": 3}
    for wrong in ("a=x,n=4,n=3", "a=x", "x,a=x,n=3", '{"a": "x"}', "{", "n=1.5,a=x"):
        with pytest.raises(UsageError, match="the id of entity 'pair'"):
            parsed_key(pair, wrong)


@given(text=st.text(min_size=1))
@example(text="a\nb")
@example(text="7\n")
@example(text="shop=1,user=a/b")
def test_an_id_in_a_url_has_all_its_characters(text: str) -> None:
    app = FastAPI()
    _add_v1(app, cast("Service", None))
    (route,) = (route for route in app.routes if getattr(route, "path_format", "").startswith("/v1/features"))
    match, found = route.matches({"type": "http", "method": "GET", "path": f"/v1/features/user/{text}"})
    assert match == Match.FULL
    assert found["path_params"] == {"entity": "user", "entity_id": text}


@pytest.mark.parametrize("values", [pa.array([2**64 - 1], pa.uint64()), pa.array([2.0**24], pa.float32())])
def test_columns_that_hold_more_digits_than_an_int64_or_fewer_are_refused(values: pa.Array) -> None:
    with pytest.raises(UsageError, match="x requires int64"):
        key_column(values, "int64", "x")


@pytest.mark.parametrize("before", [[], ["u1"], [None]])
def test_half_a_pair_of_surrogates_is_no_text_and_so_no_key(before: list[Any]) -> None:
    with pytest.raises(UsageError, match=f"in row {len(before) + 1}"):
        key_column([*before, "\ud800"], "string", "entity key 'user_id'")
