"""`headrace bench throughput`: events a second that the running stream folds, and the limits of its parts."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from features.errors import UsageError
from headrace.bench.loop.running import STORES, check_stores, ended_by_ctrl_c, loop_of, own_broker
from headrace.bench.report import bench_report, write_report
from headrace.console import JSON, say
from headrace.loop import Loop

if TYPE_CHECKING:
    import pyarrow as pa

    from features.definitions import Stream
    from headrace.project import Project
    from headrace.settings import Settings

STREAM, VIEWS = "activity", ("user_activity", "item_activity")

WARM_UP_S = 25

LOOK_EVERY_S = 0.1

STARTED_WITHIN_S, ENDED_WITHIN_S = 120.0, 10.0

BATCHES_AHEAD = 4
"""How many batches the producer may be ahead: the lag that the stream is to hold."""

LIMIT_RECORDS, LIMIT_BATCHES = 500_000, 8


@click.command()
@click.option("--seconds", default=300, show_default=True, type=click.IntRange(20, 3_600), help="Seconds, each store.")
@click.option(
    "--rate", default=0, show_default=True, type=click.IntRange(0), help="Events a second; 0 for all it takes."
)
@click.option("--store", "stores", multiple=True, type=click.Choice(STORES), help="Only this store.")
@JSON
def throughput(seconds: int, rate: int, stores: tuple[str, ...], as_json: bool) -> None:
    """Events a second from Kafka into the rows of two entities each, with duplicates dropped and lag held.

    A broker, a stream and (for redis) a server of its own run in a folder of their own, with the project's settings and
    definitions, and end with it. A producer sends events of 100,000 users and 10,000 items by Zipf's law: as many as
    the stream takes, a few batches ahead of it. The limits are measured in the same run: what Spark hands to a parser
    in its Python workers, and the fold alone on one processor.

    \b
    Examples:
      headrace bench throughput
      HEADRACE_STREAM__LONG_RUNNING=true headrace bench throughput
      headrace bench throughput --seconds 60 --store sqlite --json
    """
    from headrace.project import Project

    project = own_broker(Project.open(), "bench throughput")
    check_stores(stores or STORES, "bench throughput")
    with ended_by_ctrl_c():
        ours = {store: measured(store, project, seconds, rate) for store in stores or STORES}
        limits = {"spark_parse_noop": best_limit(ours), **_in_own_process(fold_limit, project.root, project.settings)}
    write_report(bench_report("throughput", ours, limits=limits), as_json, details)


def best_limit(ours: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The highest rate of Spark alone: each store's figures lose the one that was measured beside them."""
    return {"per_s": max(figures.pop("limit") for figures in ours.values())}


