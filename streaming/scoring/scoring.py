"""Scoring in the stream: each event once, by the features just before it, without its own effect.

    a batch's accepted events ──features before──► matrix ──champion, rules──► decisions ──► file ──► topics ──► rows

The decisions of a batch are durable before they are sent and before any row of the batch is written. A driver that
starts sends again what the one before it may not have sent, and decides about later events (ADR 25). Of generations
that are folded side by side, the first to read an event decides for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from features.definitions import FeatureRepo
from features.errors import UsageError
from features.history import features_before
from features.online_store import Batch, Offsets, RowStore
from features.rows import BatchKey
from models.event_champion import Champion, EventAlias, PolledChampion, first_look_s
from models.event_model import DECISIONS, EventModelColumns, decide, known_together
from streaming.incidents import Incidents, incidents_file
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.on_executors import decided_on_executors
from streaming.scoring.request import ScoringRequest
from streaming.scoring.topics import DecisionSink

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streaming.fold import FoldShare, FoldTarget

Reached = Callable[[str], None]

Score = Callable[[ScoringRequest], pa.Table]
"""The decisions of a model about all of a batch's events."""


def _no_crash_point(_: str) -> None:
    """Called at every effect where no crash point is set."""


class ModelScoring:
    """Decides about the events of a model's stream, each once.

    Args:
        champion: scores the events.
        log: of the decisions.
        send: sends the decisions.
        reached: called before decisions become durable, and after they were sent.
        incidents: of the model; None marks no alert as repeated.

    Raises:
        UsageError: the model has an input of a view that does not read the model's stream.
    """

    def __init__(
        self,
        champion: Champion,
        log: DecisionLog,
        send: DecisionSink,
        reached: Reached | None = None,
        incidents: Incidents | None = None,
    ) -> None:
        _check(champion.columns)
        self.champion, self.log = champion, log
        self._incidents = incidents
        if incidents is not None and log.unsent is not None:
            incidents.keep(log.unsent)  # a crash may have come between the log and this
        self._send, self._reached = send, reached or _no_crash_point
        # Generations are folded by threads of their own, and only one may decide about an event.
        self._deciding = threading.Lock()

    def decide(self, end: Offsets, score: Score) -> None:
        """Decide about a batch's events; the decisions are durable and sent.

        Args:
            end: the batch's end offsets.
            score: scores the batch's accepted events.
        """
        with self._deciding:
            self._send_unsent()
            if self.log.is_beyond(end):
                decided = self._decided(score)
                if decided.num_rows:
                    self._reached("before scores")
                self.log.keep(decided, end)
                if self._incidents is not None:
                    self._incidents.keep(decided)
                self._send_unsent()
                if decided.num_rows:
                    self._reached("after scores")

    def _send_unsent(self) -> None:
        if self.log.unsent is not None:
            self._send(self.log.unsent)
            self.log.unsent = None

    def _decided(self, score: Score) -> pa.Table:
        loaded, problem = self.champion.current(), self.champion.problem
        missing = f"no_model: {problem}" if loaded is None and problem else None
        decided = score(ScoringRequest(self.champion.columns, loaded, missing))
        fresh = known_together(decided.filter(pa.array(self.log.undecided(decided))))
        return fresh if self._incidents is None else self._incidents.marked(fresh)


