"""State rows as bytes: nothing lost, nothing foreign let in, and no more bytes than the numbers need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import T0, WINDOWS, events, table_of, user, view_of, worlds

from features.checks.reference_encoder import encode
from features.definitions import FeatureSet, FeatureView
from features.definitions.aggregations import Count, Last, Max, Sum
from features.errors import CorruptRowError, ForeignRowError
from features.rows.decoder import decode, layout_of
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.layout import unzigzag, zigzag
from features.rows.matrix import BatchKey, PackedRows

VIEW = view_of(WINDOWS)
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))
KEY = BatchKey(7, 3, T0 + 5)


def event(**values: Any) -> dict[str, Any]:
    plain = {"event_id": "e", "event_time": T0, "known_at": T0, "partition": 0, "offset": 1, "user_id": "u1", "shop": 1}
    plain |= {"kind": "view", "item": "a", "price": 1.5, "units": 1, "member": True}
    return plain | values


def rows_of(*several: dict[str, Any], view: FeatureView = VIEW) -> PackedRows:
    return fold(view, NOTHING, {"events": table_of(several)}, KEY)


def simple(*aggregations: Any) -> FeatureView:
    return FeatureView("simple", [FeatureSet(user, events, aggregations, ["1m"], name="all")])


@given(world=worlds())
def test_a_row_is_the_same_after_a_round_trip(world: Any) -> None:
    """decode(encode(x)) has the same headers and entries, and encodes to the same bytes."""
    rows = fold(VIEW, NOTHING, world.tables(), KEY)
    layout = layout_of(VIEW, KEY.stream_id)
    state = decode(rows.values, rows.keys, layout)
    assert encode(state, layout).equals(rows.values)


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_zigzag_is_reversible_for_every_int64(numbers: list[int]) -> None:
    values = np.array(numbers, dtype=np.int64)
    assert np.array_equal(unzigzag(zigzag(values)), values)


@pytest.mark.parametrize(
    "price",
    [
        0.0,
        1.0,
        -3.0,
        19.99,
        -19.99,
        0.1 + 0.2,
        1e-300,
        1.7976931348623157e308,
        2.0**53,
        2.0**53 + 2,
        1e15 + 0.25,
        5e-324,
    ],
)
def test_a_float_comes_back_to_the_bit(price: float) -> None:
    """Whole numbers, hundredths and everything else keep all their bits, whatever form they are stored in."""
    view = simple(Sum("price"), Max("price"), Last("price"))
    found = finalize(view, rows_of(event(price=price), view=view), T0 + 1, KEY.stream_id)
    assert found.to_numpy().tolist() == [[price, price, price]]


@pytest.mark.parametrize("units", [0, 1, 255, 256, 2**31, -(2**31), 2**62, -(2**63)])
def test_an_integer_of_any_width_comes_back(units: int) -> None:
    view = simple(Last("units"))
    found = finalize(view, rows_of(event(units=units), view=view), T0 + 1, KEY.stream_id)
    assert found.columns[0].to_pylist() == [units]


def test_rows_of_different_widths_live_in_one_batch() -> None:
    """A column takes the bytes that its own row needs, not those of its neighbours."""
    view = simple(Last("units"), Last("item"))
    wide = event(user_id="wide", units=2**60, item="x" * 300)
    rows = rows_of(event(user_id="narrow", units=3, item="y"), wide, view=view)
    sizes = dict(zip(rows.keys.to_pylist(), map(len, rows.values.to_pylist()), strict=True))
    found = finalize(view, rows, T0 + 1, KEY.stream_id)
    values = dict(zip(rows.keys.to_pylist(), found.to_table().to_pylist(), strict=True))
    assert sizes["narrow"] < 120
    assert sizes["wide"] > 300
    assert values["wide"] == {"user_all_units_last_1m": 2**60, "user_all_item_last_1m": "x" * 300}
    assert values["narrow"] == {"user_all_units_last_1m": 3, "user_all_item_last_1m": "y"}


def test_more_entries_than_two_bytes_can_count_are_kept() -> None:
    """The directory widens for a row with more than 65,535 entries in one table."""
    view = FeatureView(
        "wide", [FeatureSet(user, events, [Count()], [replace(WINDOWS[3], length="2000m", tile="1s")], name="all")]
    )
    several = [event(event_time=T0 + 1000 * n, known_at=T0 + 1000 * n, offset=n) for n in range(70_000)]
    found = finalize(view, rows_of(*several, view=view), T0 + 70_000_000, KEY.stream_id)
    assert found.columns[0].to_pylist() == [70_000]


def test_every_single_damaged_byte_is_found_and_the_row_named() -> None:
    """Whichever byte of a row is changed, reading it says which key is damaged."""
    rows = rows_of(event(), event(user_id="victim", offset=2, price=None))
    place = rows.keys.to_pylist().index("victim")
    whole = rows.values.to_pylist()
    for position in range(len(whole[place])):
        damaged = bytearray(whole[place])
        damaged[position] ^= 0x10
        values = pa.array([bytes(damaged) if n == place else value for n, value in enumerate(whole)], pa.binary())
        with pytest.raises((CorruptRowError, ForeignRowError), match="row 'victim'"):
            finalize(VIEW, PackedRows(rows.keys, values), T0, KEY.stream_id)


@pytest.mark.parametrize("value", [b"", b"x", b"{}", b"\x00" * 56, b"HR" + b"\x01" * 100, bytes(range(256)) * 4])
def test_bytes_that_were_never_a_row_are_refused_by_name(value: bytes) -> None:
    """Nothing is read from a value that another program wrote."""
    rows = PackedRows(pa.array(["ours"]), pa.array([value], pa.binary()))
    with pytest.raises(
        CorruptRowError, match=r"row 'ours' requires a whole state row; got .* Run 'headrace features rebuild'"
    ):
        finalize(VIEW, rows, T0, KEY.stream_id)


def test_a_truncated_row_is_refused() -> None:
    rows = rows_of(event())
    cut = pa.array([rows.values[0].as_py()[:-8]], pa.binary())
    with pytest.raises(CorruptRowError, match="checksum"):
        finalize(VIEW, PackedRows(rows.keys, cut), T0, KEY.stream_id)


def test_a_row_of_another_definition_or_stream_is_foreign() -> None:
    """A whole row that means something else is told apart from a damaged one."""
    rows = rows_of(event())
    with pytest.raises(ForeignRowError, match="row 'u1'"):
        finalize(replace(VIEW, version=2), rows, T0, KEY.stream_id)
    with pytest.raises(ForeignRowError, match="stream 0000000000000008"):
        finalize(VIEW, rows, T0, KEY.stream_id + 1)


def test_a_missing_row_is_not_found_among_present_ones() -> None:
    """A null value is an entity without a row: null features, and the neighbours keep theirs."""
    rows = rows_of(event())
    values = pa.array([None, rows.values[0].as_py(), None], pa.binary())
    found = finalize(VIEW, PackedRows(pa.array(["x", "u1", "y"]), values), T0 + 1, KEY.stream_id)
    assert found.status.tolist() == [2, 0, 2]
    assert found.columns[0].to_pylist() == [None, 1, None]


def test_an_untouched_row_is_left_alone_by_the_fence() -> None:
    """A batch that was folded into a row before changes nothing and returns no row; the next batch does."""
    rows = rows_of(event())
    again = fold(VIEW, rows, {"events": table_of([event()])}, KEY)
    later = fold(VIEW, rows, {"events": table_of([event(offset=2)])}, replace(KEY, batch_id=4))
    assert len(again) == 0
    assert finalize(VIEW, later, T0 + 1, KEY.stream_id).columns[0].to_pylist() == [2]
