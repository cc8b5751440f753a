"""``headrace bench point-in-time``: training sets through Feast, beside its own duckdb store on the same files."""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.core import T0, Load, bench_views
from headrace.console import JSON, print_report, say
from streaming.fold import percentiles_ms

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

    from features.definitions import FeatureView

SPAN_MS = 30 * 86_400_000

COMMIT = 100_000

DEFINITIONS = "from headrace.bench.core import bench_views\nuser_bench, item_bench = bench_views()\n"

OURS = """\
project: bench
provider: local
registry: registry.db
offline_store:
  type: headrace.feast.ArchiveOfflineStore
  path: offline
entity_key_serialization_version: 3
"""

PEER = """\
project: peer
provider: local
registry: peer.db
offline_store:
  type: duckdb
entity_key_serialization_version: 3
"""


@click.command("point-in-time")
@click.option("--spine", default=200_000, show_default=True, type=click.IntRange(1), help="Rows that want features.")
@click.option(
    "--events", default=1_000_000, show_default=True, type=click.IntRange(1), help="Events in the offline store."
)
@click.option(
    "--repeat", default=3, show_default=True, type=click.IntRange(1), help="Measurements of each; the median is given."
)
@JSON
def point_in_time(spine: int, events: int, repeat: int, as_json: bool) -> None:
    """Feast's get_historical_features over the archive, beside Feast's duckdb store on the same files.

    Ours computes every feature from the events. The peer computes none: the table holds, beside each event, the values
    that our features had then, and the peer finds for each row the newest event of its entity within the ttl. Its
    values are those of the last event, and ours those of the time asked about. Both read the table anew each time.

    \b
    Example:
      headrace bench point-in-time --json
    """
    with TemporaryDirectory(prefix="headrace-") as folder, warnings.catch_warnings(action="ignore"):  # Feast's
        report = measure(Path(folder), spine, events, repeat)
    print_report(report, as_json, as_text)


def measure(folder: Path, spine: int, events: int, repeat: int) -> dict[str, Any]:
    """The whole report, as --json prints it."""
    view = bench_views()[0]
    say(f"writing {events:,} events with {len(view.features)} values each")
    load = Load(bench_views(), events, max(events // 100, 1), SPAN_MS)
    write_table(folder / "offline", load)
    frame = spine_frame(load, spine)
    stores = {"ours": own_store(folder), "peer": duckdb_store(folder, view)}
    references = [f"{view.name}:{name}" for name in view.names]
    seconds: dict[str, list[float]] = {name: [] for name in stores}
    rows: dict[str, int] = {}
    for again in range(repeat + 1):
        for name, store in stores.items():
            say(f"{name}, {again or 'to warm up'}")
            start = time.perf_counter()
            rows[name] = retrieved(store, frame, references)
            seconds[name] += [time.perf_counter() - start] if again else []
    sizes = {"spine": spine, "events": events, "features": len(view.features)}
    ours, peer = (figures(seconds[name], rows[name], spine) for name in ("ours", "peer"))
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    ratio = round(peer["seconds"] / ours["seconds"], 2)
    peer = {"name": peer_name(), **peer}
    return {"bench": "point-in-time", "machine": machine, "ours": {**ours, **sizes}, "peer": peer, "ratio": ratio}


def figures(seconds: list[float], rows: int, spine: int) -> dict[str, Any]:
    """Median, spread, rate, and how many of the spine's rows came back."""
    median = statistics.median(seconds)
    spread = {"seconds": round(median, 3), "min_s": round(min(seconds), 3), "max_s": round(max(seconds), 3)}
    times = percentiles_ms([1e3 * one for one in seconds])
    return {**spread, **times, "per_s": round(spine / median), "rows_back": rows}


def peer_name() -> str:
    """What the peer is."""
    import duckdb
    import feast

    name = f"Feast {feast.__version__} duckdb offline store (duckdb {duckdb.__version__})"
    return f"{name}: as-of join of ready values, no aggregation"


def write_table(folder: Path, load: Load) -> None:
    """The events as the archive has them, and beside each the values that its user's features had then."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from deltalake import write_deltalake

    from features.history import Spine, point_in_time

    view = load.views[0]
    at = load.events["event_time"].to_numpy()
    values = point_in_time(
        view, Spine(load.events["user_id"].combine_chunks(), at), {"activity": load.events}
    ).to_table()
    table = load.events.append_column("topic", pa.repeat(pa.scalar("bench.activity"), len(at)))
    table = table.append_column("event_timestamp", pc.cast(load.events["event_time"], pa.timestamp("ms", "UTC")))
    for name in values.column_names:
        table = table.append_column(name, values[name])
    for start in range(0, len(at), COMMIT):
        write_deltalake(folder / "activity", table.slice(start, COMMIT), mode="append")


def spine_frame(load: Load, count: int) -> pd.DataFrame:
    """Random users at random times of the span."""
    import numpy as np
    import pandas as pd

    users = np.char.add("user-", load.rng.integers(0, load.entities, count).astype(str))
    times = pd.to_datetime(load.rng.integers(T0, load.end, count), unit="ms", utc=True)
    return pd.DataFrame({"user_id": users, "event_timestamp": times})


def own_store(folder: Path) -> FeatureStore:
    """A Feast store whose views are ours."""
    from feast import FeatureStore

    from features.definitions import load_repo
    from features.feast import objects_of

    (folder / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    (folder / "feature_store.yaml").write_text(OURS, encoding="utf-8")
    store = FeatureStore(repo_path=str(folder))
    store.apply(list(objects_of(load_repo(folder)).values()))
    return store


def duckdb_store(folder: Path, view: FeatureView) -> FeatureStore:
    """A Feast store with the same features as columns of the same table."""
    import feast
    import ibis  # type: ignore[import-untyped]
    from feast.data_format import ParquetFormat

    from features.feast import feast_entities, feast_view

    ibis.get_backend().raw_sql("SET enable_progress_bar = false")  # it would stand in our output
    path = folder / "peer.yaml"
    path.write_text(PEER, encoding="utf-8")
    store = feast.FeatureStore(repo_path=str(folder), fs_yaml_file=path)
    entities = feast_entities(view.entity)
    known = feast_view(view, entities)
    table = feast.FileSource(
        name="values",
        path=str(folder / "offline" / "activity" / "*.parquet"),  # duckdb would download an extension for Delta
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    )
    store.apply(
        [
            *entities,
            feast.FeatureView(name=view.name, entities=entities, ttl=known.ttl, schema=known.schema, source=table),
        ]
    )
    return store


def retrieved(store: FeatureStore, frame: pd.DataFrame, references: list[str]) -> int:
    """A training set as an Arrow table; how many rows it has."""
    return int(store.get_historical_features(frame, references).to_arrow().num_rows)


def as_text(report: Mapping[str, Any]) -> str:
    """The report for a person."""
    ours, peer = report["ours"], report["peer"]
    lines = [f"machine  {report['machine']}"]
    lines += [f"asked    {ours['spine']:,} rows × {ours['events']:,} events × {ours['features']} features"]
    for name, one in (("ours", ours), ("peer", peer)):
        spread = f"({one['min_s']} to {one['max_s']})"
        lines += [f"{name:8} {one['seconds']} s {spread}, {one['per_s']:,} rows/s, {one['rows_back']:,} rows back"]
    return "\n".join([*lines, f"peer is  {peer['name']}", f"ratio    {report['ratio']}"])
