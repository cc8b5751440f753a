"""Event models asked in the stream: each event with what was known just before it, once, and before its own effect.

    a batch's accepted events ──features before──► matrix ──champion, rules──► decisions ──► file ──► topics ──► rows

The decisions of a batch are durable before anything is told of them and before any row of the batch is written. A
driver that starts tells again what the one before it may not have told, and decides about what lies beyond (0025). Of
generations that are folded side by side, the first to meet an event decides; for the others it is decided.
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
from models.event_model import DECISIONS, EventColumnsOfModel, decide
from streaming.scoring.decision_log import DecisionLog
from streaming.scoring.on_executors import decided_on_executors
from streaming.scoring.request import ScoringRequest
from streaming.scoring.topics import Telling

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from streaming.fold import FoldShare

Reached = Callable[[str], None]

Score = Callable[[ScoringRequest], pa.Table]
"""The decisions of a model about all of a batch's events."""


def _no_place(_: str) -> None:
    """What is reached where no crash is asked for."""


class ModelScoring:
    """Decides about the events of one model's stream, each once.

    Args:
        champion: whom the events are put to.
        log: what was decided.
        tell: sends what was decided.
        reached: is told before and after decisions become durable, and after they were told.

    Raises:
        UsageError: the model has an input of a view that does not read the model's stream.
    """

    def __init__(self, champion: Champion, log: DecisionLog, tell: Telling, reached: Reached | None = None) -> None:
        _check(champion.columns)
        self.champion, self.log = champion, log
        self._tell, self._reached = tell, reached or _no_place
        # Generations are folded by threads of their own, and only one may decide about an event.
        self._deciding = threading.Lock()

    def decide(self, end: Offsets, score: Score) -> None:
        """What is decided about a batch's events is durable, and told.

        Args:
            end: of the batch.
            score: puts the batch's accepted events to the model.
        """
        with self._deciding:
            self._tell_untold()
            if self.log.is_beyond(end):
                decided = self._decided(score)
                if decided.num_rows:
                    self._reached("before scores")
                self.log.keep(decided, end)
                self._tell_untold()
                if decided.num_rows:
                    self._reached("after scores")

    def _tell_untold(self) -> None:
        if self.log.untold is not None:
            self._tell(self.log.untold)
            self.log.untold = None

    def _decided(self, score: Score) -> pa.Table:
        loaded, problem = self.champion.current(), self.champion.problem
        missing = f"no_model: {problem}" if loaded is None and problem else None
        decided = score(ScoringRequest(self.champion.columns, loaded, missing))
        return decided.filter(pa.array(self.log.undecided(decided)))


class GenerationScoring:
    """Scores the batches of one generation, in this process or on executors (fold/shares.py, BatchScoring).

    Args:
        models: those that its rows can answer for.
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
    """The event models of a driver, asked by each generation of rows that has what they need.

    Args:
        models: by the model's name.
    """

    def __init__(self, models: Sequence[ModelScoring]) -> None:
        self._models = models

    def asking(self, repo: FeatureRepo, store: RowStore, stream_id: int) -> GenerationScoring | None:
        """What asks the models about a generation's batches; None where its definitions are not what they need.

        Args:
            repo: the generation's definitions.
            store: its rows.
        """
        able = [one for one in self._models if is_able(repo, one.champion.columns)]
        return GenerationScoring(able, store, stream_id) if able else None

    def lacks(self, standing: Offsets) -> bool:
        """Whether rows that stand at these offsets have events that some model was not asked about."""
        return any(one.log.lacks(standing) for one in self._models)

    def reach(self) -> Offsets:
        """By partition, the first offset that some model was not asked about; none of partitions that no model met."""
        found: dict[str, int] = {}
        for one in self._models:
            for place, offset in one.log.reach.items():
                found[place] = min(offset, found.get(place, offset))
        return found

    def start(self) -> None:
        """The models are looked for from now on."""
        for one in self._models:
            one.champion.start()

    def close(self) -> None:
        """No registry is asked any more."""
        for one in self._models:
            one.champion.close()


def event_scoring(
    repo: FeatureRepo, tracking_uri: str, folder: Path, tell: Telling, reached: Reached | None = None
) -> EventScoring:
    """The scoring of the repo's event models.

    Args:
        folder: where decisions are kept.
    """
    asked = [EventColumnsOfModel.of(repo, model) for model in repo.models.values()]
    champions = [PolledChampion(EventAlias(tracking_uri, one), first_look_s(tracking_uri)) for one in asked]
    logs = [DecisionLog(folder / one.model.name, one.model.stream) for one in asked]
    models = [ModelScoring(one, log, tell, reached) for one, log in zip(champions, logs, strict=True)]
    return EventScoring(models)


def decided_here(request: ScoringRequest, accepted: Mapping[str, pa.Table], store: RowStore, key: BatchKey) -> pa.Table:
    """The decisions about the accepted events of the model's stream, with what was known just before each."""
    asked, stream = request.asked, request.asked.model.stream
    events = accepted.get(stream.name)
    if events is None or not events.num_rows:
        return DECISIONS.empty_table()
    answers = {}
    for view in asked.source.views:
        answers[view.name] = features_before(view, stream, accepted, _rows_of(store, view.name), key)
    return decide(asked, request.loaded, events, asked.source.matrix_of(events, answers), request.missing)


def _rows_of(store: RowStore, view: str) -> Callable[[pa.Array], pa.Array]:
    return lambda keys: store.rows(view, keys)


def is_able(repo: FeatureRepo, asked: EventColumnsOfModel) -> bool:
    """Whether rows and events by these definitions are those that the model's own definitions mean."""
    meant = asked.model.stream
    has = repo.streams.get(meant.name)
    if has is None or (has.topics, has.dtypes) != (meant.topics, meant.dtypes):
        return False
    hashes = {view.name: view.schema_hash for view in repo.views.values()}
    return all(hashes.get(view.name) == view.schema_hash for view in asked.source.views)


def _check(asked: EventColumnsOfModel) -> None:
    model = asked.model
    for view in asked.source.views:
        if model.stream not in view.streams:
            where = f"event model '{model.name}': feature view '{view.name}'"
            got = ", ".join(one.name for one in view.streams)
            raise UsageError(where, f"to read stream '{model.stream.name}', whose events it is asked about", got)
