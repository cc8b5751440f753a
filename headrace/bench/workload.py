"""What the benches of the online store share: a view of 20 or 50 features, its rows, and Feast's own stores beside."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.definitions import (
    Aggregation,
    Count,
    DecayedCount,
    DistinctCount,
    Entity,
    FeatureSet,
    FeatureView,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Stream,
    Sum,
    TimeSinceLast,
    ratio,
)
from features.errors import StoreError
from features.machine import free_port

if TYPE_CHECKING:
    import feast
    import pyarrow as pa

DAY_MS = 86_400_000

WINDOWS, LONG = ["5m", "1h", "24h", "7d", "30d"], ["24h", "7d", "30d"]

TYPES = ("view", "click", "impression", "cart", "favorite", "purchase")

STREAM = Stream(
    "activity",
    topic="bench.activity",
    fields={"user_id": "string", "item_id": "string", "event_type": "string", "price": "float64"},
)

USER = Entity("user", {"user_id": "string"})

DEFINITIONS = "from headrace.bench.workload import bench_view\n\nusers = [bench_view(20), bench_view(50)]\n"

REDIS_WITHIN_S = 10

SMALL = 20


def bench_view(features: int) -> FeatureView:
    """A user's 20 features, or 50 with those among them: numbers only, as stock Feast's are in its own benches."""
    sets = [_of(kind, [Count()], WINDOWS) for kind in TYPES[:2]]
    sets += [
        _of("purchase", [Sum("price"), Mean("price")], LONG),
        _of("purchase", [Max("price")], ["30d"]),
        FeatureSet(USER, STREAM, [TimeSinceLast(), DecayedCount("7d")], ["30d"], name="any"),
        FeatureSet(USER, STREAM, [DistinctCount("item_id", k=64)], ["7d"], name="any"),
    ]
    derived = {}
    if features > SMALL:
        sets += [_of(kind, [Count()], WINDOWS) for kind in TYPES[2:5]]
        sets += [_of("purchase", [Count()], LONG), _of("view", [Sum("price"), Mean("price")], LONG)]
        sets += [
            _of("purchase", [Min("price"), Quantile("price", 0.5)], ["30d"]),
            _of("view", [Last("price")], ["30d"]),
        ]
        derived = {
            "clicks_per_view_24h": ratio("user_click_count_24h", "user_view_count_24h"),
            "clicks_per_view_7d": ratio("user_click_count_7d", "user_view_count_7d"),
            "purchases_per_view_7d": ratio("user_purchase_count_7d", "user_view_count_7d"),
        }
    return FeatureView(f"users_{features}", sets, derived)


def _of(kind: str, aggregations: list[Aggregation], windows: list[str]) -> FeatureSet:
    return FeatureSet(USER, STREAM, aggregations, windows, where={"event_type": kind})


def users(count: int) -> list[str]:
    """Their keys."""
    return [f"user-{number}" for number in range(count)]


def typical_events(entities: int, end: int, seed: int = 7) -> pa.Table:
    """100 events of each user, at uniform times of the 30 days before ``end`` (ms)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(end - 30 * DAY_MS, end, 100 * entities))
    who = rng.permutation(np.repeat(np.arange(entities), 100))
    return event_table(times, who, rng.choice(len(TYPES), len(times), p=[0.5, 0.2, 0.1, 0.08, 0.04, 0.08]), 0)


def dense_events(entities: int, end: int) -> pa.Table:
    """An event of every type of every user in each of the 60 tiles of each window: no row can hold more."""
    import numpy as np

    tiling = bench_view(50).tiling
    tiles = [tiling.bounds(window).tile_ms for window in tiling.windows]
    ages = np.unique(np.concatenate([tile * np.arange(1, 61) - tile // 2 for tile in tiles]))
    times = np.repeat(np.sort(end - ages), len(TYPES) * entities)
    who = np.tile(np.arange(entities), len(TYPES) * len(ages))
    return event_table(times, who, np.tile(np.repeat(np.arange(len(TYPES)), entities), len(ages)), 0)


def event_table(times: Any, who: Any, kinds: Any, offset: int) -> pa.Table:
    """Events of these users at these times (ms), of items and at prices of their own."""
    import numpy as np
    import pyarrow as pa

    from features.events import event_schema

    count = len(times)
    rng = np.random.default_rng(offset + 1)
    columns = {
        "event_id": pa.array(np.arange(offset, offset + count)).cast(pa.string()),
        "event_time": pa.array(times),
        "known_at": pa.array(times),
        "partition": pa.array(np.zeros(count, dtype=np.int32)),
        "offset": pa.array(np.arange(offset, offset + count)),
        "user_id": pa.array(np.char.add("user-", who.astype(str))),
        "item_id": pa.array(np.char.add("item-", rng.integers(0, 10_000, count).astype(str))),
        "event_type": pa.array(TYPES).take(pa.array(kinds)),
        "price": pa.array(np.round(rng.gamma(2.0, 15.0, count), 2)),
    }
    return pa.table(columns, schema=event_schema(STREAM))


@contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """The address of a server of our own that keeps nothing on disk; None where no redis-server is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port, server)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(REDIS_WITHIN_S)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + REDIS_WITHIN_S
    while server.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise StoreError("the bench's Redis server", f"an answer within {REDIS_WITHIN_S} s", "none")


def feast_store(folder: Path, project: str, online_store: dict[str, Any]) -> feast.FeatureStore:
    """A FeatureStore over one kind of online store, with everything that it has below the folder."""
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project=project,
        provider="local",
        registry={"registry_type": "file", "path": str(folder / f"{project}.registry"), "cache_ttl_seconds": 3600},
        online_store=online_store,
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def ours(folder: Path, kind: str, address: str) -> feast.FeatureStore:
    """Feast over our plug-in, where the bench's views are applied."""
    from features.definitions import load_repo
    from features.feast import objects_of

    definitions = folder / "definitions"
    definitions.mkdir(exist_ok=True)
    (definitions / "bench.py").write_text(DEFINITIONS, encoding="utf-8")
    plugin = f"headrace.feast.{'Redis' if kind == 'redis' else 'Sqlite'}RowsOnlineStore"
    where = {"url": f"redis://{address}/0"} if kind == "redis" else {"path": address}
    store = feast_store(
        folder, f"ours_{kind}", {"type": plugin, "definitions": str(definitions), "deadline_ms": 60_000.0, **where}
    )
    store.apply(list(objects_of(load_repo(definitions)).values()))
    return store


def stock(folder: Path, kind: str, address: str) -> feast.FeatureStore:
    """Feast over its own store, with views of the same names and features, all float64."""
    from feast import Entity as FeastEntity
    from feast import FeatureView as FeastView
    from feast import Field, FileSource, ValueType
    from feast.types import Float64

    where = {"connection_string": address} if kind == "redis" else {"path": address}
    store = feast_store(folder, f"stock_{kind}", {"type": kind, **where})
    user = FeastEntity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    views = [
        FeastView(
            name=view.name,
            entities=[user],
            schema=[Field(name=name, dtype=Float64) for name in view.names],
            source=FileSource(name=f"{view.name}_file", path="none.parquet", timestamp_field="event_timestamp"),
        )
        for view in (bench_view(20), bench_view(50))
    ]
    store.apply([user, *views])
    return store
