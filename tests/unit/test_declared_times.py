"""Times that are written otherwise than RFC 3339: as the stream says, and the same by every path."""

from __future__ import annotations

import json
import zoneinfo
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from every_path import by_avro, by_every_path, by_http, by_json
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from whole_files import whole

from features.definitions import (
    Count,
    Entity,
    FeatureSet,
    FeatureView,
    Mean,
    Stream,
    Time,
    Topic,
    hour_within,
    local_hour,
    local_weekday,
    views_of_text,
    views_text,
    weekday_within,
)
from features.errors import DefinitionError
from features.events.decoded import columns_of
from features.events.json import messages as json_messages
from features.events.json import shapes
from features.events.timestamps import EARLIEST_MS
from features.events.values.patterns import ms_of_pattern
from features.zones import local_ms, utc_ms

PLAIN = Stream("visits", topic="visits", event_id="id", event_time="at", fields={"user": "string"})
NOW = datetime(2026, 1, 1)  # noqa: DTZ001  # a local time
HASH_BEFORE = 14216624239629117297
"""Of a view on PLAIN, as it was before times could be declared."""

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca"]
zones = st.sampled_from(ZONES)
local_times = st.datetimes(datetime(1990, 1, 2), NOW)  # noqa: DTZ001
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ms_of(local: datetime, zone: str) -> int:
    """Python's own reading of a local time: of two, the first."""
    return (local.replace(tzinfo=zoneinfo.ZoneInfo(zone)) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )


def rows_of(times: list[Any]) -> list[dict[str, Any]]:
    return [{"id": f"e{n}", "at": time, "user": "u"} for n, time in enumerate(times)]


def times_by_every_path(stream: Stream, times: list[Any], folder: Path) -> dict[str, list[int | str]]:
    """Path → the time of each event, or the code of the reason for which there is none."""
    found: dict[str, list[int | str]] = {}
    for path, fared in by_every_path(stream, rows_of(times), folder).items():
        events = {row["event_id"]: row["event_time"] for row in fared.events}
        found[path] = [events.get(f"e{n}", str(code)) for n, code in enumerate(fared.codes)]
    return found


# --- a zone -------------------------------------------------------------------------------------------------------


@SETTINGS
@given(several=st.lists(local_times, min_size=1, max_size=5), zone=zones, separator=st.sampled_from("T "))
@example([datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30)], "Europe/Berlin", " ")  # noqa: DTZ001
def test_a_time_without_a_zone_is_of_the_declared_one_by_every_path(
    tmp_path: Path, several: list[datetime], zone: str, separator: str
) -> None:
    texts = [time.isoformat(separator) for time in several]
    zoned = "2024-05-01T10:00:00+05:00"
    expected = [*(ms_of(time, zone) for time in several), 1714539600000, "bad_time"]
    got = times_by_every_path(replace(PLAIN, time_zone=zone), [*texts, zoned, "2024-05-01"], tmp_path)
    assert got == dict.fromkeys(got, expected)


def test_without_a_zone_such_a_time_is_refused_as_before(tmp_path: Path) -> None:
    got = times_by_every_path(PLAIN, ["2024-05-01T10:00:00", "2024-05-01T10:00:00Z"], tmp_path)
    assert got == {key: ["bad_time", 1714557600000] for key in got}


def test_an_hour_that_comes_twice_is_the_first_and_one_that_never_comes_is_later() -> None:
    spring, autumn = datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30)  # noqa: DTZ001
    stream = replace(PLAIN, time_zone="Europe/Berlin")
    events = by_json(stream, rows_of([spring.isoformat(), autumn.isoformat()])).events
    instants = [datetime.fromtimestamp(event["event_time"] / 1000, UTC).isoformat() for event in events]
    assert instants == ["2024-03-31T01:30:00+00:00", "2024-10-27T00:30:00+00:00"]  # 03:30 CEST, 02:30 CEST


