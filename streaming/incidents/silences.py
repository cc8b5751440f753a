"""Silences: entities whose events stopped, found by what comes next or by the clock, each of which alerts once.

    a batch's accepted events ──► runs of arrivals by entity ──► alerts of the gaps ──► topic ──► last times
                                                 the clock ──► alerts of those that are due ──► topic ──► told

A silence is its entity and the arrival before it, which are its alert's identity: what is sent again after a crash, by
another generation or by the clock and the next event both, is the same alert. Last times are written after the alerts
were sent, and before any row of the batch, so that a batch that runs again finds no gap twice.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from features.arrays import single_array
from features.definitions import Entity, FeatureRepo, Silence
from features.events import EventColumns
from features.hashing import hash_text
from features.online_store import Batch, Offsets
from streaming.dead_letters import Acknowledged
from streaming.fold import BatchScoring, FoldShare, FoldTarget, packed_parts, unpacked
from streaming.incidents.last_times import LastTimes
from streaming.kafka import EventProducer
from streaming.spark import fetched_in_parts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MOST_AT_ONCE = 10_000
"""Silences that the clock finds, which are sent at a time."""

RUNS = pa.schema({"key": pa.string(), "first_ms": pa.int64(), "last_ms": pa.int64()})
"""Arrivals of an entity, none more than the rule's time after the one before: the first and the last."""

PIECES = pa.schema({"silence": pa.string(), "payload": pa.binary()})

PIECES_SQL = "silence string, payload binary"

SendAlerts = Callable[[Sequence[Mapping[str, Any]]], None]
"""Sends alerts, and returns when all of them are acknowledged."""


def silences_file(checkpoints: Path) -> Path:
    """The file of last arrivals among the checkpoints of a home."""
    return checkpoints / "silences.db"


def alert_sender(producer: EventProducer, topic: str) -> SendAlerts:
    """Sends alerts to the topic, keyed by entity. Raises DeadLetterError where Kafka did not acknowledge."""

    def send(alerts: Sequence[Mapping[str, Any]]) -> None:
        with Acknowledged(producer, topic) as send_one:
            for alert in alerts:
                send_one(str(alert["event_id"]).encode(), json.dumps(alert).encode(), ())

    return send


def name_of(silence: Silence) -> str:
    """The name of its last times: another entity, stream or filter begins anew."""
    meaning = [silence.stream.name, list(silence.stream.topics), dict(silence.entity.keys), repr(silence.filter)]
    return f"{silence.name}/{hash_text(json.dumps(meaning)):016x}"


def runs_of(silence: Silence, events: pa.Table) -> pa.Table:
    """The runs (RUNS) of arrivals of the stream's events, by entity and then time."""
    columns = EventColumns(events, silence.stream)
    keys = columns.entity_keys(silence.entity)
    counts = columns.matches(tuple(silence.filter.items())) & np.asarray(keys.is_valid())
    encoded = single_array(keys.filter(pa.array(counts))).dictionary_encode()
    entity, known_at = np.asarray(encoded.indices, dtype=np.int64), columns.known_at[counts]
    order = np.lexsort((known_at, entity))
    entity, known_at = entity[order], known_at[order]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (np.diff(entity) != 0) | (np.diff(known_at) > silence.longer_ms)
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(order))[: len(starts)] - 1
    runs = [encoded.dictionary.take(pa.array(entity[starts])), known_at[starts], known_at[ends]]
    return pa.table(dict(zip(RUNS.names, runs, strict=True)), schema=RUNS)


class HeardFold(Protocol):
    """The fold of a generation, all of whose events were heard."""

    repo: FeatureRepo

    def read_up_to(self) -> int | None:
        """The time (ms) up to which it has read everything that was sent; None where it is behind, or unknown."""


