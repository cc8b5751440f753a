"""The stream: topics → online store, archive and dead letters, by two supervised queries that share nothing.

The fold has a short trigger and the archive a long one, so that a commit of a table is never in the way of a feature.
Here everything is wired; what a batch does is in online_sink.py and archive.py.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from features.batch import Offsets, Store
from features.online_store.cells import Cells
from features.online_store.pending import Pending
from features.online_store.sweep import Sweeper
from features.repo import FeatureRepo
from features.windows import duration_ms
from streaming.archive import Archive, ArchiveReport, ArchiveSink
from streaming.crash_points import Reached, WatchedStore
from streaming.driver_lock import only_driver
from streaming.generations import Checkpoints, Generation, build_from_archive, new_generation, schemas_of
from streaming.online_sink import BatchReport, OnlineSink, Schemas, SendDeadLetters, now_ms
from streaming.pruning import Pruning
from streaming.session import Java, SparkError, read_topics, running_session
from streaming.source_batch import flat_offsets, nested_offsets
from streaming.status import Recent, Totals, lag, write_status
from streaming.supervisor import Handle, Log, Patience, SupervisedQuery
from streaming.watermarks import read_watermarks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

LEASE_S = 30.0
TICK_S = 0.2
STATUS_EVERY_S = 1.0
CHECK_EVERY_S = 5.0
UNKNOWN_AFTER_MS = 30_000  # Spark tells every 10 s that nothing came, unless it waits for Kafka


class Rows(Cells, Protocol):
    """What the pipeline needs of an online store (features/online_store)."""

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> Store:
        """A driver's way into a generation."""

    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        """Own the generation for a while, or raise LeaseError."""

    def release_lease(self, stream_id: int, owner: str) -> None:
        """Let others own it."""

    def current(self, view: str) -> int | None:
        """The generation that readers of the view read."""

    def set_current(self, view: str, stream_id: int) -> None:
        """Let readers of the view read this generation."""

    def bytes_per_row(self) -> dict[str, float]:
        """How long a row of each view is on average."""

    def pending(self) -> Pending:
        """Where accepted events wait for the rows."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream runs.

    Args:
        home: the project's own folder, for checkpoints and status.
        offline: where the archive's tables are.
        bootstrap: Kafka's bootstrap servers.
        client: further options of librdkafka.
        spark_kafka: further options of Spark's Kafka source.
        max_offsets: records in a batch of the fold at most; a batch of the archive has up to twice as many.
        rows_in_memory: events of the archive that a rebuild reads at once.
        archive_trigger_s: how long records wait for the archive at most.
    """

    home: Path
    offline: Path
    bootstrap: str
    jars: list[Path] = field(default_factory=list)
    client: Mapping[str, Any] = field(default_factory=dict)
    spark_kafka: Mapping[str, str] = field(default_factory=dict)
    master: str = "local[2]"
    memory: str = "1g"
    trigger_ms: int = 100
    archive_trigger_s: float = 10.0
    max_offsets: int = 50_000
    rows_in_memory: int = 10_000_000


def _no_place(_: str) -> None:
    """What is reached where no crash is asked for."""


