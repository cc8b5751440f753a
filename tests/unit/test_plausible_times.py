"""A number that is read in the wrong unit is an implausible time, and every path says which it looks like."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from whole_files import whole

from features.definitions import Stream
from features.errors import UsageError
from features.events import Records, Verdict, from_columns, parse, parsed_time
from features.feast.offline_store import _SpineFrame
from features.times import now_ms
from headrace.commands.features.backfill import times_of
from serving.events import judge

EARLIEST_MS, LATEST_MS = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1_000) for year in (1990, 2100))
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SHOP = Stream("shop", topic="shop", fields={"user_id": "string"})
AVRO = {
    "type": "record",
    "name": "event",
    "fields": [{"name": name, "type": kind} for name, kind in (("event_id", "string"), ("event_time", "long"))],
}
seconds = st.integers(EARLIEST_MS // 1_000, LATEST_MS // 1_000 - 1)
units = st.sampled_from(["s", "us", "ns"])


def in_unit(second: int, unit: str) -> int:
    return second * PER_S[unit]


def reasons_of_messages(number: int, stream: Stream, value: bytes) -> list[str | None]:
    place = np.array([now_ms()]), np.zeros(1, np.int32), np.zeros(1, np.int64)
    return parse(Records(pa.array([value]), *place), stream).reasons.to_pylist()


def of_json(number: int, _: Path) -> list[str | None]:
    return reasons_of_messages(number, SHOP, json.dumps({"event_id": "e", "event_time": number}).encode())


def of_avro(number: int, _: Path) -> list[str | None]:
    written = io.BytesIO()
    fastavro.schemaless_writer(written, fastavro.parse_schema(AVRO), {"event_id": "e", "event_time": number})
    stream = Stream("shop", topic="shop", fields={"user_id": "string"}, format="avro", schema=json.dumps(AVRO))
    return reasons_of_messages(number, stream, written.getvalue())


def of_http(number: int, _: Path) -> list[str | None]:
    microseconds = Stream("shop", topic="shop", fields={"user_id": "string"}, time_unit="us")
    event = {"event_id": "e", "event_time": number}
    return [judge([event], stream, None, now_ms()).reasons[0] for stream in (SHOP, microseconds)]


def of_columns(number: int, _: Path) -> list[str | None]:
    now = pa.array([now_ms()])
    wrong = pa.array([number])
    columns = {"event_id": ["e"], "event_time": wrong}, {"event_id": ["e"], "event_time": now, "known_at": wrong}
    return [from_columns(pa.table(each), SHOP).reasons[0].as_py() for each in columns]


def of_files(number: int, folder: Path) -> list[str | None]:
    plausible = now_ms()
    (folder / "a.csv").write_text(f"event_id,event_time\na,{plausible}\nb,{number}\n")
    (folder / "mixed.csv").write_text(f"event_id,event_time\na,2026-05-28T20:26:40Z\nb,{number}\n")
    lines = [json.dumps({"event_id": "e", "event_time": time}) for time in (plausible, number)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.table({"event_id": ["a", "b"], "event_time": [plausible, number]}), folder / "a.parquet")
    read = [whole(path, path.suffix[1:], {"shop": SHOP}) for path in sorted(folder.iterdir())]
    assert [list(one.verdicts["shop"].items()) for one in read] == [[(Verdict.VALID, 1), (Verdict.DEAD_LETTER, 1)]] * 4
    return [one.reasons["shop"][1] for one in read]


def refusal(call: Any, *arguments: Any) -> list[str | None]:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    return [f"implausible_time: {caught.value}"]


def of_a_command_line(number: int, _: Path) -> list[str | None]:
    return refusal(parsed_time, str(number))


def of_backfill(number: int, _: Path) -> list[str | None]:
    columns = pa.array([number]), pa.array([str(number)]), pa.array([str(number), "2026-05-28T20:26:40Z"])
    return [text for column in columns for text in refusal(times_of, pa.chunked_array([column]), "spine")]


def of_feast(number: int, _: Path) -> list[str | None]:
    return refusal(_SpineFrame(pd.DataFrame({"event_timestamp": [number]}), "event_timestamp").as_of)


PATHS = [of_json, of_avro, of_http, of_columns, of_files, of_a_command_line, of_backfill, of_feast]


@pytest.mark.parametrize("path", PATHS)
@given(second=seconds, unit=units)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_instant_in_another_unit_is_refused_with_the_unit_on_every_path(
    tmp_path: Path, path: Any, second: int, unit: str
) -> None:
    for reason in path(in_unit(second, unit), tmp_path):
        assert str(reason).startswith("implausible_time:"), reason
        assert "a time from 1990 to 2099" in str(reason)
        hint = f"looks like {WORDS[unit]} read as milliseconds: {datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        assert hint in str(reason), reason


@given(second=seconds, unit=st.sampled_from(list(PER_S)), declared=st.sampled_from(list(PER_S)))
@example(second=631_152_000, unit="s", declared="ns")
def test_the_hint_is_right_whatever_the_unit_of_the_stream(second: int, unit: str, declared: str) -> None:
    stream = Stream("shop", topic="shop", fields={"user_id": "string"}, time_unit=declared)
    number = in_unit(second, unit)
    reason = reasons_of_messages(number, stream, json.dumps({"event_id": "e", "event_time": number}).encode())[0]
    if unit == declared:
        assert reason is None or reason.startswith("future_time:")
    else:
        assert f"looks like {WORDS[unit]} read as {WORDS[declared]}" in str(reason)


def test_microseconds_are_refused_where_milliseconds_are_meant() -> None:
    (reason,) = of_json(1714554001123456, Path())
    assert reason == (
        "implausible_time: field 'event_time' requires a time from 1990 to 2099; got 1714554001123456 ms, "
        "which looks like microseconds read as milliseconds: 2024-05-01T09:00:01.123Z"
    )


def test_a_file_holds_no_events_of_the_future_but_what_is_known_later(tmp_path: Path) -> None:
    now = now_ms()
    week = 7 * 86_400_000
    (tmp_path / "a.csv").write_text(
        f"event_id,event_time,known_at\na,{now - 1_000},{now + week}\nb,{now + week},{now + week}\n"
    )
    lines = [json.dumps({"event_id": f"{time}", "event_time": time}) for time in (now, now + week)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for kind in ("csv", "jsonl"):
        read = whole(tmp_path / f"a.{kind}", kind, {"shop": SHOP})
        assert read.reasons["shop"][0] is None
        assert "future_time: field 'event_time' requires a time at most 300000" in str(read.reasons["shop"][1])


@pytest.mark.parametrize(
    "times",
    [
        pd.Series([1_714_554_001_123, 1_714_554_001_124]),
        pd.Series([1_714_554_001_123, 1_714_554_001_124], dtype="Int64"),
        pd.Series([1_714_554_001_123, 1_714_554_001_124], dtype=object),
        pd.Series(["2024-05-01T09:00:01.123Z", "2024-05-01T09:00:01.124Z"]),
        pd.to_datetime(pd.Series(["2024-05-01T09:00:01.123Z", "2024-05-01T09:00:01.124Z"])),
    ],
)
def test_integers_of_a_spine_are_milliseconds(times: pd.Series) -> None:
    frame = pd.DataFrame({"event_timestamp": times})
    assert _SpineFrame(frame, "event_timestamp").as_of().tolist() == [1_714_554_001_123, 1_714_554_001_124]


@pytest.mark.parametrize("times", [[1_714_554_001.0], ["soon"], [None], [True], [-1], [10**18]])
def test_a_time_of_a_spine_that_cannot_be_meant_is_refused_by_its_column(times: list[Any]) -> None:
    with pytest.raises(UsageError, match="column 'event_timestamp' of the spine"):
        _SpineFrame(pd.DataFrame({"event_timestamp": times}), "event_timestamp").as_of()