class SilenceWatch:
    """Hears the events of a driver's generations, and raises silences by its clock.

    Args:
        times: the last arrivals, of this watch alone.
    """

    def __init__(self, silences: Iterable[Silence], times: LastTimes, send: SendAlerts) -> None:
        self._silences = list(silences)
        self._times, self._send = times, send
        # Generations are folded by threads of their own, and the clock is another's.
        self._hearing = threading.Lock()
        self._is_open = False

    @classmethod
    def of_nothing(cls) -> SilenceWatch:
        """One without rules, which has no file."""
        return cls([], LastTimes(Path(os.devnull)), lambda alerts: None)

    def beside(self, scoring: BatchScoring | None, target: FoldTarget) -> BatchScoring | None:
        """``scoring``, and beside it this watch, of those silences whose events the generation folds."""
        views = ((silence, _view_of(silence, target.repo)) for silence in self._silences)
        heard = [(silence, view) for silence, view in views if view is not None]
        return HeardBatches(self, scoring, heard) if heard else scoring

    def hear(self, silence: Silence, runs: pa.Table) -> None:
        """Send the alerts of the silences that these arrivals end, and remember the arrivals; durable."""
        if not runs.num_rows:
            return
        with self._hearing:
            self._open()
            name = name_of(silence)
            last = self._times.of(name, set(runs["key"].to_pylist()))
            ended: list[dict[str, Any]] = []
            for key, first_ms, last_ms in zip(*(column.to_pylist() for column in runs.columns), strict=True):
                before_ms, is_told = last.get(key, (first_ms, False))
                if last_ms <= before_ms and key in last:
                    continue
                is_gap = first_ms - before_ms > silence.longer_ms
                if is_gap and not is_told:
                    ended.append(alert_of(silence, key, before_ms))
                if silence.resolved and (is_gap or is_told):
                    ended.append(resolved_alert_of(silence, key, before_ms, first_ms))
                last[key] = last_ms, False
            if ended:
                self._send(ended)
            self._times.advance(name, ((key, at_ms) for key, (at_ms, _) in last.items()))

    def tick(self, folds: Iterable[HeardFold]) -> None:
        """Raise every silence that is due, where all that was sent is heard; forget entities that are silent for long.

        Args:
            folds: those that run.
        """
        times = [(fold.repo, fold.read_up_to()) for fold in folds] if self._silences else []
        for silence in self._silences:
            heard = (time for repo, time in times if time is not None and _view_of(silence, repo) is not None)
            read_up_to = max(heard, default=None)
            while read_up_to is not None and self._raised(silence, read_up_to) == MOST_AT_ONCE:
                pass

    def _raised(self, silence: Silence, read_up_to: int) -> int:
        """The number of silences that were raised, at most MOST_AT_ONCE."""
        with self._hearing:
            self._open()
            name = name_of(silence)
            clock_ms = read_up_to if silence.clock == "wall" else self._times.newest(name)
            due = self._times.untold_before(name, clock_ms - silence.longer_ms, MOST_AT_ONCE)
            if due:
                self._send([alert_of(silence, key, at_ms) for key, at_ms in due])
                self._times.tell(name, due)
            if len(due) < MOST_AT_ONCE:
                self._times.forget_before(name, clock_ms - silence.forget_ms)
            return len(due)

    def _open(self) -> None:
        """Delete the last times of rules that are no more, once."""
        if not self._is_open:
            self._times.keep_only(map(name_of, self._silences))
            self._is_open = True

    def close(self) -> None:
        """Close the file."""
        with self._hearing:
            self._times.close()