def _in_own_process(measure: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed in a new process: its threads and processors affect nothing here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def measured(store: str, project: Project, seconds: int, rate: int) -> dict[str, Any]:
    """The figures of one store."""
    with loop_of(project, store=store) as loop:
        say(f"{store}: starting a broker and the stream")
        loop.start_broker()
        stream = loop.start("stream", "stream")
        with producing(loop) as producer:
            figures = producer.measure(seconds, rate)
        loop.end(stream)
        say(f"{store}: {json.dumps(figures)}")
        say("the limit: Spark, parsing in its Python workers, no sink")
        return figures | {"limit": _in_own_process(parse_limit, project.root, project.settings, loop.bootstrap)}


@contextmanager
def producing(loop: Loop) -> Iterator[PacedProducer]:
    """A producer in its own process, which ends with the block."""
    from headrace.simulators import send_as_allowed

    stream = activity(loop.repo)
    processes = multiprocessing.get_context("spawn")
    allowed, sent = processes.Value("q", 0), processes.Value("q", 0)
    arguments = (loop.bootstrap, dict(loop.settings.kafka.client), [stream], allowed, sent)
    producer = processes.Process(target=send_as_allowed, args=arguments, daemon=True)
    producer.start()
    try:
        yield PacedProducer(loop, allowed, sent)
    finally:
        allowed.value = -1
        producer.join(ENDED_WITHIN_S)
        if producer.is_alive():
            producer.kill()


def activity(repo: Path) -> Stream:
    """The stream that the events are sent to. Raises UsageError where the definitions are not a shop's."""
    from features.definitions import load_repo

    definitions = load_repo(repo)
    if STREAM not in definitions.streams or not set(VIEWS) <= set(definitions.views):
        required = f"a stream '{STREAM}' and the views {', '.join(VIEWS)}, as the shop's definitions have"
        raise UsageError(
            "bench throughput", required, ", ".join([*definitions.streams, *definitions.views]) or "nothing"
        )
    return definitions.streams[STREAM]


@dataclass(frozen=True)
class ProgressSample:
    """The stream's status at ``at_s``: the records that it has counted, those sent but not yet counted, ms by stage."""

    at_s: float
    ended: int
    lag: int
    spent_ms: Mapping[str, float]


class PacedProducer:
    """A producer that stays a few batches ahead of the stream.

    Args:
        allowed: how many events the producer's process may have sent; shared with it.
        sent: how many it has sent; shared with it.
    """

    def __init__(self, loop: Loop, allowed: Any, sent: Any) -> None:
        self._loop, self._allowed, self._sent = loop, allowed, sent
        self._ahead = BATCHES_AHEAD * loop.settings.stream.max_offsets_per_trigger
        self._updated_at = 0.0

    def measure(self, seconds: int, rate: int) -> dict[str, Any]:
        """The figures of so many seconds, once the stream is warm."""
        self._allowed.value = 1_000
        self._loop.wait("the stream", lambda: sum(self._loop.counted().values()), STARTED_WITHIN_S)
        say(f"warming up for {WARM_UP_S} s, then measuring {seconds} s")
        self._run(WARM_UP_S, rate)
        return figures_of(self._run(seconds, rate))

    def _run(self, seconds: int, rate: int) -> list[ProgressSample]:
        """The samples of so many seconds, while events are sent."""
        samples: list[ProgressSample] = []
        began, first = time.monotonic(), self._sent.value
        while time.monotonic() < began + seconds:
            self._loop.check()
            ended = sum(self._loop.counted().values())
            due = first + int(rate * (time.monotonic() - began)) if rate else ended + self._ahead
            self._allowed.value = min(due, ended + 10 * self._ahead)
            samples += self._new_sample()
            time.sleep(LOOK_EVERY_S)
        return samples

    def _new_sample(self) -> list[ProgressSample]:
        """A sample, where the status has been written since the last one; else none."""
        status = self._loop.status()
        at_s = status.get("updated_at", 0) / 1_000
        fold = status.get("queries", {}).get("fold")
        if fold is None or at_s == self._updated_at:
            return []
        self._updated_at = at_s
        ended = sum(fold["counts"].values())
        return [ProgressSample(at_s, ended, self._sent.value - ended, fold["spent_ms"])]


def figures_of(samples: list[ProgressSample]) -> dict[str, Any]:
    """Events a second between the first and the last sample, the lag at both ends, and microseconds by stage."""
    first, last = samples[0], samples[-1]
    ended, seconds = last.ended - first.ended, last.at_s - first.at_s
    spent = {stage: ms - first.spent_ms.get(stage, 0.0) for stage, ms in last.spent_ms.items()}
    quarter = max(len(samples) // 4, 1)
    lags = [sum(sample.lag for sample in part) // len(part) for part in (samples[:quarter], samples[-quarter:])]
    return {
        "per_s": round(ended / seconds),
        "events": ended,
        "seconds": round(seconds, 1),
        "lag": {"first_quarter": lags[0], "last_quarter": lags[1], "end": last.lag},
        "us_per_event": {stage: round(1e3 * ms / max(ended, 1), 2) for stage, ms in spent.items()},
    }


def parse_limit(root: Path, settings: Settings, bootstrap: str) -> int:
    """Records a second from Kafka through mapInArrow and the parser into no sink; each task is a core of the master."""
    from features.definitions import load_repo
    from streaming.jars import resolve_spark
    from streaming.kafka import read_watermarks
    from streaming.spark import COLUMNS, SOURCE, nested_offsets, spark_session

    repo = load_repo(root / settings.stream.repo)
    stream, horizon_ms = repo.streams[STREAM], repo.horizon_ms(STREAM)
    home = root / settings.home
    chosen = settings.stream
    jars, logs = resolve_spark(home), home / "logs"
    spark = spark_session(chosen.spark_master, chosen.spark_memory, jars, logs, chosen.long_running)

    def counted(tables: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        from features.events import Records, parse

        for table in tables:
            offsets = np.asarray(table["partition"]), np.asarray(table["offset"])
            parsed = parse(Records(table["value"], np.asarray(table["timestamp"]), *offsets), stream, horizon_ms)
            yield pa.RecordBatch.from_arrays([pa.array([parsed.events.num_rows])], ["events"])

    def run(most: int) -> float:
        high = read_watermarks(bootstrap, [stream.topic]).high
        until = {partition: min(end, most // len(high)) for partition, end in high.items()}
        ends, records = json.dumps(nested_offsets(until)), sum(until.values())
        options = SOURCE | {"kafka.bootstrap.servers": bootstrap, "subscribe": stream.topic, "endingOffsets": ends}
        frame = spark.read.format("kafka").options(**options).load().selectExpr(*COLUMNS)
        began = time.perf_counter()
        frame.mapInArrow(counted, "events long").write.format("noop").mode("overwrite").save()
        return records / (time.perf_counter() - began)

    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(chosen.max_offsets_per_trigger))
    try:
        run(LIMIT_RECORDS // 5)
        return round(run(LIMIT_RECORDS))
    finally:
        spark.stop()


def fold_limit(root: Path, settings: Settings) -> dict[str, Any]:
    """The fold into both views' rows in a dictionary, on one processor."""
    import time as clock

    import numpy as np
    import pyarrow as pa

    from features.definitions import load_repo
    from features.events import Records, parse
    from headrace.bench.core import DictStore, folded, on_one_processor, spread, timed
    from headrace.simulators import Templates, ZipfLoad

    on_one_processor()
    repo, size = load_repo(root / settings.stream.repo), settings.stream.max_offsets_per_trigger
    stream, views = repo.streams[STREAM], tuple(repo.views[name] for name in VIEWS)
    templates, stores = Templates(ZipfLoad(), stream), {name: DictStore({}) for name in VIEWS}
    rates = []
    for number in range(LIMIT_BATCHES):
        now_ms = clock.time_ns() // 1_000_000
        values = pa.array([message["value"] for message in templates.batch(number * size, size, now_ms)], pa.binary())
        offsets = np.zeros(size, np.int32), np.arange(number * size, (number + 1) * size)
        events = parse(Records(values, np.full(size, now_ms), *offsets), stream).events
        rates.append(size / timed(partial(folded, views, stores, events, number)))
    return {"fold_alone": {**spread(rates[LIMIT_BATCHES // 2 :]), "entities_per_event": 2, "batch": size}}


def details(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report's labels and texts."""
    lines = []
    for store, ours in report["ours"].items():
        lag = ours["lag"]
        stages = ", ".join(f"{stage} {us:g}" for stage, us in ours["us_per_event"].items())
        lines += [
            (store, f"{ours['per_s']:,} events/s for {ours['seconds']:.0f} s ({ours['events']:,} events)"),
            ("", f"lag {lag['first_quarter']:,} in the first quarter, {lag['last_quarter']:,} in the last"),
            ("", f"µs an event: {stages}"),
        ]
    limits = report["limits"]
    return [
        *lines,
        ("limits", f"Spark, parse, no sink {limits['spark_parse_noop']['per_s']:,} events/s"),
        ("", f"the fold alone        {limits['fold_alone']['per_s']:,} events/s on one processor"),
    ]
