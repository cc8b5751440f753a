"""Columns of Parquet of any type: values of their field, or reasons by row."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sales_files import GOOD, HEADER, SOLD_AT, read, refused

PARQUET = {
    "quantity of pandas with nulls": ({"quantity": pa.array([3.0, None])}, {0}, None),
    "price as decimals": ({"price": pa.array(["2.50", None], pa.string()).cast(pa.decimal128(10, 2))}, set(), 2.5),
    "quantity as whole decimals": ({"quantity": pa.array([3, None], pa.int64()).cast(pa.decimal128(19, 0))}, set(), 3),
    "quantity beyond int64": ({"quantity": pa.array([2**63, 1], pa.uint64())}, {0}, None),
    "quantity as huge decimals": ({"quantity": pa.array([10**30, 1], pa.decimal128(38, 0))}, {0}, None),
    "text": ({"price": pa.array(["2.5", "n/a"])}, {1}, 2.5),
    "text of a dictionary": ({"price": pa.array(["2.5", "n/a"]).dictionary_encode()}, {1}, 2.5),
    "bytes": ({"customer": pa.array([b"x", b"\xe9"], pa.binary())}, {1}, "x"),
    "large text": ({"gift": pa.array(["true", "yes"], pa.large_string())}, {1}, True),
    "numbers for a bool": ({"gift": pa.array([1, None])}, {0}, None),
    "numbers for text": ({"customer": pa.array([17, 2**53 + 1])}, set(), "17"),
    "floats for text": ({"customer": pa.array([17.0, 18.0])}, {0, 1}, None),
    "nan": ({"price": pa.array([2.5, float("nan")])}, {1}, 2.5),
    "nested": ({"price": pa.array([[2.5], None])}, {0}, None),
    "times as floats": ({"sold_at": pa.array([1.7e9, None])}, {0, 1}, None),
    "times as text": ({"sold_at": pa.array(["1700000000", "soon"])}, {1}, None),
    "times of a dictionary": ({"sold_at": pa.array(["1700000000", "soon"]).dictionary_encode()}, {1}, None),
    "dates": ({"sold_at": pa.array([1, 2], pa.date32())}, {0, 1}, None),
    "ids as floats": ({"sale": pa.array([1.0, 2.0])}, {0, 1}, None),
    "ids as bytes": ({"sale": pa.array([b"a", b"\xff"], pa.binary())}, {1}, None),
}


@pytest.mark.parametrize("what", PARQUET)
def test_a_column_of_parquet_is_right_or_refused_row_by_row(tmp_path: Path, what: str) -> None:
    columns, dead, value = PARQUET[what]
    good = {
        "sale": pa.array(["a", "b"]),
        "sold_at": pa.array([SOLD_AT, SOLD_AT]),
        "customer": pa.array(["x", "y"]),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(good | columns), sink)
    got = read(tmp_path, sink.getvalue(), "parquet")
    assert set(refused(got)) == dead
    (name,) = columns
    for row, reason in refused(got).items():
        assert reason.endswith(f"(row {row + 1}, column '{name}')")
    if value is not None:
        ours = {"customer": "user_id"}.get(name, name)
        assert got.events["sales"][ours][0].as_py() == value


KINDS = [
    *(pa.array([1, 2, None], kind) for kind in (pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64())),
    *(pa.array([1, 2, None], kind) for kind in (pa.date32(), pa.time32("s"), pa.time64("ns"), pa.duration("ms"))),
    *(pa.array([2**40, None, 5], pa.timestamp(unit, zone)) for unit in ("s", "ms", "ns") for zone in (None, "UTC")),
    *(pa.array([1, None, 10**8]).cast(kind) for kind in (pa.decimal128(38, 0), pa.decimal256(70, 3))),
    *(pa.array([b"1", b"x", None], kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    *(pa.array(["1", "x", None], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    *(pa.array(values).dictionary_encode() for values in (["1", "x", None], [1, 2, None], [b"1", b"\xff", None])),
    pa.nulls(3),
    pa.array([True, False, None]),
    pa.array([b"1234", b"\xff234", None], pa.binary(4)),
    pa.array([[1], [], None]),
    pa.array([{"a": 1}, {"a": None}, None]),
    pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
]


@pytest.mark.parametrize("name", [*HEADER, "known_at"])
def test_a_column_of_any_type_is_values_or_reasons(tmp_path: Path, name: str) -> None:
    good = {column: [cell] * 3 for column, cell in zip(HEADER, GOOD, strict=True)} | {"sale": ["a", "b", "c"]}
    ours = {"sale": "event_id", "sold_at": "event_time", "customer": "user_id"}.get(name, name)
    for column in KINDS:
        sink = io.BytesIO()
        pq.write_table(pa.table(good | {name: column}), sink)
        got = read(tmp_path, sink.getvalue(), "parquet")
        about = {f"field '{ours}'"} | ({"future_time: field 'event_time'"} if name == "known_at" else set())
        assert all(any(text in reason for text in about) for reason in refused(got).values())
        kept = [row for row in range(3) if row not in refused(got)]
        assert got.events["sales"]["offset"].to_pylist() == kept
        nulls = [column[row].is_valid is False for row in kept]
        assert ours == "known_at" or [value is None for value in got.events["sales"][ours].to_pylist()] == nulls


def test_text_of_parquet_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"x", b"\xe9"], pa.binary()).buffers())
    sink = io.BytesIO()
    pq.write_table(pa.table({"sale": ["a", "b"], "sold_at": [SOLD_AT] * 2, "customer": bad}), sink)
    assert set(refused(read(tmp_path, sink.getvalue(), "parquet"))) == {1}
