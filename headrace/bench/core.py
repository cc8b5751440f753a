"""``headrace bench core``: how fast one processor folds, finalizes and answers history, and what rows weigh."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from headrace.console import JSON, print_report, say

if TYPE_CHECKING:
    import pyarrow as pa

    from features.definitions import FeatureView
    from features.rows import PackedRows

DAY_MS, MINUTE_MS = 86_400_000, 60_000

T0 = 1_700_000_000_000


@click.command()
@click.option(
    "--events", default=1_000_000, show_default=True, type=click.IntRange(100), help="Events, 100 for each entity."
)
@click.option("--spine", default=200_000, show_default=True, type=click.IntRange(1), help="Spine rows of the history.")
@click.option("--batch", default=50_000, show_default=True, type=click.IntRange(1), help="Events folded at a time.")
@click.option(
    "--repeat", default=5, show_default=True, type=click.IntRange(1), help="Measurements of each; the median is given."
)
@JSON
def core(events: int, spine: int, batch: int, repeat: int, as_json: bool) -> None:
    """Fold with two entities an event, finalize, history, and bytes a row: typical density and every tile live.

    Runs on one processor. The peer is polars' bare as-of join of the same spine to feature values that were computed
    before: it neither aggregates nor knows windows, and stands for the least that a history could cost.

    \b
    Example:
      headrace bench core --json
    """
    on_one_processor()
    report = measure(events, spine, batch, repeat)
    print_report(report, as_json, _as_text)


def on_one_processor() -> None:
    """Keep this process, and the threads of its libraries, on the first processor that it may use."""
    import pyarrow as pa

    os.environ["POLARS_MAX_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)


def measure(events: int, spine: int, batch: int, repeat: int) -> dict[str, Any]:
    """The whole report, as --json prints it."""
    views = bench_views()
    typical = Load(views, events, events // 100, 30 * DAY_MS)
    say(f"folding {events:,} events into {2 * (events // 100):,} rows")
    ours: dict[str, Any] = {"typical": measured_rows(typical, batch, repeat)}
    say("folding the dense case: every tile live")
    ours["dense"] = measured_rows(Load(views, events, max(events // 700, 1), 30 * DAY_MS, dense=True), batch, repeat)
    say(f"history of {spine:,} spine rows")
    history, peer = measured_history(typical, spine, repeat)
    ours["history"] = history
    ratio = peer["seconds"] / history["seconds"]
    machine = f"{platform.machine()}, 1 of {os.cpu_count()} processors, Python {platform.python_version()}"
    return {"bench": "core", "machine": machine, "ours": ours, "peer": peer, "ratio": round(ratio, 3)}


def bench_views() -> tuple[FeatureView, FeatureView]:
    """A user and an item view of 14 features each, as a ranker reads them."""
    from features.definitions import (
        Count,
        DistinctCount,
        Entity,
        FeatureSet,
        FeatureView,
        LastK,
        Max,
        Mean,
        Stream,
        Sum,
        TimeSinceLast,
    )

    user, item = Entity("user", {"user_id": "string"}), Entity("item", {"item_id": "string"})
    fields = {"user_id": "string", "item_id": "string", "event_type": "string", "price": "float64"}
    stream = Stream("activity", topic="bench.activity", fields=fields)

    def view(entity: Entity, other: str) -> FeatureView:
        return FeatureView(
            f"{entity.name}_bench",
            sets=[
                FeatureSet(entity, stream, [Count()], ["5m", "1h", "24h", "7d", "30d"], where={"event_type": "view"}),
                FeatureSet(entity, stream, [Count(), Sum("price")], ["7d", "30d"], where={"event_type": "purchase"}),
                FeatureSet(entity, stream, [Mean("price"), Max("price")], ["30d"], where={"event_type": "purchase"}),
                FeatureSet(entity, stream, [TimeSinceLast()], ["30d"], name="any"),
                FeatureSet(entity, stream, [LastK(other, 10), DistinctCount(other, k=64)], ["24h"], name="any"),
            ],
        )

    return view(user, "item_id"), view(item, "user_id")


class Load:
    """Made-up events, the same in every run: uniform over entities and time, or (dense) in every tile."""

    def __init__(
        self, views: tuple[FeatureView, FeatureView], count: int, entities: int, span_ms: int, *, dense: bool = False
    ) -> None:
        import numpy as np

        self.views = views
        self.dense = dense
        self.rng = np.random.default_rng(7)
        self.entities = entities
        self.end = T0 + span_ms
        self.events = self.in_every_tile() if dense else self.made(count, T0, span_ms, 0)

    def made(self, count: int, start: int, span_ms: int, offset: int) -> pa.Table:
        """Events at uniform times, of uniform users and items."""
        import numpy as np

        times = np.sort(self.rng.integers(start, start + span_ms, count))
        users, items = (self.rng.integers(0, self.entities, count) for _ in range(2))
        kinds = np.array(["view", "cart", "purchase"])[self.rng.choice(3, count, p=[0.8, 0.12, 0.08])]
        return self._table(times, users, items, kinds, offset)

    def in_every_tile(self) -> pa.Table:
        """A view and a purchase of every user, and as good as every item, in each of the 60 tiles of each window."""
        import numpy as np

        tiling = self.views[0].tiling
        tiles = [tiling.bounds(window).tile_ms for window in tiling.windows]
        ages = np.unique(np.concatenate([tile * np.arange(1, 61) - tile // 2 for tile in tiles]))
        times = np.repeat(np.sort(self.end - ages), 2 * self.entities)
        each = np.tile(np.arange(self.entities), 2 * len(ages))
        kinds = np.tile(np.repeat(["view", "purchase"], self.entities), len(ages))
        return self._table(times, each, (each * 7 + times // 1000) % self.entities, kinds, 0)

    def _table(self, times: Any, users: Any, items: Any, kinds: Any, offset: int) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        from features.events import event_schema

        count = len(times)
        columns = {
            "event_id": pa.array(np.arange(offset, offset + count)).cast(pa.string()),
            "event_time": pa.array(times),
            "known_at": pa.array(times),
            "partition": pa.array(np.zeros(count, dtype=np.int32)),
            "offset": pa.array(np.arange(offset, offset + count)),
            "user_id": pa.array(np.char.add("user-", users.astype(str))),
            "item_id": pa.array(np.char.add("item-", items.astype(str))),
            "event_type": pa.array(kinds),
            "price": pa.array(np.round(self.rng.gamma(2.0, 15.0, count), 2)),
        }
        return pa.table(columns, schema=event_schema(self.views[0].streams[0]))


@dataclass
class Rows:
    """A store in a dictionary: what the bench folds into."""

    values: dict[str, bytes]

    def get(self, keys: pa.Array) -> pa.Array:
        """The values of the keys, null where there are none."""
        import pyarrow as pa

        return pa.array(map(self.values.get, keys.to_pylist()), type=pa.binary())

    def put(self, rows: PackedRows) -> None:
        """Replace the rows."""
        self.values.update(zip(rows.keys.to_pylist(), rows.values.to_pylist(), strict=True))

    def packed(self) -> PackedRows:
        """All rows."""
        import pyarrow as pa

        from features.rows import PackedRows

        return PackedRows(pa.array(self.values), pa.array(self.values.values(), type=pa.binary()))


def folded(views: tuple[FeatureView, ...], stores: Mapping[str, Rows], events: pa.Table, number: int) -> None:
    """Fold one batch into both entities' rows."""
    from features.rows import BatchKey, Fold

    for view in views:
        folding = Fold(view, {"activity": events})
        stores[view.name].put(folding.rows(stores[view.name].get(folding.keys), BatchKey(1, number, 0)))


