"""``headrace bench online-read`` and ``online-write``: our rows through Feast, and stock Feast in the same run."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from headrace.bench.core import spread, timed
from headrace.console import JSON, print_report, say

if TYPE_CHECKING:
    import feast
    import pandas as pd
    import pyarrow as pa

    from features.definitions import FeatureView
    from features.online_store.redis import RedisRows
    from features.online_store.sqlite import SqliteRows

COUNTS = {1: 300, 100: 60, 500: 24}
"""Entities of a read → how often it is measured."""

SIZES = (20, 50)

GENERATION = 1

TURNS = 6

MAIN = (20, 500)
"""The case that ``ratio`` is about."""


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
    print_report(report, as_json, reads_as_text)


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
    print_report(report, as_json, writes_as_text)


def measured(name: str, work: Callable[[Bench], dict[str, Any]]) -> dict[str, Any]:
    """The report of one bench in a folder of its own, which is gone afterwards."""
    import feast

    from headrace.bench.workload import redis_server

    with TemporaryDirectory(prefix="headrace-bench-") as name_of, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast's, of its own code
        folder = Path(name_of)
        with redis_server(folder) as redis:
            if redis is None:
                say("no redis-server on this machine: SQLite only")
            figures = work(Bench(folder, redis))
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    ours, peer, rest = figures.pop("ours"), figures.pop("peer"), figures
    peer = {"name": f"feast {feast.__version__}, its own stores", **peer}
    return {"bench": name, "machine": machine, "ours": ours, "peer": peer, **rest}


@dataclass(frozen=True)
class Sides:
    """One kind of store, ours and stock."""

    kind: str
    rows: SqliteRows | RedisRows
    ours: feast.FeatureStore
    stock: feast.FeatureStore


@dataclass(frozen=True)
class Bench:
    """The stores of a run; ``redis`` is host:port, or None."""

    folder: Path
    redis: str | None

    @property
    def kinds(self) -> list[str]:
        return ["sqlite", "redis"] if self.redis else ["sqlite"]

    @contextmanager
    def sides(self, kind: str) -> Iterator[Sides]:
        """Both sides of one kind of store, empty."""
        from headrace.bench.workload import ours, stock

        folder = self.folder / f"{kind}-{time.monotonic_ns()}"
        folder.mkdir()
        with closing(self._rows(kind, folder)) as rows:
            address = self.redis if kind == "redis" and self.redis else str(folder / "ours.db")
            other = f"{self.redis},db=1" if kind == "redis" else str(folder / "stock.db")
            yield Sides(kind, rows, ours(folder, kind, address), stock(folder, kind, other))
            if kind == "redis":
                rows.drop_generation(GENERATION)

    def _rows(self, kind: str, folder: Path) -> SqliteRows | RedisRows:
        if kind == "redis":
            from features.online_store.redis import RedisRows

            return RedisRows(f"redis://{self.redis}/0", timeout_s=60.0)
        return durable_sqlite(folder / "ours.db")

    # --- reads ---

    def reads(self, entities: int) -> dict[str, Any]:
        """Both sides' times by store, density, features and users, and the ratios."""
        found: dict[str, Any] = {"ours": {}, "peer": {}}
        for kind, density in product(self.kinds, ("typical", "dense")):
            with self.sides(kind) as sides:
                say(f"{kind}, {density}: folding and writing {entities if density == 'typical' else 500} users")
                case = self._reads(sides, density, entities if density == "typical" else 500)
            for side in ("ours", "peer"):
                found[side].setdefault(kind, {})[density] = case[side]
        return {**found, **ratios(found)}

    def _reads(self, sides: Sides, density: str, entities: int) -> dict[str, Any]:
        import numpy as np

        from features.times import now_ms
        from headrace.bench.workload import bench_view, dense_events, typical_events, users

        now = now_ms()
        events = typical_events(entities, now) if density == "typical" else dense_events(entities, now)
        views = [bench_view(size) for size in SIZES]
        filled(sides, views, events, users(entities), now)
        weights = sides.rows.bytes_per_row()
        case: dict[str, Any] = {"ours": {}, "peer": {}}
        for view, size in zip(views, SIZES, strict=True):
            case["ours"][str(size)] = {"bytes_per_row": round(weights[view.name])}
            case["peer"][str(size)] = {}
            for count, repeat in COUNTS.items():
                rng = np.random.default_rng(count)
                asked = [[{"user_id": f"user-{n}"} for n in rng.permutation(entities)[:count]] for _ in range(repeat)]
                ours, peer = in_turns(sides, view, asked)
                case["ours"][str(size)][str(count)], case["peer"][str(size)][str(count)] = ours, peer
        return case

    # --- writes ---

    def writes(self, count: int, repeat: int) -> dict[str, Any]:
        """Both sides' rows a second by store, and the worst ratio."""
        found: dict[str, Any] = {"ours": {}, "peer": {}, "ratios": {}}
        for kind in self.kinds:
            with self.sides(kind) as sides:
                say(f"{kind}: {repeat} batches of {count:,} rows, twice")
                ours, peer = self._writes(sides, count, repeat)
            found["ours"][kind], found["peer"][kind] = ours, peer
            found["ratios"][kind] = round(ours["per_s"] / peer["per_s"], 2)
        return {**found, "ratio": min(found["ratios"].values())}

    def _writes(self, sides: Sides, count: int, repeat: int) -> tuple[dict[str, Any], dict[str, Any]]:
        from features.times import now_ms
        from headrace.bench.workload import bench_view, typical_events, users

        now, view = now_ms(), bench_view(20)
        frame = filled(sides, [view], typical_events(count, now), users(count), now)[view.name]
        ours, peer = [], []
        for number in range(repeat):
            fold = partial_fold(sides, view, count, number, now)
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
    sides: Sides, views: Sequence[FeatureView], events: pa.Table, keys: Sequence[str], now: int
) -> dict[str, pd.DataFrame]:
    """Our store has the rows of the events, stock Feast's what they come to; these, by view, as it was given them."""
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


