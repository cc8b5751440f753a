"""Arrays whose elements are events: the same events by every way in, each once, and each refused by itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapped_events import all_valid, avro_schema, by_avro, by_file, by_topic, rows
from memory_store import MemoryHandle, MemoryStore
from shop_messages import NOW, records

from features.definitions import Count, Entity, FeatureSet, FeatureView, Field, LastK, Stream
from features.definitions.repo import FeatureRepo
from features.epochs import OFFSETS_AN_EPOCH
from features.errors import DefinitionError, FormatError
from features.events import Verdict, record_offsets
from features.events.columns import MOST_ELEMENTS, MOST_RECORDS, element_offsets
from features.events.parsing import Parsed, parse
from features.formats import read_events
from features.online_store.batch_step import Counts
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from serving.events.avro import judge_avro
from serving.events.verdicts import judge
from streaming.archive.sink import Archive
from streaming.archived_letters import archived
from streaming.dead_letters import DeadLetter, letter_headers, letters_of, replay_headers, send_dead_letters
from streaming.fold.executors import LETTERS, _letters, parsed_pieces
from streaming.fold.shares import fold_job, unpacked
from streaming.fold.sink import FoldTarget, OnlineSink
from streaming.generations.checkpoints import Generation, build_from_archive
from streaming.kafka import Record
from streaming.kafka.encoding import messages as encoded
from streaming.spark.source import MESSAGES, OffsetLog, messages_by_topic

LINES = Stream(
    "lines",
    topic="orders",
    each="order.lines",
    event_id="order.id",
    event_time="at",
    fields={
        "user": Field("string", path="order.user"),
        "sku": Field("string", path="order.lines.sku", required=True),
        "price": Field("float64", path="order.lines.price"),
    },
)
ORDERS: list[dict[str, Any]] = [
    {
        "at": NOW,
        "order": {"id": "o1", "user": "ann", "lines": [{"sku": "a", "price": 1.5}, {"sku": "b", "price": None}]},
    },
    {"at": NOW + 1, "order": {"id": "o2", "user": "bob", "lines": []}},
    {"at": NOW + 2, "order": {"id": "o3", "user": None, "lines": [{"sku": "c", "price": 2.5}]}},
]
EXPECTED = [
    {"event_id": "o1-0", "event_time": NOW, "user": "ann", "sku": "a", "price": 1.5},
    {"event_id": "o1-1", "event_time": NOW, "user": "ann", "sku": "b", "price": None},
    {"event_id": "o3-0", "event_time": NOW + 2, "user": None, "sku": "c", "price": 2.5},
]
ITEM = Entity("item", keys={"sku": "string"})
VIEW = FeatureView("by_item", sets=[FeatureSet(ITEM, LINES, [Count(), LastK("user", 3)], ["1h"])])
REPO = FeatureRepo(Path("repo"), {"item": ITEM}, {"lines": LINES}, {"by_item": VIEW})
ONE_BAD = {"at": NOW, "order": {"id": "o1", "lines": [{"sku": "a"}, {"sku": 5}, {"price": 1.0}, {"sku": "d"}]}}


def topic_rows(orders: Sequence[Any], **more: Any) -> pa.Table:
    """Messages as Spark hands them over."""
    given = {"topic": "orders", "partition": 0, "timestamp": NOW, "key": None, "headers": None} | more
    values = [order if isinstance(order, bytes) else json.dumps(order).encode() for order in orders]
    return pa.Table.from_pylist(
        [{**given, "offset": offset, "value": value} for offset, value in enumerate(values)], MESSAGES
    )


def parsed_of(table: pa.Table) -> Parsed:
    (messages,) = messages_by_topic(table, [LINES])
    return parse(messages.records, messages.stream)


class Sent:
    """A producer that keeps what it is given, and has it acknowledged at once."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Any, acknowledge: Any) -> None:
        self.records.append(Record(topic, 0, len(self.records), NOW, key, value, tuple(headers)))
        acknowledge(None, None)

    def flush(self, _timeout_s: float) -> int:
        return 0


def letters(table: pa.Table) -> list[DeadLetter]:
    sent: Any = Sent()
    send_dead_letters(sent, LINES, table, parsed_of(table))
    return letters_of(sent.records)


