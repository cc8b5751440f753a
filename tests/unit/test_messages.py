"""What is written as messages is read back as the very same events."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from features.definitions import Field, Stream
from features.definitions.expressions import product
from features.errors import DefinitionError, FormatError
from features.events.ids import unusable
from features.events.parsing import Parsed, Records, event_schema, parse
from features.events.timestamps import EARLIEST_MS, LATEST_MS
from streaming.kafka.encoding import in_unit, keys_of, messages

T0 = 1_700_000_000_000
SHOP = Stream(
    "shop",
    topic="t.shop",
    fields={
        "event_type": Field("string", path="what.kind", required=True),
        "user_id": Field("string", path="who.user.id"),
        "session_id": Field("string", path="who.session"),
        "item_id": "string",
        "price": "float64",
        "quantity": Field("int64", path="units sold"),
        "member": "bool",
    },
    event_id="meta.id",
    event_time="meta.at",
    computed={"amount": product("price", "quantity")},
)
AVRO_NAMES = {
    "event_type": Field("string", required=True),
    "user_id": Field("string", path="who.user"),
    **{name: field for name, field in SHOP.mapped.items() if name in ("session_id", "item_id", "price", "member")},
    "session_id": "string",
    "quantity": Field("int64", path="units"),
}


def nullable(dtype: str) -> list[str]:
    return ["null", dtype]


def avro_schema(time: object) -> str:
    who = {"type": "record", "name": "Who", "fields": [{"name": "user", "type": nullable("string")}]}
    types: dict[str, object] = {
        "id": "string",
        "at": time,
        "event_type": "string",
        "who": who,
        "session_id": nullable("string"),
        "item_id": nullable("string"),
        "price": nullable("double"),
        "units": nullable("long"),
        "member": nullable("boolean"),
    }
    fields = [{"name": name, "type": value} for name, value in types.items()]
    return json.dumps({"type": "record", "name": "Shop", "fields": fields})


AVRO = replace(SHOP, fields=AVRO_NAMES, event_id="id", event_time="at", format="avro", schema=avro_schema("long"))


def logical(kind: str) -> str:
    return avro_schema({"type": "long", "logicalType": kind})


MICROS = logical("timestamp-micros")
STREAMS = {
    "json, nested": SHOP,
    "json, seconds": replace(SHOP, time_unit="s"),
    "json, nanoseconds": replace(SHOP, time_unit="ns"),
    "json, ids of offsets": replace(SHOP, event_id=None),
    "json, the id is a field": replace(SHOP, event_id="item_id"),
    "json, a pattern in a zone": replace(SHOP, time_zone="Europe/Berlin", time_format="%d.%m.%Y %H:%M"),
    "json, seconds with a fraction": replace(SHOP, time_unit="s", time_format="epoch"),
    "avro": AVRO,
    "avro, microseconds": replace(AVRO, time_unit="us"),
    "avro, a logical time": replace(AVRO, schema=MICROS),
    "avro, a logical time in nanoseconds": replace(AVRO, schema=logical("timestamp-nanos")),
    "avro, a local time": replace(AVRO, schema=logical("local-timestamp-micros"), time_zone="Asia/Kolkata"),
    "avro, a local time in nanoseconds": replace(AVRO, schema=logical("local-timestamp-nanos"), time_zone="Asia/Tokyo"),
    "avro, text": replace(AVRO, schema=avro_schema("string"), time_zone="UTC", time_format="%Y%m%d"),
}


def is_id(text: str) -> bool:
    return not unusable(pa.array([text])).any()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0, 5e-324, 1e22, 0.1]))
rows = st.fixed_dictionaries(
    {
        "event_id": texts.filter(is_id),
        "event_time": st.one_of(
            st.integers(EARLIEST_MS, LATEST_MS - 8),
            st.integers(EARLIEST_MS // 1_000, 4_000_000_000).map(lambda s: s * 1_000),
        ),
        "event_type": texts,
        "user_id": st.none() | texts,
        "session_id": st.none() | texts,
        "item_id": st.none() | texts,
        "price": st.none() | numbers.filter(lambda x: abs(x) < 1e300),
        "quantity": st.none() | st.integers(-(2**63), 2**63 - 1),
        "member": st.none() | st.booleans(),
    }
)
MIXED: list[dict[str, Any]] = [
    {
        "event_id": f"e{n}",
        "event_time": T0 + n,
        "event_type": 'a\n"\\',
        "user_id": None,
        "session_id": "\0",
        "item_id": "i",
    }
    | {"price": n / 7, "quantity": None, "member": n % 2 == 0}
    for n in range(600)  # enough for the fast reader
]


def events_of(several: Sequence[dict[str, Any]], stream: Stream) -> pa.Table:
    """The rows as parse() would give them: known a moment later, at their offsets, with what the stream computes."""
    given_ids = stream.event_id is not None
    full = [
        row
        | {"known_at": row["event_time"] + 7, "partition": 0, "offset": place}
        | {"amount": product_of(row["price"], row["quantity"])}
        | ({} if given_ids else {"event_id": f"{stream.topic}-0-{place}"})
        | ({"item_id": row["event_id"]} if stream.event_id == "item_id" else {})
        for place, row in enumerate(several)
    ]
    return pa.Table.from_pylist(full, schema=event_schema(stream))


def product_of(price: float | None, quantity: int | None) -> float | None:
    value = None if price is None or quantity is None else price * float(quantity)
    return None if value is None or math.isinf(value) else value


def read_back(events: pa.Table, stream: Stream, shift_ms: int | None = 0) -> Parsed:
    written = list(messages(events, stream, shift_ms))
    known_at = [int(dict(headers)["known_at"]) for _, _, headers in written]
    n = len(written)
    values = pa.array([value for _, value, _ in written], pa.binary())
    return parse(Records(values, np.array(known_at, np.int64), np.zeros(n, np.int32), np.arange(n)), stream)


@pytest.mark.parametrize("name", STREAMS)
@given(several=st.lists(rows, max_size=12))
@example(several=MIXED)
def test_events_that_are_written_are_read_back_as_they_were(name: str, several: list[dict[str, Any]]):
    stream = STREAMS[name]
    events = events_of(several, stream)
    parsed = read_back(events, stream)
    assert parsed.reasons.null_count == len(several)
    assert parsed.events.to_pylist() == events.to_pylist()


def test_a_shift_moves_when_it_happened_and_when_it_became_known_by_as_much():
    events = events_of(MIXED[:3], SHOP)
    shifted = read_back(events, SHOP, shift_ms=1_000).events
    for name in ("event_time", "known_at"):
        assert shifted[name].to_pylist() == [time + 1_000 for time in events[name].to_pylist()]


def test_live_messages_leave_it_to_the_broker_when_they_become_known():
    written = list(messages(events_of(MIXED[:2], SHOP), SHOP, shift_ms=None))
    assert [headers for _, _, headers in written] == [[], []]


def test_a_message_holds_our_values_where_the_stream_has_them_and_nothing_that_it_computes():
    row = {"event_id": "e1", "event_time": T0, "event_type": "view", "user_id": "u1", "session_id": None}
    row |= {"item_id": None, "price": 2.5, "quantity": 4, "member": None}
    ((key, value, headers),) = messages(events_of([row], SHOP), SHOP)
    assert (key, headers) == (b"u1", [("known_at", str(T0 + 7).encode())])
    assert json.loads(value) == {
        "meta": {"id": "e1", "at": T0},
        "what": {"kind": "view"},
        "who": {"user": {"id": "u1"}},
        "price": 2.5,
        "units sold": 4,
    }


def test_a_key_is_the_user_else_the_session_else_the_item_else_the_event():
    row = {"event_time": T0, "event_type": "view", "price": None, "quantity": None, "member": None}
    who = [("u", "s", "i"), (None, "s", "i"), (None, None, "i"), (None, None, None)]
    several = [
        row | {"event_id": "e", "user_id": user, "session_id": session, "item_id": item} for user, session, item in who
    ]
    assert keys_of(events_of(several, SHOP), SHOP).to_pylist() == ["u", "s", "i", "e"]


def test_a_stream_without_those_is_keyed_by_the_first_id_that_it_has():
    cards = Stream(
        "cards", topic="t.cards", fields={"amount": "float64", "customer_id": "int64", "terminal_id": "int64"}
    )
    row = {"event_id": "e", "event_time": T0, "known_at": T0, "partition": 0, "offset": 0, "amount": 1.0}
    events = pa.Table.from_pylist([row | {"customer_id": 7, "terminal_id": 8}], schema=event_schema(cards))
    assert [key for key, _, _ in messages(events, cards)] == [b"7"]


def test_times_are_numbers_of_the_streams_unit_or_texts_where_those_would_lose_the_millisecond():
    whole, fine = pa.array([T0, 1_000]), pa.array([T0, 1_001])
    assert in_unit(whole, "s").to_pylist() == [T0 // 1_000, 1]
    assert in_unit(fine, "s").to_pylist() == ["2023-11-14T22:13:20.000Z", "1970-01-01T00:00:01.001Z"]
    assert in_unit(fine, "us").to_pylist() == [T0 * 1_000, 1_001_000]
    assert in_unit(pa.array([2**50]), "ns").to_pylist()[0].endswith("Z")


def test_no_events_are_no_messages():
    assert [list(messages(events_of([], stream), stream)) for stream in (SHOP, AVRO)] == [[], []]


@pytest.mark.parametrize("paths", [("who", "who.name"), ("who.name", "who"), ("x", "x")])
def test_fields_that_one_message_cannot_hold_both_are_refused(paths: tuple[str, str]):
    fields = {name: Field("string", path=path) for name, path in zip(("a", "b"), paths, strict=True)}
    stream = Stream("s", topic="t", fields=fields)
    row = {"event_id": "e", "event_time": T0, "known_at": T0, "partition": 0, "offset": 0, "a": "1", "b": "2"}
    events = pa.Table.from_pylist([row], schema=event_schema(stream))
    with pytest.raises(DefinitionError, match=r"stream 's' requires paths that one message can have"):
        list(messages(events, stream))


def test_an_avro_schema_that_cannot_hold_an_event_says_so():
    narrow = replace(AVRO, schema=avro_schema("string"))
    with pytest.raises(FormatError, match=r"stream 'shop': schema requires types that hold its events; got "):
        list(messages(events_of(MIXED[:1], AVRO), narrow))


LOSSES = [
    ("float64", "float", 19.95),
    ("float64", "long", 2.5),
    ("int64", "boolean", 7),
    ("int64", "double", 2**53 + 1),
]
LOSSES += [("bool", "int", True), ("string", "boolean", "x"), ("float64", "float", 1e300)]


@pytest.mark.parametrize(("dtype", "kind", "value"), LOSSES)
def test_an_avro_schema_that_would_change_a_value_says_so(dtype: str, kind: str, value: object) -> None:
    schema = avro_of(kind)
    stream = Stream("s", topic="t", event_id=None, fields={"a": dtype}, format="avro", schema=schema)
    row = {"event_id": "e", "event_time": T0, "known_at": T0, "partition": 0, "offset": 0, "a": value}
    events = pa.Table.from_pylist([row], schema=event_schema(stream))
    with pytest.raises(FormatError, match=r"stream 's': schema requires types that hold its events; got a: "):
        list(messages(events, stream))


@pytest.mark.parametrize(
    ("dtype", "kind", "value"), [("float64", "float", 2.5), ("int64", "double", 7), ("int64", "int", 7)]
)
def test_an_avro_schema_of_a_narrower_type_holds_the_values_that_it_has(dtype: str, kind: str, value: object) -> None:
    stream = Stream("s", topic="t", event_id=None, fields={"a": dtype}, format="avro", schema=avro_of(kind))
    row = {"event_id": "e", "event_time": T0, "known_at": T0, "partition": 0, "offset": 0, "a": value}
    assert len(list(messages(pa.Table.from_pylist([row], schema=event_schema(stream)), stream))) == 1


def test_a_field_that_an_avro_schema_lacks_is_not_dropped() -> None:
    stream = Stream(
        "s", topic="t", event_id=None, fields={"a": "int64", "b": "int64"}, format="avro", schema=avro_of("long")
    )
    row = {"event_id": "e", "event_time": T0, "known_at": T0, "partition": 0, "offset": 0, "a": 1, "b": None}
    events = pa.Table.from_pylist([row, row | {"b": 2}], schema=event_schema(stream))
    assert len(list(messages(events.slice(0, 1), stream))) == 1
    with pytest.raises(FormatError, match=r"got b: 2 would be None"):
        list(messages(events, stream))


def avro_of(kind: str) -> str:
    fields = [{"name": "event_time", "type": "long"}, {"name": "a", "type": kind}]
    return json.dumps({"type": "record", "name": "r", "fields": fields})


def test_avro_needs_a_schema_to_write_with():
    with pytest.raises(FormatError, match=r"requires an Avro schema to write messages with; got none\. Give"):
        list(messages(events_of(MIXED[:1], AVRO), replace(AVRO, schema=None)))
