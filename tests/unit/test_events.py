"""The event contract: what messages become, and how times, ids and lateness are judged."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from shop_messages import BATCH, GOOD, NOW, SHOP, message, records

from features.definitions import Stream
from features.definitions.expressions import hour_within, ratio, weekday_within
from features.events.parsing import Parsed, Records, Verdict, event_schema, from_columns, parse

HOUR = 3_600_000


def one(stream: Stream = SHOP, **changes: object) -> dict[str, Any]:
    """The event of a single good message."""
    parsed = parse(records([message(**changes)]), stream)
    assert parsed.reasons.to_pylist() == [None]
    return dict(parsed.events.to_pylist()[0])


def reason(raw: bytes | None, stream: Stream = SHOP) -> str:
    parsed = parse(records([raw]), stream)
    assert parsed.verdicts.tolist() == [Verdict.DEAD_LETTER]
    return str(parsed.reasons[0].as_py())


def outcomes(parsed: Parsed) -> list[tuple[int, str | None, str | None]]:
    """(verdict, reason, event to the bit) of each record, whatever its place."""
    events = dict(zip(parsed.rows.tolist(), parsed.events.drop_columns(["offset"]).to_pylist(), strict=True))
    shown = [repr(events[row]) if row in events else None for row in range(len(parsed.verdicts))]
    return list(zip(parsed.verdicts.tolist(), parsed.reasons.to_pylist(), shown, strict=True))


def test_events_have_the_columns_of_the_stream_in_its_order() -> None:
    assert parse(records([message()]), SHOP).events.schema == event_schema(SHOP)
    assert event_schema(SHOP).names[5:] == ["event_type", "user_id", "price", "quantity", "gift", "amount"]


def test_a_good_message_becomes_typed_values_with_dotted_paths_and_computed_columns() -> None:
    row = one()
    assert row == {
        "event_id": "e1", "event_time": NOW, "known_at": NOW, "partition": 0, "offset": 0, "event_type": "view",
        "user_id": "u1", "price": 2.5, "quantity": 4, "gift": True, "amount": 10.0,
    }  # fmt: skip


def test_an_optional_field_that_is_missing_or_null_is_null_and_so_is_what_is_computed_from_it() -> None:
    assert one(price=None)["price"] is None
    assert one(price=None)["amount"] is None
    raw = {key: value for key, value in GOOD.items() if key != "price"}
    assert parse(records([json.dumps(raw).encode()]), SHOP).events["price"].to_pylist() == [None]


def test_an_impossible_computed_value_is_null() -> None:
    stream = Stream(
        "s", topic="s", fields={"price": "float64", "quantity": "int64"}, computed={"each": ratio("price", "quantity")}
    )
    assert one(stream, quantity=0)["each"] is None


@pytest.mark.parametrize(
    ("time", "weekend", "night"),
    [
        ("2018-07-06T23:59:59.999Z", 0.0, 0.0),  # a Friday
        ("2018-07-07T00:00:00Z", 1.0, 1.0),
        ("2018-07-08T06:59:59.999Z", 1.0, 1.0),
        ("2018-07-08T09:00:00+02:00", 1.0, 0.0),
        ("2018-07-09T00:30:00Z", 0.0, 1.0),
    ],
)
def test_a_column_can_be_computed_from_the_hour_and_the_weekday_of_the_event(
    time: str, weekend: float, night: float
) -> None:
    computed = {"weekend": weekday_within("event_time", 5, 6), "night": hour_within("event_time", 0, 6)}
    row = one(Stream("s", topic="s", fields={"price": "float64"}, computed=computed), event_time=time)
    assert (row["weekend"], row["night"]) == (weekend, night)


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    assert one(extra={"a": [1, {"b": None}]}, more=10**400) == one()


def test_integers_are_good_float64_values_and_round_as_python_does() -> None:
    assert one(price=2**53 + 1)["price"] == float(2**53 + 1)


def test_an_integer_id_becomes_its_decimal_text() -> None:
    assert one(event_id=-17)["event_id"] == "-17"


def test_without_an_id_in_the_message_topic_partition_and_offset_are_the_id() -> None:
    stream = Stream("s", topic="clicks", fields={"price": "float64"}, event_id=None)
    given_records = Records(
        pa.array([message()] * 2, pa.binary()), np.full(2, NOW), np.full(2, 3, np.int32), np.array([7, 9])
    )
    assert parse(given_records, stream).events["event_id"].to_pylist() == ["clicks-3-7", "clicks-3-9"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-28T20:26:40Z", NOW),
        ("2026-05-28t20:26:40.5z", NOW + 500),
        ("2026-05-28 20:26:40.1239999+00:00", NOW + 123),
        ("2026-05-28T22:26:40+02:00", NOW),
        ("2026-05-28T15:56:40.25-04:30", NOW + 250),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
    ],
)
def test_rfc_3339_text_is_an_event_time(text: str, expected: int) -> None:
    assert one(event_time=text)["event_time"] == expected
    many = parse(records([message(event_time=text)] * BATCH), SHOP)
    assert set(many.events["event_time"].to_pylist()) == {expected}


@pytest.mark.parametrize(
    "text",
    [
        *("2026-05-28T20:26:40", "2026-05-28", "yesterday", "", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z"),
        *("2026-00-10T00:00:00Z", "2026-05-28T24:00:00Z", "2026-05-28T20:60:00Z", "2026-05-28T20:26:60Z"),
        *("2026-05-28T20:26:40+24:00", "2026-05-28T20:26:40Z\n", "٢026-05-28T20:26:40Z", str(NOW)),
    ],
)
def test_text_that_is_no_instant_is_a_bad_time_on_either_path(text: str) -> None:
    assert reason(message(event_time=text)).startswith("bad_time: field 'event_time' requires")
    mixed = parse(records([message(event_time="2026-05-28T20:26:40Z")] * BATCH + [message(event_time=text)]), SHOP)
    assert mixed.reasons[BATCH].as_py() == reason(message(event_time=text))
    assert mixed.rows.size == BATCH


@pytest.mark.parametrize(
    ("unit", "number"), [("s", NOW // 1000), ("ms", NOW), ("us", NOW * 1000 + 999), ("ns", NOW * 10**6 + 1)]
)
def test_numbers_are_read_in_the_streams_time_unit(unit: str, number: int) -> None:
    stream = Stream("s", topic="s", fields={"price": "float64"}, time_unit=unit)
    assert one(stream, event_time=number)["event_time"] == NOW


def test_a_number_of_seconds_beyond_all_milliseconds_is_implausible() -> None:
    stream = Stream("s", topic="s", fields={"price": "float64"}, time_unit="s")
    assert reason(message(event_time=2**62), stream).startswith("implausible_time:")


def test_late_events_are_kept_and_say_so_and_future_ones_are_dead_letters() -> None:
    times = [NOW - HOUR, NOW - HOUR - 1, NOW + 300_000, NOW + 300_001]
    parsed = parse(records([message(event_time=time) for time in times]), SHOP, horizon_ms=HOUR)
    assert parsed.verdicts.tolist() == [Verdict.VALID, Verdict.LATE, Verdict.VALID, Verdict.DEAD_LETTER]
    assert parsed.rows.tolist() == [0, 1, 2]
    assert parsed.reasons[1].as_py().startswith("late: ")


def test_without_a_horizon_nothing_is_late() -> None:
    assert parse(records([message(event_time="1990-01-01T00:00:00Z")]), SHOP).verdicts.tolist() == [Verdict.VALID]


def test_an_empty_batch_has_no_events_and_every_column() -> None:
    assert parse(records([]), SHOP).events.schema == event_schema(SHOP)
    assert from_columns(pa.table({"event_time": pa.array([], pa.int64())}), SHOP).events.num_rows == 0


def test_arrows_other_binary_layouts_are_taken_alike() -> None:
    values = records([message(), None]).values
    places = np.full(2, NOW), np.zeros(2, np.int32), np.arange(2)
    expected = outcomes(parse(Records(values, *places), SHOP))
    for layout in (
        values.cast(pa.large_binary()),
        pa.chunked_array([values[:1], values[1:]]),
        pa.concat_arrays([values] * 2)[2:],
    ):
        assert outcomes(parse(Records(layout, *places), SHOP)) == expected
