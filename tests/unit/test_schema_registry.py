"""Avro by a Schema Registry: read by the number that a message names, written by the number that the registry gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from schema_registry import Registry
from shop_messages import NOW, records

from features.definitions import Field, Stream
from features.errors import FormatError, StoreError, UsageError
from features.events.avro.registry import SchemaRegistry
from features.events.avro.writer import avro_writer
from features.events.parsing import Verdict, event_schema, parse
from serving.events.avro import judge_avro
from streaming.kafka.encoding import messages

FIELDS = [
    {"name": "id", "type": "string"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "user", "type": "string"},
    {"name": "price", "type": ["null", "double"], "default": None},
]
NEW = {"name": "colour", "type": ["null", "string"], "default": None}
NAMES: dict[str, Field | str] = {
    "user_id": Field("string", path="user", required=True),
    "price": "float64",
    "colour": "string",
}
EVENT: dict[str, Any] = {"event_id": "e1", "event_time": NOW, "user_id": "u1", "price": 2.5}


def schema_of(*more: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "name": "Event", "fields": [*FIELDS, *more]})


def stream_of(schema: str | None) -> Stream:
    return Stream("shop", "shop.v1", NAMES, format="avro", event_id="id", event_time="at", schema=schema)


def table(stream: Stream, *changes: dict[str, Any]) -> pa.Table:
    given = EVENT | {"known_at": NOW, "partition": 0, "offset": 0}
    return pa.Table.from_pylist([given | one for one in changes], schema=event_schema(stream))


def values(events: pa.Table, stream: Stream, client: SchemaRegistry) -> list[bytes | None]:
    return [value for _, value, _ in messages(events, stream, 0, client)]


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()
    with found.running():
        yield found


@pytest.fixture
def client(registry: Registry) -> SchemaRegistry:
    return SchemaRegistry(registry.url, {"max.retries": 0})


@pytest.mark.parametrize("own", [True, False], ids=["the stream's schema", "the newest of the subject"])
def test_what_is_written_with_a_registry_is_read_with_it(registry, client, own):
    if not own:
        registry.register("shop.v1-value", schema_of(NEW))
    stream = stream_of(schema_of(NEW) if own else None)
    events = table(stream, {}, {"event_id": "e2", "price": None, "colour": "red"})
    written = values(events, stream, client)
    assert [value[:5] for value in written] == [b"\0\0\0\0\x64"] * 2
    parsed = parse(records(written), stream, schemas=client)
    assert parsed.events.select(NAMES).to_pylist() == events.select(NAMES).to_pylist()
    assert registry.subjects == {"shop.v1-value": [100]}


@pytest.mark.parametrize("own", [True, False], ids=["read as the stream's schema", "read as the writer's"])
def test_a_writers_schema_that_gains_an_optional_field_is_read_beside_the_old_one(registry, client, own):
    old, new = stream_of(schema_of()), stream_of(schema_of(NEW))
    reader = stream_of(schema_of(NEW) if own else None)
    batch = values(table(old, {}), old, client) + values(table(new, {"colour": "red"}), new, client)
    parsed = parse(records(batch), reader, schemas=client)
    assert parsed.verdicts.tolist() == [Verdict.VALID, Verdict.VALID]
    assert parsed.events["colour"].to_pylist() == [None, "red"]


def test_a_schema_is_asked_for_once_however_many_messages_and_batches_name_it(registry, client):
    number = registry.register("shop.v1-value", schema_of())
    reader = SchemaRegistry(registry.url)
    stream = stream_of(None)
    batch = values(table(stream, *[{}] * 50), stream, client)
    for _ in range(3):
        assert parse(records(batch), stream, schemas=reader).events.num_rows == 50
    assert registry.asked[f"schemas/ids/{number}"] == 1


def test_a_number_that_the_registry_does_not_have_is_a_dead_letter_and_is_not_asked_for_again_at_once(registry, client):
    for _ in range(2):
        parsed = parse(records([b"\0\0\0\0\x07whatever"] * 3), stream_of(None), schemas=client)
        reason = "unknown_schema: a schema id that the registry has is required; got 7"
        assert parsed.reasons.to_pylist() == [reason] * 3
    assert registry.asked["schemas/ids/7"] == 1


def test_a_registry_that_does_not_answer_blames_no_record(registry):
    number = registry.register("s", schema_of())
    stopped = Registry()
    with stopped.running():
        pass
    with pytest.raises(StoreError, match=r"schema registry http://127.0.0.1:\d+ requires an answer; got ConnectError"):
        parse(
            records([b"\0" + number.to_bytes(4, "big")]),
            stream_of(None),
            schemas=SchemaRegistry(stopped.url, {"max.retries": 0}),
        )


def test_a_404_of_something_that_is_no_registry_blames_no_record(registry):
    elsewhere = SchemaRegistry(f"{registry.url}/not-here", {"max.retries": 0})
    with pytest.raises(StoreError, match="got HTTP 404"):
        parse(records([b"\0\0\0\0\x07"]), stream_of(None), schemas=elsewhere)


def test_a_schema_that_the_registry_does_not_take_says_so(registry, client):
    registry.register("shop.v1-value", schema_of(NEW))
    registry.closed.add("shop.v1-value")
    with pytest.raises(
        FormatError, match=r"a schema that subject 'shop.v1-value' may go on with; got HTTP 409: Schema"
    ):
        avro_writer(stream_of(schema_of()), client)


def test_a_subject_without_a_schema_says_what_to_do(client):
    with pytest.raises(FormatError, match=r"a schema for subject 'shop.v1-value'; got none. Register it, or give"):
        avro_writer(stream_of(None), client)


@pytest.mark.parametrize(("url", "options"), [("registry:8081", {}), ("http://x", {"basic.auth.usr": "a:b"})])
def test_an_address_or_option_that_cannot_be_is_asked_wrongly(url, options):
    with pytest.raises(UsageError, match=r"kafka\.schema_registry and kafka\.registry requires an address"):
        SchemaRegistry(url, options)


# --- posted events ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [NOW, "2026-05-28T20:26:40Z"])
@pytest.mark.parametrize(
    "kind",
    [{"type": "long", "logicalType": "timestamp-millis"}, {"type": "long", "logicalType": "timestamp-micros"}, "long"],
)
def test_a_posted_event_becomes_the_avro_message_that_the_stream_reads(client, time, kind):
    schema = json.loads(schema_of(NEW))
    schema["fields"][1]["type"] = kind
    stream = stream_of(json.dumps(schema))
    judged = judge_avro([EVENT | {"event_time": time}], stream, None, NOW, client)
    assert judged.verdicts == [Verdict.VALID], judged.reasons
    read = parse(records([judged.messages[0].value]), stream, schemas=client).events.to_pylist()[0]
    assert {name: read[name] for name in EVENT} == EVENT


def test_a_posted_event_is_avro_without_a_registry_too(client):
    stream = stream_of(schema_of(NEW))
    judged = judge_avro([EVENT], stream, None, NOW, None)
    assert parse(records([judged.messages[0].value]), stream).events["user_id"].to_pylist() == ["u1"]


def test_posted_events_that_the_stream_or_its_schema_refuses_say_why_and_the_others_pass(client):
    narrow = json.loads(schema_of())
    narrow["fields"][3] = {"name": "price", "type": ["null", "string"], "default": None}
    stream = stream_of(json.dumps(narrow))
    good = {name: value for name, value in EVENT.items() if name != "price"}
    posted = [EVENT | {"user_id": 7}, EVENT, "view", good | {"colour": "red"}, good]
    judged = judge_avro(posted, stream, None, NOW, client)
    codes = [str(reason).partition(":")[0] for reason in judged.reasons]
    assert codes == ["wrong_type", "unwritable", "not_an_object", "unwritable", "None"]
    assert judged.reasons[3] == "unwritable: field 'colour' requires a place in the stream's Avro schema; got none"
    assert judged.verdicts == [Verdict.DEAD_LETTER] * 4 + [Verdict.VALID]