@pytest.mark.parametrize("way", [by_topic, by_avro])
def test_every_element_is_an_event_with_what_stands_around_it(way: Any) -> None:
    assert rows(way(LINES, ORDERS)) == EXPECTED


def test_lines_of_json_are_messages_with_elements(tmp_path: Path) -> None:
    assert rows(by_file(LINES, ORDERS, tmp_path, "jsonl")) == EXPECTED


def test_rows_of_nested_columns_are_messages_with_elements(tmp_path: Path) -> None:
    path = tmp_path / "orders.parquet"
    pq.write_table(pa.Table.from_pylist(ORDERS), path)
    ((_, parsed),) = read_events(path, "parquet", {"lines": LINES})
    assert rows(parsed) == EXPECTED


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_flat_file_has_a_row_for_each_element(kind: str, tmp_path: Path) -> None:
    flat = [
        {"at": row["event_time"], "event_id": row["event_id"], "order.user": row["user"], "order.lines.sku": row["sku"]}
        | {"order.lines.price": row["price"]}
        for row in EXPECTED
    ]
    assert rows(by_file(LINES, flat, tmp_path, kind)) == EXPECTED


def test_messages_are_posted_as_they_are() -> None:
    judged = judge(ORDERS, LINES, None, NOW, form="messages", key_fields=["user"])
    assert rows(judged.parsed) == EXPECTED
    assert list(zip(judged.of, judged.ids, judged.verdicts, strict=True)) == [
        (0, "o1-0", Verdict.VALID),
        (0, "o1-1", Verdict.VALID),
        (2, "o3-0", Verdict.VALID),
        (1, None, Verdict.DEAD_LETTER),
    ]
    assert [message.key for message in judged.messages] == [b"ann", None, None]
    assert rows(parsed_of(topic_rows([message.value for message in judged.messages]))) == EXPECTED


def test_an_element_may_have_its_own_id_and_time_and_be_posted_by_name() -> None:
    stream = Stream(
        "s", topic="t", each="hits", event_id="hits.id", event_time="hits.at", fields={"n": Field("int64", "hits.n")}
    )
    posted = [{"event_id": "x", "event_time": NOW, "n": 4}]
    judged = judge(posted, stream, None, NOW)
    assert [json.loads(message.value) for message in judged.messages] == [{"hits": [{"id": "x", "at": NOW, "n": 4}]}]
    assert rows(judged.parsed) == posted


def test_elements_may_be_plain_values() -> None:
    stream = Stream(
        "s", topic="t", each="tags", event_id="id", event_time="at", fields={"tag": Field("string", "tags")}
    )
    parsed = by_topic(stream, [{"id": "m", "at": NOW, "tags": ["a", "b", None]}])
    assert [(row["event_id"], row["tag"]) for row in rows(parsed)] == [("m-0", "a"), ("m-1", "b"), ("m-2", None)]


def test_a_bad_element_is_refused_alone_and_its_reason_names_its_place() -> None:
    parsed = by_topic(LINES, [ORDERS[0], ONE_BAD])
    assert parsed.verdicts.tolist() == [0, 0, 0, 2, 2, 0]
    assert parsed.records.tolist() == [0, 0, 1, 1, 1, 1]
    assert [text for text in parsed.reasons.to_pylist() if text] == [
        "wrong_type: field 'sku' requires string; got integer 5 (order.lines[1])",
        "missing_field: field 'sku' requires string; got nothing (order.lines[2])",
    ]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"{", "not_json"),
        (b"", "empty_value"),
        (b"\xff", "bad_utf8"),
        (b"[1]", "not_an_object"),
        (b'{"order": 5}', "wrong_type"),
        (b'{"order": {"lines": {"sku": 1}}}', "wrong_type"),
        (b'{"order": {"lines": "a,b"}}', "wrong_type"),
        (json.dumps({"order": {"lines": [1] * (MOST_ELEMENTS + 1)}}).encode(), "too_many_elements"),
        (None, "null_value"),
    ],
)
def test_a_message_that_has_no_array_to_read_is_one_dead_letter(value: Any, code: str) -> None:
    parsed = parse(records([value, json.dumps(ORDERS[0]).encode()]), LINES)
    assert parsed.verdicts.tolist() == [Verdict.DEAD_LETTER, Verdict.VALID, Verdict.VALID]
    assert parsed.reasons[0].as_py().startswith(f"{code}:")
    assert parsed.numbers.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("order", [{"at": NOW, "order": None}, {"at": NOW}, {"order": {"lines": None}}, {}])
