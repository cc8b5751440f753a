"""Journeys: demand, supply and surge by zone are a recount of the trips, and a route's usual minutes too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from whole_files import whole

from features.definitions.repo import load_repo
from features.events.columns import entity_keys
from features.history.point_in_time_join import Spine, point_in_time

REPO = load_repo(Path(__file__).parents[2] / "feature_repo" / "rides.py")
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
ASKED = 1_500


@pytest.fixture(scope="module")
def trips(real_file: Callable[[str], Path]) -> Mapping[str, pa.Table]:
    return whole(real_file("green-taxi.parquet"), "green-taxi", REPO.streams).events


def asked(trips: Mapping[str, pa.Table], seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Pick-ups, and an instant up to ten minutes after each."""
    rng = np.random.default_rng(seed)
    rows = trips["pickups"].to_pandas().iloc[rng.integers(0, trips["pickups"].num_rows, ASKED)]
    return rows, rows.event_time.to_numpy() + rng.integers(0, 10 * MINUTE, ASKED)


def features(view: str, keys: pd.DataFrame, as_of: np.ndarray, trips: Mapping[str, pa.Table]) -> pd.DataFrame:
    entity = REPO.views[view].entity
    spine = Spine(entity_keys({key: pa.array(keys[key].to_numpy()) for key in entity.keys}, entity), as_of)
    return point_in_time(REPO.views[view], spine, trips).to_table().to_pandas()


def counted(times: np.ndarray, since: int, until: int) -> int:
    """The times of [since, until]; they rise."""
    return int(np.searchsorted(times, until, "right") - np.searchsorted(times, since))


def test_surge_is_pick_ups_over_drop_offs_of_the_zone_by_a_recount(trips: Mapping[str, pa.Table], seed: int) -> None:
    rows, as_of = asked(trips, seed)
    got = features("zone_now", rows, as_of, trips)
    by_zone = {
        name: {zone: np.sort(part.event_time) for zone, part in table.to_pandas().groupby("zone")}
        for name, table in trips.items()
    }
    for length, tile, label in ((15 * MINUTE, 1_000, "15m"), (HOUR, MINUTE, "1h")):
        since = (as_of - length) // tile * tile
        demand, supply = (
            np.array(
                [
                    counted(by_zone[stream].get(zone, np.empty(0)), start, end)
                    for zone, start, end in zip(rows.zone, since, as_of, strict=True)
                ]
            )
            for stream in ("pickups", "dropoffs")
        )
        assert np.array_equal(got[f"zone_demand_count_{label}"], demand)
        assert np.array_equal(got[f"zone_supply_count_{label}"], supply)
        expected = np.divide(demand, supply, out=np.full(len(rows), np.nan), where=supply > 0)
        np.testing.assert_allclose(got[f"zone_surge_{label}"].astype(float), expected, rtol=1e-12)
    assert demand.min() >= 1  # the pick-up itself


def test_a_routes_usual_minutes_are_the_mean_of_its_ended_journeys(trips: Mapping[str, pa.Table], seed: int) -> None:
    rows, as_of = asked(trips, seed)
    got = features("route_times", rows, as_of, trips)
    ended = trips["dropoffs"].to_pandas()
    routes = dict(list(ended[ended.minutes <= 60].sort_values("event_time").groupby(["pickup_zone", "dropoff_zone"])))
    expected = []
    for start, stop, end in zip(rows.pickup_zone, rows.dropoff_zone, as_of, strict=True):
        route = routes.get((start, stop))
        since = (end - 28 * DAY) // DAY * DAY
        times = np.empty(0) if route is None else route.event_time.to_numpy()
        first, last = np.searchsorted(times, since), np.searchsorted(times, end, "right")
        expected.append(route.minutes.iloc[first:last].mean() if last > first else np.nan)
    np.testing.assert_allclose(got["route_ride_minutes_mean_28d"].astype(float), expected, rtol=1e-9)
