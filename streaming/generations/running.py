"""Running queries with their progress, as `headrace status` shows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from features.arrays import Int64s
from features.epochs import broker_offsets, topic_of
from features.errors import HeadraceError
from features.online_store import Counts, Offsets, Sweeper
from features.times import now_ms
from streaming.fold import BatchReport, Freshness, OnlineSink
from streaming.generations.checkpoints import Checkpoints, Generation
from streaming.spark import BatchReader, flat_offsets, records_between
from streaming.status import RecentBatches, Totals, lag
from streaming.supervisor import FINAL, SupervisedQuery, ms_of_progress

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from features.definitions import FeatureRepo
    from features.online_store import OnlineStore
    from streaming.fold import FoldJob, Pruning
    from streaming.generations.lease import Lease

UNKNOWN_AFTER_MS = 30_000  # Spark reports every 10 s that nothing came, unless it waits for Kafka


class Running:
    """A query with its offsets, its rate and its last batch."""

    query: SupervisedQuery

    def __init__(self, end: Offsets) -> None:
        self.end = end
        self.batch_id: int | None = None
        self._took_ms: float | None = None
        self._recent = RecentBatches()

    def done(self, batch_id: int, end: Offsets, records: int, ages_ms: Int64s, took_ms: float) -> None:
        """Record a finished batch of so many records."""
        self._recent.add(now_ms(), records, ages_ms)
        self.batch_id, self.end, self._took_ms = batch_id, end, took_ms

    def to_dict(self) -> dict[str, Any]:
        """The query's part of the status."""
        return {
            "state": self.query.state,
            "error": self.query.error,
            "restarts": self.query.restarts,
            "failures": self.query.failures,
            "failing_since": self.query.failing_since,
            "moved_at": self.query.moved_at,
            "batch_id": self.batch_id,
            "batch_ms": None if self._took_ms is None else round(self._took_ms, 1),
            "rows_per_s": round(self._recent.per_s(now_ms()), 1),
            "age": self._recent.age_ms(now_ms()),
            "lag": self.lag(),
            "end": broker_offsets(self.end),
            "counts": {},
        }

    def lag(self) -> int | None:
        """The records between the query and the topics' ends when Spark looked last; None where that is long ago."""
        return self._lag_by(self.query.progress())

    def _lag_by(self, progress: Mapping[str, Any] | None) -> int | None:
        if progress is None or now_ms() - ms_of_progress(progress) > UNKNOWN_AFTER_MS:
            return None
        latest = [json.loads(source.get("latestOffset") or "null") for source in progress["sources"]]
        if not all(latest) or not latest:
            return None
        ends = flat_offsets({topic: parts for offsets in latest for topic, parts in offsets.items()})
        return lag(broker_offsets(self.end), ends)

    def read_up_to(self) -> int | None:
        """The time (ms) up to which it has read everything that was sent; None where it is behind, or unknown."""
        progress = self.query.progress()  # once: at the time of the next, more may have been sent
        return ms_of_progress(progress) if progress is not None and self._lag_by(progress) == 0 else None


@dataclass(frozen=True)
class Executors:
    """Folds the batches that are too large for the driver.

    Args:
        above: the most records of a batch that the driver folds.
    """

    job: FoldJob
    rows: OnlineStore
    above: int

    def take(self, records: int) -> bool:
        """True if they fold a batch of so many records: it is large, and the store takes their writes."""
        return records > self.above and self.rows.takes_shards


@dataclass(frozen=True)
class Upkeep:
    """Work on a generation beside the folding of its batches.

    Args:
        lease: renewed as long as batches come.
        sweeper: deletes rows of entities that were never seen again.
        pruning: deletes pending events that the rows have.
    """

    lease: Lease
    sweeper: Sweeper
    pruning: Pruning

    def clean_up(self, clocks_ms: Mapping[str, int]) -> None:
        """Delete some of what is no longer needed, by the newest known_at of each stream."""
        self.sweeper.tick(clocks_ms)
        self.pruning.after_batch()


