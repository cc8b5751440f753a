"""The compiled walk over state rows: one answer for a row, whatever its company; lists, dtypes and derived features."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import T0, WINDOWS, table_of, view_of, worlds

from features.checks.oracle import derived_disagreements, differences
from features.definitions import FeatureSet, FeatureView
from features.definitions.aggregations import Count, DistinctCount, Last, LastK, Mean, Quantile, Ratio, Sum
from features.definitions.expressions import difference, log1p, product, ratio, total
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.kernels import stored
from features.rows.layout import HEADER
from features.rows.matrix import BatchKey, PackedRows, Status

VIEW = view_of(WINDOWS)
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))
KEY = BatchKey(7, 3, T0 + 5)
ROOT = Path(__file__).resolve().parents[2]


@given(world=worlds(), data=st.data())
def test_a_row_is_answered_the_same_alone_and_in_any_company(world: Any, data: Any) -> None:
    """Rows share the walk's scratch, and columns their memory: none of it may show."""
    rows = fold(VIEW, NOTHING, world.tables(), KEY)
    many = 3 * len(rows)
    places = data.draw(st.lists(st.integers(0, len(rows)), min_size=1, max_size=max(many, 1)))
    at = T0 + data.draw(st.integers(0, 40 * 86_400_000))
    chosen = pa.array([place if place < len(rows) else None for place in places], pa.int64())
    together = finalize(VIEW, PackedRows(rows.keys.take(chosen), rows.values.take(chosen)), at, KEY.stream_id)
    for number, place in enumerate(chosen.to_pylist()):
        if place is None:
            assert together.status[number] == Status.NOT_FOUND
        else:
            alone = finalize(VIEW, rows.slice(place, 1), at, KEY.stream_id)
            for name, one, several in zip(VIEW.names, alone.columns, together.columns, strict=True):
                assert several.slice(number, 1).equals(one), name


@given(world=worlds())
def test_rows_with_an_instant_each_are_answered_as_each_at_its_own(world: Any) -> None:
    rows = fold(VIEW, NOTHING, world.tables(), KEY)
    instants = T0 + 3_600_000 * np.arange(len(rows), dtype=np.int64)
    together = finalize(VIEW, rows, instants, KEY.stream_id)
    for place, at in enumerate(instants.tolist()):
        alone = finalize(VIEW, rows, at, KEY.stream_id)
        assert [column[place] for column in together.columns] == [column[place] for column in alone.columns]


def event(number: int, **values: Any) -> dict[str, Any]:
    plain = {"event_id": f"e{number}", "event_time": T0 + number, "known_at": T0 + number, "partition": 0}
    plain |= {"offset": number, "user_id": "u1", "shop": 1, "kind": "view", "item": f"item-{number}"}
    return plain | {"price": 1.5 * number, "units": number, "member": number % 2 == 0} | values


def answers(aggregations: list[Any], several: list[dict[str, Any]], derived: Any = None) -> dict[str, Any]:
    from worlds import events, user

    view = FeatureView("simple", [FeatureSet(user, events, aggregations, ["1m"], name="all")], derived)
    rows = fold(view, NOTHING, {"events": table_of(several)}, KEY)
    found = finalize(view, rows, T0 + 1_000, KEY.stream_id)
    assert derived_disagreements(view, found) == []
    return {name.removeprefix("user_all_"): values[0] for name, values in found.to_table().to_pydict().items()}


def test_every_kind_of_list_and_last_value_comes_newest_first_and_in_its_dtype() -> None:
    columns = ("item", "price", "units", "member")
    asked = [one for column in columns for one in (Last(column), LastK(column, 2))]
    found = answers(asked, [event(1), event(2), event(3)])
    assert found == {
        "item_last_1m": "item-3",
        "item_last_2_1m": ["item-3", "item-2"],
        "price_last_1m": 4.5,
        "price_last_2_1m": [4.5, 3.0],
        "units_last_1m": 3,
        "units_last_2_1m": [3, 2],
        "member_last_1m": False,
        "member_last_2_1m": [False, True],
    }


def test_derived_features_follow_one_another_and_those_that_numpy_computes() -> None:
    derived = {
        "a": ratio("user_all_price_sum_1m", "user_all_count_1m"),
        "b": log1p("user_a"),
        "c": total("user_b", "user_a", "user_all_count_1m"),
        "d": difference("user_c", "user_a"),
        "e": product("user_d", "user_all_count_1m"),
        "f": ratio("user_a", "user_none"),
        "none": difference("user_all_count_1m", "user_all_count_1m"),
    }
    ordered = {name: derived[name] for name in ("a", "none", "b", "c", "d", "e", "f")}
    found = answers([Count(), Sum("price")], [event(1), event(3)], ordered)
    assert found["user_a"] == 3.0
    assert found["user_f"] is None
    assert found["user_e"] == pytest.approx(2 * (np.log1p(3.0) + 2))


def test_more_entries_than_the_row_before_had_room_for_are_answered() -> None:
    asked = [Count(), Mean("price"), DistinctCount("item", k=16), Quantile("price", 0.5), LastK("item", 1_000)]
    asked.append(Ratio(Sum("price"), Count()))
    many = answers(asked, [event(number) for number in range(1, 900)])
    assert many["count_1m"] == 899
    assert many["price_mean_1m"] == many["price_sum_per_count_1m"] == 1.5 * 450
    assert many["price_p50_1m"] == pytest.approx(1.5 * 450, rel=0.01)
    assert many["item_last_1000_1m"] == [f"item-{number}" for number in range(899, 0, -1)]


def test_kernels_read_the_header_where_the_encoder_writes_it() -> None:
    fields = {name: place for name, (_, place) in HEADER.fields.items()}
    places = {"directory": stored.DIRECTORY, "schema_hash": stored.SCHEMA_HASH, "stream_id": stored.STREAM_ID}
    places |= {"batch_id": stored.BATCH_ID, "newest": stored.NEWEST, "clock": stored.CLOCK}
    places |= {"written_at": stored.WRITTEN_AT}
    assert {name: fields[name] for name in places} == places


def test_a_source_that_cannot_be_written_has_its_kernels_kept_elsewhere(tmp_path: Path) -> None:
    """A folder may be named for them: a second process finds there what the first one made."""
    program = (
        "from features.rows import compiled\n"
        "import numpy as np\n"
        "none = np.zeros((0, 0), np.int64)\n"
        "compiled.gather()(np.zeros(1, np.uint8), none, none, np.zeros(0, np.int64), 0, np.zeros(0, np.uint8),"
        " np.zeros(1, np.int32))\n"
        "print(sum(compiled.gather().stats.cache_hits.values()))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    hits = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert hits == [b"0\n", b"1\n"]
    assert list(tmp_path.rglob("*.nbi"))


def test_two_reads_of_the_same_rows_are_the_same_to_the_bit() -> None:
    rows = fold(VIEW, NOTHING, {"events": table_of([event(number) for number in range(1, 60)])}, KEY)
    first, second = (finalize(VIEW, rows, T0 + 1_000, KEY.stream_id) for _ in range(2))
    assert differences(first, second) == []
