"""POST /v1/score: the score of one event by a registered event model, with the features of its entities."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from features.arrays import Floats
from features.definitions import FeatureRepo
from features.events import PLAUSIBLE, EventColumns, implausible, with_unit_hint
from features.rows import FeatureMatrix, Status
from features.times import now_ms
from models.event_champion import EventAlias
from models.event_model import ClassesScorer, EventModelColumns, InputEffect, LoadedEventModel, Texts, reasons_of
from models.followed import EVENT_CHALLENGER_POLICY
from models.tags import CHALLENGER
from serving.events import judge
from serving.http import PlainText, ProblemError, field_problem, schema
from serving.metrics import Metrics
from serving.recommend import Reader
from serving.versions import ScoredEvent, ScoreShadow

logger = logging.getLogger(__name__)
NO_ID = "scored-only"


class EventScores:
    """The event models of a repo, each followed by its alias from its first request on.

    Args:
        reader: features of entities.
        tracking_uri: the address of the registry of models.
        shadow_share: the share of requests that challengers score too.
    """

    def __init__(
        self,
        repo: FeatureRepo,
        reader: Reader,
        tracking_uri: str,
        alias: str,
        metrics: Metrics,
        shadow_share: float = 0.0,
    ) -> None:
        self._repo, self._reader, self._alias = repo, reader, alias
        models = {name: EventModelColumns.of(repo, model) for name, model in repo.models.items()}
        self._champions = {name: EventAlias(tracking_uri, columns, alias) for name, columns in models.items()}
        challengers = {
            name: EventAlias(tracking_uri, columns, CHALLENGER, policy=EVENT_CHALLENGER_POLICY)
            for name, columns in models.items()
        }
        self.shadow = ScoreShadow(shadow_share, challengers, metrics)

    def score(self, request: schema.ScoreRequest) -> schema.ScoreResponse:
        """The score of the event as of now or ``as_of``; if the event itself was folded already, it counts.

        Raises ProblemError for a model that is missing or fails, an implausible ``as_of``, and an event that its
        stream would refuse.
        """
        started = time.perf_counter()
        champion = self._champions.get(request.model)
        if champion is None:
            required = f"an event model of the feature repo ({', '.join(self._champions) or 'none'})"
            raise field_problem("model", required, request.model, 404)
        loaded = champion.latest()
        if loaded is None:
            reason = champion.problem or "none is registered. Run 'headrace train'"
            raise ProblemError(503, f"POST /v1/score requires a champion of model '{request.model}'; got {reason}.")
        if request.as_of is not None and implausible(request.as_of):
            raise field_problem("as_of", PLAUSIBLE, PlainText(with_unit_hint(request.as_of, "ms")))
        now = now_ms() if request.as_of is None else request.as_of
        events = event_of(request.event, champion.columns, now)
        answers = self._answers(champion.columns, events, request.as_of)
        matrix = champion.columns.source.matrix_of(events, answers)
        try:
            response = _response(champion.columns, loaded, events, matrix, answers, self._alias)
        except Exception as error:  # a model may fail in any way
            logger.exception("event_model_failed name=%s version=%s", request.model, loaded.version)
            got = f"{type(error).__name__}: {error}"
            required = f"POST /v1/score requires an answer of model '{request.model}' version {loaded.version}"
            raise ProblemError(503, f"{required}; got {got}.") from error
        self.shadow.offer(
            ScoredEvent(
                request.model, loaded, champion.columns.inputs(matrix), response.score, champion.columns.texts(events)
            )
        )
        return response.model_copy(update={"took_ms": round(1e3 * (time.perf_counter() - started), 3)})

    def _answers(self, model: EventModelColumns, events: pa.Table, as_of: int | None) -> Mapping[str, FeatureMatrix]:
        columns = EventColumns(events, model.model.stream)
        return {
            view.name: self._reader.read(view.name, columns.entity_keys(view.entity), as_of)
            for view in model.source.views
        }


def event_of(fields: Mapping[str, Any], columns: EventModelColumns, now: int) -> pa.Table:
    """The event as the model's stream would parse it ``now`` (epoch ms). Raises ProblemError if it refuses it."""
    stream = columns.model.stream
    keys = {key for view in columns.source.views for key in view.entity.keys}
    event = {"event_id": NO_ID, "event_time": now, **fields}
    if stream.event_id is None:
        event.pop("event_id")
    judged = judge([event], stream, None, now, keys=keys)
    if judged.parsed.events.num_rows != 1 or judged.reasons[0]:
        raise field_problem("event", f"an event of stream '{stream.name}': {judged.reasons[0]}", dict(fields))
    return judged.parsed.events


def _response(
    columns: EventModelColumns,
    loaded: LoadedEventModel,
    events: pa.Table,
    matrix: Floats,
    answers: Mapping[str, FeatureMatrix],
    alias: str,
) -> schema.ScoreResponse:
    inputs, texts = columns.inputs(matrix), columns.texts(events)
    scores = loaded.model.scores(inputs, texts)
    score, manifest = float(scores[0]), loaded.model.manifest
    return schema.ScoreResponse(
        model=schema.ModelUsed(name=columns.model.name, version=loaded.version, alias=alias),
        score=score,
        threshold=manifest.threshold,
        flagged=score >= manifest.alerts_from,
        rules=[name for name, met in columns.rules_met(matrix, loaded.model.answers(scores)).items() if met[0]],
        reasons=[_reason(effect) for effect in reasons_of(columns, loaded.model, matrix, texts)[0]],
        features=[_features(view, read) for view, read in answers.items()],
        took_ms=0.0,
        **_classes(loaded, inputs, texts),
    )


def _classes(loaded: LoadedEventModel, inputs: Floats, texts: Texts | None) -> dict[str, Any]:
    """The likeliest class and the probability of each; of a model of several classes alone."""
    if not isinstance(loaded.model, ClassesScorer) or loaded.model.own:
        return {}
    fitted = loaded.model.fitted
    chances = fitted.probabilities(inputs, texts)[0].tolist()
    probabilities = dict(zip(fitted.classes, chances, strict=True))
    return {"predicted": max(probabilities, key=probabilities.__getitem__), "probabilities": probabilities}


def _reason(reason: InputEffect) -> schema.ScoreReason:
    return schema.ScoreReason(feature=reason.feature, value=reason.value, usual=reason.usual, effect=reason.effect)


def _features(name: str, matrix: FeatureMatrix) -> schema.ScoreFeatures:
    status, as_of = Status(int(matrix.status[0])), int(matrix.as_of[0])
    age_ms = None if status == Status.NOT_FOUND else as_of - int(matrix.newest_event[0])
    return schema.ScoreFeatures(
        view=name, status=status.name, as_of=as_of, age_ms=age_ms, without_pending=matrix.without_pending
    )