class GenerationFold(Running):
    """The fold of a generation, by the definitions that it was built with.

    Args:
        sink: folds a batch.
        slo_ms: objective of the freshness of its rows.
    """

    executors: Executors
    reader: BatchReader

    def __init__(
        self,
        generation: Generation,
        repo: FeatureRepo,
        sink: OnlineSink,
        upkeep: Upkeep,
        checkpoints: Checkpoints,
        slo_ms: float,
    ) -> None:
        self._offsets = checkpoints.log(generation)
        super().__init__(self._offsets.standing())
        self.generation, self.repo = generation, repo
        self.failed: HeadraceError | None = None
        self._sink, self._upkeep = sink, upkeep
        self._totals_path = checkpoints.counts(generation)
        self._totals = Totals.read(self._totals_path)
        self._cannot_be_folded = 0
        self.freshness = {name: Freshness(slo_ms) for name in repo.views}

    @property
    def topics(self) -> list[str]:
        """The topics of its first offsets, which Spark's checkpoint has, and those of its streams."""
        first = [topic_of(name) for name in self.generation.first]
        read = [topic for stream in self.repo.streams.values() for topic in stream.topics]
        return list(dict.fromkeys([*first, *read]))

    def handle(self, frame: DataFrame, batch_id: int) -> None:
        """Fold a batch, and record what became of it."""
        self._upkeep.lease.keep()
        self._sink.watch.moved = self.query.moved
        report = self._folded(frame, batch_id)
        self._totals = self._totals.with_batch(report.batch_id, report.counts)
        self._totals.write(self._totals_path)
        if report.cannot.records:
            self._cannot_be_folded += report.cannot.records
            which = f"{report.cannot.records:,} of {report.records:,} records of batch {batch_id}"
            self.query.say(
                f"{which} are dead letters, as an error was raised with each of them: {report.cannot.reason}"
            )
        for view in self.repo.views.values():
            times = [report.event_times[stream.name] for stream in view.streams if stream.name in report.event_times]
            self.freshness[view.name].add(report.finished_at, times)
        self._upkeep.clean_up(self._sink.clocks_ms)
        self.done(report.batch_id, report.end, report.records, report.ages_ms, report.took_ms)

    def _folded(self, frame: DataFrame, batch_id: int) -> BatchReport:
        records = records_between(*self._offsets.between(batch_id))
        if self.executors.take(records):
            return self._sink.fold_on_executors(frame, batch_id, self.executors.job, self.executors.rows)
        return self._sink.fold(self.reader.batch(frame, records), batch_id)

    def tick(self) -> None:
        """As SupervisedQuery.tick(), until a failure is final."""
        if self.failed is None:
            self._unless_final(lambda: self.query.tick(time.monotonic()))

    def stand(self) -> None:
        """While no batch runs: renew the lease, and check that the store has what the checkpoint has committed."""
        if self.failed is not None or not self.query.busy.acquire(blocking=False):
            return
        try:
            self._upkeep.lease.keep()
            self._unless_final(lambda: self._sink.check_standing(self._offsets.committed()))
            self._upkeep.clean_up(self._sink.clocks_ms)  # again: a batch that comes soon after another prunes nothing
        finally:
            self.query.busy.release()

    def check_standing(self, check: Callable[[Offsets], None]) -> None:
        """Call ``check`` with the offsets that its checkpoint has committed."""
        check(self._offsets.standing())

    def release(self) -> None:
        """Give up the lease."""
        self._upkeep.lease.release()

    def _unless_final(self, work: Any) -> None:
        try:
            work()
        except FINAL as error:
            self.failed = error
            self.query.fail(error)
            raise

    def has_folded(self, other: Running) -> bool:
        """True if this has folded at least what the other has."""
        return all(self.end.get(name, 0) >= offset for name, offset in other.end.items())

    def caught_up(self) -> bool:
        """True if it has folded all that the topics had when Spark looked last."""
        return self.lag() == 0

    @property
    def counts(self) -> Counts:
        """The counts of all its records by their end."""
        return self._totals.after

    def to_dict(self) -> dict[str, Any]:
        """The query's part of the status, with its generation, counts and freshness by view."""
        freshness_of = {name: freshness.to_dict() for name, freshness in self.freshness.items()}
        generation = str(self.generation.stream_id)
        spent = dict(self._sink.watch.spent_ms)
        own = {"generation": generation, "counts": vars(self.counts), "freshness": freshness_of, "spent_ms": spent}
        kept = {"cannot_be_folded": self._cannot_be_folded, "remembered_ids": self._sink.remembered_ids()}
        return super().to_dict() | own | kept
