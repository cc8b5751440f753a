"""A batch that is too large for the driver, parsed, divided by entity and folded on Spark's executors.

    Kafka ──► parse, a task a partition ──► ids ──► the driver decides what is a duplicate
                        └──► events by (view, share of its entities) ──► fold, a task a share ──► rows, by shard

The driver gets 32 bytes a record, the dead letters in parts of bounded bytes, and the tokens of the shard writers.
Records travel between tasks as Arrow tables in single cells, so that Spark moves a few large values and never a record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Int64s, single_array
from features.definitions import Stream
from features.events import Decision, Elements, Parsed, Verdict, encoded_ids, event_schema, integers, parse, sequence
from features.hashing import packed_prints
from features.online_store import Cells, Counts, Ids, Store
from features.rows import BatchKey, foldable
from streaming.fold.observed_store import Stopwatch
from streaming.fold.shares import (
    WRITTEN_SQL,
    FoldJob,
    FoldShare,
    ScoreOnExecutors,
    packed,
    packed_parts,
    shares,
    unpacked,
)
from streaming.spark import Messages, fetched_in_parts, messages_by_topic

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streaming.spark import SendDeadLetters

PIECES = pa.schema(
    {
        "kind": pa.string(),
        "stream": pa.string(),
        "view": pa.string(),
        "share": pa.int32(),
        "task": pa.int32(),
        "payload": pa.binary(),
    }
)

PIECES_SQL = "kind string, stream string, view string, share int, task int, payload binary"

IDS, LETTERS, COUNTS, EVENTS, CARRIED = "ids", "letters", "counts", "events", "carried"

REASON, NUMBER = "reason", "element"
"""Columns of letters beside those of their messages."""

AGES = 256
"""The most records of a piece whose append times it has."""


def parsed_pieces(job: FoldJob, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The pieces (PIECES) that a task makes of its messages (session.COLUMNS)."""
    for batch in batches:
        for messages in messages_by_topic(pa.Table.from_batches([batch]), job.streams, job.epochs):
            yield _pieces(job, messages)


def _pieces(job: FoldJob, messages: Messages) -> pa.RecordBatch:
    stream = messages.stream
    horizon_ms, keys = job.horizons_ms[stream.name], job.keys[stream.name]
    # On executors an error would come when other views have been written: the events are looked at before.
    parsed = foldable(parse(messages.records, stream, horizon_ms, job.schemas, keys=keys), stream, job.readers(stream))
    valid = parsed.events.filter(pa.array(parsed.verdicts[parsed.rows] == Verdict.VALID))
    pieces: list[tuple[str, str, int, bytes]] = [(COUNTS, "", -1, _counts(messages, parsed))]
    dead = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER)
    letters = messages.table.take(pa.array(parsed.records[dead]))
    letters = letters.append_column(REASON, parsed.reasons.take(pa.array(dead)))
    letters = letters.append_column(NUMBER, pa.array(parsed.numbers[dead]))
    if letters.num_rows:
        pieces += [(LETTERS, "", -1, part) for part in packed_parts(letters, job.most_bytes)]
    views = job.readers(stream)
    if views:
        pieces.append((IDS, "", -1, packed(_ids(valid))))
    for view in views:
        for share, events in shares(view, stream, valid, job.shares).items():
            pieces.append((EVENTS, view.name, share, packed(events)))
    if views:
        pieces += [(CARRIED, "", share, packed(events)) for share, events in job.carried(stream, valid).items()]
    kinds, names, numbers, payloads = zip(*pieces, strict=True)
    tasks = [job.task(name, share) for name, share in zip(names, numbers, strict=True)]
    columns = [kinds, [stream.name] * len(pieces), names, numbers, tasks, payloads]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, PIECES, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PIECES)


def _ids(events: pa.Table) -> pa.Table:
    prints = packed_prints(single_array(events["event_id"]))
    seq = sequence(integers(events["partition"]), integers(events["offset"]))
    return pa.table({"print": prints, "known_at": events["known_at"], "seq": seq})


