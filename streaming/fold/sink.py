"""The fold: one micro-batch of messages into the rows of the online store, and what was refused to the dead letters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from features.arrays import Int64s
from features.definitions import FeatureRepo
from features.events import Parsed, Verdict, integers, joined, parse
from features.online_store import Batch, BatchStep, Counts, Offsets, Store, added
from features.times import now_ms
from streaming.fold.handover import Handover
from streaming.fold.observed_store import Stopwatch, timed
from streaming.spark import Messages, OffsetLog, Schemas, SendDeadLetters, messages_by_topic

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from features.online_store import Cells
    from streaming.fold.shares import BatchScoring, Recipe


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch.

    Args:
        appended_at: when the broker took the records, or (from executors) some of them, in ms.
        event_times: by stream that is folded, when its valid events happened, in ms; none from executors.
        finished_at: when its rows could be read, in ms.
    """

    batch_id: int
    start: Offsets
    end: Offsets
    records: int
    counts: Counts
    appended_at: Int64s
    event_times: Mapping[str, Int64s]
    finished_at: int
    took_ms: float

    @property
    def ages_ms(self) -> Int64s:
        """How long each record took from the broker to its row."""
        return self.finished_at - self.appended_at


class OnlineSink:
    """Folds batches into one generation, exactly once; dead letters go out at least once, keyed by their offset.

    ``clocks_ms`` is the newest known_at that it has seen of each stream. ``watch`` knows how long each stage
    (stages.py) took, of all batches so far. ``scoring`` puts a batch's accepted events to models before any row of
    them is written.
    """

    def __init__(
        self,
        repo: FeatureRepo,
        store: Store,
        stream_id: int,
        log: OffsetLog,
        send: SendDeadLetters,
        schemas: Schemas | None = None,
        handover: Handover | None = None,
        scoring: BatchScoring | None = None,
    ) -> None:
        self.watch = Stopwatch()
        self._repo = repo
        self._scoring = scoring
        before = None if scoring is None else self._score
        self._step = BatchStep(timed(store, self.watch), list(repo.views.values()), stream_id, before)
        self._log = log
        self._send = send
        self._schemas = schemas
        self._handover = handover
        self.clocks_ms: dict[str, int] = {}
        self._folded = {stream.name for view in repo.views.values() for stream in view.streams}

    def fold(self, table: pa.Table, batch_id: int) -> BatchReport:
        """Fold a batch of messages (session.COLUMNS); the same batch again changes nothing more.

        Raises:
            FenceError, LeaseError: as BatchStep.run().
        """
        began = time.perf_counter()
        start, end = self._log.between(batch_id)
        with self.watch.at("parse"):
            messages = messages_by_topic(table, self._repo.streams.values())
            parsed = [self._parsed(one) for one in messages]
        of_streams = by_stream(messages, parsed)
        if self._handover is not None:
            self._handover.give(start, end, {name: one.events for name, one in of_streams.items()})
        # Before the rows: a crash behind them would have to tell which of the letters have gone.
        with self.watch.at("dead letters"):
            self._send_dead_letters(messages, parsed)
        with self.watch.at("fold"):
            counts = self._run(batch_id, start, end, of_streams)
        self._saw({name: _newest(one) for name, one in of_streams.items()})
        took_ms = 1e3 * (time.perf_counter() - began)
        appended = np.asarray(table["timestamp"]).astype(np.int64)
        times = self._times(of_streams)
        return BatchReport(batch_id, start, end, table.num_rows, counts, appended, times, now_ms(), took_ms)

    def _score(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        if self._scoring is not None:
            with self.watch.at("score"):
                self._scoring.here(batch, accepted)

    def _times(self, parsed: Mapping[str, Parsed]) -> dict[str, Int64s]:
        valid = {name: one.verdicts[one.rows] == Verdict.VALID for name, one in parsed.items() if name in self._folded}
        return {name: integers(parsed[name].events["event_time"])[which] for name, which in valid.items()}

    def fold_elsewhere(self, frame: DataFrame, batch_id: int, recipe: Recipe, cells: Cells) -> BatchReport:
        """The same, with the records left to Spark's executors: for what is too large for this process."""
        from streaming.fold.executors import OnExecutors

        began = time.perf_counter()
        start, end = self._log.between(batch_id)
        if self._handover is not None:
            self._handover.skip(end)
        score = None if self._scoring is None else partial(self._scoring.on_executors, end)
        work = OnExecutors(frame, recipe, cells, self._send, self.watch, score)
        try:
            with self.watch.at("fold"):
                counts = self._step.run_work(Batch(batch_id, start, end, {}, now_ms()), work)
        finally:
            work.close()
        self._saw(work.clocks_ms())
        took_ms = 1e3 * (time.perf_counter() - began)
        return BatchReport(batch_id, start, end, counts.all, counts, work.appended_at, {}, now_ms(), took_ms)

    def _saw(self, newest_ms: Mapping[str, int]) -> None:
        for name, newest in newest_ms.items():
            self.clocks_ms[name] = max(self.clocks_ms.get(name, 0), newest)

    def check_standing(self, committed: int) -> None:
        """Raise FenceError unless the store has all that the checkpoint counts as done."""
        self._step.check_standing(committed)

    def _parsed(self, messages: Messages) -> Parsed:
        return parse(messages.records, messages.stream, self._repo.horizon_ms(messages.stream.name), self._schemas)

    def _run(self, batch_id: int, start: Offsets, end: Offsets, parsed: Mapping[str, Parsed]) -> Counts:
        folded = {name: one for name, one in parsed.items() if name in self._folded}
        archived = Batch(batch_id, start, end, {name: one for name, one in parsed.items() if name not in folded}, 0)
        counts = self._step.run(Batch(batch_id, start, end, folded, now_ms()))
        # Nothing is folded from a stream that no view reads: its events are all for the archive.
        return added(counts, Counts.of(archived, _valid_records(archived)))

    def _send_dead_letters(self, messages: Sequence[Messages], parsed: Sequence[Parsed]) -> None:
        for came, one in zip(messages, parsed, strict=True):
            if (one.verdicts == Verdict.DEAD_LETTER).any():
                self._send(came.stream, came, one)


def by_stream(messages: Sequence[Messages], parsed: Sequence[Parsed]) -> dict[str, Parsed]:
    """Each stream's records, whatever topic they came from."""
    parts: dict[str, list[Parsed]] = {}
    for came, one in zip(messages, parsed, strict=True):
        parts.setdefault(came.stream.name, []).append(one)
    return {name: joined(several) for name, several in parts.items()}


def _newest(parsed: Parsed) -> int:
    return int(np.max(parsed.events["known_at"].to_numpy(), initial=0))


def _valid_records(batch: Batch) -> int:
    return sum(int((one.verdicts == Verdict.VALID).sum()) for one in batch.parsed.values())
