"""Columns and Avro become the very events, and meet the very reasons, that JSON messages do."""

from __future__ import annotations

import io
import json
import struct
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from shop_messages import GOOD, NOW, SHOP, message, records

from features.definitions import Stream
from features.errors import FormatError
from features.events.parsing import Verdict, from_columns, parse


def reason(raw: bytes | None, stream: Stream = SHOP) -> str:
    parsed = parse(records([raw]), stream)
    assert parsed.verdicts.tolist() == [Verdict.DEAD_LETTER]
    return str(parsed.reasons[0].as_py())


# Columns that are split already

COLUMNS = {
    "event_id": "e1",
    "event_time": NOW,
    "event_type": "view",
    "user_id": "u1",
    "price": 2.5,
    "quantity": 4,
    "gift": True,
}


def columns(**changes: object) -> pa.Table:
    arrays = {name: pa.array([value]) for name, value in COLUMNS.items()}
    return pa.table(arrays | {name: value for name, value in changes.items() if value is not None})


def test_columns_and_messages_that_say_the_same_become_the_same_events() -> None:
    assert from_columns(columns(), SHOP).events == parse(records([message()]), SHOP).events


@pytest.mark.parametrize(
    "bad",
    [{"event_id": ""}, {"event_time": 0}, {"event_type": "look"}, {"event_time": "2026-05-28"}, {"event_id": None}],
)
def test_columns_and_messages_fail_for_the_same_reasons(bad: dict[str, Any]) -> None:
    dtype = pa.string() if bad.get("event_id", "") is None else None
    parsed = from_columns(columns(**{name: pa.array([value], dtype) for name, value in bad.items()}), SHOP)
    assert parsed.reasons[0].as_py() == reason(message(**bad))


@pytest.mark.parametrize(
    ("name", "array", "code"),
    [
        ("price", pa.array([float("nan")]), "not_finite"),
        ("quantity", pa.array([2**63], pa.uint64()), "out_of_range"),
        ("quantity", pa.array([4.0]), "wrong_type"),
        ("price", pa.array(["2.5"]), "wrong_type"),
        ("gift", pa.array([1]), "wrong_type"),
        ("event_type", pa.array([1]), "wrong_type"),
        ("event_time", pa.array([1.5e12]), "wrong_type"),
        ("event_id", pa.array([1.0]), "wrong_type"),
        ("user_id", pa.array([None], pa.null()), "missing_field"),
    ],
)
def test_columns_of_another_type_are_refused_and_never_coerced(name: str, array: pa.Array, code: str) -> None:
    parsed = from_columns(columns(**{name: array}), SHOP)
    assert parsed.reasons[0].as_py().split(":")[0] == code


@pytest.mark.parametrize(
    "time",
    [
        pa.array([NOW * 1000], pa.timestamp("us")),
        pa.array([NOW], pa.timestamp("ms", "Europe/Berlin")),
        pa.array(["2026-05-28T20:26:40Z"]),
        pa.array(["2026-05-28T20:26:40Z"]).dictionary_encode(),
        pa.array([NOW], pa.uint64()),
    ],
)
def test_event_time_may_be_a_number_a_timestamp_or_text(time: pa.Array) -> None:
    assert from_columns(columns(event_time=time), SHOP).events["event_time"].to_pylist() == [NOW]


def test_columns_without_places_take_the_event_time_partition_0_and_the_row_number() -> None:
    table = pa.table({"event_time": [NOW, NOW + 1], "user_id": ["u", "v"]})
    events = from_columns(table, SHOP, horizon_ms=1).events
    assert events["known_at"].to_pylist() == [NOW, NOW + 1]
    assert events["event_id"].to_pylist() == ["shop.activity-0-0", "shop.activity-0-1"]


def test_a_table_that_has_no_event_time_is_a_format_error() -> None:
    with pytest.raises(FormatError, match="a column 'event_time'"):
        from_columns(columns().drop_columns(["event_time"]), SHOP)
    with pytest.raises(FormatError, match="a column 'known_at' of int64"):
        from_columns(columns(known_at=pa.array(["now"])), SHOP)


# Avro

AVRO_FIELDS: list[dict[str, Any]] = [
    {"name": "event_id", "type": "string"},
    {"name": "event_time", "type": "long"},
    {"name": "event_type", "type": {"type": "enum", "name": "kind", "symbols": ["view", "cart", "purchase"]}},
    {"name": "user", "type": {"type": "record", "name": "user", "fields": [{"name": "id", "type": "string"}]}},
    {"name": "price", "type": ["null", "double"]},
    {"name": "quantity", "type": "int"},
    {"name": "gift", "type": "boolean"},
]


