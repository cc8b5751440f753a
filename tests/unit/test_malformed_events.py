"""Every class of malformed input gets its verdict and its reason, and its neighbours are as if it were not there."""

from __future__ import annotations

import io
import json
import struct

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from features.definitions import Field, Stream
from features.events.json import messages as json_messages
from features.events.parsing import Parsed, Records, Verdict, parse

NOW = 1_780_000_000_000
DAY = 86_400_000
FIELDS = {
    "event_type": Field("string", enum=("view", "cart")),
    "user_id": Field("string", required=True),
    "city": Field("string", path="place.city"),
    "price": "float64",
    "quantity": "int64",
    "gift": "bool",
}
JSON = Stream("shop", topic="shop", fields=FIELDS)
TEMPLATE = (
    '{"event_id": "e1", "event_time": 1780000000000, "event_type": "view", "user_id": "u1", '
    '"place": {"city": "Rome"}, "price": 2.5, "quantity": 4, "gift": true}'
)
DEAD, LATE, VALID = Verdict.DEAD_LETTER, Verdict.LATE, Verdict.VALID


def having(name: str, value: str) -> bytes:
    """The good message with this JSON text as the value of one of its keys."""
    given = json.loads(TEMPLATE)
    members = (f'"{key}": {value if key == name else json.dumps(given[key])}' for key in given)
    return ("{" + ", ".join(members) + "}").encode("utf-8", "surrogatepass")


def parsed(messages: list[bytes | None], stream: Stream, schemas: dict[int, str] | None = None) -> Parsed:
    n = len(messages)
    places = np.full(n, NOW), np.zeros(n, np.int32), np.arange(n, dtype=np.int64)
    lookup = None if schemas is None else schemas.__getitem__
    return parse(Records(pa.array(messages, pa.binary()), *places), stream, horizon_ms=DAY, schemas=lookup)


def check(
    bad: bytes | None,
    good: bytes,
    verdict: Verdict,
    code: str | None,
    stream: Stream,
    schemas: dict[int, str] | None = None,
) -> Parsed:
    """The verdict and code of the record alone, among a few, and among many, where the neighbours all stay valid."""
    alone = parsed([bad], stream, schemas)
    for neighbours in (1, json_messages.FEW_MESSAGES):
        batch = parsed([good] * neighbours + [bad] + [good] * neighbours, stream, schemas)
        reasons = batch.reasons.to_pylist()
        assert batch.verdicts.tolist() == [VALID] * neighbours + [verdict] + [VALID] * neighbours
        assert reasons == [None] * neighbours + alone.reasons.to_pylist() + [None] * neighbours
        expected = parsed([good], stream, schemas).events.drop_columns(["offset"]).to_pylist()[0]
        kept = batch.events.drop_columns(["offset"]).take(np.flatnonzero(batch.rows != neighbours)).to_pylist()
        assert kept == [expected] * (2 * neighbours)
    assert (None if code is None else str(alone.reasons[0]).split(":")[0]) == code
    return alone


