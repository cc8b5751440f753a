"""The fold: a micro-batch of messages into the rows of the online store, and refused messages to the dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s
from features.definitions import FeatureRepo
from features.events import (
    CANNOT_BE_FOLDED,
    CANNOT_BE_READ,
    NOT_OF_A_RECORD,
    Parsed,
    Verdict,
    integers,
    joined,
    parse_by,
)
from features.online_store import Batch, BatchStep, Counts, Offsets, Store, added
from features.rows import tried
from features.times import now_ms
from streaming.fold.observed_store import Stopwatch, timed
from streaming.fold.parsed_batches import ParsedBatches
from streaming.spark import Messages, OffsetLog, Schemas, SendDeadLetters, messages_by_topic, tables_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from features.online_store import Cells
    from streaming.fold.shares import BatchScoring, FoldJob


@dataclass(frozen=True)
class Cannot:
    """The number of records of a batch with which a kernel or a library raises an error, and the reason of one."""

    records: int = 0
    reason: str = ""

    @classmethod
    def of(cls, parts: Iterable[Parsed]) -> Cannot:
        """Those among the dead letters of the parsed records."""
        reasons = [text for parsed in parts for text in parsed.reasons.filter(_cannot(parsed.reasons)).to_pylist()]
        return cls(len(reasons), reasons[0] if reasons else "")


def _cannot(reasons: pa.Array) -> pa.Array:
    codes = (pc.starts_with(reasons, f"{code}:") for code in (CANNOT_BE_READ, CANNOT_BE_FOLDED))
    return pc.fill_null(pc.or_(*codes), fill_value=False)


@dataclass(frozen=True)
class BatchReport:
    """The result of a batch.

    Args:
        appended_at: the broker's times of the records, or (from executors) of some of them, in ms.
        event_times: the event times (ms) of the valid events by folded stream; none from executors.
        cannot: the records with which a kernel or a library raises an error, which are dead letters.
        finished_at: the time from which its rows could be read, in ms.
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
    cannot: Cannot = Cannot()

    @property
    def ages_ms(self) -> Int64s:
        """The time of each record from the broker to its row."""
        return self.finished_at - self.appended_at


@dataclass(frozen=True)
class FoldTarget:
    """The generation that batches are folded into: its definitions, its rows and its number."""

    repo: FeatureRepo
    store: Store
    stream_id: int


Part = tuple[Mapping[str, Parsed], Int64s]
"""The parsed records of a part of a batch by stream, and the broker's times of all its messages (ms)."""