def test_a_message_without_elements_has_no_event(order: Any) -> None:
    assert len(by_topic(LINES, [order]).verdicts) == 0


def test_an_id_that_two_elements_of_a_message_share_is_refused_the_second_time() -> None:
    stream = Stream(
        "s", topic="t", each="hits", event_id="hits.id", event_time="at", fields={"n": Field("int64", "hits.n")}
    )
    parsed = by_topic(stream, [{"at": NOW, "hits": [{"id": "x"}, {"id": "y"}, {"id": "x"}]}])
    assert parsed.verdicts.tolist() == [0, 0, 2]
    assert parsed.reasons[2].as_py().startswith("repeated_id: field 'event_id'")


def test_offsets_of_elements_tell_them_apart_and_lead_back_to_their_record() -> None:
    offsets = np.array([0, 0, 7, OFFSETS_AN_EPOCH + 3, OFFSETS_AN_EPOCH + MOST_RECORDS - 1])
    numbers = np.array([0, 1, MOST_ELEMENTS - 1, 2, 5])
    found = element_offsets(offsets, numbers)
    assert (np.diff(found) > 0).all()
    places = pa.table({"partition": pa.array(np.zeros(5, np.int32)), "offset": found})
    assert record_offsets(places, LINES).tolist() == offsets.tolist()
    with pytest.raises(FormatError, match="records of a partition"):
        element_offsets(np.array([MOST_RECORDS]), np.array([0]))


def test_a_letter_of_an_element_names_it_and_brings_it_alone_when_it_is_sent_again() -> None:
    (second, third) = letters(topic_rows([ORDERS[0], ONE_BAD]))
    assert (second.place, third.place) == (("orders", 0, 1, 1), ("orders", 0, 1, 2))
    headers = [{"key": name, "value": value} for name, value in replay_headers(third)]
    again = parsed_of(topic_rows([third.value or b""], headers=headers))
    assert (len(again.verdicts), again.numbers.tolist()) == (1, [2])
    refused_again = letters(topic_rows([third.value or b""], headers=headers))
    assert [letter.place for letter in refused_again] == [("orders", 0, 0, 2)]
    assert sorted(replay_headers(refused_again[0])) == sorted(replay_headers(third))


def test_an_element_sent_again_has_the_id_that_it_had() -> None:
    stream = Stream(
        "lines", topic="orders", each="lines", event_id=None, event_time="at", fields={"n": Field("int64", "lines.n")}
    )
    value = json.dumps({"at": NOW, "lines": [{"n": 1}, {"n": 2}]}).encode()
    (first,) = messages_by_topic(topic_rows([value]), [stream])
    letter = DeadLetter(("orders", 0, 0, 1), "x: y", NOW, None, value, ())
    headers = [{"key": name, "value": text} for name, text in replay_headers(letter)]
    (again,) = messages_by_topic(topic_rows([b"{}", value], headers=headers), [stream])
    assert parse(first.records, stream).events["event_id"].to_pylist() == ["orders-0-0-0", "orders-0-0-1"]
    assert parse(again.records, stream).events["event_id"].to_pylist() == ["orders-0-0-1"]


def test_the_archive_has_every_element_once(tmp_path: Path) -> None:
    archive, parsed = Archive(tmp_path, REPO), parsed_of(topic_rows(ORDERS))
    assert archive.append(LINES, parsed.events) == 3
    assert archive.append(LINES, parsed.events) == 0
    assert archive.end() == {"orders/0": 3}
    assert (
        archive.events(LINES).sort_by("offset").drop_columns(["known_at", "partition", "offset"]).to_pylist()
        == EXPECTED
    )
    before = archive.read(LINES, {"orders/0": 2})
    assert before is not None
    assert before.events()["event_id"].to_pylist() == ["o1-0", "o1-1"]
    letter = DeadLetter(("orders", 0, 0, 1), "x: y", NOW, None, json.dumps(ORDERS[0]).encode(), ())
    assert archived([letter], REPO, tmp_path) == [letter]
    assert archived([DeadLetter(("orders", 0, 9), "x: y", NOW, None, b"{", ())], REPO, tmp_path) == []


