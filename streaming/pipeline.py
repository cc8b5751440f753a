"""The stream: topics → online store, archive and dead letters, by supervised queries that do not depend on each other.

The fold has a short trigger and the archive a long one, so that a commit of a table never delays a feature. While a new
generation is built and catches up, the ones before it are folded on: readers never see features age. Here everything is
wired; what a batch does is in fold/sink.py and archive/sink.py.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from features.definitions import FeatureRepo
from features.epochs import broker_offsets, epoch_starts
from features.errors import DefinitionError
from features.online_store import Sweeper
from features.rows import fold_nothing
from features.times import now_ms
from streaming.archive import Archive, ArchiveSink
from streaming.context import StreamContext
from streaming.fold import FoldTarget, OnlineSink, ParsedBatches, Pruning, fold_job
from streaming.generations import (
    ActiveFolds,
    Builder,
    Claim,
    Executors,
    Generation,
    GenerationFold,
    Lease,
    Resuming,
    Running,
    Upkeep,
    flip,
    only_driver,
    schemas_of,
    take_rebuild,
)
from streaming.kafka import read_watermarks
from streaming.losses import ARCHIVE, FOLD, TopicWatch
from streaming.observers import Observers
from streaming.scoring import EventScoring
from streaming.spark import (
    BatchReader,
    Java,
    Schemas,
    SendDeadLetters,
    SparkError,
    TopicQuery,
    most_bytes,
    records_between,
    running_session,
)
from streaming.status import lag, write_status
from streaming.supervisor import Handle, Patience, SupervisedQuery, reason

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

TICK_S = 0.2

STATUS_EVERY_S = 1.0

CHECK_EVERY_S = 5.0

BUILD_AGAIN_S = 60.0

KEPT_BATCHES = 5
"""Parsed batches that are kept for the archive, whose batch has as many records as two of the fold."""


class Pipeline:
    """Runs the folds and the archive of a repo's streams until it is stopped.

    Args:
        send: takes dead letters.
        schemas: the registry's, by number, for streams of Avro.
        observers: what sees the events beside the rows.
    """

    def __init__(
        self,
        context: StreamContext,
        send: SendDeadLetters,
        schemas: Schemas | None = None,
        observers: Observers | None = None,
    ) -> None:
        self._context = context
        self._options, self._repo, self._rows, self._log = context.options, context.repo, context.rows, context.log
        self._settings = context.options.settings
        self._send = send
        self._schemas = schemas
        self._observers = observers or Observers()
        self._scoring = self._observers.scoring or EventScoring([])
        self._archive = Archive(self._options.offline, self._repo)
        self._parsed = ParsedBatches(self._repo.streams, KEPT_BATCHES * self._settings.max_offsets_per_trigger)
        self._builder = Builder(context, self._archive, self._scoring.reach)
        self._checkpoints = self._builder.folds
        self._folds = ActiveFolds(context, self._checkpoints, self._observers.needed)
        self._topics = TopicWatch(context.options, context.topics())
        checkpoints = self._builder.folds, self._builder.archived
        self._resuming = Resuming(context, self._archive, checkpoints, self._scoring, self._topics)
        self.is_settled = False
        self._warnings: list[dict[str, str]] = []
        self._build: Future[Generation] | None = None
        self._build_wanted = False
        self._build_error: str | None = None
        self._patiently = Patience(self._log)
        self._patient_status = Patience(self._log)

    def run(self, stop: threading.Event, *, take_over: bool = False) -> None:
        """Run until ``stop`` is set; the batches that are running then are finished.

        Args:
            take_over: also where another home drove the online store before.

        Raises:
            LeaseError: another driver runs on the same project, or another home drives the store or owns a generation.
            FenceError: the store contradicts the checkpoint; the message says how to go on.
            LossError: topics lack what was not read, and nobody has accepted that; once it ``is_settled``, it has
                happened since, and a new pipeline says what is to be accepted.
            SparkError: Spark's Java process ended.
        """
        with (
            only_driver(self._options.home),
            Claim(self._rows, self._options.home, take_over=take_over) as self._claim,
            ThreadPoolExecutor(1, "generations") as self._worker,
        ):
            self._settle()
            for view in self._repo.views.values():
                fold_nothing(view)
            self._builder.check_eviction()
            self._builder.carry_over()
            archived = self._builder.archive_generation()
            self._builder.forget_unfinished()
            for fold in self._restored() or [self._fold_of(self._builder.built(archived), self._repo)]:
                self._folds.append(fold)
            try:
                with self._session() as (spark, java):
                    self._supervise(spark, archived, java, stop)
            finally:
                self._builder.stop.set()
                self._scoring.close()
                self._observers.silences.close()
                for fold in self._folds:
                    self._patiently(fold.release)

    def _settle(self) -> None:
        self._warnings = self._topics.warnings(self._repo.streams.values(), self._log)
        self._resuming.settle(accept_loss=self._settings.accept_loss)
        self.is_settled = True

    def rebuild(self, *, take_over: bool = False) -> tuple[Generation, bool]:
        """Build a new generation from the archive, from which the next run goes on.

        Readers read it at once if it has all of Kafka or they have no other; else when a run has caught up.

        Args:
            take_over: as run()'s.

        Returns:
            The generation, and whether it has all of Kafka.

        Raises:
            LeaseError, LossError: as run().
        """
        with only_driver(self._options.home), Claim(self._rows, self._options.home, take_over=take_over):
            self._builder.check_eviction()
            self._settle()
            self._builder.carry_over()
            archived = self._builder.archive_generation()
            self._builder.forget_unfinished()
            generation = self._builder.built(archived)
            high = read_watermarks(self._options.bootstrap, self._context.topics(), self._options.client).high
            # Behind the last record of the tables there may be refused ones: the archive has seen those as well.
            is_whole = lag(broker_offsets(generation.first), high) == 0
            flip(self._rows, generation, lambda: is_whole, self._builder.owner)
            self._folds.drop(self._folds.superseded() if is_whole else [])
            self._rows.release_lease(generation.stream_id, self._builder.owner)
        return generation, is_whole

    def _session(self) -> AbstractContextManager[tuple[SparkSession, Java]]:
        settings, logs = self._settings, self._options.home / "logs"
        jars = self._options.jars
        return running_session(settings.spark_master, settings.spark_memory, jars, logs, settings.long_running)

    # --- generations ---

    def _restored(self) -> list[GenerationFold]:
        """Folds of the generations that an earlier run left, oldest first; that of today's definitions is last."""
        schemas, current = schemas_of(self._repo), self._checkpoints.current()
        if current is not None and (current.schemas != schemas or current.is_stopped):
            older = self._checkpoints.older()
            same = [generation for generation in older if generation.schemas == schemas and not generation.is_stopped]
            if same:
                self._checkpoints.take_back(same[-1])
                current = same[-1]
        folds = [self._older_fold(generation) for generation in self._checkpoints.older()]
        if current is not None and current.schemas == schemas and not current.is_stopped:
            folds.append(self._fold_of(self._builder.described(current), self._repo))
        elif current is not None:
            folds.append(self._older_fold(current))
        return [fold for fold in folds if fold is not None]

    def _older_fold(self, generation: Generation) -> GenerationFold | None:
        if generation.is_stopped:
            return None
        try:
            return self._fold_of(generation, generation.repo())
        except DefinitionError as error:
            self._log(f"generation {generation.stream_id} is not folded on: {error}")
            return None

    def _fold_of(self, generation: Generation, repo: FeatureRepo) -> GenerationFold:
        number, log = generation.stream_id, self._checkpoints.log(generation)
        upkeep = Upkeep(
            Lease(self._rows, number, self._builder.owner),
            Sweeper(self._rows, number, list(repo.views.values())),
            Pruning(self._rows, list(repo.views), number),
        )
        target = FoldTarget(repo, self._builder.store(generation, repo), number)
        is_todays = repo is self._repo
        parsed = self._parsed if is_todays else None
        # What an older definition refuses may be valid today; the archive sends letters of what no fold of today reads.
        send = self._send_letters if is_todays else _send_nothing
        # Rows with events that were never scored would show a model the events' own effects: they score nothing.
        scoring = None if self._scoring.lacks(log.standing()) else self._scoring.of_generation(target)
        observing = self._observers.silences.beside(scoring, target)
        check = partial(self._topics.check_ids, FOLD)
        sink = OnlineSink(target, log, send, self._schemas, parsed, observing, check)
        return GenerationFold(generation, repo, sink, upkeep, self._checkpoints, self._settings.freshness_slo_ms)

    # --- queries ---

    def _supervise(self, spark: SparkSession, archived: Generation, java: Java, stop: threading.Event) -> None:
        self._spark = spark
        # Not beside Spark's start: Python's imports of both by two threads at once can fail.
        self._scoring.start()
        self._archiving = self._archive_query(archived)
        for fold in self._folds:
            self._start_fold(fold)
        newest = self._folds.newest
        self._build_wanted = newest.generation.schemas != schemas_of(self._repo) or self._scoring.lacks(newest.end)
        try:
            with java.watched():
                self._watch(archived, java, stop)
        except SparkError as error:
            for running in (self._archiving, *self._folds):
                running.query.lose(str(error))
            raise
        finally:
            for running in (*self._folds, self._archiving):  # the archive no longer waits for the folds then
                running.query.stop()
            self._patient_status(lambda: self._write_status("stopped"))

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
                # Before the status, which is never ahead of what readers read.
                self._patiently(lambda: self._folds.switch_over(self._worker, is_building=self._build is not None))
                self._patient_status(lambda: self._write_status("running"))
            if now_s >= due["check"]:
                due["check"] = now_s + CHECK_EVERY_S
                self._patiently(self._claim.keep)
                self._patiently(lambda: self._each_fold(GenerationFold.stand))
                self._patiently(lambda: self._observers.silences.tick(self._folds))
                if self._build is not None:
                    self._patiently(self._builder.keep_lease)

    def _each_fold(self, work: Callable[[GenerationFold], None]) -> None:
        self._folds.each(work, is_replaced=self._build is not None or self._build_wanted)

    def _look_after_build(self, archived: Generation) -> bool:
        """Begin a build that is wanted, and take over a build that is done; True if it failed."""
        if self._build is None:
            self._build_wanted = take_rebuild(self._options.home) or self._build_wanted
            if self._build_wanted:
                self._build_error = None
                self._build = self._worker.submit(self._builder.built, archived)
        elif self._build.done():
            done, self._build = self._build, None
            try:
                fold = self._fold_of(done.result(), self._repo)
            except Exception as error:  # whatever it was, the generations before are still folded
                self._build_error = reason(error, None)
                self._log(f"the new generation could not be made: {self._build_error}")
                if self._folds.newest.failed is not None:
                    raise
                return True
            self._build_wanted, self._build_error = False, None
            self._start_fold(fold)
            self._folds.append(fold)
        return False

    def _start_fold(self, fold: GenerationFold) -> None:
        settings, generation = self._settings, fold.generation
        source = {"maxOffsetsPerTrigger": str(settings.max_offsets_per_trigger), **self._options.spark_kafka}
        name, checkpoint = f"fold-{generation.stream_id}", self._checkpoints.path(generation)
        start = self._starter(TopicQuery(name, fold.topics, generation.first, checkpoint, source, settings.trigger_ms))
        parallelism, epochs = self._spark.sparkContext.defaultParallelism, epoch_starts(generation.first)
        job = fold_job(fold.repo, parallelism, self._schemas, epochs, most_bytes(settings.spark_memory))
        fold.executors = Executors(job, self._rows, settings.driver_records)
        fold.reader = self._reader()
        check = partial(self._topics.check, FOLD)
        fold.query = SupervisedQuery("fold", start, fold.handle, self._log, lambda: fold.check_standing(check))
        if fold.repo is self._repo:
            self._parsed.begin(fold.end)

    def _archive_query(self, archived: Generation) -> Running:
        settings, checkpoints = self._settings, self._builder.archived
        log, reached = checkpoints.log(archived), self._context.at_effect
        sink = ArchiveSink(self._archive, self._repo, log, reached, self._send_letters, self._schemas)
        running, reader = Running(log.standing()), self._reader()

        def checked(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
            for table in tables:
                running.query.moved()
                self._topics.check_ids(ARCHIVE, log.standing())
                yield table

        def append(frame: DataFrame, batch_id: int) -> None:
            events = self._parsed.take(*log.between(batch_id), self._is_parsing)
            if events is not None:
                report = sink.append_events(events, batch_id)
            else:
                report = sink.append(checked(reader.batch(frame, records_between(*log.between(batch_id)))), batch_id)
            running.done(report.batch_id, report.end, report.records, np.empty(0, np.int64), report.took_ms)

        # A batch as soon as there are many records, or when the oldest has waited long enough: never in between.
        source = {
            "maxOffsetsPerTrigger": str(2 * settings.max_offsets_per_trigger),
            "minOffsetsPerTrigger": str(settings.max_offsets_per_trigger),
            "maxTriggerDelay": f"{int(settings.archive_trigger_s * 1000)}ms",
            **self._options.spark_kafka,
        }
        topics, checkpoint = self._context.topics(), checkpoints.path(archived)
        start = self._starter(TopicQuery("archive", topics, archived.first, checkpoint, source, 1_000))
        running.query = SupervisedQuery(
            "archive", start, append, self._log, lambda: self._topics.check(ARCHIVE, log.standing())
        )
        return running

    def _is_parsing(self) -> bool:
        """True while a fold of today's definitions progresses, and so parses the archive's records."""
        ours = [fold for fold in self._folds if fold.repo is self._repo and fold.failed is None]
        return any(fold.query.state in ("starting", "running") for fold in ours)

    def _starter(self, query: TopicQuery) -> Callable[[Handle], StreamingQuery]:
        return lambda handle: query.start(self._spark, self._options.bootstrap, handle)

    def _reader(self) -> BatchReader:
        options = self._options
        return BatchReader(options.bootstrap, options.spark_kafka, most_bytes(self._settings.spark_memory))

    def _send_letters(self, *letters: Any) -> None:
        self._context.at_effect("before letters")
        self._send(*letters)
        self._context.at_effect("after letters")

    # --- status ---

    def _write_status(self, state: str) -> None:
        status = {"state": state, "pid": os.getpid(), "bootstrap": self._options.bootstrap, "updated_at": now_ms()}
        build = {"building": self._build is not None, "build_error": self._build_error}
        queries = {name: running.to_dict() for name, running in self._by_role().items()}
        write_status(self._options.home, status | build | {"queries": queries, "warnings": self._warnings})

    def _by_role(self) -> Mapping[str, Running]:
        fold, *rest = self._folds.by_role().items()
        return dict([fold, ("archive", self._archiving), *rest])


def _send_nothing(*_: Any) -> None:
    """The letters of an older definition."""