DEEP = 100_000
DEAD_JSON: dict[str, tuple[bytes | None, str]] = {
    "empty bytes": (b"", "empty_value"),
    "null value": (None, "null_value"),
    "blank": (b" ", "not_json"),
    "invalid UTF-8": (having("user_id", '"u1"').replace(b"u1", b"u\xff"), "bad_utf8"),
    "UTF-16": (TEMPLATE.encode("utf-16"), "bad_utf8"),
    "surrogate bytes": (having("user_id", '"\ud800"'), "bad_utf8"),
    "byte order mark": (b"\xef\xbb\xbf" + TEMPLATE.encode(), "not_json"),
    "truncated JSON": (TEMPLATE[:-1].encode(), "not_json"),
    "truncated in a string": (TEMPLATE[:20].encode(), "not_json"),
    "two objects": ((TEMPLATE + TEMPLATE).encode(), "not_json"),
    "two objects on two lines": ((TEMPLATE + "\n" + TEMPLATE).encode(), "not_json"),
    "trailing comma": ((TEMPLATE[:-1] + ",}").encode(), "not_json"),
    "single quotes": (TEMPLATE.replace('"', "'").encode(), "not_json"),
    "leading zero": (having("quantity", "04"), "not_json"),
    "raw newline in a string": (having("user_id", '"u\n1"'), "not_json"),
    "raw NUL in a string": (having("user_id", '"u\x001"'), "not_json"),
    "NUL behind": ((TEMPLATE + "\x00").encode(), "not_json"),
    "array": (f"[{TEMPLATE}]".encode(), "not_an_object"),
    "string": (b'"event"', "not_an_object"),
    "number": (b"1", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "NaN": (having("price", "NaN"), "not_finite"),
    "NaN in an unknown field": ((TEMPLATE[:-1] + ', "extra": NaN}').encode(), "not_finite"),
    "Infinity": (having("price", "-Infinity"), "not_finite"),
    "1e400": (having("price", "1e400"), "not_finite"),
    "integer of 400 digits as a float": (having("price", "9" * 400), "not_finite"),
    "integer of 5,000 digits as a float": (having("price", "-" + "9" * 5_000), "not_finite"),
    "string as a float": (having("price", '"2.5"'), "wrong_type"),
    "bool as a float": (having("price", "true"), "wrong_type"),
    "string as an int": (having("quantity", '"4"'), "wrong_type"),
    "float as an int": (having("quantity", "4.0"), "wrong_type"),
    "bool as an int": (having("quantity", "true"), "wrong_type"),
    "integer beyond int64": (having("quantity", str(2**63)), "out_of_range"),
    "integer below int64": (having("quantity", str(-(2**63) - 1)), "out_of_range"),
    "integer of 5,000 digits": (having("quantity", "9" * 5_000), "out_of_range"),
    "int as a string": (having("user_id", "1"), "wrong_type"),
    "int as a bool": (having("gift", "1"), "wrong_type"),
    "object as a string": (having("user_id", '{"id": "u1"}'), "wrong_type"),
    "array as a string": (having("user_id", '["u1"]'), "wrong_type"),
    "string where a path needs an object": (having("place", '"Rome"'), "wrong_type"),
    "array where a path needs an object": (having("place", "[]"), "wrong_type"),
    "missing required": (TEMPLATE.replace('"user_id"', '"user"').encode(), "missing_field"),
    "null required": (having("user_id", "null"), "missing_field"),
    "unknown enum": (having("event_type", '"wiew"'), "unknown_value"),
    "missing id": (TEMPLATE.replace('"event_id"', '"id"').encode(), "missing_field"),
    "empty id": (having("event_id", '""'), "missing_field"),
    "float id": (having("event_id", "1.5"), "wrong_type"),
    "bool id": (having("event_id", "true"), "wrong_type"),
    "id beyond int64": (having("event_id", str(2**64)), "out_of_range"),
    "deep nesting": (b"[" * DEEP + b"]" * DEEP, "too_deep"),
    "deep nesting in an unknown field": (
        (TEMPLATE[:-1] + ', "x": ' + '{"x":' * DEEP + "1" + "}" * DEEP + "}").encode(),
        "too_deep",
    ),
    "deep nesting, truncated": (b'{"a":' * DEEP, "too_deep"),
    "lone surrogate": (having("user_id", '"\\ud800"'), "bad_text"),
    "surrogates the wrong way round": (having("user_id", '"\\udc00\\ud800"'), "bad_text"),
    "lone surrogate in the id": (having("event_id", '"\\udfff"'), "bad_text"),
    "duplicate key": ((TEMPLATE[:-1] + ', "price": 3}').encode(), "duplicate_key"),
    "duplicate key of the same value": ((TEMPLATE[:-1] + ', "price": 2.5}').encode(), "duplicate_key"),
    "duplicate key by an escape": ((TEMPLATE[:-1] + ', "pr\\u0069ce": 2.5}').encode(), "duplicate_key"),
    "duplicate unknown key": ((TEMPLATE[:-1] + ', "x": 1, "x": 2}').encode(), "duplicate_key"),
    "duplicate key on a path": (having("place", '{"city": "Rome", "city": "Bonn"}'), "duplicate_key"),
    "duplicate object on a path": ((TEMPLATE[:-1] + ', "place": {}}').encode(), "duplicate_key"),
    "missing time": (TEMPLATE.replace('"event_time"', '"time"').encode(), "missing_field"),
    "time zero": (having("event_time", "0"), "implausible_time"),
    "negative time": (having("event_time", "-1"), "implausible_time"),
    "time before 1990": (having("event_time", "631151999999"), "implausible_time"),
    "time before 1970 as text": (having("event_time", '"1969-12-31T23:59:59Z"'), "implausible_time"),
    "time without a zone": (having("event_time", '"2026-05-28T20:26:40"'), "bad_time"),
    "float time": (having("event_time", "1780000000000.0"), "wrong_type"),
    "bool time": (having("event_time", "true"), "wrong_type"),
    "time beyond int64": (having("event_time", str(2**63)), "out_of_range"),
    "lone surrogate as a time": (having("event_time", '"\\ud800"'), "bad_time"),
    "2099": (having("event_time", "4070908800000"), "future_time"),
    "2099 as text": (having("event_time", '"2099-01-01T00:00:00Z"'), "future_time"),
    "2100": (having("event_time", "4102444800000"), "implausible_time"),
    "the largest int64 as a time": (having("event_time", str(2**63 - 1)), "implausible_time"),
}


@pytest.mark.parametrize("name", DEAD_JSON)
def test_malformed_json_is_a_dead_letter_with_its_reason_among_intact_neighbours(name: str) -> None:
    bad, code = DEAD_JSON[name]
    check(bad, TEMPLATE.encode(), DEAD, code, JSON)


@pytest.mark.parametrize("time", ["631152000000", '"1990-01-01T00:00:00Z"'])
def test_a_time_of_long_ago_is_late(time: str) -> None:
    check(having("event_time", time), TEMPLATE.encode(), LATE, "late", JSON)


ALLOWED: dict[str, tuple[bytes, str, object]] = {
    "minus zero": (having("price", "-0.0"), "price", -0.0),
    "the largest int64": (having("quantity", str(2**63 - 1)), "quantity", 2**63 - 1),
    "the smallest int64": (having("quantity", str(-(2**63))), "quantity", -(2**63)),
    "integer in a float": (having("price", "3"), "price", 3.0),
    "the largest float": (having("price", "1.7976931348623157e308"), "price", 1.7976931348623157e308),
    "900 KB string": (having("user_id", json.dumps("u" * 900_000)), "user_id", "u" * 900_000),
    "900 KB of quotes": (having("user_id", json.dumps('"[' * 450_000)), "user_id", '"[' * 450_000),
    "NUL": (having("user_id", '"u\\u0000"'), "user_id", "u\x00"),
    "bidi": (having("user_id", json.dumps("\u202eu\u2066", ensure_ascii=False)), "user_id", "\u202eu\u2066"),
    "line separator": (having("user_id", '"u\u2028\x85"'), "user_id", "u\u2028\x85"),
    "surrogate pair": (having("user_id", '"\\ud83d\\ude00"'), "user_id", "\U0001f600"),
    "not normalised": (having("user_id", '"e\\u0301"'), "user_id", "e\u0301"),
    "empty string": (having("user_id", '""'), "user_id", ""),
    "pretty-printed": (json.dumps(json.loads(TEMPLATE), indent=2).encode(), "user_id", "u1"),
    "newline behind": (TEMPLATE.encode() + b"\r\n", "user_id", "u1"),
    "null on a path": (having("place", "null"), "city", None),
    "empty object on a path": (having("place", "{}"), "city", None),
    "100 levels": ((TEMPLATE[:-1] + ', "x": ' + "[" * 99 + "]" * 99 + "}").encode(), "user_id", "u1"),
    "brackets in a string": ((TEMPLATE[:-1] + ', "x": "' + "[{" * 500 + '"}').encode(), "user_id", "u1"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_odd_but_well_formed_is_kept_as_it_came(name: str) -> None:
    message, column, value = ALLOWED[name]
    alone = check(message, TEMPLATE.encode(), VALID, None, JSON)
    assert repr(alone.events[column].to_pylist()) == repr([value])


def test_of_several_faults_the_first_in_the_streams_order_is_the_reason() -> None:
    bad = having("price", '"x"').replace(b'"view"', b"1")
    assert parsed([bad], JSON).reasons[0].as_py() == "wrong_type: field 'event_type' requires string; got integer 1"


def test_a_reason_names_field_requirement_and_what_came_and_stays_short() -> None:
    reason = parsed([having("price", json.dumps("x" * 10_000))], JSON).reasons[0].as_py()
    assert reason.startswith("wrong_type: field 'price' requires float64; got string \"xxx")
    assert len(reason) < 200


def test_a_batch_of_nothing_but_faults_has_a_reason_for_each() -> None:
    faults = [bad for bad, _ in DEAD_JSON.values()] * 4
    batch = parsed(faults, JSON)
    assert batch.events.num_rows == 0
    assert [str(reason).split(":")[0] for reason in batch.reasons] == [code for _, code in DEAD_JSON.values()] * 4


# Avro

PLACE = {"type": "record", "name": "p", "fields": [{"name": "city", "type": "string"}]}
SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "event",
        "fields": [
            {"name": "event_id", "type": ["string", "long", "boolean"]},
            {"name": "event_time", "type": ["long", "double"]},
            {"name": "event_type", "type": "string"},
            {"name": "user_id", "type": ["null", "string", "int", "bytes"]},
            {"name": "place", "type": ["null", PLACE]},
            {"name": "price", "type": ["null", "double", "string"]},
            {"name": "quantity", "type": ["null", "long", "double", "boolean"]},
            {"name": "gift", "type": "boolean"},
        ],
    }
)
OTHER = json.dumps({"type": "record", "name": "other", "fields": [{"name": "x", "type": "int"}]})
LOOPED = json.dumps({"type": "record", "name": "list", "fields": [{"name": "next", "type": ["null", "list"]}]})
REGISTRY = {7: SCHEMA, 8: "{", 9: OTHER, 10: LOOPED, 11: '"string"'}
AVRO = Stream("shop", topic="shop", fields=FIELDS, format="avro")
AVRO_WITH_READER = Stream("shop", topic="shop", fields=FIELDS, format="avro", schema=SCHEMA)


def avro(**changes: object) -> bytes:
    raw = io.BytesIO()
    fastavro.schemaless_writer(raw, fastavro.parse_schema(json.loads(SCHEMA)), json.loads(TEMPLATE) | changes)
    return raw.getvalue()


def header(number: int) -> bytes:
    return struct.pack(">bI", 0, number)


GOOD_AVRO = header(7) + avro()
DEAD_AVRO: dict[str, tuple[bytes | None, str]] = {
    "null value": (None, "null_value"),
    "empty bytes": (b"", "empty_value"),
    "wrong magic": (b"\x01" + GOOD_AVRO[1:], "wrong_magic"),
    "JSON instead": (TEMPLATE.encode(), "wrong_magic"),
    "half a header": (b"\x00\x00", "truncated"),
    "header alone": (header(7), "truncated"),
    "unknown schema id": (header(99) + avro(), "unknown_schema"),
    "registered text that is no schema": (header(8) + avro(), "bad_schema"),
    "schema without an end": (header(10) + b"\x02" * 1_000_000, "bad_schema"),
    "incompatible schema": (header(9) + b"\x02", "incompatible_schema"),
    "truncated": (GOOD_AVRO[:-1], "truncated"),
    "truncated in a string": (GOOD_AVRO[:8], "truncated"),
    "string longer than the bytes": (header(7) + b"\x00\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + b"e", "truncated"),
    "trailing bytes": (GOOD_AVRO + b"\x00", "trailing_bytes"),
    "invalid UTF-8": (GOOD_AVRO.replace(b"\x04e1", b"\x04\xff\xff"), "bad_utf8"),
    "NaN": (header(7) + avro(price=float("nan")), "not_finite"),
    "Infinity": (header(7) + avro(price=float("inf")), "not_finite"),
    "string as a float": (header(7) + avro(price="2.5"), "wrong_type"),
    "double as an int": (header(7) + avro(quantity=4.0), "wrong_type"),
    "bool as an int": (header(7) + avro(quantity=True), "wrong_type"),
    "int as a string": (header(7) + avro(user_id=1), "wrong_type"),
    "bytes as a string": (header(7) + avro(user_id=b"u1"), "wrong_type"),
    "bool as an id": (header(7) + avro(event_id=True), "wrong_type"),
    "missing required": (header(7) + avro(user_id=None), "missing_field"),
    "unknown enum": (header(7) + avro(event_type="wiew"), "unknown_value"),
    "double as a time": (header(7) + avro(event_time=1.5), "wrong_type"),
    "negative time": (header(7) + avro(event_time=-1), "implausible_time"),
    "2099": (header(7) + avro(event_time=4_070_908_800_000), "future_time"),
}


@pytest.mark.parametrize("name", DEAD_AVRO)
def test_malformed_avro_is_a_dead_letter_with_its_reason_among_intact_neighbours(name: str) -> None:
    bad, code = DEAD_AVRO[name]
    check(bad, GOOD_AVRO, DEAD, code, AVRO_WITH_READER, REGISTRY)


@pytest.mark.parametrize("cut", range(1, len(avro())))
def test_plain_avro_that_ends_anywhere_is_a_dead_letter(cut: int) -> None:
    verdicts = parsed([avro()[:cut], avro()], AVRO_WITH_READER).verdicts.tolist()
    assert verdicts == [DEAD, VALID]


def test_an_avro_message_that_is_no_record_is_a_dead_letter() -> None:
    check(header(11) + b"\x02e", GOOD_AVRO, DEAD, "not_an_object", AVRO, REGISTRY)


def test_an_avro_time_of_long_ago_is_late() -> None:
    check(header(7) + avro(event_time=631_152_000_000), GOOD_AVRO, LATE, "late", AVRO, REGISTRY)


def test_random_bytes_are_never_more_than_a_dead_letter(seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = [random.bytes(int(size)) for size in random.integers(1, 60, 2_000)]
    flipped = [bytes(byte ^ (1 << int(bit)) if at == place else byte for at, byte in enumerate(avro()))
               for place, bit in random.integers(0, [len(avro()), 8], (2_000, 2))]  # fmt: skip
    for stream, schemas in ((JSON, None), (AVRO, REGISTRY), (AVRO_WITH_READER, None)):
        assert len(parsed(noise + flipped, stream, schemas).verdicts) == 4_000
    assert parsed(noise, JSON).events.num_rows == 0
