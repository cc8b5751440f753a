"""What the compiled fold must hold beside the parity of all paths: rows of any size, and bytes as the encoder's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.checks.reference_encoder import encode
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import (
    Aggregation,
    Count,
    DistinctCount,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Sum,
)
from features.errors import CorruptRowError, ForeignRowError
from features.events.parsing import event_schema
from features.rows.decoder import decode, layout_of
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, PackedRows

T0 = 1_700_000_000_000
DAY_MS = 86_400_000
SHOP = Stream("shop", topic="t", fields={"user": "string", "item": "string", "price": "float64"})
USER = Entity("user", {"user": "string"})
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))


def view_of(asked: list[Aggregation], windows: list[str]) -> FeatureView:
    return FeatureView("users", sets=[FeatureSet(USER, SHOP, asked, windows)])


def events(first: int, **columns: Any) -> dict[str, pa.Table]:
    """Events one ms after the other, from offset ``first`` on; by the same user where no other is named."""
    count = len(next(iter(columns.values())))
    numbers = np.arange(first, first + count)
    given: dict[str, Any] = {"event_id": [str(number) for number in numbers], "user": ["u"] * count}
    given |= {"event_time": T0 + numbers, "known_at": T0 + numbers, "offset": numbers}
    given |= {"partition": np.zeros(count, np.int32), "item": ["i"] * count, "price": np.ones(count)}
    schema = event_schema(SHOP)
    return {
        "shop": pa.table({name: pa.array((given | columns)[name], schema.field(name).type) for name in schema.names})
    }


def is_canonical(view: FeatureView, rows: PackedRows) -> bool:
    layout = layout_of(view, 7)
    return bool(encode(decode(rows.values, rows.keys, layout), layout).equals(rows.values))


def features(view: FeatureView, rows: PackedRows, as_of: int) -> dict[str, Any]:
    return finalize(view, rows, as_of, 7).to_table().to_pylist()[0]


def test_a_table_of_more_entries_than_two_bytes_count_is_kept_whole() -> None:
    view, many = view_of([DistinctCount("item", k=4_096)], ["24h"]), 70_000
    times = T0 + np.arange(many) * (DAY_MS // many)
    given = events(0, item=[f"item {number}" for number in range(many)], event_time=times, known_at=times)
    rows = fold(view, NOTHING, given, BatchKey(7, 0, T0))
    state = decode(rows.values, rows.keys, layout_of(view, 7))
    assert (len(state.tables[0]), state.headers["directory"].tolist()) == (many, [4])
    assert is_canonical(view, rows)
    again = fold(
        view, rows, events(many, item=["item 0"], event_time=times[-1:], known_at=times[-1:]), BatchKey(7, 1, T0)
    )
    assert is_canonical(view, again)
    assert features(view, again, int(times[-1]) + 1) == features(view, rows, int(times[-1]) + 1)


def test_texts_longer_than_the_room_that_was_made_are_kept_whole() -> None:
    view = view_of([LastK("item", 3), Last("item")], ["1h"])
    texts = [letter * 200_000 for letter in "abcd"]
    rows = fold(view, NOTHING, events(0, item=texts[:2], user=["u", "v"]), BatchKey(7, 0, T0))
    rows = fold(view, rows, events(2, item=texts[2:], user=["v", "u"]), BatchKey(7, 1, T0))
    found = finalize(view, rows, T0 + 100, 7).to_table().to_pylist()
    by_user = dict(zip(rows.keys.to_pylist(), found, strict=True))
    assert by_user["u"]["user_item_last_3_1h"] == [texts[3], texts[0]]
    assert by_user["v"]["user_item_last_1h"] == texts[2]
    assert is_canonical(view, rows)


@pytest.mark.parametrize(
    "prices",
    [
        [1.0, 2.0, 3.0],
        [0.25, 19.99, 5.0],
        [0.1, 1 / 3, 7.0],
        [4.0e15, 0.01],
        [9.0e15, 9.0e15],
        [1.0e300, -1.0e300],
        [-0.01, -5.0],
    ],
    ids=str,
)
def test_numbers_take_the_form_that_the_encoder_gives_them(prices: list[float]) -> None:
    view = view_of(
        [Sum("price"), Min("price"), Max("price"), Mean("price"), Last("price"), Quantile("price", 0.5)], ["1h"]
    )
    users = [f"u{number % 2}" for number in range(len(prices))]
    rows = fold(view, NOTHING, events(0, price=prices, user=users), BatchKey(7, 0, T0))
    assert is_canonical(view, rows)
    assert features(view, rows, T0 + 100)["user_price_max_1h"] == max(prices[::2])


def test_many_batches_come_to_the_same_row_as_one() -> None:
    """Counts, newest and different ones, whatever the order of times within and across batches."""
    rng = np.random.default_rng(3)
    view = view_of([Count(), LastK("item", 5), DistinctCount("item", k=16), Quantile("price", 0.9)], ["10m", "24h"])
    times = T0 + rng.integers(0, 2 * DAY_MS, 600)
    known = np.full(600, T0 + 2 * DAY_MS)
    columns = {"event_time": times, "known_at": known, "item": [f"i{one}" for one in rng.integers(0, 40, 600)]}
    columns |= {"price": np.round(rng.gamma(2.0, 15.0, 600), 2), "user": [f"u{one}" for one in rng.integers(0, 3, 600)]}
    at_once = fold(view, NOTHING, events(0, **columns), BatchKey(7, 9, T0))
    rows = NOTHING
    for batch in range(10):
        part = {name: column[60 * batch : 60 * batch + 60] for name, column in columns.items()}
        changed = fold(view, rows, events(60 * batch, **part), BatchKey(7, batch, T0))
        stored = dict(zip(rows.keys.to_pylist(), rows.values.to_pylist(), strict=True))
        stored |= dict(zip(changed.keys.to_pylist(), changed.values.to_pylist(), strict=True))
        rows = PackedRows(pa.array(list(stored)), pa.array(list(stored.values()), pa.binary()))
    assert dict(zip(rows.keys.to_pylist(), rows.values.to_pylist(), strict=True)) == dict(
        zip(at_once.keys.to_pylist(), at_once.values.to_pylist(), strict=True)
    )


def test_a_rows_clock_never_goes_back() -> None:
    """A batch that became known before what the row has leaves the time from which the row can be read."""
    view, second = view_of([Count()], ["1h"]), 1_000
    rows = fold(view, NOTHING, events(0, user=["u"], known_at=[T0 + 9 * second]), BatchKey(7, 0, T0))
    after = fold(view, rows, events(1, user=["u", "v"], known_at=[T0 + 5 * second] * 2), BatchKey(7, 1, T0))
    state = decode(after.values, after.keys, layout_of(view, 7))
    clocks = dict(zip(after.keys.to_pylist(), state.headers["clock"].tolist(), strict=True))
    assert clocks == {"u": T0 + 9 * second, "v": T0 + 5 * second}
    read_at = finalize(view, after, T0 + 6 * second, 7).as_of.tolist()
    assert dict(zip(after.keys.to_pylist(), read_at, strict=True)) == {"u": T0 + 9 * second, "v": T0 + 6 * second}


def test_a_row_that_is_none_of_ours_is_named_before_anything_is_folded() -> None:
    view, other = view_of([Count()], ["1h"]), view_of([Count()], ["2h"])
    rows = fold(other, NOTHING, events(0, user=["u"]), BatchKey(7, 0, T0))
    with pytest.raises(ForeignRowError, match="row 'u'"):
        fold(view, rows, events(1, user=["u"]), BatchKey(7, 1, T0))
    torn = PackedRows(rows.keys, pa.array([rows.values[0].as_py()[:-8]], pa.binary()))
    with pytest.raises(CorruptRowError, match="row 'u'"):
        fold(other, torn, events(1, user=["u"]), BatchKey(7, 1, T0))
