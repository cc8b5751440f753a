"""`headrace bench core`: rates of folding, finalizing and history on one processor, and the size of rows."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import click

from headrace.bench.report import bench_report, machine, write_report
from headrace.bench.workload import DAY_MS, Workload, ranker_views
from headrace.console import JSON, say

if TYPE_CHECKING:
    import pyarrow as pa

    from features.definitions import FeatureView
    from features.rows import PackedRows

MINUTE_MS = 60_000

T0 = 1_700_000_000_000

SHARES = {"view": 0.8, "cart": 0.12, "purchase": 0.08}


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
    write_report(measure(events, spine, batch, repeat), as_json, details)


def on_one_processor() -> None:
    """Keep this process, and the threads of its libraries, on the first processor that it may use."""
    import pyarrow as pa

    os.environ["POLARS_MAX_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)


def measure(events: int, spine: int, batch: int, repeat: int) -> dict[str, Any]:
    """The whole report, as --json prints it."""
    views, entities = ranker_views(), events // 100
    typical = EventCase.typical(views, events, entities, 30 * DAY_MS)
    say(f"folding {events:,} events into {2 * entities:,} rows")
    ours: dict[str, Any] = {"typical": measured_rows(typical, batch, 30 * DAY_MS * batch // events, repeat)}
    say("folding the dense case: every tile live")
    dense = EventCase.dense(views, max(events // 700, 1), 30 * DAY_MS)
    ours["dense"] = measured_rows(dense, batch, MINUTE_MS, repeat)
    say(f"history of {spine:,} spine rows")
    history, peer = measured_history(typical, spine, repeat)
    ours["history"] = history
    ratio = round(peer["seconds"] / history["seconds"], 3)
    return bench_report("core", ours, peer, ratio, machine=machine(used=1))


@dataclass(frozen=True)
class EventCase:
    """Views, and the events of them that are measured.

    Args:
        end: the instant (epoch ms) before which the events are.
    """

    views: tuple[FeatureView, FeatureView]
    workload: Workload
    events: pa.Table
    end: int

    @classmethod
    def typical(cls, views: tuple[FeatureView, FeatureView], count: int, entities: int, span_ms: int) -> Self:
        """So many events, uniform over entities and the time from T0 on."""
        workload = Workload(entities, entities, SHARES)
        return cls(views, workload, workload.uniform(count, T0, span_ms), T0 + span_ms)

    @classmethod
    def dense(cls, views: tuple[FeatureView, FeatureView], entities: int, span_ms: int) -> Self:
        """A view and a purchase in every tile of every window that ends ``span_ms`` after T0."""
        workload, end = Workload(entities, entities, SHARES), T0 + span_ms
        return cls(views, workload, workload.in_every_tile(views[0], end, ("view", "purchase")), end)


@dataclass
class DictStore:
    """Rows in a dictionary, into which the bench folds."""

    values: dict[str, bytes]

    def get(self, keys: pa.Array) -> pa.Array:
        """The rows of the keys, null where there are none."""
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


def folded(views: tuple[FeatureView, ...], stores: Mapping[str, DictStore], events: pa.Table, number: int) -> None:
    """Fold one batch into both entities' rows."""
    from features.rows import BatchKey, Fold

    for view in views:
        folding = Fold(view, {"activity": events})
        stores[view.name].put(folding.rows(stores[view.name].get(folding.keys), BatchKey(1, number, 0)))