@dataclass(frozen=True)
class HeardBatches:
    """Lets a watch hear the batches of a generation, before they are scored (fold/shares.py, BatchScoring).

    Args:
        heard: the silences, each with the view among whose events on executors its own are.
    """

    watch: SilenceWatch
    scoring: BatchScoring | None
    heard: Sequence[tuple[Silence, str]]

    def here(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        for silence, _ in self.heard:
            if silence.stream.name in accepted:
                self.watch.hear(silence, runs_of(silence, accepted[silence.stream.name]))
        if self.scoring is not None:
            self.scoring.here(batch, accepted)

    def on_executors(self, end: Offsets, events: DataFrame, share: FoldShare) -> None:
        heard, by_name = self.heard, {silence.name: silence for silence, _ in self.heard}
        found = events.mapInArrow(lambda pieces: run_pieces(share, heard, pieces), PIECES_SQL).persist()
        try:
            for part in fetched_in_parts(found, share.job.most_bytes):
                for name, payload in zip(part["silence"].to_pylist(), part["payload"], strict=True):
                    self.watch.hear(by_name[name], unpacked(payload.as_buffer()))
        finally:
            found.unpersist()
        if self.scoring is not None:
            self.scoring.on_executors(end, events, share)


def run_pieces(
    share: FoldShare, heard: Iterable[tuple[Silence, str]], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The runs of a share's entities, of the silences whose view the share is of."""
    filled = [batch for batch in batches if batch.num_rows]
    if not filled:
        return
    pieces = pa.Table.from_batches(filled)
    view = pieces["view"][0].as_py()
    for silence, view_of_events in heard:
        if view_of_events == view:
            runs = runs_of(silence, share.events(silence.stream, pieces))
            for part in packed_parts(runs, share.job.most_bytes):
                yield pa.RecordBatch.from_pydict({"silence": [silence.name], "payload": [part]}, PIECES)


def _view_of(silence: Silence, repo: FeatureRepo) -> str | None:
    """The view of the silence's entity that folds its events; None where these definitions have none."""
    stream = repo.streams.get(silence.stream.name)
    if stream is None or (stream.topics, stream.dtypes) != (silence.stream.topics, silence.stream.dtypes):
        return None
    return next((view.name for view in repo.reading(stream.name) if view.entity == silence.entity), None)


def alert_of(silence: Silence, key: str, last_ms: int) -> dict[str, Any]:
    """The alert of a silence of the entity since its last arrival."""
    return _alert(silence, f"silence:{silence.name}", key, last_ms, last_ms, {})


def resolved_alert_of(silence: Silence, key: str, last_ms: int, next_ms: int) -> dict[str, Any]:
    """The alert of the end of that silence."""
    return _alert(silence, f"resolved:{silence.name}", key, last_ms, next_ms, {"resolved_at": next_ms})


def _alert(
    silence: Silence, source: str, key: str, last_ms: int, event_time: int, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "alert_id": "/".join((silence.stream.name, key, str(last_ms), silence.name, source)),
        "source": source,
        "event_id": key,
        "event_time": event_time,
        "model": silence.name,
        "version": None,
        "score": None,
        "threshold": None,
        "reasons": [],
        "event": {**key_values(silence, key), "known_at": last_ms, "longer_than_ms": silence.longer_ms, **more},
    }


def key_values(silence: Silence, key: str) -> dict[str, Any]:
    """Key column → value, of an entity's key text (features.events.columns.entity_keys)."""
    names, parts = list(silence.entity.keys), [key]
    if len(names) > 1:
        parts, data = [], key.encode()
        while data:
            length, _, rest = data.partition(b":")
            parts.append(rest[: int(length)].decode())
            data = rest[int(length) + 1 :]
    return {
        name: int(part) if silence.entity.keys[name] == "int64" else part
        for name, part in zip(names, parts, strict=True)
    }


def forget_silences(path: Path, silences: Iterable[Silence], entity: Entity, key: str, *, dry_run: bool) -> int:
    """Delete the last arrivals of an entity; the number of rules that had one."""
    names = [name_of(silence) for silence in silences if silence.entity == entity]
    if not names or not path.exists():
        return 0
    times = LastTimes(path)
    try:
        found = [name for name in names if times.of(name, [key])]
        for name in found if not dry_run else ():
            times.forget(name, key)
    finally:
        times.close()
    return len(found)
