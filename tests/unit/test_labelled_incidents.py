"""Alerts beside labelled windows: what is found, what is false, and what does not count."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from features.errors import UsageError
from headrace.cli import cli
from training.protocols.events.incidents import (
    BASELINES,
    WEEK_MS,
    IncidentCounts,
    Series,
    found,
    row,
    series_of,
)

HOUR = 3_600_000
QUIET_MS = 6 * HOUR


def series(values: list[float], windows: list[tuple[int, int]] = (), step_ms: int = HOUR) -> Series:
    labelled = np.zeros(len(values), bool)
    for start, end in windows:
        labelled[start:end] = True
    return Series("s", np.arange(len(values), dtype=np.int64) * step_ms, np.array(values, float), labelled)


def flagged(size: int, *rows: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[list(rows)] = True
    return mask


def test_an_incident_is_found_once_and_an_alert_outside_is_false():
    one = series([0.0] * 100, [(30, 40), (60, 70)])
    counts = found(one, flagged(100, 32, 39, 50, 90), QUIET_MS)
    assert counts == IncidentCounts(
        2, 1, 2, 84 * HOUR / WEEK_MS
    )  # 39 comes 7 hours after 32: a second alert, neither right nor false


def test_what_begins_before_a_window_does_not_find_it_while_it_lasts():
    one = series([0.0] * 100, [(30, 40)])
    assert found(one, flagged(100, *range(28, 45)), QUIET_MS) == IncidentCounts(1, 0, 1, 84 * HOUR / WEEK_MS)


def test_flagged_readings_within_the_quiet_time_are_one_alert():
    one = series([0.0] * 100)
    hours = QUIET_MS // HOUR
    assert one.alerts(flagged(100, 20, 20 + hours, 21 + 2 * hours), QUIET_MS).tolist() == [
        20 * HOUR,
        (21 + 2 * hours) * HOUR,
    ]


def test_nobody_is_tested_on_the_first_readings():
    one = series([0.0] * 100, [(2, 8), (10, 20)])
    assert one.first == 15
    assert one.windows.tolist() == [[10 * HOUR, 19 * HOUR]]
    assert found(one, flagged(100, 3, 14), QUIET_MS) == IncidentCounts(1, 0, 0, 84 * HOUR / WEEK_MS)
    assert series([0.0] * 10_000).first == 750


def test_f1_is_of_found_incidents_and_false_alerts():
    counts = row("m", [IncidentCounts(3, 2, 1, 2.0), IncidentCounts(1, 0, 0, 2.0)])
    assert counts["precision"] == pytest.approx(2 / 3)
    assert counts["recall"] == pytest.approx(1 / 2)
    assert counts["f1"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert counts["false_alerts_a_week"] == pytest.approx(0.25)
    assert counts["most_false_alerts_a_week"] == pytest.approx(0.5)
    assert counts["f1_low"] <= counts["f1"] <= counts["f1_high"]


def test_without_incidents_and_alerts_all_metrics_are_0():
    assert [row("m", [IncidentCounts(0, 0, 0, 1.0)])[name] for name in ("f1", "precision", "recall")] == [0, 0, 0]


def test_the_band_and_the_forest_flag_a_value_that_the_first_readings_never_had():
    rng = np.random.default_rng(1)
    one = series([*rng.exponential(1, 4_000), 50.0, *rng.exponential(1, 1_000)])
    for name, flags in BASELINES.items():
        assert flags(one)[4_000], name
        assert flags(one).sum() < 200


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.booleans()), max_size=30))
def test_every_reading_is_in_the_series_of_its_sensor_in_the_order_of_time(rows):
    sensor = np.array([name for name, _, _ in rows], dtype=object)
    time = np.array([HOUR * at for _, at, _ in rows], dtype=np.int64)
    value = np.array([np.nan if lacks else 1.0 for _, _, lacks in rows])
    usable = {name: [t for n, t, lacks in rows if n == name and not lacks] for name in "ab"}
    expected = {
        name: HOUR * np.sort(times) for name, times in usable.items() if len(times) > 1 and np.ptp(times[:]) > 0
    }
    try:
        parts = series_of(sensor, time, value, np.zeros(len(rows), bool))
    except UsageError:
        parts = []
    got = {one.name: one.time.tolist() for one, _ in parts}
    assert got == {name: times.tolist() for name, times in expected.items()}
    for one, places in parts:
        assert set(sensor[places]) == {one.name}


def readings_file(folder: Path, name: str, sensors: int = 6, seed: int = 0) -> Path:
    """Four weeks of readings of each sensor, with a day's season, and one labelled incident in the third."""
    rng = np.random.default_rng(seed)
    count, parts = 28 * 48, []
    for number in range(sensors):
        value = 10.0**number * (5 + np.sin(np.arange(count) / 48 * 2 * np.pi) + rng.normal(0, 0.1, count))
        labelled = np.zeros(count, np.int8)
        labelled[800:848] = 1
        value[820] *= 3
        time = pd.Timestamp("2014-04-01") + pd.to_timedelta(np.arange(count) * 30, unit="m")
        parts.append(pd.DataFrame({"series": f"s{number}", "timestamp": time, "value": value, "in_window": labelled}))
    pd.concat(parts).to_parquet(folder / name)
    return folder / name


def test_the_command_finds_what_is_beyond_a_sensors_habit(tmp_path: Path):
    path, other = readings_file(tmp_path, "a.parquet"), readings_file(tmp_path, "b.parquet", seed=1)
    repo = str(Path(__file__).parents[2] / "feature_repo" / "machines.py")
    for options in (["--data", str(path)], ["--train", str(other), "--test", str(path)]):
        done = CliRunner().invoke(cli, ["evaluate", "incidents", "--repo", repo, *options, "--json"])
        assert done.exit_code == 0, done.output
        report = json.loads(done.stdout)
        assert (report["protocol"], report["series"]) == ("incidents", 6)
        assert [row["model"] for row in report["rows"]] == [*BASELINES, "unusual-readings"]
        ours = report["rows"][-1]
        assert (ours["incidents"], ours["found"]) == (6, 6)
        assert ours["false_alerts_a_week"] <= 1
        assert report["f1_to_best_baseline"] == pytest.approx(
            ours["f1"] / max(row["f1"] for row in report["rows"][:-1])
        )


def test_labels_play_no_part_in_what_is_flagged(tmp_path: Path):
    path = readings_file(tmp_path, "a.parquet")
    table = pd.read_parquet(path)
    moved = tmp_path / "moved.parquet"
    table.assign(in_window=np.roll(table.in_window, 100)).to_parquet(moved)
    repo = str(Path(__file__).parents[2] / "feature_repo" / "machines.py")
    thresholds = [
        json.loads(
            CliRunner().invoke(cli, ["evaluate", "incidents", "--repo", repo, "--data", str(file), "--json"]).stdout
        )["threshold"]
        for file in (path, moved)
    ]
    assert thresholds[0] == thresholds[1]


def test_on_real_series_it_is_above_the_better_baseline(real_file: Callable[[str], Path]):
    repo = str(Path(__file__).parents[2] / "feature_repo" / "machines.py")
    path = str(real_file("machines.parquet"))
    done = CliRunner().invoke(cli, ["evaluate", "incidents", "--repo", repo, "--data", path, "--json"])
    report = json.loads(done.stdout)
    assert report["f1_to_best_baseline"] > 1.3
    assert report["rows"][-1]["false_alerts_a_week"] < 0.2
