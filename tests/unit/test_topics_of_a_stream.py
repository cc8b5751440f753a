"""A stream that several topics bring: each in its own form, one set of columns, places that never meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from memory_store import MemoryHandle, MemoryStore

from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream, Topic
from features.definitions.aggregations import Count, LastK
from features.definitions.repo import FeatureRepo
from features.errors import DefinitionError
from features.events.parsing import Verdict, event_schema
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from streaming.archive.sink import Archive, ArchiveSink
from streaming.fold.sink import FoldTarget, OnlineSink
from streaming.generations.checkpoints import Generation, build_from_archive
from streaming.kafka.encoding import messages
from streaming.kafka.topic_admin import dead_letter_topic
from streaming.spark.source import OffsetLog, messages_by_topic, nested_offsets

T0 = 1_700_000_000_000
SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Till",
        "fields": [
            {"name": "number", "type": "string"},
            {"name": "second", "type": "long"},
            {"name": "card", "type": "string"},
        ],
    }
)
TILLS = Topic(
    "shop.tills",
    paths={"user_id": "card"},
    format="avro",
    event_time="second",
    time_unit="s",
    event_id="number",
    schema=SCHEMA,
)
FIELDS = {"user_id": Field("string", required=True), "page": Field("string", path="at.page")}
VISITS = Stream("visits", topic="shop.web", fields=FIELDS, also=[TILLS])
USER = Entity("user", keys={"user_id": "string"})
VIEW = FeatureView("by_user", sets=[FeatureSet(USER, VISITS, [Count(), LastK("page", 3)], ["1h"])])
REPO = FeatureRepo(Path("repo"), {"user": USER}, {"visits": VISITS}, {"by_user": VIEW})
HEADERS = pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))
COLUMNS = pa.schema(
    {"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64(), "timestamp": pa.int64()}
    | {"key": pa.binary(), "value": pa.binary(), "headers": HEADERS}
)


def events(*ids: str, page: str | None = None) -> pa.Table:
    rows = [{"event_id": one, "event_time": T0, "known_at": T0, "user_id": "u1", "page": page} for one in ids]
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in event_schema(VISITS) if f.name in rows[0]]))


def batch(*rows: tuple[str, int, bytes]) -> pa.Table:
    """Messages of (topic, offset, value) as Spark hands them over."""
    given = {"partition": 0, "timestamp": T0, "key": None, "headers": None}
    return pa.Table.from_pylist(
        [given | {"topic": topic, "offset": offset, "value": value} for topic, offset, value in rows], schema=COLUMNS
    )


def written(part: Stream, *ids: str, page: str | None = None) -> list[bytes]:
    return [value for _, value, _ in messages(events(*ids, page=page), part, None)]


def log(folder: Path, end: dict[str, int]) -> OffsetLog:
    for name in ("offsets", "commits"):
        (folder / name).mkdir(parents=True)
    (folder / "offsets" / "0").write_text(f"v1\n{{}}\n{json.dumps(nested_offsets(end))}")
    return OffsetLog(folder, {"shop.web/0": 0, "shop.tills/0": 0})


def test_each_topic_is_a_stream_of_its_own_form_and_the_same_columns() -> None:
    web, tills = VISITS.parts
    assert VISITS.topics == (web.topic, tills.topic) == ("shop.web", "shop.tills")
    assert {part.name for part in VISITS.parts} == {"visits"}
    assert event_schema(web) == event_schema(tills) == event_schema(VISITS)
    assert (web.format, tills.format, tills.mapped["user_id"].path, tills.mapped["page"].path) == (
        "json",
        "avro",
        "card",
        "at.page",
    )
    alone = Stream("visits", topic="shop.web", fields=FIELDS)
    assert alone.parts == (alone,)
    assert alone.topics == ("shop.web",)


def test_records_of_two_topics_are_one_stream_with_places_of_their_own(tmp_path: Path) -> None:
    web, tills = VISITS.parts
    (first,), (second,) = written(web, "a", page="home"), written(tills, "b")
    table = batch(("shop.tills", 0, second), ("shop.web", 0, first), ("shop.tills", 1, b"\xff"), ("other", 9, b""))
    found = messages_by_topic(table, REPO.streams.values())
    assert [(one.stream.topic, one.records.partition.tolist()) for one in found] == [
        ("shop.web", [0]),
        ("shop.tills", [1_024, 1_024]),
    ]
    store, letters = MemoryStore(), []
    ends = log(tmp_path / "fold", {"shop.web/0": 1, "shop.tills/0": 2})
    archive = Archive(tmp_path / "offline", REPO)
    build_from_archive(MemoryHandle(store, 7), REPO, archive, Generation(7, ends.first, {}), T0)

    def keep(stream: Stream, came: Any, parsed: Any) -> None:
        letters.append((dead_letter_topic(stream.topic), came.table["partition"].to_pylist(), parsed.verdicts.tolist()))

    report = OnlineSink(FoldTarget(REPO, MemoryHandle(store, 7), 7), ends, keep).fold(table, 0)
    assert (report.counts.folded, report.counts.dead_letter, report.counts.duplicate) == (2, 1, 0)
    assert letters == [("shop.tills.dead", [0, 0], [Verdict.VALID, Verdict.DEAD_LETTER])]
    keys = pa.array(["u1"])
    rows = finalize(VIEW, PackedRows(keys, MemoryHandle(store, 7).rows("by_user", keys)), T0 + 1, 7)
    assert rows.to_table().to_pylist() == [{"user_count_1h": 2, "user_page_last_3_1h": ["home"]}]


def test_the_archive_keeps_the_topic_of_each_record_and_knows_where_each_topic_ends(tmp_path: Path) -> None:
    web, tills = VISITS.parts
    table = batch(
        *(("shop.web", 5 + at, value) for at, value in enumerate(written(web, "a", "c"))),
        *(("shop.tills", 2 + at, value) for at, value in enumerate(written(tills, "b"))),
    )
    archive = Archive(tmp_path / "offline", REPO)
    ends = log(tmp_path / "archive", {"shop.web/0": 7, "shop.tills/0": 3})
    assert ArchiveSink(archive, REPO, ends, lambda _: None, lambda *_: 0).append(table, 0).appended == 3
    assert archive.end() == {"shop.web/0": 7, "shop.tills/0": 3}
    found = archive.events(VISITS)
    assert sorted(found["event_id"].to_pylist()) == ["a", "b", "c"]
    assert found["event_time"].to_pylist() == [T0] * 3


def test_an_event_without_an_id_has_that_of_its_place_in_its_topic() -> None:
    stream = Stream("s", topic="a", fields={"x": "int64"}, event_id=None, also=[Topic("b", event_id=None)])
    values = json.dumps({"event_time": T0, "x": 1}).encode()
    found = messages_by_topic(batch(("a", 4, values), ("b", 4, values)), [stream])
    from features.events.parsing import joined, parse

    parsed = joined([parse(one.records, one.stream) for one in found])
    assert parsed.events["event_id"].to_pylist() == ["a-0-4", "b-0-4"]
    assert (parsed.rows.tolist(), np.unique(parsed.verdicts).tolist()) == ([0, 1], [Verdict.VALID])


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ([Topic("shop.web")], "topics that differ"),
        ([Topic(f"t{number}") for number in range(4)], "at most 4 topics"),
        ([Topic("t", paths={"shoe": "x"})], "fields of the stream"),
        ([Topic("t", format="xml")], "format 'json' or 'avro'"),
        ([Topic("a topic")], "a topic of letters"),
        ("shop.tills", "a list of Topic"),
        (["shop.tills"], "a list of Topic"),
    ],
)
def test_topics_that_cannot_be_are_refused(also: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Stream("visits", topic="shop.web", fields=FIELDS, also=also)


def test_a_topic_with_a_path_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(DefinitionError, match="a key of the message"):
        Topic("t", paths={"page": "a..b"})
