"""Where values are taken from: the same events by topic, file and HTTP, wherever their messages have them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapped_events import all_valid, by_avro, by_fast_topic, by_file, by_http, by_topic, rows
from shop_messages import BATCH, NOW

from features.definitions import Entity, Field, FirstOf, Stream, Topic
from features.definitions.aggregations import Count
from features.definitions.serialized import views_of_text, views_text
from features.definitions.views import FeatureSet, FeatureView
from features.errors import DefinitionError
from features.events import Verdict
from features.events.decoded import columns_of
from features.events.json import shapes as json_shapes
from features.formats import read_events
from streaming.kafka.encoding import messages as encoded

ROWS = Stream(
    "rows",
    topic="db.rows",
    event_id=FirstOf(["after.id", "before.id"]),
    event_time="ts",
    fields={
        "owner": Field("string", path=FirstOf(["after.owner", "before.owner"]), required=True),
        "size": Field("int64", path=FirstOf([("after", "size"), "before.size"])),
        "price": Field("float64", path=FirstOf(["after.price", "before.price"])),
        "deleted": Field("bool", path="deleted"),
    },
)
CHANGES = [
    {"ts": NOW, "before": None, "after": {"id": 1, "owner": "ann", "size": 3, "price": 2.5}, "deleted": False},
    {"ts": NOW + 1, "before": {"id": 2, "owner": "bob", "size": 4, "price": 1.5}, "after": None, "deleted": True},
    {
        "ts": NOW + 2,
        "before": {"id": 3, "owner": "cid", "size": 5, "price": 0.5},
        "after": {"id": 3, "owner": "dan", "size": None, "price": 9.0},
        "deleted": False,
    },
]
EXPECTED = [
    {"event_id": "1", "event_time": NOW, "owner": "ann", "size": 3, "price": 2.5, "deleted": False},
    {"event_id": "2", "event_time": NOW + 1, "owner": "bob", "size": 4, "price": 1.5, "deleted": True},
    {"event_id": "3", "event_time": NOW + 2, "owner": "dan", "size": 5, "price": 9.0, "deleted": False},
]
DOTTED = Stream(
    "dotted",
    topic="dotted",
    event_id=["meta.id"],
    event_time=("meta.at", "ms"),
    fields={"version": Field("string", path=["app.version"]), "host": Field("string", path=("net", "host.name"))},
)
OF_DOTTED = [
    {"meta.id": f"e{n}", "meta.at": {"ms": NOW + n}, "app.version": f"1.{n}", "net": {"host.name": f"h{n}"}}
    for n in range(3)
]
VALUES = st.sampled_from([None, 0, 1, 2**63, 1.5, "x", "", True, {"id": 1}, [1]])


@pytest.mark.parametrize("way", [by_topic, by_fast_topic, by_avro, by_http])
def test_the_first_path_with_a_value_counts(way: Any) -> None:
    assert rows(way(ROWS, CHANGES)) == EXPECTED


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_the_first_path_with_a_value_counts_in_files(file_format: str, tmp_path: Path) -> None:
    assert rows(by_file(ROWS, CHANGES, tmp_path, file_format)) == EXPECTED


@pytest.mark.parametrize("way", [by_topic, by_fast_topic, by_http])
def test_keys_may_have_dots_where_a_path_is_a_list_of_keys(way: Any) -> None:
    parsed = way(DOTTED, OF_DOTTED)
    assert all_valid(parsed)
    assert parsed.events["version"].to_pylist() == ["1.0", "1.1", "1.2"]
    assert parsed.events["host"].to_pylist() == ["h0", "h1", "h2"]


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "parquet"])
def test_keys_with_dots_are_columns_of_files(file_format: str, tmp_path: Path) -> None:
    assert rows(by_file(DOTTED, OF_DOTTED, tmp_path, file_format)) == rows(by_topic(DOTTED, OF_DOTTED))


def test_the_fast_reader_reads_the_first_of_several_paths() -> None:
    values = pa.array([json.dumps(message).encode() for message in CHANGES[:1] * BATCH], pa.binary())
    alternatives = [each for column in columns_of(ROWS) for each in column.alternatives]
    shape = json_shapes.learn(CHANGES, alternatives)
    assert shape is not None
    assert pc.all(pc.match_substring_regex(values.cast(pa.string()), shape.pattern)).as_py()


def test_events_that_we_send_have_their_values_at_the_first_path() -> None:
    parsed = by_topic(ROWS, CHANGES)
    values = [json.loads(value) for _, value, _ in encoded(parsed.events, ROWS)]
    assert values[1]["after"] == {"id": "2", "owner": "bob", "size": 4, "price": 1.5}
    assert rows(by_topic(ROWS, values)) == EXPECTED


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4))
def test_no_value_and_no_neighbour_changes_what_the_first_path_means(pairs: list[tuple[Any, Any]]) -> None:
    stream = Stream(
        "s", topic="t", event_id=None, fields={"size": Field("int64", path=FirstOf(["a.size", "b.size", "c"]))}
    )
    messages = [
        {"event_time": NOW, "a": {"size": first}, "b": None, "c": second, "n": number}
        for number, (first, second) in enumerate(pairs)
    ]
    exact, fast = by_topic(stream, messages), by_fast_topic(stream, messages)
    alone = [by_topic(stream, [message]) for message in messages]
    assert exact.reasons.to_pylist() == fast.reasons.to_pylist() == [one.reasons[0].as_py() for one in alone]
    assert exact.events["size"].to_pylist() == fast.events["size"].to_pylist()
    for verdict, (first, second) in zip(exact.verdicts, pairs, strict=True):
        value = second if first is None else first
        fits = value is None or (type(value) is int and value < 2**63)
        assert bool(verdict == Verdict.VALID) == fits


def test_a_bad_time_counts_only_where_it_is_the_first(tmp_path: Path) -> None:
    stream = Stream("s", topic="t", event_id=None, event_time=FirstOf(["at", "made"]), fields={"n": "int64"})
    messages = [
        {"at": NOW, "made": "yesterday", "n": 1},
        {"at": None, "made": "2026-05-28T20:26:40Z", "n": 2},
        {"at": None, "made": "yesterday", "n": 3},
    ]
    found = [by_topic(stream, messages), by_fast_topic(stream, messages)]
    found += [by_file(stream, messages, tmp_path, kind) for kind in ("jsonl", "csv", "parquet")]
    for parsed in found:
        assert parsed.verdicts.tolist() == [Verdict.VALID, Verdict.VALID, Verdict.DEAD_LETTER]
        assert parsed.events["event_time"].to_pylist() == [NOW, NOW]
        assert parsed.reasons[2].as_py().startswith("bad_time: field 'event_time'")


def test_a_file_without_any_of_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["ts", "size"], [str(NOW), "1"]])
    with pytest.raises(Exception, match=r"'after.owner' or 'before.owner' \(our owner\)"):
        list(read_events(path, "csv", {"rows": ROWS}))


@pytest.mark.parametrize("path", [[], "", "a..b", ["a", ""], 5, ["a", 1.5], [None]])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(DefinitionError, match="a list of steps"):
        Field("string", path=path)


@pytest.mark.parametrize("paths", [[], "after.id", None, [[]]])
def test_first_of_takes_a_list_of_paths(paths: Any) -> None:
    with pytest.raises(DefinitionError):
        FirstOf(paths)


def test_where_values_are_taken_from_is_part_of_the_definition() -> None:
    owner = Entity("owner", keys={"owner": "string"})
    stream = Stream(
        "rows", topic="db.rows", fields=ROWS.mapped, also=[Topic("other", paths={"owner": FirstOf(["a", ["b.c"]])})]
    )
    view = FeatureView("v", sets=[FeatureSet(owner, stream, [Count()], ["1h"])])
    (again,) = views_of_text(views_text([view]))
    assert (again, again.schema_hash) == (view, view.schema_hash)
    changed = FeatureView("v", sets=[FeatureSet(owner, ROWS, [Count()], ["1h"])])
    assert changed.schema_hash != view.schema_hash


def test_a_list_and_a_tuple_of_keys_are_one_path() -> None:
    assert Field("string", path=["a.b", "c"]) == Field("string", path=("a.b", "c"))
