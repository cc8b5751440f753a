"""The stream: topics → online store, archive and dead letters, by supervised queries that owe each other nothing.

The fold has a short trigger and the archive a long one, so that a commit of a table is never in the way of a feature.
While a new generation is built and catches up, the ones before it are folded on: readers never see features age.
Here everything is wired; what a batch does is in online_sink.py and archive.py.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from features.definitions import FeatureRepo
from features.errors import DefinitionError, HeadraceError, StoreError
from features.online_store import Rows, Sweeper
from features.rows import fold_nothing
from features.times import now_ms
from streaming.archive import Archive, ArchiveSink
from streaming.fold import Handover, OnlineSink, Pruning, Reached, recipe_of
from streaming.generations import (
    Builder,
    Checkpoints,
    Executors,
    Generation,
    GenerationFold,
    Lease,
    Needed,
    Running,
    flip,
    is_current,
    only_driver,
    schemas_of,
    superseded,
    take_rebuild,
)
from streaming.kafka import read_watermarks
from streaming.scoring import EventScoring
from streaming.settings import StreamOptions
from streaming.spark import Java, Schemas, SendDeadLetters, SparkError, nested_offsets, read_topics, running_session
from streaming.status import lag, write_status
from streaming.supervisor import Handle, Log, Patience, SupervisedQuery, reason

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

TICK_S = 0.2

STATUS_EVERY_S = 1.0

CHECK_EVERY_S = 5.0

BUILD_AGAIN_S = 60.0

HANDED_BATCHES = 5
"""A batch of the archive has as many records as two of the fold, which goes on while they are written."""


def _no_place(_: str) -> None:
    """What is reached where no crash is asked for."""


class Pipeline:
    """Runs the folds and the archive of a repo's streams until it is told to stop.

    Args:
        send: takes dead letters.
        log: takes lines for a person.
        reached: is told of every effect (crash_points.py).
        schemas: the registry's, by number, for streams of Avro.
        models: what registered models need, and what asks those of events.
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
        models: Models | None = None,
    ) -> None:
        self._options = options
        self._repo = repo
        self._rows = rows
        self._send = send
        self._log = log
        self._reached = reached or _no_place
        self._schemas = schemas
        self._needed = models.needed if models else frozenset
        self._scoring = (models and models.scoring) or EventScoring([])
        self._topics = list(dict.fromkeys(topic for stream in repo.streams.values() for topic in stream.topics))
        self._archive = Archive(options.offline, repo)
        self._handover = Handover(repo.streams, HANDED_BATCHES * options.settings.max_offsets_per_trigger)
        self._builder = Builder(options, repo, rows, self._archive, log, reached, self._scoring.reach)
        self._archived, self._kept = self._builder.archived, self._builder.kept
        self._folds: list[GenerationFold] = []
        self._build: Future[Generation] | None = None
        self._leaving: Future[list[Generation]] | None = None
        self._wanted = False
        self._build_error: str | None = None
        self._patiently = Patience(log)
        self._told_patiently = Patience(log)

    def run(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set; the batches that are running then are finished.

        Raises:
            LeaseError: another driver runs on the same project or owns the generation.
            FenceError: the store contradicts the checkpoint; the message says how to go on.
            SparkError: Spark's Java process ended.
        """
        with only_driver(self._options.home), ThreadPoolExecutor(1, "generations") as self._worker:
            for view in self._repo.views.values():
                fold_nothing(view)
            archived = self._builder.archive_generation()
            self._builder.forget_unfinished()
            self._folds = self._as_they_were() or [self._fold_of(self._builder.built(archived), self._repo)]
            try:
                with self._session() as (spark, java):
                    self._supervise(spark, archived, java, stop)
            finally:
                self._builder.stop.set()
                self._scoring.close()
                for fold in self._folds:
                    self._patiently(fold.lease.release)

    def rebuild(self) -> tuple[Generation, bool]:
        """A new generation with rows from the archive, which the next run goes on from; whether it has all of Kafka.

        Readers turn to it at once where it has, or they have no other; else when a run has caught up.

        Raises:
            LeaseError: another driver runs on the same project or owns the generation.
        """
        with only_driver(self._options.home):
            archived = self._builder.archive_generation()
            self._builder.forget_unfinished()
            fold = self._builder.built(archived)
            high = read_watermarks(self._options.bootstrap, self._topics, self._options.client).high
            # Behind the last record of the tables there may be refused ones: the archive has seen those as well.
            whole = lag(fold.first, high) == 0
            flip(self._rows, fold, lambda: whole)
            self._drop(self._superseded() if whole else [])
            self._rows.release_lease(fold.stream_id, self._builder.owner)
        return fold, whole

    def _session(self) -> AbstractContextManager[tuple[SparkSession, Java]]:
        options = self._options
        logs = options.home / "logs"
        chosen = options.settings
        return running_session(chosen.spark_master, chosen.spark_memory, options.jars, logs, chosen.long_running)

    # --- generations ---

    def _as_they_were(self) -> list[GenerationFold]:
        """Folds of the generations that a run has left, oldest first; that of today's definitions, if any, is last."""
        current = self._kept.current()
        if current is not None and current.schemas != schemas_of(self._repo):
            again = [one for one in self._kept.older() if one.schemas == schemas_of(self._repo)]
            if again:
                self._kept.take_back(again[-1])
                current = again[-1]
        folds = [self._older_fold(one) for one in self._kept.older()]
        if current is not None and current.schemas == schemas_of(self._repo):
            folds.append(self._fold_of(self._builder.described(current), self._repo))
        elif current is not None:
            folds.append(self._older_fold(current))
        return [fold for fold in folds if fold is not None]

    def _older_fold(self, generation: Generation) -> GenerationFold | None:
        try:
            return self._fold_of(generation, generation.repo())
        except DefinitionError as error:
            self._log(f"generation {generation.stream_id} is not folded on: {error}")
            return None

    def _fold_of(self, generation: Generation, repo: FeatureRepo) -> GenerationFold:
        lease = Lease(self._rows, generation.stream_id, self._builder.owner)
        number, log = generation.stream_id, self._kept.log(generation)
        store, handover = self._builder.store(generation, repo), self._handover if repo is self._repo else None
        # Rows that have events which no model was asked about would show a model their effects: they ask none.
        scoring = None if self._scoring.lacks(log.standing()) else self._scoring.asking(repo, store, number)
        sink = OnlineSink(repo, store, number, log, self._send_letters, self._schemas, handover, scoring)
        sweeper = Sweeper(self._rows, number, list(repo.views.values()))
        pruning = Pruning(self._rows, list(repo.views), number)
        return GenerationFold(
            generation, repo, sink, sweeper, pruning, lease, self._kept, self._options.settings.freshness_slo_ms
        )

    # --- queries ---

    def _supervise(self, spark: SparkSession, archived: Generation, java: Java, stop: threading.Event) -> None:
        self._spark = spark
        # Not beside Spark's start: Python's imports of both by two threads at once can fail.
        self._scoring.start()
        self._archiving = self._archive_query(archived)
        for fold in self._folds:
            self._run_fold(fold)
        newest = self._folds[-1]
        self._wanted = newest.generation.schemas != schemas_of(self._repo) or self._scoring.lacks(newest.end)
        try:
            with java.watched():
                self._watch(archived, java, stop)
        except SparkError as error:
            for running in (self._archiving, *self._folds):
                running.query.lose(str(error))
            raise
        finally:
            for running in (*self._folds, self._archiving):  # which waits for them no longer then
                running.query.stop()
            self._told_patiently(lambda: self._tell("stopped"))

    def _watch(self, archived: Generation, java: Java, stop: threading.Event) -> None:
        due = dict.fromkeys(("status", "check", "build"), 0.0)
        while not stop.wait(TICK_S):
            java.check()
            now_s = time.monotonic()
            self._archiving.query.tick(now_s)
            self._each_fold(GenerationFold.tick)
            if now_s >= due["build"] and self._look_after_build(archived):
                due["build"] = now_s + BUILD_AGAIN_S
            if now_s >= due["status"]:
                due["status"] = now_s + STATUS_EVERY_S
                self._patiently(self._succeed)  # first: what is told is never ahead of what readers read
                self._told_patiently(lambda: self._tell("running"))
            if now_s >= due["check"]:
                due["check"] = now_s + CHECK_EVERY_S
                self._patiently(lambda: self._each_fold(GenerationFold.stand))
                if self._build is not None:
                    self._patiently(self._builder.keep_lease)

    def _each_fold(self, work: Callable[[GenerationFold], None]) -> None:
        """Do it for each; a final error ends the stream, unless a newer generation is on its way to replace the one."""
        for fold in self._folds:
            try:
                work(fold)
            except StoreError:
                raise
            except HeadraceError as error:
                if fold is self._folds[-1] and self._build is None and not self._wanted:
                    raise
                self._log(f"generation {fold.generation.stream_id} is not folded on: {error}")

    def _look_after_build(self, archived: Generation) -> bool:
        """Begin a build that is wanted, and take over one that is done; True where it failed."""
        if self._build is None:
            self._wanted = take_rebuild(self._options.home) or self._wanted
            if self._wanted:
                self._build_error = None
                self._build = self._worker.submit(self._builder.built, archived)
        elif self._build.done():
            done, self._build = self._build, None
            try:
                fold = self._fold_of(done.result(), self._repo)
            except Exception as error:  # whatever it was, the generations before are still folded
                self._build_error = reason(error, None)
                self._log(f"the new generation could not be made: {self._build_error}")
                if self._folds[-1].failed is not None:
                    raise
                return True
            self._wanted, self._build_error = False, None
            self._run_fold(fold)
            self._folds.append(fold)
        return False

    def _run_fold(self, fold: GenerationFold) -> None:
        options = self._options
        source = {"maxOffsetsPerTrigger": options.settings.max_offsets_per_trigger}
        name = f"fold-{fold.generation.stream_id}"
        start = self._start(name, self._kept, fold.generation, fold.topics, source, options.settings.trigger_ms)
        recipe = recipe_of(fold.repo, self._spark.sparkContext.defaultParallelism, self._schemas)
        fold.executors = Executors(recipe, self._rows, options.settings.driver_records)
        fold.query = SupervisedQuery("fold", start, fold.handle, self._log)
        if fold.repo is self._repo:
            self._handover.begin(fold.end)

    def _archive_query(self, archived: Generation) -> Running:
        options = self._options
        log = self._archived.log(archived)
        app_id = f"headrace-archive-{archived.stream_id}"
        appender = ArchiveSink(self._archive, self._repo, app_id, log, self._reached, self._schemas)
        running = Running(log.standing())

        def appended(frame: DataFrame, batch_id: int) -> None:
            events = self._handover.take(*log.between(batch_id), self._gives)
            if events is None:
                report = appender.append(frame.toArrow(), batch_id)
            else:
                report = appender.append_events(events, batch_id)
            running.done(report.batch_id, report.end, report.records, np.empty(0, np.int64), report.took_ms)

        # A batch as soon as there are many records, or when the oldest has waited long enough: never in between.
        source = {
            "maxOffsetsPerTrigger": 2 * options.settings.max_offsets_per_trigger,
            "minOffsetsPerTrigger": options.settings.max_offsets_per_trigger,
            "maxTriggerDelay": f"{int(options.settings.archive_trigger_s * 1000)}ms",
        }
        start = self._start("archive", self._archived, archived, self._topics, source, 1_000)
        running.query = SupervisedQuery("archive", start, appended, self._log)
        return running

    def _gives(self) -> bool:
        """Whether a fold that parses what the archive does gets on."""
        ours = [fold for fold in self._folds if fold.repo is self._repo and fold.failed is None]
        return any(fold.query.state in ("starting", "running") for fold in ours)

    def _start(
        self,
        name: str,
        checkpoints: Checkpoints,
        generation: Generation,
        topics: Sequence[str],
        source: Mapping[str, Any],
        trigger_ms: int,
    ) -> Callable[[Handle], StreamingQuery]:
        options = self._options
        first = {"startingOffsets": json.dumps(nested_offsets(generation.first))}
        given = {**{key: str(value) for key, value in source.items()}, **first, **options.spark_kafka}
        checkpoint = checkpoints.path(generation)

        def start(handle: Handle) -> StreamingQuery:
            messages = read_topics(self._spark, topics, options.bootstrap, given)
            writer = messages.writeStream.queryName(name).foreachBatch(handle)
            writer = writer.option("checkpointLocation", str(checkpoint))
            return writer.trigger(processingTime=f"{trigger_ms} milliseconds").start()

        return start

    def _send_letters(self, *letters: Any) -> None:
        self._reached("before letters")
        self._send(*letters)
        self._reached("after letters")

    # --- who reads what ---

    def _succeed(self) -> None:
        """Readers read the newest generation once it has caught up; older ones go when nobody needs them."""
        newest = self._folds[-1]
        self._turn_readers_to(newest)
        if self._build is not None or not self._kept.older() or not is_current(self._rows, newest.generation):
            return
        if self._leaving is None:
            self._leaving = self._worker.submit(self._superseded)
        elif self._leaving.done():
            done, self._leaving = self._leaving, None
            self._drop(done.result())

    def _turn_readers_to(self, newest: GenerationFold) -> None:
        """No reader sees a feature go back: the newest has what the one before has, which stands still meanwhile."""
        before = self._folds[-2] if len(self._folds) > 1 else None
        if before is None or before.failed is not None:
            left = flip(self._rows, newest.generation, newest.caught_up)
        elif before.query.busy.acquire(blocking=False):
            try:
                left = flip(self._rows, newest.generation, lambda: newest.caught_up() and newest.has_folded(before))
            finally:
                before.query.busy.release()
        else:
            return
        known = {fold.generation.stream_id for fold in self._folds} | {one.stream_id for one in self._kept.older()}
        for stream_id in left - known:  # of a checkpoint that is lost: nobody can fold it on
            self._rows.drop_generation(stream_id)

    def _superseded(self) -> list[Generation]:
        """The older generations that nobody needs; none where the registry of models cannot say."""
        try:
            grace_ms = int(self._options.settings.keep_older_s * 1000)
            return superseded(self._rows, self._kept, self._needed, grace_ms, now_ms())
        except HeadraceError as error:
            self._log(f"older generations stay, as nobody can say who needs them: {error}")
            return []

    def _drop(self, gone: Sequence[Generation]) -> None:
        for generation in gone:
            for fold in [one for one in self._folds if one.generation.stream_id == generation.stream_id]:
                self._folds.remove(fold)
                fold.query.stop()
            self._rows.drop_generation(generation.stream_id)
            self._kept.drop(generation)
            self._log(f"generation {generation.stream_id} has gone: nobody reads it")

    # --- status ---

    def _tell(self, state: str) -> None:
        status = {"state": state, "pid": os.getpid(), "bootstrap": self._options.bootstrap, "updated_at": now_ms()}
        build = {"building": self._build is not None, "build_error": self._build_error}
        queries = {name: running.told() for name, running in self._named().items()}
        write_status(self._options.home, status | build | {"queries": queries})

    def _named(self) -> dict[str, Running]:
        """The queries by what they are for readers now: the one they read, a next one, older ones some still read."""
        *older, newest = self._folds
        read = newest if not older or is_current(self._rows, newest.generation) else older[-1]
        rest = {f"older {one.generation.stream_id}": one for one in older if one is not read}
        after = {"next": newest} if read is not newest else {}
        return {"fold": read, "archive": self._archiving, **after, **rest}


@dataclass(frozen=True)
class Models:
    """What a stream has to do with registered models.

    Args:
        needed: the definitions of views that they need.
        scoring: asks those of events about each event; None where the repo defines none.
    """

    needed: Needed = frozenset
    scoring: EventScoring | None = None