def measured_rows(load: Load, batch: int, repeat: int) -> dict[str, Any]:
    """Fold the load, then measure further batches, reads, and the rows' size."""
    from features.rows import finalize

    stores = {view.name: Rows({}) for view in load.views}
    batches = range(0, len(load.events), batch)
    for number, start in enumerate(batches):
        folded(load.views, stores, load.events.slice(start, batch), number)
    span = MINUTE_MS if load.dense else (load.end - T0) * batch // len(load.events)
    seconds = []
    for again in range(repeat):
        more = load.made(batch, load.end + again * span, span, 10**7 * (again + 1))
        seconds.append(timed(partial(folded, load.views, stores, more, len(batches) + again)))
    as_of = load.end + repeat * span
    reads = {}
    for view in load.views:
        rows = stores[view.name].packed()
        for count in (1, 100, 500, len(rows)):
            part = rows.slice(0, count)
            taken = [timed(partial(finalize, view, part, as_of, 1)) for _ in range(max(repeat, 5))]
            reads[f"{view.name} {min(count, len(rows))}"] = round(statistics.median(taken) * 1e3, 3)
    sizes = [len(value) for store in stores.values() for value in store.values.values()]
    everything = sum(len(store.values) for store in stores.values())
    all_ms = sum(reads[f"{view.name} {len(stores[view.name].values)}"] for view in load.views)
    return {
        "fold": {**spread([batch / second for second in seconds]), "entities_per_event": 2, "batch": batch},
        "finalize": {"per_s": round(1e3 * everything / all_ms), "ms_by_entities": reads},
        "bytes_per_row": {"mean": round(statistics.fmean(sizes)), "p50": statistics.median(sizes), "max": max(sizes)},
        "rows": everything,
        "features_per_row": [len(view.features) for view in load.views],
    }


