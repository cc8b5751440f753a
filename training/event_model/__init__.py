"""Event models: fitted on labelled events with what was known before each, judged, put forward.

In: events, labels, definitions. Out: an artefact, its verdict and its record.
"""

from training.event_model.drift import drifted, newest
from training.event_model.fit import Divided, TrainedEvents, divided, manifest_of, put_forward, train_events
from training.event_model.gate import EventJudge
from training.event_model.metrics import group_precision, ranking_metrics
from training.event_model.record import came_from

__all__ = [
    "Divided",
    "EventJudge",
    "TrainedEvents",
    "came_from",
    "divided",
    "drifted",
    "gate",
    "group_precision",
    "manifest_of",
    "newest",
    "put_forward",
    "ranking_metrics",
    "train_events",
]
