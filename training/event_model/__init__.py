"""Event models of each kind: fitted on events with what was known before each, judged, registered.

In: events, labels, definitions. Out: an artefact, its verdict and its record.
"""

from training.event_model.drift import measure_drift
from training.event_model.fit import (
    TrainedEvents,
    evaluate_and_register,
    event_manifest,
    scorer_of,
    train_events,
)
from training.event_model.gate import EventJudge
from training.event_model.kinds import EventKind
from training.event_model.metrics import group_precision, ranking_metrics
from training.event_model.record import provenance
from training.event_model.training import EventTraining, SplitExamples, kind_for

__all__ = [
    "EventJudge",
    "EventKind",
    "EventTraining",
    "SplitExamples",
    "TrainedEvents",
    "evaluate_and_register",
    "event_manifest",
    "gate",
    "group_precision",
    "kind_for",
    "measure_drift",
    "provenance",
    "ranking_metrics",
    "scorer_of",
    "train_events",
]
