"""`headrace bench point-in-time`: training sets through Feast, beside its own duckdb store on the same files."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.core import T0, EventCase
from headrace.bench.report import bench_report, write_report
from headrace.bench.workload import DAY_MS, ranker_views
from headrace.console import JSON, say
from streaming.fold import percentiles_ms

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

    from features.definitions import FeatureView

SPAN_MS = 30 * DAY_MS

COMMIT = 100_000

DEFINITIONS = "from headrace.bench.workload import ranker_views\nuser_bench, item_bench = ranker_views()\n"

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
    write_report(report, as_json, details)


def measure(folder: Path, spine: int, events: int, repeat: int) -> dict[str, Any]:
    """The whole report, as --json prints it."""
    views = ranker_views()
    view = views[0]
    say(f"writing {events:,} events with {len(view.features)} values each")
    case = EventCase.typical(views, events, max(events // 100, 1), SPAN_MS)
    write_table(folder / "offline", case)
    frame = spine_frame(case, spine)
    stores = {"ours": own_store(folder), "peer": duckdb_store(folder, view)}
    references = [f"{view.name}:{name}" for name in view.names]
    seconds: dict[str, list[float]] = {name: [] for name in stores}
    rows: dict[str, int] = {}
    for run in range(repeat + 1):
        for name, store in stores.items():
            say(f"{name}, {run or 'to warm up'}")
            start = time.perf_counter()
            rows[name] = retrieved(store, frame, references)
            seconds[name] += [time.perf_counter() - start] if run else []
    sizes = {"spine": spine, "events": events, "features": len(view.features)}
    ours, peer = (figures(seconds[name], rows[name], spine) for name in ("ours", "peer"))
    ratio = round(peer["seconds"] / ours["seconds"], 2)
    return bench_report("point-in-time", {**ours, **sizes}, {"name": peer_name(), **peer}, ratio)


def figures(seconds: list[float], rows: int, spine: int) -> dict[str, Any]:
    """Median, spread, rate, and the number of rows that came back."""
    median = statistics.median(seconds)
    spread = {"seconds": round(median, 3), "min_s": round(min(seconds), 3), "max_s": round(max(seconds), 3)}
    times = percentiles_ms([1e3 * second for second in seconds])
    return {**spread, **times, "per_s": round(spine / median), "rows_back": rows}


def peer_name() -> str:
    """The peer and its versions in words."""
    import duckdb
    import feast

    name = f"Feast {feast.__version__} duckdb offline store (duckdb {duckdb.__version__})"
    return f"{name}: as-of join of ready values, no aggregation"


def write_table(folder: Path, case: EventCase) -> None:
    """The events as the archive has them, and beside each the values that its user's features had then."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from deltalake import write_deltalake

    from features.history import Spine, point_in_time

    view = case.views[0]
    at = case.events["event_time"].to_numpy()
    values = point_in_time(
        view, Spine(case.events["user_id"].combine_chunks(), at), {"activity": case.events}
    ).to_table()
    table = case.events.append_column("topic", pa.repeat(pa.scalar("bench.activity"), len(at)))
    table = table.append_column("event_timestamp", pc.cast(case.events["event_time"], pa.timestamp("ms", "UTC")))
    for name in values.column_names:
        table = table.append_column(name, values[name])
    for start in range(0, len(at), COMMIT):
        write_deltalake(folder / "activity", table.slice(start, COMMIT), mode="append")


def spine_frame(case: EventCase, count: int) -> pd.DataFrame:
    """Random users at random times of the span."""
    import numpy as np
    import pandas as pd

    users = np.char.add("user-", case.workload.rng.integers(0, case.workload.users, count).astype(str))
    times = pd.to_datetime(case.workload.rng.integers(T0, case.end, count), unit="ms", utc=True)
    return pd.DataFrame({"user_id": users, "event_timestamp": times})


def own_store(folder: Path) -> FeatureStore:
    """A Feast store of our views."""
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
    own = feast_view(view, entities)
    table = feast.FileSource(
        name="values",
        path=str(folder / "offline" / "activity" / "*.parquet"),  # duckdb would download an extension for Delta
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    )
    store.apply(
        [
            *entities,
            feast.FeatureView(name=view.name, entities=entities, ttl=own.ttl, schema=own.schema, source=table),
        ]
    )
    return store


def retrieved(store: FeatureStore, frame: pd.DataFrame, references: list[str]) -> int:
    """The number of rows of the training set, retrieved as an Arrow table."""
    return int(store.get_historical_features(frame, references).to_arrow().num_rows)


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    ours, peer = report["ours"], report["peer"]
    return [
        ("spine", f"{ours['spine']:,} rows × {ours['events']:,} events × {ours['features']} features"),
        ("ours", _times(ours)),
        ("peer", _times(peer)),
        ("peer is", peer["name"]),
        ("ratio", str(report["ratio"])),
    ]


def _times(side: Mapping[str, Any]) -> str:
    spread = f"({side['min_s']} to {side['max_s']})"
    return f"{side['seconds']} s {spread}, {side['per_s']:,} rows/s, {side['rows_back']:,} rows back"
