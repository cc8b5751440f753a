"""Values inside arrays, JSON texts, and what a record has beside its message: the same events by every way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapped_events import by_avro, by_file, by_topic, rows
from shop_messages import NOW, records

from features.definitions import (
    Count,
    ElementWith,
    Entity,
    FeatureSet,
    FeatureView,
    Field,
    FirstOf,
    JsonText,
    RecordHeader,
    RecordKey,
    RecordTime,
    Stream,
)
from features.definitions.serialized import views_of_text, views_text
from features.errors import DefinitionError
from features.events import Verdict
from features.events.parsing import Parsed, parse
from features.formats import read_events
from serving.events.verdicts import judge
from streaming.dead_letters import DeadLetter, replay_headers
from streaming.kafka.encoding import messages as encoded
from streaming.spark.source import MESSAGES, messages_by_topic

VISITS = Stream(
    "visits",
    topic="visits",
    event_id="id",
    event_time="at",
    fields={
        "page": Field("string", path=["params", ElementWith("key", "page"), "value", "text"]),
        "session": Field("int64", path=["params", ElementWith("key", "session"), "value", "number"]),
        "first": Field("string", path=["tags", 0]),
        "last": Field("string", path=["tags", -1]),
        "plan": Field("string", path=["payload", JsonText(), "user", "plan"]),
        "score": Field("float64", path=["payload", JsonText(), "scores", 1]),
    },
)
OF_VISITS: list[dict[str, Any]] = [
    {
        "id": "a",
        "at": NOW,
        "params": [
            {"key": "session", "value": {"text": None, "number": 7}},
            {"key": "page", "value": {"text": "/home", "number": None}},
            {"key": "page", "value": {"text": "/second", "number": None}},
        ],
        "tags": ["x", "y", "z"],
        "payload": '{"user": {"plan": "pro"}, "scores": [0.5, 1.5]}',
    },
    {"id": "b", "at": NOW + 1, "params": [], "tags": [], "payload": None},
]
EXPECTED = [
    {"event_id": "a", "event_time": NOW, "page": "/home", "session": 7, "first": "x", "last": "z", "plan": "pro"}
    | {"score": 1.5},
    {"event_id": "b", "event_time": NOW + 1, "page": None, "session": None, "first": None, "last": None, "plan": None}
    | {"score": None},
]
CLOUD = Stream(
    "cloud",
    topic="cloud",
    event_id=RecordHeader("ce_id"),
    event_time=FirstOf([RecordHeader("ce_time"), RecordTime()]),
    fields={
        "user": Field("string", path=RecordKey(), required=True),
        "kind": Field("string", path=RecordHeader("ce_type")),
        "written": Field("int64", path=RecordTime()),
        "n": "int64",
    },
)
KEYED = Stream(
    "keyed",
    topic="keyed",
    event_id=None,
    event_time=RecordTime(),
    fields={"id": Field("int64", [RecordKey(), JsonText(), "id"])},
)
RECORDS: list[dict[str, Any]] = [
    {"key": "ann", "headers": {"ce_id": "1", "ce_type": "click", "ce_time": "2026-05-28T20:26:40Z"}, "value": {"n": 1}},
    {"key": "bob", "headers": {"ce_id": "2"}, "value": {"n": 2}},
]


def handed_over(stream: Stream, sent: list[dict[str, Any]], **more: Any) -> pa.Table:
    """Records as Spark hands them over."""
    made = [
        {
            "topic": stream.topic,
            "partition": 0,
            "offset": number,
            "timestamp": NOW,
            "key": record["key"].encode(),
            "value": json.dumps(record["value"]).encode(),
            "headers": [{"key": name, "value": text.encode()} for name, text in record.get("headers", {}).items()],
        }
        | more
        for number, record in enumerate(sent)
    ]
    return pa.Table.from_pylist(made, MESSAGES)


def parsed_of(stream: Stream, table: pa.Table) -> Parsed:
    (messages,) = messages_by_topic(table, [stream])
    return parse(messages.records, stream)


def posted(stream: Stream, messages: list[dict[str, Any]]) -> Parsed:
    return judge(messages, stream, None, NOW, form="messages").parsed


@pytest.mark.parametrize("way", [by_topic, by_avro, posted])
def test_values_are_taken_from_elements_and_from_json_in_a_text(way: Any) -> None:
    assert rows(way(VISITS, OF_VISITS)) == EXPECTED


def test_values_are_taken_from_elements_and_from_json_in_files(tmp_path: Path) -> None:
    assert rows(by_file(VISITS, OF_VISITS, tmp_path, "jsonl")) == EXPECTED
    path = tmp_path / "visits.parquet"
    pq.write_table(pa.Table.from_pylist(OF_VISITS), path)
    ((_, parsed),) = read_events(path, "parquet", {"visits": VISITS})
    assert rows(parsed) == EXPECTED


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_flat_file_has_columns_of_our_names_for_them(kind: str, tmp_path: Path) -> None:
    flat = [{"id": row["event_id"], "at": row["event_time"], **row} for row in EXPECTED]
    names = [name for name in flat[0] if name not in ("event_id", "event_time")]
    assert rows(by_file(VISITS, [{name: row[name] for name in names} for row in flat], tmp_path, kind)) == EXPECTED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payload": "{oops"}, "field 'plan' requires string; got string \"{oops\" where JSON should be"),
        ({"payload": 5}, "got integer 5 where a text with JSON should be"),
        ({"payload": '{"user": NaN}'}, "where JSON should be"),
        ({"payload": "[" * 5000}, "where JSON should be"),
        ({"payload": '{"a": 1, "a": 2}'}, "where JSON should be"),
        ({"payload": '{"user": "x"}'}, 'got string "x" where an object should be'),
        ({"params": {"key": "page"}}, "where an array should be"),
        ({"tags": "abc"}, 'got string "abc" where an array should be'),
        ({"tags": [5]}, "field 'first' requires string; got integer 5"),
    ],
)
def test_what_a_path_cannot_lead_through_is_a_dead_letter_of_its_own(change: dict[str, Any], reason: str) -> None:
    parsed = by_topic(VISITS, [OF_VISITS[0], OF_VISITS[1] | change])
    assert parsed.verdicts.tolist() == [Verdict.VALID, Verdict.DEAD_LETTER]
    assert reason in parsed.reasons[1].as_py()


@given(st.lists(st.sampled_from([None, "", "{", "{}", '{"user": {"plan": "x"}}', 5, "null", '"a"']), min_size=1))
def test_no_neighbour_changes_what_a_text_holds(payloads: list[Any]) -> None:
    messages = [{"id": str(number), "at": NOW, "payload": text} for number, text in enumerate(payloads)]
    together, alone = by_topic(VISITS, messages), [by_topic(VISITS, [message]) for message in messages]
    assert together.reasons.to_pylist() == [one.reasons[0].as_py() for one in alone]
    assert rows(together) == [row for one in alone for row in rows(one)]


def test_keys_headers_and_times_of_records_are_fields() -> None:
    expected = [
        {"event_id": "1", "event_time": NOW, "user": "ann", "kind": "click", "written": NOW, "n": 1},
        {"event_id": "2", "event_time": NOW, "user": "bob", "kind": None, "written": NOW, "n": 2},
    ]
    assert rows(parsed_of(CLOUD, handed_over(CLOUD, RECORDS))) == expected
    judged = judge(RECORDS, CLOUD, None, NOW, form="records")
    assert rows(judged.parsed) == expected
    assert [message.key for message in judged.messages] == [b"ann", b"bob"]
    assert dict(judged.messages[0].headers)["ce_type"] == b"click"
    assert dict(judged.messages[1].headers)["hr_first_time"] == str(NOW).encode()
    assert rows(parsed_of(KEYED, handed_over(KEYED, [{"key": '{"id": 5}', "value": {}}])))[0]["id"] == 5


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_have_our_names_in_the_place_of_records(kind: str, tmp_path: Path) -> None:
    lines = [
        {"event_id": "1", "event_time": NOW, "user": "ann", "kind": "click", "written": NOW, "n": 1},
        {"event_id": "2", "event_time": NOW + 1, "user": "bob", "kind": None, "written": None, "n": 2},
    ]
    assert rows(by_file(CLOUD, lines, tmp_path, kind)) == lines


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": None}, "missing_field: field 'user'"),
        ({"key": b"\xff"}, "where UTF-8 should be"),
        ({"headers": None}, "missing_field: field 'event_id'"),
        ({"headers": [{"key": "ce_id", "value": None}]}, "missing_field: field 'event_id'"),
        ({"headers": [{"key": "ce_id", "value": b"\xff"}]}, "where UTF-8 should be"),
        ({"headers": [{"key": "ce_id", "value": b"1"}, {"key": "ce_time", "value": b"x"}]}, "bad_time"),
    ],
)
def test_a_record_that_lacks_what_is_taken_from_it_is_a_dead_letter(changes: dict[str, Any], reason: str) -> None:
    parsed = parsed_of(CLOUD, handed_over(CLOUD, RECORDS[:1], **changes))
    assert parsed.verdicts.tolist() == [Verdict.DEAD_LETTER]
    assert reason in parsed.reasons[0].as_py()


def test_a_record_that_is_sent_again_keeps_its_first_time() -> None:
    letter = DeadLetter(("keyed", 0, 5), "x: y", NOW - 60_000, b'{"id": 1}', b"{}", ())
    headers = [{"key": name, "value": value} for name, value in replay_headers(letter)]
    again = parsed_of(KEYED, handed_over(KEYED, [{"key": '{"id": 1}', "value": {}}], headers=headers))
    assert again.events["event_time"].to_pylist() == [NOW - 60_000]
    later = DeadLetter(("keyed", 0, 9), "x: y", NOW, b"", b"{}", replay_headers(letter))
    assert replay_headers(later) == tuple(sorted(replay_headers(letter), key=lambda pair: pair[0] == "hr_first_place"))


def test_a_stream_that_takes_nothing_from_records_gets_nothing_of_them() -> None:
    (messages,) = messages_by_topic(handed_over(VISITS, [{"key": "k", "value": OF_VISITS[0]}]), [VISITS])
    assert messages.records.envelopes is None
    assert len(parse(records([b"{}"]), CLOUD).events) == 0
    assert np.all(parse(records([b"{}"]), CLOUD).verdicts == Verdict.DEAD_LETTER)


@pytest.mark.parametrize(
    "record",
    [
        5,
        {},
        {"value": 5},
        {"value": {}, "extra": 1},
        {"value": {}, "key": 1.5},
        {"value": {}, "headers": {"a": 1}},
        {"value": {}, "headers": {"hr_first_place": "t-0-1"}},
        {"value": {}, "headers": {"known_at": "5"}},
    ],
)
def test_what_is_posted_as_a_record_and_is_none_is_refused(record: Any) -> None:
    judged = judge([record, RECORDS[1]], CLOUD, None, NOW, form="records")
    assert judged.verdicts == [Verdict.DEAD_LETTER, Verdict.VALID]
    assert "requires" in str(judged.reasons[0])


def test_events_are_not_written_where_only_arrays_texts_or_records_have_a_field() -> None:
    assert VISITS.unwritable == "'page' is at no path of keys alone"
    with pytest.raises(DefinitionError, match="at no path of keys alone"):
        list(encoded(by_topic(VISITS, OF_VISITS).events, VISITS))


@pytest.mark.parametrize(
    "path",
    [[0], [JsonText(), "a"], ["a", RecordKey()], ["a", True], ["a", 1.5], ["a", None], [ElementWith("k", "v")]],
)
def test_steps_that_lead_nowhere_are_refused(path: Any) -> None:
    with pytest.raises(DefinitionError):
        Field("string", path=path)


@pytest.mark.parametrize(
    "make", [lambda: ElementWith("", "x"), lambda: ElementWith("k", True), lambda: RecordHeader("")]
)
def test_a_step_says_what_it_leads_to(make: Any) -> None:
    with pytest.raises(DefinitionError):
        make()


@pytest.mark.parametrize("stream", [VISITS, CLOUD, KEYED])
def test_steps_are_part_of_the_definition(stream: Stream) -> None:
    key = next(name for name, dtype in stream.dtypes.items() if dtype in ("string", "int64"))
    entity = Entity("e", keys={key: stream.dtypes[key]})
    view = FeatureView("v", sets=[FeatureSet(entity, stream, [Count()], ["1h"])])
    (again,) = views_of_text(views_text([view]))
    assert (again, again.schema_hash) == (view, view.schema_hash)