def partial_fold(sides: Sides, view: FeatureView, count: int, number: int, now: int) -> Callable[[], None]:
    """Folds a batch with one event of each user, made beforehand, and writes its rows."""
    import numpy as np

    from features.rows import BatchKey, Fold
    from headrace.bench.workload import TYPES, event_table

    rng = np.random.default_rng(number)
    times = now + 1_000 * number + np.arange(count) % 1_000
    events = event_table(times, rng.permutation(count), rng.integers(0, len(TYPES), count), 10**7 * (number + 1))

    def fold() -> None:
        generation = sides.rows.generation(GENERATION)
        generation.begin()
        folding = Fold(view, {"activity": events})
        changed = folding.rows(generation.rows(view.name, folding.keys), BatchKey(GENERATION, number + 1, now))
        generation.put_rows(view.name, changed)

    return fold


def _milliseconds(count: int) -> Any:
    import pandas as pd

    return pd.Timedelta(count, unit="ms")


def in_turns(
    sides: Sides, view: FeatureView, asked: Sequence[list[dict[str, str]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both sides' times of the reads: the call alone, and with its to_dict().

    They take turns of several reads, so that neither reads from caches which the other has filled, nor has the machine
    at a better moment.
    """
    features = [f"{view.name}:{name}" for name in view.names]
    calls: tuple[list[float], list[float]] = ([], [])
    dicts: tuple[list[float], list[float]] = ([], [])
    for start in range(0, len(asked), len(asked) // TURNS):
        for place, store in enumerate((sides.ours, sides.stock)):
            store.get_online_features(features, asked[start]).to_dict()
            for entity_rows in asked[start : start + len(asked) // TURNS]:
                before = time.perf_counter()
                response = store.get_online_features(features, entity_rows)
                called = time.perf_counter()
                response.to_dict()
                calls[place].append(called - before)
                dicts[place].append(time.perf_counter() - before)
    ours, peer = ({**in_ms(call), "to_dict": in_ms(whole)} for call, whole in zip(calls, dicts, strict=True))
    return ours, peer


def in_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    from streaming.fold import percentiles_ms

    return percentiles_ms([1e3 * one for one in seconds], digits=4)


def ratios(found: dict[str, Any]) -> dict[str, Any]:
    """How many times faster we are by p50, in the worst store: of each case, and (``ratio``) of the main one."""
    worst: dict[str, float] = {}
    for density, size, count in product(("typical", "dense"), SIZES, COUNTS):
        name = f"{density} {count} x {size}"
        worst[name] = min(
            round(peer[density][str(size)][str(count)]["p50_ms"] / ours[density][str(size)][str(count)]["p50_ms"], 2)
            for ours, peer in zip(found["ours"].values(), found["peer"].values(), strict=True)
        )
    return {"ratios": worst, "ratio": worst[f"typical {MAIN[1]} x {MAIN[0]}"]}


def reads_as_text(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [f"machine  {report['machine']}", f"peer     {report['peer']['name']}", ""]
    lines.append(
        f"{'store':7} {'density':8} {'features':>8} {'users':>5} {'bytes/row':>9} {'ours ms':>18} {'peer ms':>18}"
    )
    for kind, density, size, count in product(report["ours"], ("typical", "dense"), SIZES, COUNTS):
        ours, peer = (report[side][kind][density][str(size)] for side in ("ours", "peer"))
        times = [f"{one[str(count)]['p50_ms']:.2f} (p99 {one[str(count)]['p99_ms']:.2f})" for one in (ours, peer)]
        weight = f"{ours['bytes_per_row']:,}"
        lines.append(f"{kind:7} {density:8} {size:8} {count:5} {weight:>9} {times[0]:>18} {times[1]:>18}")
    worst = [f"{name}: {value}" for name, value in report["ratios"].items()]
    return "\n".join([*lines, "", "times faster, in the worst store", *worst])


def writes_as_text(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [f"machine  {report['machine']}", f"peer     {report['peer']['name']}"]
    for kind, ours in report["ours"].items():
        peer = report["peer"][kind]
        lines.append(f"{kind:8} {ours['per_s']:>8,} rows/s; peer {peer['per_s']:>8,}: {report['ratios'][kind]} times")
    return "\n".join(lines)