def avro_schema(fields: list[dict[str, Any]] = AVRO_FIELDS, **changes: object) -> str:
    changed = [field | {"type": changes.pop(field["name"], field["type"])} for field in fields]
    added = [{"name": name, "type": kind} for name, kind in changes.items()]
    return json.dumps({"type": "record", "name": "event", "fields": changed + added})


def avro_stream(schema: str | None) -> Stream:
    return Stream("shop", "shop.activity", SHOP.fields, format="avro", computed=SHOP.computed, schema=schema)


def avro_message(schema: str, header: int | None = None, **changes: object) -> bytes:
    raw = io.BytesIO()
    fastavro.schemaless_writer(raw, fastavro.parse_schema(json.loads(schema)), GOOD | changes)
    return (b"" if header is None else struct.pack(">bI", 0, header)) + raw.getvalue()


def test_avro_and_json_that_say_the_same_become_the_same_events() -> None:
    schema = avro_schema()
    expected = parse(records([message()]), SHOP).events
    assert parse(records([avro_message(schema)]), avro_stream(schema)).events == expected
    with_header = records([avro_message(schema, header=7)])
    assert parse(with_header, avro_stream(None), schemas={7: schema}.__getitem__).events == expected


def test_avro_writers_may_evolve_within_what_the_streams_schema_can_read() -> None:
    reader = avro_schema(
        [*AVRO_FIELDS, {"name": "shelf", "type": ["null", "string"], "default": None}], quantity="long"
    )
    old, new = avro_schema(), avro_schema(shelf="string", colour="string")
    batch = records([avro_message(old, header=1), avro_message(new, header=2, shelf="A", colour="red")])
    parsed = parse(batch, avro_stream(reader), schemas={1: old, 2: new}.__getitem__)
    assert parsed.events["quantity"].to_pylist() == [4, 4]


@pytest.mark.parametrize(
    ("logical", "number"), [("timestamp-millis", NOW + 1), ("timestamp-micros", (NOW + 1) * 1000 + 7)]
)
def test_avro_timestamps_are_instants_whatever_the_time_unit(logical: str, number: int) -> None:
    schema = avro_schema(
        event_time={"type": "long", "logicalType": logical}, quantity={"type": "long", "logicalType": logical}
    )
    event = parse(
        records([avro_message(schema, event_time=number, quantity=number)]), avro_stream(schema)
    ).events.to_pylist()[0]
    assert (event["event_time"], event["quantity"]) == (NOW + 1, NOW + 1)


def test_an_avro_timestamp_without_a_zone_is_a_bad_time() -> None:
    schema = avro_schema(event_time={"type": "long", "logicalType": "local-timestamp-millis"})
    assert reason(avro_message(schema), avro_stream(schema)).startswith("bad_time: field 'event_time'")


def test_avro_decimals_and_uuids_are_numbers_and_texts() -> None:
    decimal = ["null", {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}]
    schema = avro_schema(price=decimal, event_id={"type": "string", "logicalType": "uuid"})
    number, text = Decimal("12.35"), "00000000-0000-4000-8000-000000000001"
    parsed = parse(records([avro_message(schema, price=number, event_id=text)]), avro_stream(schema))
    assert parsed.events.select(["event_id", "price"]).to_pylist() == [{"event_id": text, "price": 12.35}]


@pytest.mark.parametrize("schema", ["{", '{"type": "nope"}', "5", avro_schema(next=["null", "event"])])
def test_a_schema_of_the_stream_that_is_no_usable_avro_schema_is_a_format_error(schema: str) -> None:
    with pytest.raises(FormatError, match="stream 'shop': schema requires an Avro schema"):
        parse(records([b""]), avro_stream(schema))


def test_avro_without_a_schema_or_a_registry_is_a_format_error() -> None:
    with pytest.raises(FormatError, match=r"Give the stream schema=, or set kafka\.schema_registry"):
        parse(records([b""]), avro_stream(None))


def test_a_registry_that_is_down_stops_the_batch_and_blames_no_record() -> None:
    def down(_: int) -> str:
        raise ConnectionError("no registry")

    with pytest.raises(ConnectionError):
        parse(records([avro_message(avro_schema(), header=1)]), avro_stream(None), schemas=down)
