"""A record that is sent again is one event wherever it is seen; it is not sent where the archive has its event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import Field, Stream, Topic
from features.definitions.repo import FeatureRepo
from features.events.parsing import from_columns, parse
from streaming.archive.sink import Archive
from streaming.archived_letters import archived
from streaming.dead_letters import DeadLetter, letter_headers, letters_of, replay_headers
from streaming.kafka.consumer import Record
from streaming.kafka.producer import FIRST_PLACE
from streaming.spark.source import MESSAGES, messages_by_topic

T0 = 1_700_000_000_000
HOUR = 3_600_000
KIND = Field("string", enum=["view", "wish"])
PLACES = Stream("places", topic="t", fields={"kind": KIND}, event_id=None)
NAMED = Stream("named", topic="n", fields={"kind": KIND}, also=[Topic("m")])
REPO = FeatureRepo(Path("repo"), {}, {"places": PLACES, "named": NAMED}, {})


def refused(place: tuple[str, int, int], time_ms: int = T0, kind: str = "wish", **fields: Any) -> DeadLetter:
    value = json.dumps({"event_time": T0, "kind": kind, **fields}).encode()
    return DeadLetter(place, "unknown_value: x", time_ms, b"key", value, ())


def archive_of(folder: Path, stream: Stream, *rows: dict[str, Any]) -> None:
    usual = {"event_time": T0, "known_at": T0, "partition": 0, "kind": "wish"}
    table = pa.Table.from_pylist([usual | row for row in rows])
    table = table.set_column(
        table.schema.get_field_index("partition"), "partition", table["partition"].cast(pa.int32())
    )
    Archive(folder, REPO).append(stream, from_columns(table, stream).events)


@pytest.mark.parametrize(
    ("row", "has"),
    [
        ({"event_id": "t-0-3", "offset": 3}, True),  # its own record, which a wider definition has taken since
        ({"event_id": "t-0-3", "offset": 9, "known_at": T0 + 90 * HOUR}, True),  # sent again long ago
        ({"event_id": "t-0-3", "offset": 3, "known_at": T0 + HOUR}, False),  # of a topic that was made anew
        ({"event_id": "t-0-4", "offset": 4}, False),
    ],
)
def test_a_record_without_an_id_is_known_by_its_first_place(tmp_path: Path, row: dict[str, Any], has: bool) -> None:
    archive_of(tmp_path, PLACES, row)
    letter = refused(("t", 0, 3))
    again = DeadLetter(**{**vars(letter), "place": ("t", 1, 70), "headers": replay_headers(letter)})
    for one in (letter, again):
        assert archived([one], REPO, tmp_path) == ([one] if has else [])


@pytest.mark.parametrize(("known_at", "has"), [(T0 - HOUR - 1, False), (T0 - HOUR, True), (T0 + 90 * HOUR, True)])
def test_an_id_of_a_producers_own_counts_again_only_after_the_horizon(
    tmp_path: Path,
    known_at: int,
    has: bool,
) -> None:
    archive_of(tmp_path, NAMED, {"event_id": "e1", "offset": 3, "known_at": known_at, "event_time": known_at})
    letters = [refused(("m", 0, 8), event_id="e1"), refused(("m", 0, 9), event_id="e2")]
    assert archived(letters, REPO, tmp_path) == letters[:has]


def test_what_is_still_refused_or_is_read_by_no_stream_is_no_event_of_the_archive(tmp_path: Path) -> None:
    archive_of(tmp_path, PLACES, {"event_id": "t-0-3", "offset": 3})
    letters = [refused(("t", 0, 3), kind="other"), refused(("elsewhere", 0, 3))]
    tombstone = DeadLetter(("t", 0, 3), "null_value: x", T0, None, None, ())
    assert archived([*letters, tombstone], REPO, tmp_path) == []
    assert archived([refused(("n", 0, 3), event_id="e1")], REPO, tmp_path) == []  # that stream has no table yet
    assert archived([], REPO, tmp_path) == []


POSITIONS = st.tuples(st.integers(0, 7), st.integers(0, 2**40))


@given(POSITIONS, st.lists(POSITIONS, max_size=4), st.binary(max_size=12))
def test_a_record_keeps_its_first_place_however_often_it_is_refused_and_sent_again(
    first: tuple[int, int], later: list[tuple[int, int]], other: bytes
) -> None:
    """And what else stands in headers, of ours or of others, changes no id."""
    headers: Any = (("trace", other), (FIRST_PLACE, other))
    value = json.dumps({"event_time": T0, "kind": "view"}).encode()
    for partition, offset in [first, *later]:
        kept = letter_headers(headers, ("t", partition, offset), "x: y", T0)
        (letter,) = letters_of([Record("t.dead", 0, 0, 0, None, value, kept)])
        headers = replay_headers(letter)
    rows = [
        {"topic": "t", "partition": 7, "offset": 99 + number, "timestamp": T0, "value": value, "headers": each}
        for number, each in enumerate((None, [], [{"key": name, "value": text} for name, text in headers]))
    ]
    (messages,) = messages_by_topic(pa.Table.from_pylist(rows, MESSAGES), [PLACES])
    ids = parse(messages.records, PLACES).events["event_id"].to_pylist()
    assert ids == ["t-7-99", "t-7-100", f"t-{first[0]}-{first[1]}"]


def test_a_first_place_that_is_none_leaves_the_records_own() -> None:
    junk: list[bytes | None] = [None, b"", b"\xff\xfe", b"t-0", b"t-0-3\n", b"t-0--3", b"a b-0-3", b"t-0-" + b"9" * 40]
    rows = [
        {"topic": "t", "partition": 0, "offset": number, "timestamp": T0, "value": b'{"event_time": 1700000000000}'}
        | {"headers": [{"key": FIRST_PLACE, "value": text}]}
        for number, text in enumerate(junk)
    ]
    (messages,) = messages_by_topic(pa.Table.from_pylist(rows, MESSAGES), [PLACES])
    parsed = parse(messages.records, PLACES)
    assert parsed.events["event_id"].to_pylist() == [f"t-0-{number}" for number in range(len(junk))]
    assert np.array_equal(parsed.rows, np.arange(len(junk)))
