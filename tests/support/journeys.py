"""A domain with numbers that become known later: journeys, and their arrivals, as events of a feature repo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.definitions import FeatureRepo, load_repo
from features.events.parsing import event_schema

DEFINED = """
from headrace import (
    Count, Entity, FeatureSet, FeatureView, Mean, Regressor, Rule, Stream, Window, above, difference,
)

route = Entity("route", keys={"start": "int64", "stop": "int64"})
KEYS = {"start": "int64", "stop": "int64"}
journeys = Stream("journeys", "journeys", fields={**KEYS, "km": "float64"})
arrivals = Stream("arrivals", "arrivals", fields={**KEYS, "minutes": "float64"})
NOW = [Window("1d", tile="1s"), Window("7d", tile="1m")]
routes = FeatureView("routes", sets=[
    FeatureSet(route, journeys, [Count()], NOW, name="journey"),
    FeatureSet(route, arrivals, [Count(), Mean("minutes")], NOW, name="arrival"),
])
INPUTS = ["km", "start", "route_journey_count_24h", "route_arrival_minutes_mean_7d"]
duration = Regressor(
    "duration", journeys, arrivals, INPUTS, label="minutes", group="start", by=["start", "stop"], within=(1, 60),
    label_delay="1h", derived={"over_usual": difference("score", "route_arrival_minutes_mean_7d")},
    rules=[Rule("long", {"score": above(25)}), Rule("slow", {"over_usual": above(6)})],
)
"""

MINUTE, START_MS = 60_000, 1_699_920_000_000


def journeys_repo(folder: Path, defined: str = DEFINED) -> FeatureRepo:
    """The repo of these definitions, in a file of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "journeys.py").write_text(defined, encoding="utf-8")
    return load_repo(folder)


def simulated_journeys(
    repo: FeatureRepo, count: int = 4_000, days: float = 20, seed: int = 1
) -> Mapping[str, pa.Table]:
    """Stream name → its events: 12 places; a journey takes time by its distance and its start."""
    rng = np.random.default_rng(seed)
    at = START_MS + np.sort(rng.integers(0, int(days * 1_440) * MINUTE, count))
    start, stop = rng.integers(0, 12, (2, count))
    km = np.round(1 + 2.0 * np.abs(start - stop) + rng.gamma(2.0, 2.0, count), 2)
    minutes = np.round(2 + (1.5 + 0.1 * start) * km + rng.normal(0, 1.0, count), 2)
    minutes[rng.random(count) < 0.02] = 900.0  # a meter that somebody forgot
    minutes = np.maximum(minutes, 0.5)
    keys = {"start": start, "stop": stop}
    arrived = at + (minutes * MINUTE).astype(np.int64)
    came = (rng.random(count) > 0.03) & (arrived < at[-1])
    ids = np.array([f"j-{number}" for number in range(count)])
    return {
        "journeys": events_of(repo, "journeys", {"event_id": ids, "event_time": at, **keys, "km": km}),
        "arrivals": events_of(
            repo,
            "arrivals",
            {
                name: values[came]
                for name, values in {"event_id": ids, "event_time": arrived, **keys, "minutes": minutes}.items()
            },
        ),
    }


def events_of(repo: FeatureRepo, name: str, columns: Mapping[str, np.ndarray]) -> pa.Table:
    """These columns as events of the stream in the order of their times, each known when it happened."""
    order = np.argsort(columns["event_time"], kind="stable")
    schema, known = event_schema(repo.streams[name]), columns["event_time"][order]
    filled = {key: pa.array(values[order]) for key, values in columns.items()}
    filled |= {"known_at": pa.array(known), "partition": pa.array(np.zeros(len(order), np.int32))}
    filled["offset"] = pa.array(np.arange(len(order)))
    return pa.table({field.name: filled[field.name] for field in schema}).cast(schema)