@SETTINGS
@given(st.sampled_from(sorted(zoneinfo.available_timezones() - {"localtime"})), st.data())
def test_clocks_of_every_zone_show_what_pythons_show(zone: str, data: st.DataObject) -> None:
    seconds = data.draw(st.lists(st.integers(631_152_000, 4_102_444_799), min_size=1, max_size=50))
    tz = zoneinfo.ZoneInfo(zone)
    shown = [datetime.fromtimestamp(second, tz) for second in seconds]
    local = [(one.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(milliseconds=1) for one in shown]  # noqa: DTZ001
    assert local_ms(np.array(seconds) * 1000, zone).tolist() == local
    back = [ms_of(one.replace(tzinfo=None, fold=0), zone) for one in shown]
    assert utc_ms(np.array(local), zone).tolist() == back


@pytest.mark.parametrize("zone", ZONES)
def test_every_minute_beside_a_change_is_read_as_python_reads_it(zone: str) -> None:
    start = datetime(2024, 3, 1)  # noqa: DTZ001
    minutes = [start + timedelta(minutes=10 * n) for n in range(6 * 24 * 270)]
    local = np.array([(one - datetime(1970, 1, 1)) // timedelta(milliseconds=1) for one in minutes])  # noqa: DTZ001
    assert utc_ms(local, zone).tolist() == [ms_of(one, zone) for one in minutes]


# --- formats ------------------------------------------------------------------------------------------------------

PATTERNS = [
    "%d.%m.%Y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%Y%m%d",
    "%Y%m%d%H%M%S",
    "%d/%b/%Y:%H:%M:%S",
    "%A, %d %B %y",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%d %H:%M:%S UTC",
    "um %H.%M Uhr am %d.%m.%Y",
    "%Y年%m月%d日",
    "100%% %a %b %d %H:%M:%S %Y",
]


@SETTINGS
@given(several=st.lists(local_times, min_size=1, max_size=5), pattern=st.sampled_from(PATTERNS), zone=zones)
def test_a_time_by_a_pattern_is_what_strptime_reads_by_every_path(
    tmp_path: Path, several: list[datetime], pattern: str, zone: str
) -> None:
    texts = [time.strftime(pattern) for time in several]
    expected = [ms_of(datetime.strptime(text, pattern), zone) for text in texts]  # noqa: DTZ007
    stream = replace(PLAIN, time_zone=zone, time_format=pattern)
    got = times_by_every_path(stream, [*texts, "2024-05-01T10:00:00Z", "soon", "31.02.2024 10:00"], tmp_path)
    assert got == {key: [*expected, 1714557600000, "bad_time", "bad_time"] for key in got}


@given(st.text(st.sampled_from("0123456789 :.+-ZzapmAM/Januar"), max_size=24), st.sampled_from(PATTERNS))
def test_what_a_pattern_reads_strptime_reads_as_well(text: str, pattern: str) -> None:
    (ms,) = ms_of_pattern(pa.array([text]), pattern, "UTC").to_pylist()
    if ms is not None:
        assert ms == ms_of(datetime.strptime(text, pattern), "UTC")  # noqa: DTZ007


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("01/May/2024:10:00:00 +0200", 1714550400000),
        ("1/may/2024:10:00:00 -05:30", 1714577400000),
        ("01/May/2024:10:00:00 Z", 1714557600000),
        ("01/May/2024:10:00:00 +2500", None),
        ("01/May/2024:10:00:60 Z", None),
        ("01/May/2024:10:00:00", None),
    ],
)
def test_a_pattern_may_have_the_offset(text: str, ms: int | None) -> None:
    assert ms_of_pattern(pa.array([text]), "%d/%b/%Y:%H:%M:%S %z", None).to_pylist() == [ms]


def test_formats_are_tried_in_their_order(tmp_path: Path) -> None:
    stream = replace(PLAIN, time_zone="UTC", time_format=["%d/%m/%Y", "%m/%d/%Y", "epoch"])
    got = times_by_every_path(stream, ["02/03/2024", "12/31/2024", "1714557600000"], tmp_path)
    assert got == {key: [1709337600000, 1735603200000, 1714557600000] for key in got}


def test_whole_numbers_are_read_by_a_pattern_of_digits(tmp_path: Path) -> None:
    stream = replace(PLAIN, time_zone="Asia/Kolkata", time_format="%Y%m%d")
    rows, at = rows_of([20240501, 20240502]), ms_of(datetime(2024, 5, 1), "Asia/Kolkata")  # noqa: DTZ001
    fared = by_every_path(stream, rows, tmp_path)
    del fared["http"]  # whose numbers are ms
    for each in fared.values():
        assert [one["event_time"] for one in each.events] == [at, at + 86_400_000]
    assert by_http(stream, rows_of([at])).events[0]["event_time"] == at


# --- numbers ------------------------------------------------------------------------------------------------------

FACTORS = {"s": 1_000, "ms": 1, "us": 1e-3, "ns": 1e-6}


@SETTINGS
@given(
    several=st.lists(st.integers(EARLIEST_MS, 1_750_000_000_000), min_size=1, max_size=5),
    unit=st.sampled_from(["s", "ms"]),
    as_text=st.booleans(),
)
def test_a_number_with_a_fraction_is_the_millisecond_that_it_says(
    tmp_path: Path, several: list[int], unit: str, as_text: bool
) -> None:
    numbers = [f"{ms // 1000}.{ms % 1000:03}9" if unit == "s" else f"{ms}.999" for ms in several]
    times = numbers if as_text else [float(number) for number in numbers]
    stream = replace(PLAIN, time_unit=unit, time_format="epoch")
    got = times_by_every_path(stream, times, tmp_path)
    if not as_text and unit == "s":
        del got["http"]
    assert got == dict.fromkeys(got, several)


def test_a_number_in_text_is_exact_in_any_unit(tmp_path: Path) -> None:
    stream = replace(PLAIN, time_unit="ns", time_format="epoch")
    got = times_by_every_path(stream, ["1714557600000999999", "1714557600001000000", "1.7145576e18", "x"], tmp_path)
    assert got == {key: [1714557600000, 1714557600001, 1714557600000, "bad_time"] for key in got}


def test_many_messages_with_fractions_are_read_by_a_shape() -> None:
    stream = replace(PLAIN, time_unit="s", time_format="epoch")
    samples = [{"id": f"e{n}", "at": 1714557600.25 + n, "user": "u"} for n in range(json_messages.FEW_MESSAGES)]
    shape = shapes.learn(samples, columns_of(stream))
    assert shape is not None
    assert shape.dtypes[("at",)] == "fraction"
    values = pa.array([json.dumps(sample).encode() for sample in samples])
    rest, _ = json_messages._fast(values, stream)
    assert rest.size == 0


# --- types of Avro and Parquet ------------------------------------------------------------------------------------

AVRO_TIMES = {
    "timestamp-millis": ("long", datetime(2024, 5, 1, 10, 0, 0, 250_000, tzinfo=UTC), 1714557600250),
    "timestamp-micros": ("long", datetime(2024, 5, 1, 10, 0, 0, 250_900, tzinfo=UTC), 1714557600250),
    "timestamp-nanos": ("long", 1714557600250999999, 1714557600250),
    "local-timestamp-millis": ("long", datetime(2024, 5, 1, 10, 0, 0, 250_000), 1714550400250),  # noqa: DTZ001
    "local-timestamp-micros": ("long", datetime(2024, 5, 1, 10, 0, 0, 250_900), 1714550400250),  # noqa: DTZ001
    "local-timestamp-nanos": ("long", 1714557600250999999, 1714550400250),
    "date": ("int", date(2024, 5, 1), 1714514400000),
}


@pytest.mark.parametrize("kind", AVRO_TIMES)
def test_a_logical_type_of_avro_is_a_time_in_the_zone_that_it_lacks(kind: str) -> None:
    base, value, ms = AVRO_TIMES[kind]
    types = {"at": {"type": base, "logicalType": kind}}
    berlin = by_avro(replace(PLAIN, time_zone="Europe/Berlin"), rows_of([value]), types)
    assert [event["event_time"] for event in berlin.events] == [ms]
    undeclared = by_avro(PLAIN, rows_of([value]), types)
    if kind.startswith("timestamp"):
        assert [event["event_time"] for event in undeclared.events] == [ms]
    else:
        assert undeclared.codes[0] in ("bad_time", "wrong_type")


@pytest.mark.parametrize(
    ("column", "ms"),
    [
        (pa.array([datetime(2024, 5, 1, 10)], pa.timestamp("us")), 1714550400000),  # noqa: DTZ001
        (pa.array([datetime(2024, 5, 1, 8, tzinfo=UTC)], pa.timestamp("ns", "UTC")), 1714550400000),
        (pa.array([date(2024, 5, 1)]), 1714514400000),
        (pa.array([date(2024, 5, 1)], pa.date64()), 1714514400000),
    ],
)
def test_a_column_of_parquet_without_a_zone_is_of_the_declared_one(tmp_path: Path, column: pa.Array, ms: int) -> None:
    pq.write_table(pa.table({"id": ["e"], "at": column, "user": ["u"]}), tmp_path / "a.parquet")
    read = whole(tmp_path / "a.parquet", "parquet", {"visits": replace(PLAIN, time_zone="Europe/Berlin")})
    assert read.events["visits"]["event_time"].to_pylist() == [ms]


def test_a_further_topic_has_times_of_its_own() -> None:
    other = Topic("exports", event_id="id", event_time="day", time_zone="Asia/Tokyo", time_format="%Y%m%d")
    own, further = replace(PLAIN, also=[other]).parts
    assert (own.time, further.time) == (Time(), Time("ms", "Asia/Tokyo", "%Y%m%d"))
    (event,) = by_json(further, [{"id": "e", "day": "20240501", "user": "u"}]).events
    assert event["event_time"] == ms_of(datetime(2024, 5, 1), "Asia/Tokyo")  # noqa: DTZ001


# --- columns by a clock -------------------------------------------------------------------------------------------


@given(seconds=st.lists(st.integers(631_152_000, 1_767_225_600), min_size=1, max_size=20), zone=zones)
def test_columns_show_the_hour_and_the_weekday_of_the_zone(seconds: list[int], zone: str) -> None:
    computed = {
        "hour": local_hour("event_time", zone),
        "weekday": local_weekday("event_time", zone),
        "night": hour_within("event_time", 0, 6, zone=zone),
        "weekend": weekday_within("event_time", 5, 6, zone=zone),
    }
    stream = replace(PLAIN, computed=computed)
    shown = [datetime.fromtimestamp(second, zoneinfo.ZoneInfo(zone)) for second in seconds]
    for event, clock in zip(by_json(stream, rows_of([second * 1000 for second in seconds])).events, shown, strict=True):
        assert (event["hour"], event["weekday"]) == (clock.hour, clock.weekday())
        assert (event["night"], event["weekend"]) == (float(clock.hour <= 6), float(clock.weekday() >= 5))


def test_a_zone_of_a_column_is_kept_and_checked() -> None:
    computed = {
        "hour": local_hour("event_time", "Asia/Tokyo"),
        "night": hour_within("event_time", 0, 6, zone="Asia/Tokyo"),
    }
    counted = FeatureSet(Entity("user", {"user": "string"}), replace(PLAIN, computed=computed), [Mean("hour")], ["1h"])
    view = FeatureView("v", sets=[counted])
    (again,) = views_of_text(views_text([view]))
    assert (again, again.schema_hash) == (view, view.schema_hash)
    for wrong in (local_hour("event_time", "Tokyo"), weekday_within("event_time", 0, 1, zone="localtime")):
        with pytest.raises(DefinitionError, match="a time zone of IANA"):
            replace(PLAIN, computed={"x": wrong})


# --- definitions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"time_zone": "Europe/Berlln"}, "a time zone of IANA"),
        ({"time_zone": "localtime"}, "a time zone of IANA"),
        ({"time_zone": "../../etc/passwd"}, "a time zone of IANA"),
        ({"time_format": "%d.%m.%Y"}, "a zone, as texts of this format have none"),
        ({"time_format": "%H:%M", "time_zone": "UTC"}, "a year, a month and a day"),
        ({"time_format": "%d.%m.%Y %d", "time_zone": "UTC"}, "each part once"),
        ({"time_format": "%Y-%m-%d %I:%M", "time_zone": "UTC"}, "both %I and %p"),
        ({"time_format": "%Q", "time_zone": "UTC"}, "a pattern of"),
        ({"time_format": "iso", "time_zone": "UTC"}, "a pattern of"),
        ({"time_format": "%Y-%d-%mT%H:%M:%SZ", "time_zone": "UTC"}, "does not read RFC 3339 as another time"),
        ({"time_format": "%Y-%m-%dT%H:%M:%SZ", "time_zone": "Asia/Tokyo"}, "does not read RFC 3339 as another time"),
        ({"time_format": 7}, "a list of formats"),
        ({"time_unit": "h"}, "a time_unit of s, ms, us, ns"),
    ],
)
def test_how_times_cannot_be_declared_says_what_could_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told) as caught:
        replace(PLAIN, **options)
    assert "stream 'visits': event_time" in str(caught.value)


def test_a_view_with_declared_times_comes_back_as_it_was_and_others_keep_their_hash() -> None:
    def view_of(stream: Stream) -> FeatureView:
        counted = FeatureSet(Entity("user", {"user": "string"}), stream, [Count()], ["1h"])
        return FeatureView("v", sets=[counted])

    declared = view_of(replace(PLAIN, time_zone="Europe/Berlin", time_format=["%d.%m.%Y", "epoch"]))
    (again,) = views_of_text(views_text([declared]))
    assert (again, again.schema_hash) == (declared, declared.schema_hash)
    assert "time_zone" not in views_text([view_of(PLAIN)])
    assert view_of(PLAIN).schema_hash == HASH_BEFORE
    assert declared.schema_hash != HASH_BEFORE
