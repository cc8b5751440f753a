"""A field whose dtype changes: the archive holds what messages said, and history reads it by today's definition."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import Entity, Stream
from features.definitions.repo import FeatureRepo
from features.events.parsing import from_columns
from features.history.stored_columns import same_values
from streaming.archive.maintenance import maintain
from streaming.archive.sink import Archive

T0 = 1_700_000_000_000
DTYPES = ("string", "int64", "float64", "bool")
KINDS = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2) | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1])
FLOAT64 = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-3, 3).map(float)
SPELT = st.sampled_from(["true", "false", "True", "007", "0x1F", "+7", " 7", "1e999", "NaN", "19.90", "1e3", "-0", ""])
NUMBERS = (INT64 | FLOAT64).map(str)
VALUES = {"string": st.text(max_size=8) | SPELT | NUMBERS, "int64": INT64, "float64": FLOAT64, "bool": st.booleans()}


def stream_of(dtype: str) -> Stream:
    return Stream("shop", topic="t", event_id=None, fields={"user_id": "string", "price": dtype})


def archive_of(folder: Path, dtype: str) -> Archive:
    return Archive(
        folder, FeatureRepo(Path(), {"user": Entity("user", {"user_id": "string"})}, {"shop": stream_of(dtype)}, {})
    )


def append(folder: Path, dtype: str, first: int, values: list[Any], partition: int = 0) -> Archive:
    """The archive by the definition with this dtype, with these values from this offset on."""
    archive = archive_of(folder, dtype)
    offset = np.arange(first, first + len(values))
    position = {"partition": np.full(len(values), partition, dtype=np.int32), "offset": offset}
    columns = {"event_time": T0 + offset, "user_id": ["u"] * len(values), **position}
    events = from_columns(pa.table({**columns, "price": pa.array(values, KINDS[dtype])}), stream_of(dtype)).events
    assert archive.append(stream_of(dtype), events) == len(values)
    return archive


def prices(archive: Archive, dtype: str) -> list[Any]:
    events = archive.events(stream_of(dtype))
    assert events["price"].type == KINDS[dtype]
    return [price for _, price in sorted(zip(events["offset"].to_pylist(), events["price"].to_pylist(), strict=True))]


def test_a_price_that_becomes_a_float_keeps_its_pence_in_history(tmp_path: Path) -> None:
    append(tmp_path, "int64", 0, [2])
    archive = append(tmp_path, "float64", 1, [2.5, 0.99, 19.95])
    assert prices(archive, "float64") == [2, 2.5, 0.99, 19.95]
    assert math.isclose(sum(prices(archive, "float64")), 25.44)


def test_a_dtype_that_changes_back_and_forth_gets_no_more_columns_than_dtypes(tmp_path: Path) -> None:
    told: list[tuple[str, list[Any]]] = [
        ("int64", [7, None]),
        ("float64", [2.5, 3.0]),
        ("int64", [8]),
        ("string", ["A12", "9", "x"]),
    ]
    told += [("bool", [True]), ("float64", [0.1]), ("int64", [2**53 + 1])]
    first = 0
    for dtype, values in told:
        archive = append(tmp_path, dtype, first, values)
        first += len(values)
    assert prices(archive, "int64") == [7, None, None, 3, 8, None, 9, None, None, None, 2**53 + 1]
    assert prices(archive_of(tmp_path, "float64"), "float64") == [7, None, 2.5, 3, 8, *[None] * 4, 0.1, None]
    texts = ["7", None, None, None, "8", "A12", "9", "x", None, None, "9007199254740993"]
    assert prices(archive_of(tmp_path, "string"), "string") == texts
    assert prices(archive_of(tmp_path, "bool"), "bool") == [None] * 8 + [True, None, None]
    names = [field.name for field in DeltaTable(tmp_path / "shop").schema().fields]
    assert [name for name in names if name.startswith("price")] == [
        "price",
        "price@float64",
        "price@string",
        "price@bool",
    ]


def test_compaction_keeps_values_of_every_dtype(tmp_path: Path) -> None:
    append(tmp_path, "int64", 0, [1, 2])
    append(tmp_path, "string", 2, ["A12", "3"])
    archive = append(tmp_path, "float64", 4, [0.5])
    maintain("shop", DeltaTable(tmp_path / "shop"), keep_h=0)
    assert prices(archive, "float64") == [1, 2, None, None, 0.5]
    (whole,) = archive.read(stream_of("float64")).batches(["price"])
    assert sorted(whole["price"].to_pylist(), key=str) == [0.5, 1, 2, None, None]


def test_writers_of_several_dtypes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    values: dict[str, Any] = {"string": "A12", "int64": 7, "float64": 2.5, "bool": True}
    for trial in range(5):
        folder, started = tmp_path / str(trial), threading.Barrier(4)

        def write(dtype: str, folder: Path = folder, started: threading.Barrier = started) -> None:
            started.wait()
            append(folder, dtype, DTYPES.index(dtype), [values[dtype]], partition=DTYPES.index(dtype))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, DTYPES))
        read = {dtype: [x for x in prices(archive_of(folder, dtype), dtype) if x is not None] for dtype in DTYPES}
        assert read == {"string": ["A12", "7"], "int64": [7], "float64": [7.0, 2.5], "bool": [True]}


@pytest.mark.parametrize("before", DTYPES)
@pytest.mark.parametrize("after", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_read_in_another_dtype_is_the_same_value_or_none(before: str, after: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(VALUES[before] | st.none(), max_size=20))
    found = same_values(pa.chunked_array([pa.array(values, KINDS[before])]), KINDS[after])
    assert found.type == KINDS[after]
    assert found.to_pylist() == [None if value is None else expected(value, after) for value in values]
    back = same_values(pa.chunked_array([found]), KINDS[before]).to_pylist()
    assert all(again in (value, None) for again, value in zip(back, values, strict=True))


def expected(value: Any, dtype: str) -> Any:
    """The value in a dtype by Python's exact comparisons, one at a time; None where none is the same."""
    before = {str: "string", bool: "bool", int: "int64", float: "float64"}[type(value)]
    if before == dtype:
        return value
    if (before, dtype) == ("int64", "string"):
        return str(value)
    if (before, dtype) == ("string", "int64"):
        try:
            number = int(value)
        except ValueError:
            return None
        return number if str(number) == value and -(2**63) <= number < 2**63 else None
    if (before, dtype) == ("int64", "float64"):
        return float(value) if float(value) == value else None
    if (before, dtype) == ("float64", "int64"):
        return int(value) if value == int(value) and -(2**63) <= value < 2**63 else None
    return None


@settings(max_examples=15, deadline=None)
@given(
    told=st.lists(
        st.sampled_from(DTYPES).flatmap(
            lambda dtype: st.tuples(st.just(dtype), st.lists(VALUES[dtype] | st.none(), min_size=1, max_size=5))
        ),
        min_size=1,
        max_size=5,
    )
)
def test_each_batch_is_read_by_its_own_definition_as_the_fold_had_it(tmp_path_factory: Any, told: Any) -> None:
    folder = tmp_path_factory.mktemp("offline")
    first = 0
    for dtype, values in told:
        append(folder, dtype, first, values)
        first += len(values)
    at = 0
    for dtype, values in told:
        read = prices(archive_of(folder, dtype), dtype)
        assert read[at : at + len(values)] == values
        at += len(values)