class GenerationScoring:
    """Scores the batches of a generation, in this process or on executors (fold/shares.py, BatchScoring).

    Args:
        models: those whose features its rows have.
        store: its rows.
    """

    def __init__(self, models: Sequence[ModelScoring], store: RowStore, stream_id: int) -> None:
        self._models, self._store, self._stream_id = models, store, stream_id

    def here(self, batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
        key = BatchKey(self._stream_id, batch.batch_id, batch.written_at)
        self._decide(batch.end, lambda request: decided_here(request, accepted, self._store, key))

    def on_executors(self, end: Offsets, events: DataFrame, share: FoldShare) -> None:
        self._decide(end, lambda request: decided_on_executors(events, share, request))

    def _decide(self, end: Offsets, score: Score) -> None:
        for model in self._models:
            model.decide(end, score)


class EventScoring:
    """The event models of a driver, which score by each generation of rows that has their features.

    Args:
        models: by the model's name.
    """

    def __init__(self, models: Sequence[ModelScoring]) -> None:
        self._models = models

    def of_generation(self, target: FoldTarget) -> GenerationScoring | None:
        """The scoring of a generation's batches; None where its definitions are not those of any model."""
        able = [model for model in self._models if is_able(target.repo, model.champion.columns)]
        return GenerationScoring(able, target.store, target.stream_id) if able else None

    def lacks(self, standing: Offsets) -> bool:
        """True if rows at these offsets have events that some model has not scored."""
        return any(model.log.lacks(standing) for model in self._models)

    def reach(self) -> Offsets:
        """By partition, the first offset that some model has not scored; without partitions that no model has read."""
        reach: dict[str, int] = {}
        for model in self._models:
            for name, offset in model.log.reach.items():
                reach[name] = min(offset, reach.get(name, offset))
        return reach

    def skip(self, resumed: Callable[[Offsets], Offsets]) -> None:
        """Each model goes on where ``resumed`` says for the offsets that it has reached."""
        for model in self._models:
            model.log.skip(resumed(model.log.reach))

    def start(self) -> None:
        """Begin to follow the models' champions."""
        for model in self._models:
            model.champion.start()

    def close(self) -> None:
        """Stop following the models' champions."""
        for model in self._models:
            model.champion.close()


def event_scoring(
    repo: FeatureRepo, tracking_uri: str, folder: Path, send: DecisionSink, reached: Reached | None = None
) -> EventScoring:
    """The scoring of the repo's event models.

    Args:
        folder: of the decision logs; incidents are beside it.
    """
    columns = [EventModelColumns.of(repo, model) for model in repo.models.values()]
    champions = [PolledChampion(EventAlias(tracking_uri, each), first_look_s(tracking_uri)) for each in columns]
    logs = [DecisionLog(folder / each.model.name, each.model.stream) for each in columns]
    incidents = [Incidents(each.model, incidents_file(folder.parent, each.model.name)) for each in columns]
    parts = zip(champions, logs, incidents, strict=True)
    return EventScoring([ModelScoring(champion, log, send, reached, each) for champion, log, each in parts])


def decided_here(request: ScoringRequest, accepted: Mapping[str, pa.Table], store: RowStore, key: BatchKey) -> pa.Table:
    """The decisions about the accepted events of the model's stream, with what was known just before each."""
    columns, stream = request.columns, request.columns.model.stream
    events = accepted.get(stream.name)
    if events is None or not events.num_rows:
        return DECISIONS.empty_table()
    features = {}
    for view in columns.source.views:
        features[view.name] = features_before(view, stream, accepted, _rows_of(store, view.name), key)
    return decide(columns, request.loaded, events, columns.source.matrix_of(events, features), request.missing)


def _rows_of(store: RowStore, view: str) -> Callable[[pa.Array], pa.Array]:
    return lambda keys: store.rows(view, keys)


def is_able(repo: FeatureRepo, columns: EventModelColumns) -> bool:
    """True if rows and events by these definitions are the same as by the model's own definitions."""
    required = columns.model.stream
    stream = repo.streams.get(required.name)
    if stream is None or (stream.topics, stream.dtypes) != (required.topics, required.dtypes):
        return False
    hashes = {view.name: view.schema_hash for view in repo.views.values()}
    return all(hashes.get(view.name) == view.schema_hash for view in columns.source.views)


def _check(columns: EventModelColumns) -> None:
    model = columns.model
    for view in columns.source.views:
        if model.stream not in view.streams:
            where = f"event model '{model.name}': feature view '{view.name}'"
            got = ", ".join(stream.name for stream in view.streams)
            raise UsageError(where, f"to read stream '{model.stream.name}', whose events it scores", got)
