"""durations: how a file is split into what is learned from and tested on, and the rows that stand beside the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from features.definitions import Regressor
from features.definitions.repo import load_repo
from features.errors import UsageError
from headrace.cli import cli
from models.event_model import EventModelColumns
from training.protocols.events.event_models import chosen_model, joined, months, read_events_of, run, split_by_month

REPO_FILE = Path(__file__).parents[2] / "feature_repo" / "rides.py"
REPO = load_repo(REPO_FILE)
COLUMNS = EventModelColumns.of(REPO, REPO.models["arrival"])
ZONE = "America/New_York"


def trips(folder: Path, name: str, first: str, days: int, count: int = 1_500, seed: int = 0) -> Path:
    """Trips of 5 zones whose minutes depend on the distance and the zones; every 50th lasts 3 hours."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp(first) + pd.to_timedelta(np.sort(rng.uniform(0, days, count)), unit="D").floor("s")
    zones = rng.integers(1, 6, (2, count))
    distance = np.round(rng.gamma(2.0, 2.0, count) + np.abs(zones[0] - zones[1]), 2)
    minutes = 3 + 2.5 * distance + zones[0] + rng.normal(0, 1, count)
    minutes[::50] = 180
    end = start + pd.to_timedelta(np.maximum(minutes, 2), unit="m").round("s")
    table = {
        "lpep_pickup_datetime": pa.array(start.to_numpy(), pa.timestamp("us")),
        "lpep_dropoff_datetime": pa.array(end.to_numpy(), pa.timestamp("us")),
        "PULocationID": zones[0],
        "DOLocationID": zones[1],
        "trip_distance": distance,
    }
    pq.write_table(pa.table(table), folder / name)
    return folder / name


def read(*paths: Path) -> list[Mapping[str, pa.Table]]:
    return read_events_of(paths, "green-taxi", REPO, COLUMNS)


def local(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(ZONE)).timestamp() * 1_000)


def test_the_last_month_of_a_file_is_its_test(tmp_path: Path) -> None:
    path = trips(tmp_path, "a.parquet", "2022-01-01", 59)
    split = split_by_month(read(path), COLUMNS, ZONE)
    assert vars(split) == {
        "start": local("2022-01-01"),
        "middle": local("2022-02-01"),
        "test": local("2022-02-01"),
        "end": local("2022-03-01"),
    }
    named = split_by_month(read(path), COLUMNS, ZONE, "2022-02-20")
    assert (named.middle, named.end) == (local("2022-02-20"), local("2022-03-01"))


def test_of_two_files_each_is_a_part(tmp_path: Path) -> None:
    files = [trips(tmp_path, "a.parquet", "2022-01-01", 31), trips(tmp_path, "b.parquet", "2022-04-01", 30, seed=1)]
    split = split_by_month(read(*files), COLUMNS, ZONE)
    assert (split.middle, split.test, split.end) == (local("2022-02-01"), local("2022-04-01"), local("2022-05-01"))
    with pytest.raises(UsageError, match="after the one that is learned from"):
        split_by_month(read(*files[::-1]), COLUMNS, ZONE)


def test_one_month_alone_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="events of two months"):
        split_by_month(read(trips(tmp_path, "a.parquet", "2022-01-01", 31)), COLUMNS, ZONE)


@given(st.lists(st.integers(946_684_800_000, 1_893_456_000_000), min_size=1, max_size=50))
def test_every_event_lies_in_a_month_of_its_zone_and_stray_ones_in_none(times: list[int]) -> None:
    parts = months(np.array(times), ZONE)
    for time in times:
        begins = pd.Timestamp(time, unit="ms", tz=ZONE).normalize().replace(day=1)
        assert sum(part.start <= time < part.end for part in parts) == 1
        assert int(begins.timestamp() * 1_000) in {part.start for part in parts}
    stray = months(np.array([*times, *[1_893_456_000_000 + 40 * 86_400_000] * 100 * len(times)]), ZONE)
    assert len(stray) <= len(parts) + 1
    assert stray[-1].end > 1_893_456_000_000


def test_the_baselines_are_the_mean_and_the_median_by_route_of_what_was_learned_from(tmp_path: Path) -> None:
    files = read(trips(tmp_path, "a.parquet", "2022-01-01", 59))
    split = split_by_month(files, COLUMNS, ZONE)
    report = run("durations", joined(files, COLUMNS), COLUMNS, split)
    ended = (
        files[0]["dropoffs"]
        .to_pandas()
        .merge(files[0]["pickups"].to_pandas()[["event_id", "event_time"]], on="event_id", suffixes=("", "_began"))
    )
    ended = ended[(ended.minutes >= 1) & (ended.minutes <= 60)]
    learned = ended[(ended.event_time_began < split.middle) & (ended.known_at < split.test)]
    tested = ended[ended.event_time_began >= split.test]
    assert report["events"] == {"train": len(learned), "test": len(tested)}
    route = ["pickup_zone", "dropoff_zone"]
    for name, middle in (("mean", "mean"), ("median", "median")):
        by_route = learned.groupby(route).minutes.agg(middle).rename("said")
        said = tested.join(by_route, on=route).said.fillna(learned.minutes.agg(middle))
        row = next(row for row in report["rows"] if row["model"] == f"{name}_by_pickup_zone_dropoff_zone")
        assert row["mae"] == pytest.approx(np.abs(said - tested.minutes).mean())
    assert report["rows"][-1]["model"] == "arrival"
    assert report["rows"][-1]["mae"] < 0.5 * report["rows"][0]["mae"]  # the distance says most of it


def test_the_command_prints_the_report_and_says_what_is_missing(tmp_path: Path) -> None:
    path = trips(tmp_path, "a.parquet", "2022-01-01", 59)
    command = ["evaluate", "durations", "--repo", str(REPO_FILE)]
    done = CliRunner().invoke(cli, [*command, "--data", str(path), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["protocol"], report["baseline"]) == ("durations", "mean_by_pickup_zone_dropoff_zone")
    for options, said in (
        ([], "--data, or --train and --test"),
        (["--data", str(path), "--model", "nobody"], "has arrival"),
        (["--data", str(path), "--zone", "Nowhere"], "a time zone"),
        (["--data", str(path), "--test-start", "soon"], "a date"),
        (["--data", str(path), "--test-start", "2030-01-01"], "two parts of time"),
        (["--train", str(path), "--test", str(path), "--test-start", "2022-02-01"], "--test-start, or --train"),
        (["--data", str(tmp_path / "none.parquet")], "a file that exists"),
    ):
        refused = CliRunner().invoke(cli, [*command, *options])
        assert refused.exit_code == 2, refused.output
        assert said in refused.output


def test_a_repo_without_such_a_model_says_so() -> None:
    with pytest.raises(UsageError, match="Regressor of the feature repo; got 0 of them"):
        chosen_model(load_repo(REPO_FILE.with_name("cards.py")), Regressor, None)
