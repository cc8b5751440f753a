"""Integers beyond 2^53 are exact in filters, in max, min and last, in rows of before, and in frames; or are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from worlds import EDGES, T0, events, spine_of, table_of, user

from features.checks.naive_aggregations import meets
from features.checks.oracle import disagreements, oracle
from features.checks.reference_encoder import encode
from features.definitions import AtPrecision, Entity, EventModel, FeatureSet, FeatureView, Rule, Stream
from features.definitions.aggregations import Count, Last, Max, Min
from features.definitions.expressions import Compare, OneOf, above, check_where, freeze_where, matches
from features.errors import DefinitionError
from features.events.parsing import Records, Verdict, parse
from features.feast.response import exact_frame
from features.history.point_in_time_join import point_in_time
from features.rows.decoder import decode, layout_of
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, PackedRows

RELATIONS = st.sampled_from(sorted(Compare.KERNELS))
INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3))
NEAR = st.builds(lambda edge, step: edge + step, st.sampled_from(EDGES), st.sampled_from([-0.5, 0.0, 0.5, 1024.0]))
FLOATS = st.one_of(NEAR, st.sampled_from([0.5, -0.0, 2.0**63, -(2.0**63), 1e300, -1e300, 5e-324]), st.floats(-4, 4))
NUMBERS = {"int64": INTEGERS, "float64": FLOATS}
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))
KEY = BatchKey(7, 0, T0)


def comparisons(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.builds(Compare, RELATIONS, values), st.lists(values, min_size=1, max_size=3).map(OneOf))


def frozen(condition: Any) -> Any:
    return freeze_where({"x": OneOf(tuple(condition.values)) if isinstance(condition, OneOf) else condition}, "test")


@pytest.mark.parametrize("dtype", ["int64", "float64"])
@given(data=st.data())
def test_a_filter_holds_for_a_number_as_it_does_in_python(dtype: str, data: st.DataObject) -> None:
    """Python compares integers with floats exactly: so does every filter, or its definition is refused."""
    where = frozen(data.draw(comparisons(st.one_of(INTEGERS, FLOATS))))
    column = data.draw(st.lists(st.one_of(st.none(), NUMBERS[dtype]), max_size=12))
    try:
        check_where(where, {"x": dtype}, "test")
    except DefinitionError:
        return
    found = matches(pa.table({"x": pa.array(column, pa.type_for_alias(dtype))}), where)
    assert found.tolist() == [value is not None and meets(value, where["x"]) for value in column]


def test_zero_of_either_sign_is_one_of_zeros() -> None:
    column = pa.table({"x": [0.0, -0.0, 1.0]})
    for zero in (0, 0.0, -0.0):
        assert matches(column, frozen(OneOf((zero,)))).tolist() == [True, True, False]
        assert matches(column, frozen(zero)).tolist() == [True, True, False]


@pytest.mark.parametrize("condition", [2**53 + 1, above(2**53 + 1), [1, -(2**53) - 1], above(2**62 + 1)], ids=str)
def test_a_whole_number_that_no_float64_is_is_refused_for_a_field_of_float64(condition: Any) -> None:
    with pytest.raises(DefinitionError, match="A field of int64 takes any"):
        FeatureSet(user, events, [Count()], ["1h"], where={"price": condition})
    FeatureSet(user, events, [Count()], ["1h"], where={"units": condition})


def test_a_rule_that_cannot_be_exact_is_refused() -> None:
    labels = Stream("labels", topic="t.labels", fields={"user_id": "string"})
    with_rule = lambda number: EventModel(  # noqa: E731
        "model", events, labels, ["price"], AtPrecision(0.9), "user_id", rules=[Rule("large", {"units": above(number)})]
    )
    with_rule(2**53 - 1).check(events.dtypes)
    with pytest.raises(DefinitionError, match=r"a number below 9007199254740992, as a rule reads 'units' \(int64\)"):
        with_rule(2**53).check(events.dtypes)


def view_of(*aggregations: Any) -> FeatureView:
    return FeatureView("v", [FeatureSet(user, events, aggregations, ["1h"])])


@given(units=st.lists(st.one_of(st.none(), INTEGERS), min_size=1, max_size=8), cut=st.integers(0, 8))
@example(units=[9_007_199_254_740_995, 9_007_199_254_740_993], cut=1)
def test_max_min_and_last_are_the_integers_themselves(units: list[int | None], cut: int) -> None:
    view = view_of(Max("units"), Min("units"), Last("units"), Count(where={"units": above(0.5)}))
    assert [feature.dtype for feature in view.features] == ["int64"] * 4
    plain = {"known_at": T0, "event_time": T0, "partition": 0, "user_id": "u1", "shop": 1, "kind": "view", "item": "a"}
    dicts = [
        {**plain, "event_id": f"{number}", "offset": number, "price": 1.0, "member": True, "units": value}
        for number, value in enumerate(units)
    ]
    rows = NOTHING
    for batch, part in enumerate((dicts[:cut], dicts[cut:])):
        rows = fold(view, rows, {"events": table_of(part)}, BatchKey(7, batch, T0)) if part else rows
    layout = layout_of(view, 7)
    assert encode(decode(rows.values, rows.keys, layout), layout).equals(rows.values)
    expected = [oracle(view, {"user_id": "u1"}, T0, {"events": dicts})]
    assert disagreements(view, expected, finalize(view, rows, T0, 7)) == []
    spine = spine_of(view, [({"user_id": "u1"}, T0)])
    assert disagreements(view, expected, point_in_time(view, spine, {"events": table_of(dicts)})) == []


def test_a_number_that_no_float64_is_stops_no_batch() -> None:
    """One message with 2^53 + 1 under a filter with a fraction, among others."""
    stream = Stream("s", topic="t", event_time="t", event_id=None, fields={"user": "string", "ref": "int64"})
    view = FeatureView(
        "v", [FeatureSet(Entity("user", {"user": "string"}), stream, [Last("ref")], ["1h"], where={"ref": above(0.5)})]
    )
    refs = [1, 9_007_199_254_740_993, 0, 2**63 - 1]
    messages = [json.dumps({"t": T0, "user": f"u{ref}", "ref": ref}).encode() for ref in refs]
    known, numbers = np.full(4, T0), np.arange(4)
    parsed = parse(Records(pa.array(messages), known, np.zeros(4, np.int32), numbers), stream)
    assert parsed.verdicts.tolist() == [Verdict.VALID] * 4, parsed.reasons
    rows = fold(view, NOTHING, {"s": parsed.events}, KEY)
    read = finalize(view, rows, T0, 7).to_table()["user_ref_above_0_5_ref_last_1h"].to_pylist()
    assert dict(zip(rows.keys.to_pylist(), read, strict=True)) == {
        "u1": 1,
        "u9007199254740993": 9_007_199_254_740_993,
        "u0": None,
        f"u{2**63 - 1}": 2**63 - 1,
    }


@given(values=st.lists(st.one_of(st.none(), INTEGERS), max_size=6))
@example(values=[2**53 + 1, None])
def test_a_frame_has_the_integers_of_its_table(values: list[int | None]) -> None:
    frame = exact_frame(pa.table({"x": pa.array(values, pa.int64()), "y": pa.array(map(str, values))}))
    assert [None if pd.isna(value) else int(value) for value in frame["x"]] == values


def test_rows_whose_extrema_were_floats_are_read_and_folded_on() -> None:
    """Rows of before hold float64s: small ones are the integers, large ones what they were rounded to."""
    view = view_of(Max("units"), Min("units"))
    layout = layout_of(view, 7)
    (spec,) = layout.tables
    as_floats = replace(layout, tables=(replace(spec, table=replace(spec.table, integers=False)),))
    for smallest, largest in ((-3, 2**53 - 1), (-(2**63), 2**53 + 1), (5, 2**63 - 1), (-(2**53) - 1, 7)):
        plain = {"known_at": T0, "event_time": T0, "partition": 0, "offset": 1, "user_id": "u1", "kind": "view"}
        plain |= {"shop": 1, "item": "a", "price": 1.0, "member": True}
        dicts = [plain | {"event_id": f"{number}", "units": number} for number in (smallest, largest)]
        state = decode(fold(view, NOTHING, {"events": table_of(dicts)}, KEY).values, pa.array(["u1"]), layout)
        floats = {name: column.astype(np.float64) for name, column in state.tables[0].columns.items()}
        before = encode(replace(state, tables=(replace(state.tables[0], columns=floats),)), as_floats)
        rows = PackedRows(pa.array(["u1"]), before)
        rounded = [min(int(float(largest)), 2**63 - 1024), int(float(smallest))]
        read = finalize(view, rows, T0, 7).to_table().to_pylist()[0]
        assert list(read.values()) == rounded
        assert [int(decode(before, rows.keys, layout).tables[0].columns[name][0]) for name in ("max", "min")] == rounded
        later = table_of([plain | {"event_id": "later", "offset": 2, "units": 6, "known_at": T0 + 1}])
        folded = fold(view, rows, {"events": later}, BatchKey(7, 1, T0))
        assert encode(decode(folded.values, folded.keys, layout), layout).equals(folded.values)
        again = finalize(view, folded, T0 + 1, 7).to_table().to_pylist()[0]
        assert list(again.values()) == [max(rounded[0], 6), min(rounded[1], 6)]