def count_of(store: MemoryStore, sku: str) -> int:
    keys = pa.array([sku])
    found = finalize(VIEW, PackedRows(keys, MemoryHandle(store, 7).rows("by_item", keys)), NOW + 1, 7)
    return int(found.columns[0][0].as_py())


def test_a_batch_of_elements_is_folded_once_however_often_it_comes(tmp_path: Path) -> None:
    (tmp_path / "offsets").mkdir()
    (tmp_path / "offsets" / "0").write_text('v1\n{}\n{"orders": {"0": 3}}', encoding="utf-8")
    store = MemoryStore()
    handle, again = MemoryHandle(store, 7), {"at": NOW, "order": {"id": "o1", "lines": [{"sku": "a"}, {"sku": "b"}]}}
    build_from_archive(handle, REPO, Archive(tmp_path / "offline", REPO), Generation(7, {"orders/0": 0}, {}), NOW)
    sent: list[int] = []
    for _ in range(2):
        sink = OnlineSink(
            FoldTarget(REPO, handle, 7),
            OffsetLog(tmp_path, {"orders/0": 0}),
            lambda _, messages, parsed: sent.append(int((parsed.verdicts == Verdict.DEAD_LETTER).sum())),
        )
        report = sink.fold(topic_rows([ORDERS[0], again, ONE_BAD | {"order": {**ONE_BAD["order"], "id": "o9"}}]), 0)
        assert report.counts == Counts(folded=4, duplicate=2, late=0, dead_letter=2)
    assert (report.records, sent) == (3, [2, 2])
    assert [count_of(store, sku) for sku in ("a", "b", "d")] == [2, 1, 1]


def test_executors_give_each_element_its_verdict_and_its_letter() -> None:
    table = topic_rows([ORDERS[0], ONE_BAD])
    pieces = pa.Table.from_batches(parsed_pieces(fold_job(REPO, shares=1), table.to_batches()))
    (payload,) = pieces.filter(pc.equal(pieces["kind"], LETTERS))["payload"].to_pylist()
    messages, refused = _letters(unpacked(payload), LINES)
    sent: Any = Sent()
    send_dead_letters(sent, LINES, messages.table, refused)
    assert letters_of(sent.records) == letters(table)
    (ids,) = pieces.filter(pc.equal(pieces["kind"], "ids"))["payload"].to_pylist()
    assert len(set(unpacked(ids)["seq"].to_pylist())) == 4


@given(st.lists(st.lists(st.sampled_from(["a", "b", 5, None, {}]), max_size=4), min_size=1, max_size=5))
def test_no_neighbour_changes_an_element(orders: list[list[Any]]) -> None:
    messages = [
        {"at": NOW, "order": {"id": f"o{n}", "lines": [{"sku": sku} for sku in lines]}}
        for n, lines in enumerate(orders)
    ]
    together = by_topic(LINES, messages)
    alone = [by_topic(LINES, [message]) for message in messages]
    assert together.reasons.to_pylist() == [text for one in alone for text in one.reasons.to_pylist()]
    assert rows(together) == [row for one in alone for row in rows(one)]
    assert len(together.verdicts) == sum(map(len, orders))


def test_events_that_share_a_message_are_not_written_one_by_one() -> None:
    with pytest.raises(DefinitionError, match=r"have several events, in 'order\.lines'"):
        list(encoded(by_topic(LINES, ORDERS).events, LINES))


def test_a_stream_of_elements_takes_something_from_them() -> None:
    with pytest.raises(DefinitionError, match="leads into an element"):
        Stream("s", topic="t", each="items", fields={"user": "string"})
    assert all_valid(by_topic(LINES, ORDERS))
    assert letter_headers((), ("t", 0, 1), "r", 5) != letter_headers((), ("t", 0, 1, 0), "r", 5)


def test_messages_of_elements_are_posted_in_avro_too() -> None:
    schema = json.dumps(avro_schema(ORDERS))
    in_avro = replace(LINES, format="avro", schema=schema)
    judged = judge_avro([*ORDERS, 5, ORDERS[0] | {"at": "x"}], in_avro, None, NOW, None, form="messages")
    assert rows(judged.parsed) == EXPECTED
    good = [Verdict.VALID] * 3
    assert judged.verdicts == [*good, *[Verdict.DEAD_LETTER] * 4]
    assert rows(parse(records([judged.messages[0].value]), in_avro)) == EXPECTED[:2]