class Pipeline:
    """Runs the fold and the archive of a repo's streams until it is told to stop.

    Args:
        send: takes dead letters.
        log: takes lines for a person.
        reached: is told of every effect (crash_points.py).
        schemas: the registry's, by number, for streams of Avro.
    """

    def __init__(
        self,
        options: StreamOptions,
        repo: FeatureRepo,
        rows: Rows,
        send: SendDeadLetters,
        log: Log,
        reached: Reached | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        self._options = options
        self._repo = repo
        self._rows = rows
        self._send = send
        self._log = log
        self._watched = reached is not None
        self._reached = reached or _no_place
        self._schemas = schemas
        self._topics = list(dict.fromkeys(topic for stream in repo.streams.values() for topic in stream.topics))
        self._owner = f"{socket.gethostname()}:{options.home.resolve()}"
        self._archive = Archive(options.offline, repo)
        self._recent = {"fold": Recent(), "archive": Recent()}
        self._last: dict[str, BatchReport | ArchiveReport] = {}
        self._ends: dict[str, Offsets] = {}
        self._leased_s = float("-inf")
        self._patiently = Patience(log)
        self._told_patiently = Patience(log)

    def run(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set; the batches that are running then are finished.

        Raises:
            LeaseError: another driver runs on the same project or owns the generation.
            FenceError: the store contradicts the checkpoint; the message says how to go on.
            SparkError: Spark's Java process ended.
        """
        with only_driver(self._options.home):
            archived, fold = self._generations()
            try:
                with self._session() as (spark, java):
                    self._supervise(self._queries(spark, archived, fold), fold, java, stop)
            finally:
                self._patiently(lambda: self._rows.release_lease(fold.stream_id, self._owner))

    def rebuild(self) -> tuple[Generation, bool]:
        """A new generation with rows from the archive, which the next run goes on from; whether it has all of Kafka.

        Readers turn to it at once where it has, or they have no other; else when a run has caught up.

        Raises:
            LeaseError: another driver runs on the same project or owns the generation.
        """
        with only_driver(self._options.home):
            archived, fold = self._generations(rebuild=True)
            try:
                high = read_watermarks(self._options.bootstrap, self._topics, self._options.client).high
                # Behind the last record of the tables there may be refused ones: the archive has seen those as well.
                whole = lag(self._checkpoints("archive").log(archived).standing(), high) == 0
                self._flip(fold, caught_up=lambda: whole)
            finally:
                self._rows.release_lease(fold.stream_id, self._owner)
        return fold, whole

    def _session(self) -> AbstractContextManager[tuple[SparkSession, Java]]:
        options = self._options
        return running_session(options.master, options.memory, options.jars, options.home / "logs")

    # --- generations ---

    def _checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(self._options.home / "checkpoints" / name)

    def _generations(self, *, rebuild: bool = False) -> tuple[Generation, Generation]:
        """The archive's and the fold's, as they were left or new."""
        archived = self._checkpoints("archive").current()
        fold = self._checkpoints("fold").current()
        if archived is None or fold is None or rebuild or fold.schemas != schemas_of(self._repo):
            first = self._first()
            if archived is None:
                archived = new_generation(first, {})
                self._checkpoints("archive").start(archived)
            fold = self._new_fold(first) if fold is None or rebuild or fold.schemas != schemas_of(self._repo) else fold
        self._rows.take_lease(fold.stream_id, self._owner, LEASE_S)
        return archived, fold

    def _first(self) -> Offsets:
        """Where a new checkpoint starts: where the archive ends, or a partition begins."""
        low = read_watermarks(self._options.bootstrap, self._topics, self._options.client).low
        known = self._archive.end()
        return {place: known.get(place, first) for place, first in low.items()}

    def _new_fold(self, first: Offsets) -> Generation:
        fold = new_generation(first, schemas_of(self._repo))
        self._log(f"new generation {fold.stream_id}: making its rows from the archive")
        self._rows.take_lease(fold.stream_id, self._owner, LEASE_S)
        rows_in_memory = self._options.rows_in_memory
        build_from_archive(self._store(fold), self._repo, self._archive, fold, now_ms(), rows_in_memory)
        self._checkpoints("fold").start(fold)
        return fold

    def _keep_lease(self, fold: Generation) -> None:
        """Make the lease last from now on, where that is not a moment ago."""
        now_s = time.monotonic()
        if now_s > self._leased_s + LEASE_S / 4:
            self._rows.take_lease(fold.stream_id, self._owner, LEASE_S)
            self._leased_s = now_s

    def _store(self, fold: Generation) -> Store:
        horizons = {name: duration_ms(stream.dedupe_horizon) for name, stream in self._repo.streams.items()}
        store = self._rows.generation(fold.stream_id, horizons)
        return WatchedStore(store, self._reached) if self._watched else store

    # --- queries ---

    def _queries(self, spark: SparkSession, archived: Generation, fold: Generation) -> list[SupervisedQuery]:
        options = self._options
        log = self._checkpoints("fold").log(fold)
        self._sweeper = Sweeper(self._rows, fold.stream_id, list(self._repo.views.values()))
        self._sink = OnlineSink(self._repo, self._store(fold), fold.stream_id, log, self._send_letters, self._schemas)
        archive_log = self._checkpoints("archive").log(archived)
        app_id = f"headrace-archive-{archived.stream_id}"
        appender = ArchiveSink(self._archive, self._repo, app_id, archive_log, self._reached, self._schemas)
        totals = self._checkpoints("fold").folder / f"{fold.stream_id}.counts.json"
        self._totals, self._totals_path = Totals.read(totals), totals
        self._ends = {"fold": log.standing(), "archive": archive_log.standing()}

        pruning = Pruning(self._rows, list(self._repo.views), fold.stream_id)

        def folded(frame: DataFrame, batch_id: int) -> None:
            self._keep_lease(fold)
            self._fold_done(self._sink.fold(frame.toArrow(), batch_id))
            self._sweeper.tick(self._sink.clock_ms)
            pruning.after_batch()

        def appended(frame: DataFrame, batch_id: int) -> None:
            self._archive_done(appender.append(frame.toArrow(), batch_id))

        fold_source = {"maxOffsetsPerTrigger": options.max_offsets}
        # A batch as soon as there are many records, or when the oldest has waited long enough: never in between.
        archive_source = {
            "maxOffsetsPerTrigger": 2 * options.max_offsets,
            "minOffsetsPerTrigger": options.max_offsets,
            "maxTriggerDelay": f"{int(options.archive_trigger_s * 1000)}ms",
        }
        folds = self._start(spark, "fold", fold, fold_source, options.trigger_ms)
        archives = self._start(spark, "archive", archived, archive_source, 1_000)
        return [
            SupervisedQuery("fold", folds, folded, self._log),
            SupervisedQuery("archive", archives, appended, self._log),
        ]

    def _start(
        self, spark: SparkSession, name: str, generation: Generation, source: Mapping[str, Any], trigger_ms: int
    ) -> Callable[[Handle], StreamingQuery]:
        options = self._options
        first = {"startingOffsets": json.dumps(nested_offsets(generation.first))}
        given = {**{key: str(value) for key, value in source.items()}, **first, **options.spark_kafka}
        checkpoint = self._checkpoints(name).path(generation)

        def start(handle: Handle) -> StreamingQuery:
            messages = read_topics(spark, self._topics, options.bootstrap, given)
            writer = messages.writeStream.queryName(name).foreachBatch(handle)
            writer = writer.option("checkpointLocation", str(checkpoint))
            return writer.trigger(processingTime=f"{trigger_ms} milliseconds").start()

        return start

    def _send_letters(self, *letters: Any) -> None:
        self._reached("before letters")
        self._send(*letters)
        self._reached("after letters")

    def _fold_done(self, report: BatchReport) -> None:
        self._totals = self._totals.with_batch(report.batch_id, report.counts)
        self._totals.write(self._totals_path)
        self._recent["fold"].add(report.finished_at, report.records, report.ages_ms)
        self._last["fold"], self._ends["fold"] = report, report.end

    def _archive_done(self, report: ArchiveReport) -> None:
        self._recent["archive"].add(now_ms(), report.records, np.empty(0, np.int64))
        self._last["archive"], self._ends["archive"] = report, report.end

    # --- supervision ---

    def _supervise(self, queries: list[SupervisedQuery], fold: Generation, java: Java, stop: threading.Event) -> None:
        try:
            with java.watched():
                self._watch(queries, fold, java, stop)
        except SparkError as error:
            for query in queries:
                query.lose(str(error))
            raise
        finally:
            for query in queries:
                query.stop()
            self._tell("stopped", queries)

    def _watch(self, queries: list[SupervisedQuery], fold: Generation, java: Java, stop: threading.Event) -> None:
        due = dict.fromkeys(("status", "check"), 0.0)
        while not stop.wait(TICK_S):
            java.check()
            now_s = time.monotonic()
            for query in queries:
                query.tick(now_s)
            if now_s >= due["status"]:
                due["status"] = now_s + STATUS_EVERY_S
                self._told_patiently(lambda: self._tell("running", queries))
                self._patiently(lambda: self._flip(fold, lambda: self._caught_up(queries[0])))
            if now_s >= due["check"]:
                due["check"] = now_s + CHECK_EVERY_S
                self._patiently(lambda: self._stand(fold, queries[0]))

    def _stand(self, fold: Generation, query: SupervisedQuery) -> None:
        """Keep the lease, and make sure that the store has what the checkpoint counts on, while no batch runs."""
        if not query.busy.acquire(blocking=False):
            return
        try:
            self._keep_lease(fold)
            self._sink.check_standing(self._checkpoints("fold").log(fold).committed())
            self._sweeper.tick(self._sink.clock_ms)
        finally:
            query.busy.release()

    def _flip(self, fold: Generation, caught_up: Callable[[], bool]) -> None:
        """Let readers read this generation: at once where they have none, else when it has caught up."""
        for view in self._repo.views:
            current = self._rows.current(view)
            if current is None or (current != fold.stream_id and caught_up()):
                self._rows.set_current(view, fold.stream_id)

    def _caught_up(self, query: SupervisedQuery) -> bool:
        return "fold" in self._last and self._lag(query) == 0

    def _tell(self, state: str, queries: list[SupervisedQuery]) -> None:
        status = {"state": state, "pid": os.getpid(), "bootstrap": self._options.bootstrap, "updated_at": now_ms()}
        write_status(self._options.home, status | {"queries": {query.name: self._told(query) for query in queries}})

    def _told(self, query: SupervisedQuery) -> dict[str, Any]:
        last, recent = self._last.get(query.name), self._recent[query.name]
        return {
            "state": query.state,
            "error": query.error,
            "restarts": query.restarts,
            "batch_id": last.batch_id if last else None,
            "batch_ms": round(last.took_ms, 1) if last else None,
            "rows_per_s": round(recent.per_s(now_ms()), 1),
            "age": recent.age_ms(now_ms()),
            "lag": self._lag(query),
            "end": dict(self._ends[query.name]),
            "counts": vars(self._totals.after) if query.name == "fold" else {},
        }

    def _lag(self, query: SupervisedQuery) -> int | None:
        """How far the query is behind where the topics ended when Spark looked last; None where that is long ago."""
        progress = query.progress()
        if progress is None or now_ms() - ms_of_progress(progress) > UNKNOWN_AFTER_MS:
            return None
        latest = [json.loads(one.get("latestOffset") or "null") for one in progress["sources"]]
        if not all(latest) or not latest:
            return None
        ends = flat_offsets({topic: parts for one in latest for topic, parts in one.items()})
        return lag(self._ends[query.name], ends)


def ms_of_progress(progress: Mapping[str, Any]) -> int:
    """When the trigger began that Spark tells of."""
    return int(datetime.fromisoformat(progress["timestamp"]).timestamp() * 1000)
