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

import pyarrow as pa

from features.batch import Batch, BeforeFold, Offsets, RowStore
from features.before_events import features_before
from features.errors import UsageError
from features.event_champion import EventChampion
from features.event_decisions import DECISIONS, decide
from features.event_inputs import Floats
from features.event_rules import EventColumnsOfModel
from features.repo import FeatureRepo
from features.state import BatchKey
from streaming.champions import Champion, FollowedChampion, first_look_s
from streaming.decision_topics import Telling
from streaming.decisions import DecisionLog

Reached = Callable[[str], None]


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
        _check(champion.asked)
        self.champion, self.log = champion, log
        self._tell, self._reached = tell, reached or _no_place
        # Generations are folded by threads of their own, and only one may decide about an event.
        self._deciding = threading.Lock()

    def decide(self, batch: Batch, accepted: Mapping[str, pa.Table], store: RowStore, stream_id: int) -> None:
        """What is decided about the batch's events is durable, and told."""
        with self._deciding:
            self._tell_untold()
            if self.log.is_beyond(batch.end):
                decided = self._decided(batch, accepted, store, stream_id)
                if decided.num_rows:
                    self._reached("before scores")
                self.log.keep(decided, batch.end)
                self._tell_untold()
                if decided.num_rows:
                    self._reached("after scores")

    def _tell_untold(self) -> None:
        if self.log.untold is not None:
            self._tell(self.log.untold)
            self.log.untold = None

    def _decided(self, batch: Batch, accepted: Mapping[str, pa.Table], store: RowStore, stream_id: int) -> pa.Table:
        asked = self.champion.asked
        events = accepted.get(asked.model.stream.name, DECISIONS.empty_table())
        which = self.log.undecided(events)
        if not which.any():
            return DECISIONS.empty_table()
        loaded = self.champion.current()
        missing = None if loaded is not None or not self.champion.problem else f"no_model: {self.champion.problem}"
        matrix = matrix_before(asked, accepted, store, BatchKey(stream_id, batch.batch_id, batch.written_at))
        return decide(asked, loaded, events.filter(pa.array(which)), matrix[which], missing)


class EventScoring:
    """The event models of a driver, asked by each generation of rows that has what they need.

    Args:
        models: by the model's name.
    """

    def __init__(self, models: Sequence[ModelScoring]) -> None:
        self._models = models

    def before_fold(self, repo: FeatureRepo, store: RowStore, stream_id: int) -> BeforeFold | None:
        """What asks the models about a generation's batches; None where its definitions are not what they need.

        Args:
            repo: the generation's definitions.
            store: its rows.
        """
        able = [one for one in self._models if is_able(repo, one.champion.asked)]
        if not able:
            return None

        def before(batch: Batch, accepted: Mapping[str, pa.Table]) -> None:
            for model in able:
                model.decide(batch, accepted, store, stream_id)

        return before

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
    champions = [FollowedChampion(EventChampion(tracking_uri, one), first_look_s(tracking_uri)) for one in asked]
    logs = [DecisionLog(folder / one.model.name, one.model.stream) for one in asked]
    models = [ModelScoring(one, log, tell, reached) for one, log in zip(champions, logs, strict=True)]
    return EventScoring(models)


def matrix_before(
    asked: EventColumnsOfModel, accepted: Mapping[str, pa.Table], store: RowStore, key: BatchKey
) -> Floats:
    """(n, asked.model.needed): what was known just before each of the accepted events of the model's stream."""
    answers = {}
    for view in asked.source.views:
        answers[view.name] = features_before(view, asked.model.stream, accepted, _rows_of(store, view.name), key)
    return asked.source.matrix_of(accepted[asked.model.stream.name], answers)


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
