"""A silence alerts once: by the event that ends it or by the clock, wherever batches are cut and drivers die."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from told_alerts import as_read

from features.definitions import Entity, Silence, Stream, below
from features.definitions.repo import FeatureRepo, load_repo
from features.errors import DefinitionError
from features.events import event_schema
from streaming.alerts.sinks.delta import rows_of
from streaming.incidents import LastTimes, SilenceWatch, forget_silences
from streaming.incidents.silences import RUNS, name_of, runs_of

T0 = 1_750_000_000_000
SENSOR = Entity("sensor", {"plant": "string", "sensor_id": "int64"})
READINGS = Stream("readings", "readings", {"plant": "string", "sensor_id": "int64", "value": "float64"})
STOPPED = Silence("stopped", SENSOR, READINGS, "10ms", resolved=True)
REPO = """
from headrace import Count, Entity, FeatureSet, FeatureView, Silence, Stream

sensor = Entity("sensor", keys={"plant": "string", "sensor_id": "int64"})
readings = Stream("readings", "readings", {"plant": "string", "sensor_id": "int64", "value": "float64"})
by_sensor = FeatureView("by_sensor", [FeatureSet(sensor, readings, [Count()], ["1h"])])
stopped = Silence("stopped", sensor, readings, "10ms", resolved=True)
"""
Arrival = tuple[int, int]
"""Milliseconds since the one before, and the sensor."""

ARRIVALS = st.lists(st.tuples(st.integers(0, 25), st.integers(1, 3)), max_size=25)


def table_of(arrivals: Sequence[Arrival], value: float = 1.0) -> pa.Table:
    known_at = T0 + np.cumsum([after for after, _ in arrivals], dtype=np.int64)
    count = len(arrivals)
    columns = {
        "event_id": [f"e{number}" for number in range(count)],
        "event_time": known_at,
        "known_at": known_at,
        "partition": [0] * count,
        "offset": list(range(count)),
        "plant": ["north"] * count,
        "sensor_id": [sensor for _, sensor in arrivals],
        "value": [value] * count,
    }
    return pa.table(columns, schema=event_schema(READINGS))


def expected(arrivals: Sequence[Arrival], clock_ms: int) -> set[tuple[str, int, int]]:
    """Source, sensor and last arrival of every silence, by the definition."""
    last, now, found = dict[int, int](), T0, set()
    for after, sensor in arrivals:
        now += after
        if sensor in last and now - last[sensor] > 10:
            found |= {("silence:stopped", sensor, last[sensor]), ("resolved:stopped", sensor, last[sensor])}
        last[sensor] = now
    return found | {("silence:stopped", sensor, at) for sensor, at in last.items() if clock_ms - at > 10}


class Fold:
    """A generation that has read everything up to a time."""

    def __init__(self, repo: FeatureRepo, read_up_to: int | None) -> None:
        self.repo, self._read_up_to = repo, read_up_to

    def read_up_to(self) -> int | None:
        return self._read_up_to


class Drivers:
    """One driver after another on the same file, and what they sent."""

    def __init__(self, path: Path, silence: Silence = STOPPED) -> None:
        self.path, self.silence, self.sent = path, silence, dict[str, Mapping[str, Any]]()
        self.start()

    def start(self) -> None:
        self.times = LastTimes(self.path)
        self.watch = SilenceWatch([self.silence], self.times, self.take)

    def take(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        for alert in alerts:
            assert self.sent.setdefault(alert["alert_id"], alert) == alert

    def hear(self, events: pa.Table, *, dies: bool = False) -> None:
        runs = runs_of(self.silence, events)
        if dies:  # after the alerts were sent, before it remembers
            self.times.advance = lambda *_: (_ for _ in ()).throw(ConnectionError)
            with pytest.raises(ConnectionError):
                self.watch.hear(self.silence, runs)
            self.start()
        self.watch.hear(self.silence, runs)

    @property
    def found(self) -> set[tuple[str, int, int]]:
        return {(each["source"], each["event"]["sensor_id"], each["event"]["known_at"]) for each in self.sent.values()}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> FeatureRepo:
    file = tmp_path_factory.mktemp("sensors") / "sensors.py"
    file.write_text(REPO, encoding="utf-8")
    return load_repo(file)


@given(ARRIVALS, st.data())
def test_the_silences_are_the_gaps_wherever_batches_are_cut_and_the_clock_looks(repo, arrivals, data):
    events = table_of(arrivals)
    with TemporaryDirectory() as folder:
        drivers, start = Drivers(Path(folder) / "silences.db"), 0
        while start < events.num_rows:
            size = data.draw(st.integers(1, events.num_rows - start), "size")
            drivers.hear(events.slice(start, size), dies=data.draw(st.booleans(), "dies"))
            drivers.hear(events.slice(0, start + size))  # a generation that reads them later
            start += size
            up_to = events["known_at"][start].as_py() if start < events.num_rows else None
            drivers.watch.tick([Fold(repo, up_to), Fold(repo, None)])
        clock_ms = T0 + sum(after for after, _ in arrivals) + data.draw(st.integers(0, 30), "clock")
        for _ in range(2):
            drivers.watch.tick([Fold(repo, clock_ms)])
        assert drivers.found == expected(arrivals, clock_ms)
        drivers.watch.close()


def test_a_stream_that_is_behind_raises_nothing(repo, tmp_path):
    drivers = Drivers(tmp_path / "silences.db")
    drivers.hear(table_of([(0, 1)]))
    drivers.watch.tick([Fold(repo, None)])
    assert drivers.sent == {}
    drivers.watch.tick([Fold(repo, T0 + 11)])
    assert drivers.found == {("silence:stopped", 1, T0)}


def test_by_the_clock_of_a_replay_only_an_entity_that_others_have_gone_on_without_is_silent(repo, tmp_path):
    drivers = Drivers(tmp_path / "silences.db", replace(STOPPED, clock="stream"))
    drivers.hear(table_of([(0, 1), (5, 2)]))
    drivers.watch.tick([Fold(repo, T0 + 10**9)])
    assert drivers.sent == {}
    drivers.hear(table_of([(20, 2)]))
    drivers.watch.tick([Fold(repo, T0 + 10**9)])
    assert ("silence:stopped", 1, T0) in drivers.found
    assert ("silence:stopped", 2, T0 + 20) not in drivers.found


def test_only_events_that_meet_the_filter_and_have_the_whole_key_count():
    silence = replace(STOPPED, where={"value": below(0)})
    assert runs_of(silence, table_of([(0, 1)])).equals(RUNS.empty_table())
    assert runs_of(silence, table_of([(0, 1)], -1.0)).num_rows == 1
    nobody = table_of([(0, 1)]).set_column(5, "plant", pa.array([None], pa.string()))
    assert runs_of(STOPPED, nobody).num_rows == 0


def test_more_silences_than_are_sent_at_once_are_all_raised(repo, tmp_path, monkeypatch):
    monkeypatch.setattr("streaming.incidents.silences.MOST_AT_ONCE", 7)
    drivers = Drivers(tmp_path / "silences.db")
    drivers.hear(table_of([(0, sensor) for sensor in range(50)]))
    drivers.watch.tick([Fold(repo, T0 + 11)])
    assert len(drivers.sent) == 50


def test_an_entity_is_forgotten_after_a_while_or_by_command_and_its_id_is_in_no_file(repo, tmp_path):
    path = tmp_path / "silences.db"
    drivers = Drivers(path, replace(STOPPED, forget_after="1h"))
    drivers.hear(table_of([(0, 1234567), (0, 7654321)]))
    forgotten = {"silences": [drivers.silence], "entity": SENSOR, "key": "5:north,7:1234567,"}
    assert forget_silences(path, **forgotten, dry_run=True) == 1
    assert forget_silences(path, **forgotten, dry_run=False) == 1
    assert forget_silences(path, **forgotten, dry_run=False) == 0
    drivers.watch.close()
    drivers.start()
    drivers.watch.tick([Fold(repo, T0 + 11)])
    assert {sensor for _, sensor, _ in drivers.found} == {7654321}
    drivers.watch.tick([Fold(repo, T0 + 3_600_001)])
    assert drivers.times.of(name_of(drivers.silence), ["5:north,7:7654321,"]) == {}
    drivers.watch.close()
    assert all(b"1234567" not in file.read_bytes() for file in tmp_path.iterdir())


def test_another_filter_of_the_same_name_begins_anew(tmp_path):
    first = Drivers(tmp_path / "silences.db")
    first.hear(table_of([(0, 1)]))
    first.watch.close()
    other = Drivers(tmp_path / "silences.db", replace(STOPPED, where={"value": below(9)}))
    other.hear(table_of([(50, 1)]))
    assert other.sent == {}
    assert other.times.of(name_of(STOPPED), ["5:north,1:1,"]) == {}


def test_sinks_take_its_alerts_as_any_others(tmp_path):
    drivers = Drivers(tmp_path / "silences.db")
    drivers.hear(table_of([(0, 1), (20, 1)]))
    rows = rows_of(as_read(list(drivers.sent.values())), T0).to_pylist()
    assert [row["alert_id"] for row in rows] == [
        f"readings/5:north,1:1,/{T0}/stopped/silence:stopped",
        f"readings/5:north,1:1,/{T0}/stopped/resolved:stopped",
    ]
    assert rows[0]["event"].startswith('{"plant": "north", "sensor_id": 1, "known_at": 1750000000000')


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"longer_than": "0s"}, "longer_than"),
        ({"forget_after": "5ms"}, "forget_after"),
        ({"clock": "moon"}, "clock"),
        ({"resolved": 1}, "resolved"),
        ({"where": {"pressure": 1}}, "pressure"),
        ({"entity": Entity("user", {"user_id": "string"})}, "user_id"),
    ],
)
def test_what_cannot_be_a_silence_is_refused(wrong, named):
    with pytest.raises(DefinitionError, match=named):
        replace(STOPPED, **wrong)


def test_a_stream_that_no_view_of_the_entity_reads_is_refused_at_load(tmp_path):
    file = tmp_path / "sensors.py"
    file.write_text(REPO.replace("by_sensor = ", "# by_sensor = "), encoding="utf-8")
    with pytest.raises(DefinitionError, match="a view of 'sensor' that reads stream 'readings'"):
        load_repo(file)