def measured_history(load: Load, count: int, repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The user view of a spine, and polars' bare as-of join of the same spine beside it."""
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from features.history import Spine, point_in_time

    view = load.views[0]
    users = np.char.add("user-", load.rng.integers(0, load.entities, count).astype(str))
    spine = Spine(pa.array(users), load.rng.integers(T0, load.end, count))
    seconds = [timed(lambda: point_in_time(view, spine, {"activity": load.events})) for _ in range(repeat)]
    left = pl.DataFrame({"user_id": users, "as_of": spine.as_of}).sort("as_of")
    values = {f"feature_{n}": load.rng.random(len(load.events)) for n in range(len(view.features))}
    right = pl.DataFrame({"user_id": pl.from_arrow(load.events["user_id"]), "at": load.events["event_time"].to_numpy()})
    right = right.with_columns(pl.Series(name, column) for name, column in values.items()).sort("at")
    joined = [
        timed(lambda: left.join_asof(right, left_on="as_of", right_on="at", by="user_id", check_sortedness=False))
        for _ in range(repeat)
    ]
    ours = {**spread([count / second for second in seconds]), "seconds": round(statistics.median(seconds), 3)}
    ours |= {"spine": count, "events": len(load.events), "features": len(view.features)}
    name = f"polars {pl.__version__} join_asof of ready values, no aggregation"
    return ours, {"name": name, **spread([count / s for s in joined]), "seconds": round(statistics.median(joined), 3)}


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(rates: list[float]) -> dict[str, Any]:
    """The median rate per second, and the slowest and fastest."""
    return {"per_s": round(statistics.median(rates)), "min_per_s": round(min(rates)), "max_per_s": round(max(rates))}


def _as_text(report: Mapping[str, Any]) -> str:
    """The report for a person."""
    ours = report["ours"]
    lines = [f"machine   {report['machine']}"]
    for case in ("typical", "dense"):
        one = ours[case]
        lines += [
            f"{case:8}  fold      {one['fold']['per_s']:>10,} events/s, two entities each",
            f"          finalize  {one['finalize']['per_s']:>10,} entities/s of {one['features_per_row']} features",
            f"          row       {one['bytes_per_row']['mean']:>10,} bytes (largest {one['bytes_per_row']['max']:,})",
        ]
    history, peer = ours["history"], report["peer"]
    lines += [
        f"history   {history['spine']:,} × {history['events']:,} × {history['features']}: {history['seconds']} s",
        f"peer      {peer['name']}: {peer['seconds']} s",
    ]
    return "\n".join(lines)
