"""The mappings of docs/mappings.md, run as they stand there on messages after the public schemas."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mapped_events import by_avro, by_file, by_topic, rows
from shop_messages import NOW

from features.definitions import Stream
from features.events.parsing import Parsed, parse
from features.formats import read_events
from serving.events.verdicts import judge
from streaming.spark.source import MESSAGES, messages_by_topic

TEXT = (Path(__file__).resolve().parent.parent.parent / "docs" / "mappings.md").read_text(encoding="utf-8")
AT = "2026-05-28T20:26:40Z"
CLOUD = [
    {"specversion": "1.0", "id": "A1", "source": "/shop", "type": "com.acme.click", "time": AT}
    | {"datacontenttype": "application/json", "data": {"user": "ann"}}
]
CHANGES: list[dict[str, Any]] = [
    {
        "op": "c",
        "ts_ms": NOW,
        "source": {"table": "orders"},
        "before": None,
        "after": {"id": 7, "user_id": 42, "amount": "APo="},
    },
    {
        "op": "d",
        "ts_ms": NOW + 1,
        "source": {"table": "orders"},
        "before": {"id": 7, "user_id": 42, "amount": "APo="},
        "after": None,
    },
]
SEGMENT: list[dict[str, Any]] = [
    {
        "type": "track",
        "event": "Order Completed",
        "messageId": "m1",
        "timestamp": AT,
        "userId": "u1",
        "anonymousId": "a1",
    }
    | {
        "context": {"page": {"path": "/checkout"}},
        "properties": {
            "order_id": "50314b8e",
            "products": [
                {"product_id": "507f1", "price": 19.0, "quantity": 1},
                {"product_id": "505bd", "price": 3.5, "quantity": 2},
            ],
        },
    },
    {"type": "page", "event": None, "messageId": "m2", "timestamp": AT, "userId": None, "anonymousId": "a2"}
    | {"context": {"page": {"path": "/"}}, "properties": {"order_id": None, "products": None}},
]
GA4: list[dict[str, Any]] = [
    {
        "event_name": "purchase",
        "event_timestamp": f"{NOW}000",
        "user_id": None,
        "user_pseudo_id": "1.2",
        "event_params": [
            {"key": "ga_session_id", "value": {"string_value": None, "int_value": "1700000000"}},
            {"key": "page_location", "value": {"string_value": "https://shop/thanks", "int_value": None}},
        ],
        "items": [{"item_id": "sku1", "price": 9.5}, {"item_id": "sku2", "price": 1.0}],
    }
]


def defined(title: str) -> dict[str, Stream]:
    """The streams of the section, by the names of their variables."""
    section = TEXT.split(f"### {title}\n", 1)[1].split("\n### ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/mappings.md", "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, Stream)}


def by_every_way(stream: Stream, messages: list[dict[str, Any]], folder: Path) -> list[list[dict[str, Any]]]:
    """Events by topic in JSON and Avro, HTTP, lines and nested rows, without ids that say where a message stood."""
    posted = judge(messages, stream, None, NOW, form="messages").parsed
    ways: list[Parsed] = [by_topic(stream, messages), by_avro(stream, messages), posted]
    ways.append(by_file(stream, messages, folder, "jsonl"))
    if stream.nested_columns:
        path = folder / "messages.parquet"
        pq.write_table(pa.Table.from_pylist(messages), path)
        ((_, nested),) = read_events(path, "parquet", {stream.name: stream})
        ways.append(nested)
    own = stream.event_id is not None
    return [[{name: row[name] for name in row if own or name != "event_id"} for row in rows(way)] for way in ways]


@pytest.mark.parametrize(
    ("title", "name", "messages", "expected"),
    [
        (
            "CloudEvents",
            "structured",
            CLOUD,
            [{"event_id": "A1", "event_time": NOW, "kind": "com.acme.click", "source": "/shop", "user_id": "ann"}],
        ),
        (
            "Debezium",
            "changes",
            CHANGES,
            [
                {"event_time": NOW, "op": "create", "order_id": 7, "user_id": "42", "amount": 2.5},
                {"event_time": NOW + 1, "op": "delete", "order_id": 7, "user_id": "42", "amount": 2.5},
            ],
        ),
        (
            "Segment",
            "tracks",
            SEGMENT,
            [
                {"event_id": "m1", "event_time": NOW, "who": "u1", "kind": "Order Completed", "page": "/checkout"},
                {"event_id": "m2", "event_time": NOW, "who": "a2", "kind": "page", "page": "/"},
            ],
        ),
        (
            "Segment",
            "products",
            SEGMENT,
            [
                {"event_id": "m1-0", "event_time": NOW, "who": "u1", "kind": "Order Completed", "item_id": "507f1"}
                | {"price": 19.0, "quantity": 1},
                {"event_id": "m1-1", "event_time": NOW, "who": "u1", "kind": "Order Completed", "item_id": "505bd"}
                | {"price": 3.5, "quantity": 2},
            ],
        ),
        (
            "GA4",
            "hits",
            GA4,
            [
                {"event_time": NOW, "kind": "purchase", "user_id": "1.2", "page": "https://shop/thanks"}
                | {"session": "1700000000"}
            ],
        ),
        (
            "GA4",
            "items",
            GA4,
            [
                {"event_time": NOW, "kind": "purchase", "user_id": "1.2", "item_id": "sku1", "price": 9.5},
                {"event_time": NOW, "kind": "purchase", "user_id": "1.2", "item_id": "sku2", "price": 1.0},
            ],
        ),
    ],
)
def test_a_ready_made_mapping_reads_the_same_events_by_every_way(
    title: str, name: str, messages: list[dict[str, Any]], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    for found in by_every_way(defined(title)[name], messages, tmp_path):
        assert found == expected


def test_cloud_events_in_binary_mode_are_records_with_headers() -> None:
    stream = defined("CloudEvents")["binary"]
    headers = {"ce_id": "A1", "ce_time": AT, "ce_type": "com.acme.click", "content-type": "application/json"}
    listed = [{"key": name, "value": text.encode()} for name, text in headers.items()]
    row = {"topic": stream.topic, "partition": 0, "offset": 0, "timestamp": NOW, "key": b"s1", "headers": listed}
    table = pa.Table.from_pylist([{**row, "value": json.dumps({"user": "ann"}).encode()}], MESSAGES)
    (messages,) = messages_by_topic(table, [stream])
    expected = [{"event_id": "A1", "event_time": NOW, "kind": "com.acme.click", "subject": "s1", "user_id": "ann"}]
    assert rows(parse(messages.records, messages.stream)) == expected
    posted = {"key": "s1", "headers": headers, "value": {"user": "ann"}}
    assert rows(judge([posted], stream, None, NOW, form="records").parsed) == expected


def test_a_debezium_message_with_its_schema_has_the_paths_behind_payload() -> None:
    stream = defined("Debezium")["changes"]
    fields = {
        name: replace(field, path=None if field.path is None else "payload.after.id")
        for name, field in stream.mapped.items()
    }
    with_schema = replace(stream, event_time="payload.ts_ms", fields={"order_id": fields["order_id"]})
    assert rows(by_topic(with_schema, [{"schema": {}, "payload": CHANGES[0]}]))[0]["order_id"] == 7