def _counts(messages: Messages, parsed: Parsed) -> bytes:
    appended = integers(messages.table["timestamp"])
    verdicts = np.bincount(parsed.verdicts, minlength=len(Verdict)).tolist()
    return json.dumps({"verdicts": verdicts, "appended": appended[:: max(len(appended) // AGES, 1)].tolist()}).encode()


class OnExecutors:
    """A BatchWork whose records stay with Spark.

    Args:
        frame: the batch's messages.
        cells: the online store, as another process can open it.
        send: takes the dead letters, before anything is written.
        score: scores the batch's events before any row of it is written; None without event models.
        check: called once the messages are fetched, before anything is made of them.
    """

    def __init__(
        self,
        frame: DataFrame,
        job: FoldJob,
        cells: Cells,
        send: SendDeadLetters,
        watch: Stopwatch,
        score: ScoreOnExecutors | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._job, self._cells, self._send, self._watch, self._score = job, cells, send, watch, score
        self._check = check
        self._pieces = frame.mapInArrow(lambda batches: parsed_pieces(job, batches), PIECES_SQL).persist()
        self._verdicts = {stream.name: np.zeros(len(Verdict), np.int64) for stream in job.streams}
        self.appended_at: Int64s = np.empty(0, np.int64)
        self._known: dict[str, Ids] = {}
        self._refused: list[Parsed] = []

    def ids(self) -> Mapping[str, Ids]:
        with self._watch.at("parse"):
            pieces = self._pieces.where(f"kind IN ('{IDS}', '{COUNTS}')").toArrow()
        self._check()
        for stream in self._job.streams:
            own = pieces.filter(pc.equal(pieces["stream"], stream.name))
            self._count(stream, _payloads(own, COUNTS))
            if self._job.readers(stream):
                self._known[stream.name] = _joined_ids([unpacked(payload) for payload in _payloads(own, IDS)])
        with self._watch.at("dead letters"):
            self._send_letters()
        return self._known

    def _send_letters(self) -> None:
        """Send the refused messages, of which there may be more than this process has room for."""
        if not sum(int(verdicts[Verdict.DEAD_LETTER]) for verdicts in self._verdicts.values()):
            return
        streams = {stream.name: stream for stream in self._job.streams}
        letters = self._pieces.where(f"kind = '{LETTERS}'").select("stream", "payload")
        for part in fetched_in_parts(letters, self._job.most_bytes):
            for name, payload in zip(part["stream"].to_pylist(), part["payload"], strict=True):
                refused, verdicts = _letters(unpacked(payload.as_buffer()), streams[name])
                self._send(refused.stream, refused, verdicts)
                self._refused.append(verdicts)

    def _count(self, stream: Stream, payloads: Sequence[bytes]) -> None:
        for counts in map(json.loads, payloads):
            self._verdicts[stream.name] += np.array(counts["verdicts"])
            self.appended_at = np.append(self.appended_at, np.array(counts["appended"], dtype=np.int64))

    def fold(self, decided: Mapping[str, Decision], store: Store, key: BatchKey) -> Mapping[str, str]:
        refused = {name: self._known[name].seq[~decision.accepted] for name, decision in decided.items()}
        share = FoldShare(self._job, self._cells, store.fence(), key, refused)
        events = self._pieces.where(f"kind = '{EVENTS}'").repartitionById(self._job.tasks, "task")
        if self._score is not None:
            judged = self._pieces.where(f"kind IN ('{EVENTS}', '{CARRIED}')").repartitionById(self._job.tasks, "task")
            with self._watch.at("score"):
                self._score(judged, share)
        with self._watch.at("scatter"):
            # Spark takes a function, not an object that is callable.
            written = events.mapInArrow(lambda pieces: share(pieces), WRITTEN_SQL).toArrow()  # noqa: PLW0108
        return dict(zip(written["shard"].to_pylist(), written["token"].to_pylist(), strict=True))

    def counts(self, decided: Mapping[str, Decision]) -> Counts:
        valid, late, dead = np.sum(list(self._verdicts.values()), axis=0).tolist()
        # A stream that no view reads is not folded and has no duplicates: its events are all for the archive.
        duplicate = sum(int((~decision.accepted).sum()) for decision in decided.values())
        return Counts(valid - duplicate, duplicate, late, dead)

    def changed(self, view: str) -> None:
        """The keys are with the executors."""

    @property
    def dead_letters(self) -> Sequence[Parsed]:
        """The refused records."""
        return self._refused

    def clocks_ms(self) -> dict[str, int]:
        """By stream, the newest known_at of the valid records; 0 for none."""
        return {name: int(ids.known_at.max(initial=0)) for name, ids in self._known.items()}

    def close(self) -> None:
        """Release the batch from Spark's storage."""
        self._pieces.unpersist()


def _payloads(pieces: pa.Table, kind: str) -> list[Any]:
    payloads: list[Any] = pieces.filter(pc.equal(pieces["kind"], kind))["payload"].to_pylist()
    return payloads


def _joined_ids(tables: Sequence[pa.Table]) -> Ids:
    schema = pa.schema({"print": pa.binary(16), "known_at": pa.int64(), "seq": pa.int64()})
    joined = pa.concat_tables([schema.empty_table(), *tables])
    return Ids(encoded_ids(joined["print"]), integers(joined["known_at"]), integers(joined["seq"]))


def _letters(table: pa.Table, stream: Stream) -> tuple[Messages, Parsed]:
    """Refused messages in the form that a sender of dead letters takes."""
    (messages,) = messages_by_topic(table.drop_columns([REASON, NUMBER]), [stream])
    verdicts = np.full(table.num_rows, Verdict.DEAD_LETTER, dtype=np.int8)
    no_events = event_schema(stream).empty_table()
    elements = Elements(np.arange(table.num_rows), integers(table[NUMBER]))
    return messages, Parsed(no_events, np.empty(0, np.int64), verdicts, single_array(table[REASON]), elements)
