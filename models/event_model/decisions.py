"""Decisions about events: score, threshold, met rules, and the inputs that raised the score most."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats
from features.definitions import OF_EVENT, Stream
from features.redaction import redacted
from models.event_model.artefact import LoadedEventModel
from models.event_model.columns import EventModelColumns, usual_of
from models.event_model.scorers import EventScorer
from models.event_model.texts import Texts

logger = logging.getLogger(__name__)

MOST_REASONS = 3

ALERT_FIELDS = ("event_id", "event_time", "model", "version", "score", "threshold")
"""The columns of DECISIONS that an alert repeats."""


@dataclass(frozen=True)
class InputEffect:
    """An input that raised a score: its value (None for none), the usual value, and by how much it raised the score."""

    feature: str
    value: float | None
    usual: float | None
    effect: float


def reasons_of(
    columns: EventModelColumns, model: EventScorer, matrix: Floats, texts: Texts | None = None
) -> list[list[InputEffect]]:
    """The inputs that raised each event's score most, the strongest first, at most MOST_REASONS.

    Args:
        matrix: (n, columns.model.needed), NaN for no value.
        texts: (n,) for a model of a text.
    """
    if not len(matrix):
        return []
    inputs = columns.inputs(matrix)
    usual = usual_of(columns, matrix, np.array(model.manifest.typical))
    found = model.effects(inputs, usual, texts)
    effects = found.effects
    strongest = np.argsort(-effects, axis=1, kind="stable")[:, :MOST_REASONS]
    return [
        [
            InputEffect(
                found.names[column],
                _number(found.values[row, column]),
                _number(found.usual[row, column]),
                float(effects[row, column]),
            )
            for column in order
            if effects[row, column] > 0
        ]
        for row, order in enumerate(strongest.tolist())
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


DECISIONS = pa.schema(
    {
        "stream": pa.string(),
        "event_id": pa.string(),
        "event_time": pa.int64(),
        "partition": pa.int32(),
        "offset": pa.int64(),
        "model": pa.string(),
        "version": pa.string(),
        "score": pa.float64(),
        "threshold": pa.float64(),
        "rules": pa.list_(pa.string()),
        "reasons": pa.string(),
        "event": pa.string(),
        "problem": pa.string(),
        "inputs": pa.string(),
        "repeated": pa.list_(pa.string()),
    }
)
"""The decision about each event. ``score`` is null without a version and where the model failed (``problem``);
``reasons`` and ``event`` are JSON of events that alert; ``inputs`` (and ``event``) are JSON of events with a problem,
from which the model scores them again. ``repeated`` has the sources whose alert would repeat an incident's; null for
none. Older decisions have no ``stream`` and no ``repeated``."""

SCORED = "scored "
"""Behind DECISIONS, the decisions of a model that writes a scored stream have its event's known_at and fields, each
after this prefix."""


def decide(
    columns: EventModelColumns,
    loaded: LoadedEventModel | None,
    events: pa.Table,
    matrix: Floats,
    missing: str | None = None,
) -> pa.Table:
    """The decision about each event, in the columns of DECISIONS; an error of the model is the decision's problem.

    Args:
        loaded: the version that scores; None for rules alone.
        matrix: (n, columns.model.needed), as known just before each event.
        missing: the reason for no version though one may be registered.
    """
    scores, reasons, problem = _scored(columns, loaded, events, matrix, missing)
    threshold = None if loaded is None else loaded.model.manifest.threshold
    met = columns.rules_met(matrix, {} if loaded is None else loaded.model.answers(scores))
    rules = [[name for name, mask in met.items() if mask[row]] for row in range(len(matrix))] if met else None
    alerting = scores >= (np.inf if loaded is None else loaded.model.manifest.alerts_from)
    flagged = alerting | np.logical_or.reduce([np.zeros(len(matrix), bool), *met.values()])
    texts = _as_json(events, flagged | (problem is not None))
    reason_texts = [
        _reasons_json(effects) if alerts else None for effects, alerts in zip(reasons, alerting.tolist(), strict=True)
    ]
    count = len(matrix)
    decided = pa.table(
        {
            "stream": [columns.model.stream.name] * count,
            "event_id": events["event_id"],
            "event_time": events["event_time"],
            "partition": events["partition"],
            "offset": events["offset"],
            "model": [columns.model.name] * count,
            "version": [None if loaded is None else loaded.version] * count,
            "score": pa.array(scores, from_pandas=True),
            "threshold": [threshold] * count,
            "rules": rules or [[]] * count,
            "reasons": reason_texts,
            "event": texts,
            "problem": [problem] * count,
            "inputs": [None] * count if problem is None else inputs_as_json(columns, matrix),
            "repeated": [None] * count,
        },
        schema=DECISIONS,
    )
    return with_scored_fields(decided, columns, events)


def with_scored_fields(decided: pa.Table, columns: EventModelColumns, events: pa.Table) -> pa.Table:
    """The decisions with the fields of their events in the model's scored stream; as they are where it has none."""
    scored = columns.model.scored
    if scored is None:
        return decided
    decided = decided.append_column(f"{SCORED}known_at", events["known_at"])
    for name, path in columns.model.scored_fields.items():
        values = events[path.removeprefix(OF_EVENT)] if path.startswith(OF_EVENT) else decided[path]
        decided = decided.append_column(f"{SCORED}{name}", values)
    return decided


