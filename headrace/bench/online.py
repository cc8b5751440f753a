"""``headrace bench online-read`` and ``online-write``: our rows through Feast, and stock Feast in the same run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.core import spread, timed
from headrace.bench.redis_server import redis_server
from headrace.bench.report import bench_report, write_report
from headrace.bench.workload import DAY_MS, STREAM, Workload, numeric_view, user_keys
from headrace.console import JSON, aligned, say

if TYPE_CHECKING:
    import feast
    import pandas as pd
    import pyarrow as pa

    from features.definitions import FeatureView
    from features.online_store.redis import RedisRows
    from features.online_store.sqlite import SqliteRows
    from features.rows import BatchKey

COUNTS = {1: 300, 100: 60, 500: 24}
"""Entities of a read → how often it is measured."""

SIZES = (20, 50)

GENERATION = 1

ITEMS = 10_000

EVENTS_PER_USER = 100

ROUNDS = 6

MAIN = (20, 500)
"""Features and users of the case that ``ratio`` is about."""


@click.command("online-read")
@click.option("--entities", default=1_000, show_default=True, type=click.IntRange(500), help="Users in the store.")
@JSON
def online_read(entities: int, as_json: bool) -> None:
    """FeatureStore.get_online_features over our plug-ins beside stock Feast's stores, in turns.

    20 and 50 features of 1, 100 and 500 users, at typical density (100 events of each in 30 days) and with every tile
    of every window filled. Stock Feast has the same values, ready in its store. Every read is of other users. The
    ratio is that of 500 users and 20 features at typical density, of the store where it is worse; ``ratios`` has the
    worst of every other case.

    \b
    Example:
      headrace bench online-read --json
    """
    report = measured("online-read", lambda bench: bench.reads(entities))
    write_report(report, as_json, read_details)


@click.command("online-write")
@click.option("--rows", default=5_000, show_default=True, type=click.IntRange(1), help="Users in a batch.")
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(1), help="Batches of each.")
@JSON
def online_write(rows: int, repeat: int, as_json: bool) -> None:
    """Rows a second into the online store: one row is one user's 20 features, there for every reader.

    Ours: a batch with an event of each user is folded into the rows of 100 events each that are there: they are read,
    decoded, changed, encoded and written back under the fence. Stock Feast's write_to_online_store is given the same
    users' features ready. Both are on the disk when a batch is counted: SQLite with synchronous=FULL, as Feast leaves
    it; Redis keeps nothing on disk for either.

    \b
    Example:
      headrace bench online-write --json
    """
    report = measured("online-write", lambda bench: bench.writes(rows, repeat))
    write_report(report, as_json, write_details)


def measured(name: str, work: Callable[[StoreBench], dict[str, Any]]) -> dict[str, Any]:
    """The report of one bench, made in a temporary folder."""
    import feast

    with TemporaryDirectory(prefix="headrace-bench-") as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's, of its own code
        folder = Path(path)
        with redis_server(folder) as redis:
            if redis is None:
                say("no redis-server on this machine: SQLite only")
            figures = work(StoreBench(folder, redis))
    figures["peer"] = {"name": f"feast {feast.__version__}, its own stores", **figures["peer"]}
    return bench_report(name, **figures)


@dataclass(frozen=True)
class StorePair:
    """Our store and stock Feast's, of one kind."""

    kind: str
    rows: SqliteRows | RedisRows
    ours: feast.FeatureStore
    stock: feast.FeatureStore


