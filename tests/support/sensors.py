"""A domain without labels: readings of sensors with daily habits, some of them out of the ordinary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from journeys import MINUTE, START_MS, events_of

from features.definitions import FeatureRepo, load_repo

DEFINED = """
from headrace import (
    Anomaly, Count, Entity, FalseAlerts, FeatureSet, FeatureView, Habit, Max, Mean, Min, Quantile, Rule, Stream, Window,
    above,
)

sensor = Entity("sensor", keys={"sensor_id": "string"})
readings = Stream("readings", "readings", fields={"sensor_id": "string", "value": "float64"})
notes = Stream("notes", "notes", fields={"sensor_id": "string"})
AGGREGATIONS = [Count(), Min("value"), Max("value"), Mean("value"), Quantile("value", 0.5)]
sensor_habits = FeatureView("sensor_habits", sets=[
    FeatureSet(sensor, readings, AGGREGATIONS, [Window("7d", tile="6h")], name="reading"),
    FeatureSet(sensor, readings, [Mean("value")], [Window("1h", tile="1m")], name="reading"),
])
OF = "sensor_reading_value_"
HABITS = [
    Habit(low=OF + "min_7d", high=OF + "max_7d"),
    Habit(middle=OF + "p50_7d", low=OF + "min_7d", high=OF + "max_7d"),
    Habit(middle=OF + "mean_7d", low=OF + "min_7d", high=OF + "max_7d", of=OF + "mean_1h"),
]
unusual = Anomaly(
    "unusual", readings, "value", HABITS, "sensor_id", FalseAlerts(1.0), least={"sensor_reading_count_7d": 48},
    rules=[Rule("very_unusual", {"score": above(2.0)})],
)
judged = Anomaly("judged", readings, "value", HABITS, "sensor_id", least={"sensor_reading_count_7d": 48}, labels=notes)
"""

SENSORS, STEP = 12, 30 * MINUTE


def sensors_repo(folder: Path) -> FeatureRepo:
    """The repo of these definitions, in a file of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sensors.py").write_text(DEFINED, encoding="utf-8")
    return load_repo(folder)


def simulated_readings(repo: FeatureRepo, days: int = 21, seed: int = 2) -> Mapping[str, pa.Table]:
    """Stream name → its events: each sensor has a scale and one incident of its own, and rises slowly."""
    rng = np.random.default_rng(seed)
    count = days * 48
    hours = np.arange(count) / 2
    parts = []
    for number in range(SENSORS):
        scale = 10.0 ** (number % 4)
        value = scale * (5 + 0.2 * hours / 24 + np.sin(hours / 24 * 2 * np.pi) + rng.normal(0, 0.15, count))
        begins = int(rng.integers(15 * 48, count - 10))
        value[begins : begins + 3] += scale * rng.choice([-5.0, 5.0])
        at = START_MS + np.arange(count) * STEP + number
        ids = np.array([f"{number}-{row}" for row in range(count)])
        in_incident = (np.arange(count) >= begins) & (np.arange(count) < begins + 3)
        parts.append((ids, at, np.full(count, f"s{number}"), np.round(value, 4), in_incident))
    ids, at, sensor, value, incident = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {
        "readings": events_of(
            repo, "readings", {"event_id": ids, "event_time": at, "sensor_id": sensor, "value": value}
        ),
        "notes": events_of(
            repo,
            "notes",
            {"event_id": ids[incident], "event_time": at[incident], "sensor_id": sensor[incident]},
        ),
    }
