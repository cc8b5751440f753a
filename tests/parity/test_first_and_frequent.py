"""The window's first and most frequent values, while tiles age and values become too many: exact, or null."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import T0, events, spine_of, table_of, user, view_of

from features.checks.oracle import disagreements, oracle
from features.checks.reference_encoder import encode
from features.definitions import FeatureSet, FeatureView, views_of_text, views_text
from features.definitions import aggregations as agg
from features.definitions.describe import aggregation_text
from features.definitions.windows import Window
from features.errors import DefinitionError
from features.history.point_in_time_join import point_in_time
from features.rows.decoder import decode, layout_of
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, FeatureMatrix, PackedRows

NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))
ME = {"user_id": "a"}
KNOWN = T0 + 590_000
TEXTS = ["a", "b", "ab", "", "é", "z", "日本", "b" * 300, "\U0001f600", "\ufffd"]
PRICES = [0.0, -0.0, -2.5, 1e300, 7.0, 0.1]
KINDS = (
    agg.First("item"), agg.First("price"), agg.First("units"), agg.MostFrequent("item", k=4),
    agg.MostFrequent("price", k=4), agg.MostFrequent("units", k=4), agg.MostFrequent("member"),
)  # fmt: skip
VIEW = view_of(["1m", "10m", Window("5m", delay="1m")], KINDS)


def event(at: int, second: float, **values: Any) -> dict[str, Any]:
    time = T0 + round(1_000 * second)
    plain = {"event_id": f"e{at}", "event_time": time, "known_at": time, "partition": 0, "offset": at, "user_id": "a"}
    return plain | {"item": "a", "price": 1.0, "units": 1, "member": True} | values


def answered(view: FeatureView, several: Sequence[dict], as_of: int, cuts: Sequence[int] = ()) -> list[FeatureMatrix]:
    """By rows of the events in this order, cut into batches, and by history."""
    table, rows = table_of(several), NOTHING
    for batch, (start, stop) in enumerate(pairwise([0, *sorted(cuts), len(several)])):
        changed = fold(view, rows, {"events": table.slice(start, stop - start)}, BatchKey(1, batch, 0))
        rows = changed if len(changed) else rows
    layout = layout_of(view, 1)
    assert encode(decode(rows.values, rows.keys, layout), layout).equals(rows.values)
    return [finalize(view, rows, as_of, 1), point_in_time(view, spine_of(view, [(ME, as_of)]), {"events": table})]


def single(aggregation: agg.Aggregation, several: Sequence[dict], as_of: int, cuts: Sequence[int] = ()) -> list[Any]:
    view = FeatureView("one", [FeatureSet(user, events, [aggregation], ["1m"], name="x")])
    return [found.columns[0][0].as_py() for found in answered(view, several, as_of, cuts)]


@st.composite
def sequences(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events in the order of their seconds, known in any order, with few or many different values."""
    few = draw(st.integers(1, len(TEXTS)))
    seconds = draw(st.lists(st.one_of(st.integers(0, 590), st.integers(0, 40)), min_size=1, max_size=40))
    return [
        event(
            at, second, known_at=KNOWN,
            item=draw(st.sampled_from([*TEXTS[:few], None])), price=draw(st.sampled_from(PRICES)),
            units=draw(st.integers(-few, few)), member=draw(st.sampled_from([True, False, None])),
        )
        for at, second in enumerate(seconds)
    ]  # fmt: skip


@given(several=sequences(), later=st.integers(0, 700_000), data=st.data())
def test_first_and_most_frequent_are_the_oracles_in_any_batches(
    several: list[dict], later: int, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(several))
    cuts, as_of = data.draw(st.lists(st.integers(0, len(several)), max_size=4)), KNOWN + later
    expected = oracle(VIEW, ME, as_of, {"events": several})
    for found in answered(VIEW, shuffled, as_of, cuts):
        assert disagreements(VIEW, [expected], found) == []


def test_the_first_of_a_window_is_the_next_once_the_window_has_moved_on() -> None:
    several = [event(0, 0, item="old"), event(1, 30, item="next"), event(2, 50, item="new")]
    asked = [single(agg.First("item"), several, T0 + second * 1_000) for second in (50, 80, 100, 120)]
    assert asked == [["old"] * 2, ["next"] * 2, ["new"] * 2, [None] * 2]
    assert single(agg.First("item"), [*several, event(3, 0, item="later offset")], T0 + 50_000, [3]) == ["old"] * 2


def test_more_than_k_values_have_no_most_frequent_and_as_many_have() -> None:
    several = [event(at, at, item=text) for at, text in enumerate(["x", "y", "z", "y", "x", "y"])]
    assert single(agg.MostFrequent("item", k=3), several, T0 + 6_000, [2]) == ["y"] * 2
    assert single(agg.MostFrequent("item", k=2), several, T0 + 6_000, [2]) == [None] * 2
    # z has left
    assert single(agg.MostFrequent("item", k=2), several, T0 + 63_000, [2, 4]) == ["y"] * 2


@pytest.mark.parametrize(
    ("values", "smallest"),
    [(["é", "z", "Z"], "Z"), (["ab", "a"], "a"), (["\U0001f600", "\ufffd"], "\ufffd"), (["b", ""], "")],
)
def test_of_texts_that_are_equally_frequent_the_first_by_code_points_is_taken(values: list[str], smallest: str) -> None:
    several = [event(at, at, item=text) for at, text in enumerate(values)]
    assert single(agg.MostFrequent("item"), several, T0 + 5_000, [1]) == [smallest] * 2 == [min(values)] * 2


def test_a_row_of_ever_new_values_has_no_more_than_k_and_one_a_tile() -> None:
    view = FeatureView("one", [FeatureSet(user, events, [agg.MostFrequent("units", k=3)], ["1m"], name="x")])
    several = [event(at, at / 100, units=at) for at in range(6_000)]
    rows = fold(view, NOTHING, {"events": table_of(several)}, BatchKey(1, 0, 0))
    (entries,) = decode(rows.values, rows.keys, layout_of(view, 1)).tables
    assert len(entries) == 4 * 60


def test_the_definitions_are_read_back_and_said_in_words() -> None:
    assert views_of_text(views_text([VIEW])) == (VIEW,)
    assert aggregation_text(agg.First("item", where={"kind": "x"})) == "oldest item where kind is x"
    assert aggregation_text(agg.MostFrequent("item")) == "most frequent item; none beyond 32 different ones"


def test_they_are_of_the_columns_dtype_and_k_has_bounds() -> None:
    view = view_of(["1m"], KINDS)
    dtypes = {feature.name: feature.dtype for feature in view.features}
    assert dtypes["user_all_item_first_1m"] == dtypes["user_all_item_most_frequent_1m"] == "string"
    assert dtypes["user_all_units_first_1m"] == dtypes["user_all_units_most_frequent_1m"] == "int64"
    assert dtypes["user_all_member_most_frequent_1m"] == "bool"
    with pytest.raises(DefinitionError, match="MostFrequent's k"):
        view_of(["1m"], [agg.MostFrequent("item", k=0)])