def known_together(decided: pa.Table) -> pa.Table:
    """The decisions, those of a scored stream known a millisecond after the newest of their events.

    No event that was scored together with another, by features without it, is later than its score.
    """
    index = decided.schema.get_field_index(f"{SCORED}known_at")
    if index < 0 or not decided.num_rows:
        return decided
    newest = pc.max(decided.column(index)).as_py() + 1
    return decided.set_column(index, decided.schema.field(index), pa.array([newest] * decided.num_rows, pa.int64()))


def scored_events(decided: pa.Table, scored: Stream) -> pa.Table:
    """The events of the model's scored stream: those that have a score."""
    has_score = decided.filter(pc.is_valid(decided["score"]))
    columns = {name: has_score[name] for name in ("event_id", "event_time")}
    columns |= {name: has_score[f"{SCORED}{name}"] for name in ("known_at", *scored.mapped)}
    return pa.table(columns)


def _scored(
    columns: EventModelColumns,
    loaded: LoadedEventModel | None,
    events: pa.Table,
    matrix: Floats,
    missing: str | None,
) -> tuple[Floats, list[list[InputEffect]], str | None]:
    """Scores (NaN for none), the reasons of events that alert, and the problem that left no scores."""
    no_scores = np.full(len(matrix), np.nan)
    reasons: list[list[InputEffect]] = [[] for _ in range(len(matrix))]
    if loaded is None:
        return no_scores, reasons, missing
    try:
        texts = columns.texts(events)
        scores = loaded.model.scores(columns.inputs(matrix), texts)
        alerting = np.flatnonzero(scores >= loaded.model.manifest.alerts_from)
        alert_reasons = reasons_of(columns, loaded.model, matrix[alerting], None if texts is None else texts[alerting])
    except Exception as error:  # whatever a model raises, the stream goes on
        logger.exception("event_model_failed name=%s version=%s", columns.model.name, loaded.version)
        return no_scores, reasons, redacted(f"model_failed: {type(error).__name__}: {error}")
    for row, effects in zip(alerting.tolist(), alert_reasons, strict=True):
        reasons[row] = effects
    return scores, reasons, None


def _as_json(events: pa.Table, mask: Bools) -> list[str | None]:
    """The events as JSON where the mask is true, else None."""
    texts: list[str | None] = [None] * events.num_rows
    rows = np.flatnonzero(mask)
    for row, event in zip(rows.tolist(), events.take(pa.array(rows)).to_pylist(), strict=True):
        texts[row] = json.dumps(event)
    return texts


def inputs_as_json(columns: EventModelColumns, matrix: Floats) -> list[str]:
    """Each event's inputs by name as JSON, as known just before it; null for no value."""
    known = zip(*([_number(value) for value in column] for column in matrix.T), strict=True)
    return [json.dumps(dict(zip(columns.model.needed, row, strict=True))) for row in known]


def _reasons_json(reasons: list[InputEffect]) -> str:
    return json.dumps([vars(reason) for reason in reasons])


def alerts_of(decisions: pa.Table) -> list[dict[str, Any]]:
    """An alert for each event that reaches the model's threshold, and one for each rule that an event meets.

    Those that would repeat the alert of an incident are left out.
    """
    return [
        _alert(decision, source)
        for decision in flagged_decisions(decisions)
        for source in sources_of(decision)
        if source not in (decision.get("repeated") or ())
    ]


def flagged_decisions(decisions: pa.Table) -> list[dict[str, Any]]:
    """The decisions about events that reach the threshold (``reached``) or meet a rule, in order."""
    reached = pc.fill_null(pc.greater_equal(decisions["score"], decisions["threshold"]), fill_value=False)
    flagged = pc.or_(reached, pc.greater(pc.list_value_length(decisions["rules"]), 0))
    found: list[dict[str, Any]] = decisions.append_column("reached", reached).filter(flagged).to_pylist()
    return found


def sources_of(decision: Mapping[str, Any]) -> list[str]:
    """The model and the rules by which a flagged decision alerts."""
    by_model = [f"model:{decision['model']}"] if decision["reached"] else []
    return [*by_model, *(f"rule:{name}" for name in decision["rules"])]


def _alert(decision: Mapping[str, Any], source: str) -> dict[str, Any]:
    by_model = source.startswith("model:")
    event = json.loads(decision["event"])
    return {
        "alert_id": alert_id(decision, event, source),
        "source": source,
        **{name: decision[name] for name in ALERT_FIELDS},
        "reasons": json.loads(decision["reasons"]) if by_model else [],
        "event": event,
    }


def alert_id(decision: Mapping[str, Any], event: Mapping[str, Any], source: str) -> str:
    """stream/event_id/known_at/model/source: no two alerts share it, and an event that is decided again has the same.

    An event_id belongs to its stream, and to another event after the dedupe horizon or in a topic made anew; a rule
    belongs to its model. The version that scored is no part: it may be another when a batch runs again. Only an
    event_id can contain a slash.
    """
    if decision.get("stream") is None:
        return f"{decision['event_id']}/{source}"  # an older decision, which may have been sent so
    return "/".join((decision["stream"], decision["event_id"], str(event["known_at"]), decision["model"], source))