def measured_rows(case: EventCase, batch: int, batch_ms: int, repeat: int) -> dict[str, Any]:
    """Rates of folding and finalizing, and the rows' size.

    Args:
        batch: the number of events folded at a time.
        batch_ms: the time that the events of each further batch are spread over.
    """
    from features.rows import finalize

    stores = {view.name: DictStore({}) for view in case.views}
    starts = range(0, len(case.events), batch)
    for number, start in enumerate(starts):
        folded(case.views, stores, case.events.slice(start, batch), number)
    seconds = []
    for run in range(repeat):
        more = case.workload.uniform(batch, case.end + run * batch_ms, batch_ms, 10**7 * (run + 1))
        seconds.append(timed(partial(folded, case.views, stores, more, len(starts) + run)))
    as_of = case.end + repeat * batch_ms
    reads = {}
    for view in case.views:
        rows = stores[view.name].packed()
        for count in (1, 100, 500, len(rows)):
            part = rows.slice(0, count)
            times = [timed(partial(finalize, view, part, as_of, 1)) for _ in range(max(repeat, 5))]
            reads[f"{view.name} {min(count, len(rows))}"] = round(statistics.median(times) * 1e3, 3)
    sizes = [len(value) for store in stores.values() for value in store.values.values()]
    row_count = sum(len(store.values) for store in stores.values())
    all_ms = sum(reads[f"{view.name} {len(stores[view.name].values)}"] for view in case.views)
    return {
        "fold": {**spread([batch / second for second in seconds]), "entities_per_event": 2, "batch": batch},
        "finalize": {"per_s": round(1e3 * row_count / all_ms), "ms_by_entities": reads},
        "bytes_per_row": {"mean": round(statistics.fmean(sizes)), "p50": statistics.median(sizes), "max": max(sizes)},
        "rows": row_count,
        "features_per_row": [len(view.features) for view in case.views],
    }


def measured_history(case: EventCase, count: int, repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Rates of our point-in-time join of a spine with the user view, and of polars' bare as-of join of that spine."""
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from features.history import Spine, point_in_time

    view, rng = case.views[0], case.workload.rng
    users = np.char.add("user-", rng.integers(0, case.workload.users, count).astype(str))
    spine = Spine(pa.array(users), rng.integers(T0, case.end, count))
    seconds = [timed(lambda: point_in_time(view, spine, {"activity": case.events})) for _ in range(repeat)]
    left = pl.DataFrame({"user_id": users, "as_of": spine.as_of}).sort("as_of")
    values = {f"feature_{n}": rng.random(len(case.events)) for n in range(len(view.features))}
    right = pl.DataFrame({"user_id": pl.from_arrow(case.events["user_id"]), "at": case.events["event_time"].to_numpy()})
    right = right.with_columns(pl.Series(name, column) for name, column in values.items()).sort("at")
    joined = [
        timed(lambda: left.join_asof(right, left_on="as_of", right_on="at", by="user_id", check_sortedness=False))
        for _ in range(repeat)
    ]
    ours = {**spread([count / second for second in seconds]), "seconds": round(statistics.median(seconds), 3)}
    ours |= {"spine": count, "events": len(case.events), "features": len(view.features)}
    name = f"polars {pl.__version__} join_asof of ready values, no aggregation"
    return ours, {"name": name, **spread([count / s for s in joined]), "seconds": round(statistics.median(joined), 3)}


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time that the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(rates: list[float]) -> dict[str, Any]:
    """The median rate per second, and the slowest and fastest."""
    return {"per_s": round(statistics.median(rates)), "min_per_s": round(min(rates)), "max_per_s": round(max(rates))}


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    lines = []
    for name in ("typical", "dense"):
        case = report["ours"][name]
        lines += [
            (name, f"fold      {case['fold']['per_s']:>10,} events/s, two entities each"),
            ("", f"finalize  {case['finalize']['per_s']:>10,} entities/s of {case['features_per_row']} features"),
            ("", f"row       {case['bytes_per_row']['mean']:>10,} bytes (largest {case['bytes_per_row']['max']:,})"),
        ]
    history, peer = report["ours"]["history"], report["peer"]
    size = f"{history['spine']:,} × {history['events']:,} × {history['features']}"
    return [
        *lines,
        ("history", f"{size}: {history['seconds']} s"),
        ("peer", f"{peer['name']}: {peer['seconds']} s"),
    ]