class OnlineSink:
    """Folds batches into a generation, exactly once; dead letters go out at least once, keyed by their offset.

    ``clocks_ms`` is the newest known_at of each stream so far. ``watch`` has the time spent in each stage
    (observed_store.py) of all batches so far. ``scoring`` scores a batch's accepted events before any row of them is
    written. ``check`` is called with a batch's start once it is fetched, before anything is made of it.
    ``remembered_ids`` gives the number of ids that tell repetitions.
    """

    def __init__(
        self,
        target: FoldTarget,
        log: OffsetLog,
        send: SendDeadLetters,
        schemas: Schemas | None = None,
        handed_over: ParsedBatches | None = None,
        scoring: BatchScoring | None = None,
        check: Callable[[Offsets], None] = lambda start: None,
    ) -> None:
        self.watch = Stopwatch()
        self.remembered_ids = target.store.remembered_ids
        self._repo = target.repo
        self._scoring = scoring
        views = list(target.repo.views.values())
        items = [recommender.item for recommender in target.repo.recommenders.values()]
        followed = [view.name for view in views if view.entity in items]
        self._step = BatchStep(timed(target.store, self.watch), views, target.stream_id, self._before_rows, followed)
        self._log = log
        self._send = send
        self._schemas = schemas
        self._handed_over = handed_over
        self._check = check
        self._events: dict[str, pa.Table] = {}
        self.clocks_ms: dict[str, int] = {}
        self._read = {stream.name for view in views for stream in view.streams}

    def fold(self, messages: pa.Table | Iterable[pa.Table], batch_id: int) -> BatchReport:
        """Fold a batch of messages (session.COLUMNS; it may come in tables); the same again changes nothing more.

        Of a table, only the parsed events are kept while the next is fetched.

        Raises:
            FenceError, LeaseError: as BatchStep.run().
        """
        began = time.perf_counter()
        start, end = self._log.between(batch_id)
        tables = tables_of(messages)
        parts = [self._judged(table, start, self._parsed) for table in self._fetched(tables)]
        try:
            counts = self._run(batch_id, start, end, parts)
        except NOT_OF_A_RECORD:
            raise
        except BaseException:
            # The store has at most the batch's offsets and ids, which the same batch with other verdicts replaces.
            parts, before = [self._judged(table, start, self._tried) for table in self._fetched(tables)], parts
            if _refused(parts) == _refused(before):
                raise
            counts = self._run(batch_id, start, end, parts)
        parsed_by_stream = joined_streams(parsed for parsed, _ in parts)
        appended = np.concatenate([np.empty(0, np.int64), *(times for _, times in parts)])
        self._advance_clocks({name: _newest(records) for name, records in parsed_by_stream.items()})
        took_ms = 1e3 * (time.perf_counter() - began)
        times = self._event_times(parsed_by_stream)
        cannot = Cannot.of(parsed_by_stream.values())
        return BatchReport(batch_id, start, end, len(appended), counts, appended, times, now_ms(), took_ms, cannot)

    def _run(self, batch_id: int, start: Offsets, end: Offsets, parts: Sequence[Part]) -> Counts:
        records = joined_streams(parsed for parsed, _ in parts)
        self._events = {name: of_stream.events for name, of_stream in records.items()}
        with self.watch.at("fold"):
            return self._run_step(batch_id, start, end, records)

    def _fetched(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        iterator = iter(tables)
        while True:
            with self.watch.at("fetch"):
                table = next(iterator, None)
            if table is None:
                return
            yield table

    def _judged(self, table: pa.Table, start: Offsets, parsed_of: Callable[[Messages], Parsed]) -> Part:
        """The parsed records of each stream, and the broker's times of all (ms); the refused are sent."""
        self._check(start)
        with self.watch.at("parse"):
            messages = messages_by_topic(table, self._repo.streams.values(), self._log.epochs)
            parsed = [parsed_of(each) for each in messages]
        # Before the rows and the archive: after a crash behind them nobody could tell which letters have been sent.
        with self.watch.at("dead letters"):
            send_refused(self._send, messages, parsed)
        return by_stream(messages, parsed), np.asarray(table["timestamp"]).astype(np.int64)

    def _tried(self, messages: Messages) -> Parsed:
        return tried(self._parsed(messages), messages.stream, self._repo.reading(messages.stream.name))

    def _before_rows(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        """Every record has its verdict now: the archive gets the events, and event models score them."""
        if self._handed_over is not None:
            self._handed_over.add(batch.start, batch.end, self._events)
        self._score(batch, accepted)

    def _score(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        if self._scoring is not None:
            with self.watch.at("score"):
                self._scoring.here(batch, accepted)

    def _event_times(self, parsed: Mapping[str, Parsed]) -> dict[str, Int64s]:
        folded = {name: records for name, records in parsed.items() if name in self._read}
        valid = {name: records.verdicts[records.rows] == Verdict.VALID for name, records in folded.items()}
        return {name: integers(parsed[name].events["event_time"])[is_valid] for name, is_valid in valid.items()}

    def fold_on_executors(self, frame: DataFrame, batch_id: int, job: FoldJob, cells: Cells) -> BatchReport:
        """As fold(), on Spark's executors: for a batch that is too large for this process."""
        from streaming.fold.executors import OnExecutors

        began = time.perf_counter()
        start, end = self._log.between(batch_id)
        if self._handed_over is not None:
            self._handed_over.skip(end)
        score = None if self._scoring is None else partial(self._scoring.on_executors, end)
        work = OnExecutors(frame, job, cells, self._send, self.watch, score, partial(self._check, start))
        try:
            with self.watch.at("fold"):
                counts = self._step.run_work(Batch(batch_id, start, end, {}, now_ms()), work)
        finally:
            work.close()
        self._advance_clocks(work.clocks_ms())
        took_ms = 1e3 * (time.perf_counter() - began)
        return BatchReport(
            batch_id,
            start,
            end,
            counts.all,
            counts,
            work.appended_at,
            {},
            now_ms(),
            took_ms,
            Cannot.of(work.dead_letters),
        )

    def _advance_clocks(self, newest_ms: Mapping[str, int]) -> None:
        for name, newest in newest_ms.items():
            self.clocks_ms[name] = max(self.clocks_ms.get(name, 0), newest)

    def check_standing(self, committed: int) -> None:
        """Raise FenceError unless the store has all that the checkpoint counts as done."""
        self._step.check_standing(committed)

    def _parsed(self, messages: Messages) -> Parsed:
        return parse_by(self._repo, messages.records, messages.stream, self._schemas)

    def _run_step(self, batch_id: int, start: Offsets, end: Offsets, parsed: Mapping[str, Parsed]) -> Counts:
        folded = {name: records for name, records in parsed.items() if name in self._read}
        rest = {name: records for name, records in parsed.items() if name not in folded}
        archived = Batch(batch_id, start, end, rest, 0)
        counts = self._step.run(Batch(batch_id, start, end, folded, now_ms()))
        # A stream that no view reads is not folded: its events are all for the archive.
        return added(counts, Counts.of(archived, _valid_records(archived)))


def by_stream(messages: Sequence[Messages], parsed: Sequence[Parsed]) -> dict[str, Parsed]:
    """Each stream's records, of all its topics."""
    return joined_streams([{each.stream.name: records} for each, records in zip(messages, parsed, strict=True)])


def joined_streams(parsed: Iterable[Mapping[str, Parsed]]) -> dict[str, Parsed]:
    """Each stream's records, of all parts of a batch."""
    parts: dict[str, list[Parsed]] = {}
    for part in parsed:
        for name, records in part.items():
            parts.setdefault(name, []).append(records)
    return {name: joined(records) for name, records in parts.items()}


def _refused(parts: Iterable[Part]) -> int:
    """The number of dead letters."""
    return sum(int((each.verdicts == Verdict.DEAD_LETTER).sum()) for parsed, _ in parts for each in parsed.values())


def send_refused(send: SendDeadLetters, messages: Sequence[Messages], parsed: Sequence[Parsed]) -> None:
    """Send the dead letters of each topic's messages."""
    for of_topic, records in zip(messages, parsed, strict=True):
        if (records.verdicts == Verdict.DEAD_LETTER).any():
            send(of_topic.stream, of_topic, records)


def _newest(parsed: Parsed) -> int:
    return int(np.max(parsed.events["known_at"].to_numpy(), initial=0))


def _valid_records(batch: Batch) -> int:
    return sum(int((records.verdicts == Verdict.VALID).sum()) for records in batch.parsed.values())