@dataclass(frozen=True)
class StoreBench:
    """Both stores of each kind, with their files in the folder; ``redis`` is host:port, or None."""

    folder: Path
    redis: str | None

    @property
    def kinds(self) -> list[str]:
        return ["sqlite", "redis"] if self.redis else ["sqlite"]

    @contextmanager
    def sides(self, kind: str) -> Iterator[StorePair]:
        """Both sides of one kind of store, empty."""
        from headrace.bench.feast_stores import ours, stock

        folder = self.folder / f"{kind}-{time.monotonic_ns()}"
        folder.mkdir()
        with closing(self._rows(kind, folder)) as rows:
            address = self.redis if kind == "redis" and self.redis else str(folder / "ours.db")
            other = f"{self.redis},db=1" if kind == "redis" else str(folder / "stock.db")
            yield StorePair(kind, rows, ours(folder, kind, address), stock(folder, kind, other))
            if kind == "redis":
                rows.drop_generation(GENERATION)

    def _rows(self, kind: str, folder: Path) -> SqliteRows | RedisRows:
        if kind == "redis":
            from features.online_store.redis import RedisRows
            from headrace.bench.feast_stores import PROJECT

            return RedisRows(f"redis://{self.redis}/0", timeout_s=60.0, project=PROJECT)
        return durable_sqlite(folder / "ours.db")

    # --- reads ---

    def reads(self, entities: int) -> dict[str, Any]:
        """Both sides' times by store, density, features and users, and the ratios."""
        figures: dict[str, Any] = {"ours": {}, "peer": {}}
        for kind, density in product(self.kinds, ("typical", "dense")):
            with self.sides(kind) as sides:
                say(f"{kind}, {density}: folding and writing {entities if density == 'typical' else 500} users")
                case = self._reads(sides, density, entities if density == "typical" else 500)
            for side in ("ours", "peer"):
                figures[side].setdefault(kind, {})[density] = case[side]
        return {**figures, **ratios(figures)}

    def _reads(self, sides: StorePair, density: str, entities: int) -> dict[str, Any]:
        import numpy as np

        from features.times import now_ms

        now, workload = now_ms(), Workload(entities, ITEMS)
        views = [numeric_view(size) for size in SIZES]
        dense = density == "dense"
        events = workload.in_every_tile(views[-1], now) if dense else typical_events(workload, now)
        filled(sides, views, events, user_keys(entities), now)
        weights = sides.rows.bytes_per_row()
        case: dict[str, Any] = {"ours": {}, "peer": {}}
        for view, size in zip(views, SIZES, strict=True):
            case["ours"][str(size)] = {"bytes_per_row": round(weights[view.name])}
            case["peer"][str(size)] = {}
            for count, repeat in COUNTS.items():
                rng = np.random.default_rng(count)
                requests = [
                    [{"user_id": f"user-{n}"} for n in rng.permutation(entities)[:count]] for _ in range(repeat)
                ]
                ours, peer = interleaved(sides, view, requests)
                case["ours"][str(size)][str(count)], case["peer"][str(size)][str(count)] = ours, peer
        return case

    # --- writes ---

    def writes(self, count: int, repeat: int) -> dict[str, Any]:
        """Both sides' rows a second by store, and the worst ratio."""
        figures: dict[str, Any] = {"ours": {}, "peer": {}, "ratios": {}}
        for kind in self.kinds:
            with self.sides(kind) as sides:
                say(f"{kind}: {repeat} batches of {count:,} rows, twice")
                ours, peer = self._writes(sides, count, repeat)
            figures["ours"][kind], figures["peer"][kind] = ours, peer
            figures["ratios"][kind] = round(ours["per_s"] / peer["per_s"], 2)
        return {**figures, "ratio": min(figures["ratios"].values())}

    def _writes(self, sides: StorePair, count: int, repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
        from features.rows import BatchKey
        from features.times import now_ms

        now, view, workload = now_ms(), numeric_view(20), Workload(count, ITEMS)
        frame = filled(sides, [view], typical_events(workload, now), user_keys(count), now)[view.name]
        ours, peer = [], []
        for number in range(repeat):
            events = workload.balanced(1, now + 1_000 * number, 1_000, 10**7 * (number + 1))
            fold = partial(fold_batch, sides, view, events, BatchKey(GENERATION, number + 1, now))
            ours.append(count / timed(fold))
            frame["event_timestamp"] += _milliseconds(1)
            peer.append(count / timed(lambda: sides.stock.write_to_online_store(view.name, frame)))
        return {**spread(ours), "rows": count, "events": count}, {**spread(peer), "rows": count}


def durable_sqlite(path: Path) -> SqliteRows:
    """A store whose commits wait for the disk, as stock Feast's do."""
    from features.online_store.sqlite import SqliteRows

    rows = SqliteRows(path)
    rows._connection.execute("PRAGMA synchronous=FULL")
    return rows


def filled(
    sides: StorePair, views: Sequence[FeatureView], events: pa.Table, keys: Sequence[str], now: int
) -> dict[str, pd.DataFrame]:
    """View → the frame of features that stock Feast's store holds now; ours holds the rows of the events."""
    import pandas as pd
    import pyarrow as pa

    from features.definitions import FeatureRepo
    from features.online_store import FeatureReader, Marker, build_generation

    build_generation(
        sides.rows.generation(GENERATION), views, GENERATION, {"activity": events}, Marker(0, {}, {}, 0), now
    )
    frames = {}
    for view in views:
        sides.rows.set_current(view.name, GENERATION)
        repo = FeatureRepo(Path(), {}, {}, {view.name: view})
        table = FeatureReader(sides.rows, repo).read(view.name, pa.array(keys), now).to_table()
        frame = table.to_pandas().astype("float64")
        frame["user_id"], frame["event_timestamp"] = keys, pd.Timestamp(now, unit="ms", tz="UTC")
        sides.stock.write_to_online_store(view.name, frame)
        frames[view.name] = frame
    return frames


def typical_events(workload: Workload, end: int) -> pa.Table:
    """EVENTS_PER_USER events of each user in the 30 days before ``end`` (epoch ms)."""
    return workload.balanced(EVENTS_PER_USER, end - 30 * DAY_MS, 30 * DAY_MS)


def fold_batch(sides: StorePair, view: FeatureView, events: pa.Table, batch: BatchKey) -> None:
    """The rows of our store include the events."""
    from features.rows import Fold

    generation = sides.rows.generation(GENERATION)
    generation.begin()
    fold = Fold(view, {STREAM.name: events})
    generation.put_rows(view.name, fold.rows(generation.rows(view.name, fold.keys), batch))


def _milliseconds(count: int) -> Any:
    import pandas as pd

    return pd.Timedelta(count, unit="ms")


def interleaved(
    sides: StorePair, view: FeatureView, requests: Sequence[list[dict[str, str]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both sides' times of the reads: the call alone, and with its to_dict().

    The sides alternate every few reads: neither profits from caches that the other has filled, nor from a moment when
    the machine is less busy.
    """
    features = [f"{view.name}:{name}" for name in view.names]
    calls: tuple[list[float], list[float]] = ([], [])
    dicts: tuple[list[float], list[float]] = ([], [])
    for start in range(0, len(requests), len(requests) // ROUNDS):
        for side, store in enumerate((sides.ours, sides.stock)):
            store.get_online_features(features, requests[start]).to_dict()
            for entity_rows in requests[start : start + len(requests) // ROUNDS]:
                before = time.perf_counter()
                response = store.get_online_features(features, entity_rows)
                called = time.perf_counter()
                response.to_dict()
                calls[side].append(called - before)
                dicts[side].append(time.perf_counter() - before)
    ours, peer = ({**in_ms(call), "to_dict": in_ms(whole)} for call, whole in zip(calls, dicts, strict=True))
    return ours, peer


def in_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    from streaming.fold import percentiles_ms

    return percentiles_ms([1e3 * second for second in seconds], digits=4)


def ratios(figures: dict[str, Any]) -> dict[str, Any]:
    """Speed-up by p50 in the store where it is smaller: of each case, and (``ratio``) of the main one."""
    worst: dict[str, float] = {}
    for density, size, count in product(("typical", "dense"), SIZES, COUNTS):
        name = f"{density} {count} x {size}"
        worst[name] = min(
            round(peer[density][str(size)][str(count)]["p50_ms"] / ours[density][str(size)][str(count)]["p50_ms"], 2)
            for ours, peer in zip(figures["ours"].values(), figures["peer"].values(), strict=True)
        )
    return {"ratios": worst, "ratio": worst[f"typical {MAIN[1]} x {MAIN[0]}"]}


def read_details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The labels and texts of a report about reads."""
    names = ("store", "density", "features", "users", "bytes/row", "ours ms", "peer ms")
    rows = []
    for kind, density, size, count in product(report["ours"], ("typical", "dense"), SIZES, COUNTS):
        sides = [report[side][kind][density][str(size)] for side in ("ours", "peer")]
        times = [f"{side[str(count)]['p50_ms']:.2f} (p99 {side[str(count)]['p99_ms']:.2f})" for side in sides]
        rows.append((kind, density, str(size), str(count), f"{sides[0]['bytes_per_row']:,}", *times))
    lines = [("reads" if number == 0 else "", line) for number, line in enumerate(aligned(names, rows, names[2:]))]
    ratios = [f"{name}: {value} times faster, in the worse store" for name, value in report["ratios"].items()]
    return [("peer", report["peer"]["name"]), *lines, *(("ratio", text) for text in ratios)]


def write_details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The labels and texts of a report about writes."""
    return [
        ("peer", report["peer"]["name"]),
        *(
            (
                kind,
                f"{ours['per_s']:>8,} rows/s; peer {report['peer'][kind]['per_s']:>8,}: {report['ratios'][kind]} times",
            )
            for kind, ours in report["ours"].items()
        ),
    ]
