"""Event models asked in the stream: each event with what was known just before it, once, and before its own effect.

    a batch's accepted events ──features before──► matrix ──champion, rules──► decisions ──► file ──► topics ──► rows

The decisions of a batch are durable before anything is told of them and before any row of the batch is written: a batch
that runs again finds them and tells the same again. A crash before the file finds the rows as they were, and decides
anew; nothing had been told. What is told comes at least once, by the event's key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.batch import Batch, Store
from features.before_events import features_before
from features.errors import UsageError
from features.event_champion import EventChampion
from features.event_decisions import alerts_of, decide
from features.event_inputs import Floats
from features.event_rules import EventColumnsOfModel
from features.repo import FeatureRepo
from features.state import BatchKey
from streaming.dead_letters import Acknowledged, letter_headers
from streaming.producer import EventProducer
from streaming.topics import dead_letter_topic

Reached = Callable[[str], None]


class Telling(Protocol):
    """Where decisions go."""

    def __call__(self, decisions: pa.Table) -> None:
        """Everything that follows from the decisions has been acknowledged."""


class EventScoring:
    """A before_fold of the batch step: decides about the events of every model's stream.

    Args:
        champions: the repo's event models.
        store: the rows before the batch.
        folder: where the decisions of the last batches are kept.
        tell: sends what was decided.
        reached: is told before and after the decisions became durable, and after they were told.

    Raises:
        UsageError: a model has an input of a view that does not read the model's stream.
    """

    def __init__(
        self,
        champions: Sequence[EventChampion],
        store: Store,
        stream_id: int,
        folder: Path,
        tell: Telling,
        reached: Reached = lambda _: None,
    ) -> None:
        self._champions, self._store, self._stream_id = champions, store, stream_id
        self._folder, self._tell, self._reached = folder, tell, reached
        for one in champions:
            _check(one)

    def __call__(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        """What was decided about the batch's events is durable, and told."""
        for champion in self._champions:
            events = accepted.get(champion.asked.model.stream.name)
            if events is not None and events.num_rows:
                self._tell(self._decisions(champion, batch, accepted))
                self._reached("after scores")

    def _decisions(self, champion: EventChampion, batch: Batch, accepted: Mapping[str, pa.Table]) -> pa.Table:
        path = self._folder / f"{champion.asked.model.name}.{batch.batch_id}.arrow"
        if path.exists():
            return _read(path)
        events = accepted[champion.asked.model.stream.name]
        matrix = self._matrix(champion, batch, accepted)
        decided = decide(champion.asked, champion.current(), events, matrix)
        self._reached("before scores")
        _write(path, decided)
        self._forget(champion, batch.batch_id)
        return decided

    def _matrix(self, champion: EventChampion, batch: Batch, accepted: Mapping[str, pa.Table]) -> Floats:
        asked, key = champion.asked, BatchKey(self._stream_id, batch.batch_id, batch.written_at)
        answers = {}
        for view in asked.source.views:
            rows = _rows_of(self._store, view.name)
            answers[view.name] = features_before(view, asked.model.stream, accepted, rows, key)
        return asked.source.matrix_of(accepted[asked.model.stream.name], answers)

    def _forget(self, champion: EventChampion, batch_id: int) -> None:
        """Only the last batch can run again."""
        for path in self._folder.glob(f"{champion.asked.model.name}.*.arrow"):
            if int(path.name.split(".")[-2]) < batch_id - 1:
                path.unlink(missing_ok=True)


MakeScoring = Callable[[Store, int, Path, Reached], EventScoring]
"""(rows before a batch, their generation, folder of decisions, who is told of effects) → what scores."""


def scoring_of(repo: FeatureRepo, tracking_uri: str, tell: Telling) -> MakeScoring | None:
    """What makes the scoring of the repo's event models; None where it has none."""
    if not repo.models:
        return None

    def make(store: Store, stream_id: int, folder: Path, reached: Reached) -> EventScoring:
        asked = [EventColumnsOfModel.of(repo, model) for model in repo.models.values()]
        champions = [EventChampion(tracking_uri, one) for one in asked]
        return EventScoring(champions, store, stream_id, folder, tell, reached)

    return make


def _check(champion: EventChampion) -> None:
    model = champion.asked.model
    for view in champion.asked.source.views:
        if model.stream not in view.streams:
            where = f"event model '{model.name}': feature view '{view.name}'"
            got = ", ".join(one.name for one in view.streams)
            raise UsageError(where, f"to read stream '{model.stream.name}', whose events it is asked about", got)


def _rows_of(store: Store, view: str) -> Callable[[pa.Array], pa.Array]:
    return lambda keys: store.rows(view, keys)


def _write(path: Path, decided: pa.Table) -> None:
    """The decisions stand in the file, whole and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("wb") as file:
        with pa.ipc.new_file(file, decided.schema) as writer:
            writer.write_table(decided)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return pa.ipc.open_file(file).read_all()


# --- to Kafka -------------------------------------------------------------------------------------------------------


class DecisionTopics:
    """Sends scores and alerts, keyed by event; events that a model failed on are dead letters of the scores' topic.

    Args:
        producer: of the cluster that has the topics.
        scores, alerts: their names.
    """

    def __init__(self, producer: EventProducer, scores: str, alerts: str) -> None:
        self._producer, self._scores, self._alerts = producer, scores, alerts

    def __call__(self, decisions: pa.Table) -> None:
        """Kafka has all of it. Raises DeadLetterError where it did not acknowledge; some may be there then."""
        failed = np.asarray(decisions["problem"].is_valid())
        scored = decisions.filter(pc.is_valid(decisions["score"])).drop_columns(["reasons", "event", "problem"])
        with Acknowledged(self._producer, self._scores) as send:
            for one in scored.to_pylist():
                send(one["event_id"].encode(), json.dumps(one).encode(), ())
        with Acknowledged(self._producer, self._alerts) as send:
            for one in alerts_of(decisions):
                send(one["event_id"].encode(), json.dumps(one).encode(), ())
        with Acknowledged(self._producer, dead_letter_topic(self._scores)) as send:
            for one in decisions.filter(pa.array(failed)).to_pylist():
                place = self._scores, one["partition"], one["offset"]
                headers = letter_headers((), place, one["problem"], one["event_time"])
                send(one["event_id"].encode(), json.dumps(one).encode(), headers)
