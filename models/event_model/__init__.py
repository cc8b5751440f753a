"""Event models: the artefact that scores one event with what was known before it, and its decisions.

In: events and feature values. Out: scores, reasons, decisions and alerts.
"""

from models.event_model.artefact import (
    LoadedEventModel,
    golden_scores,
    load_event_model,
    open_event_model,
    save_event_model,
    try_out,
)
from models.event_model.columns import EventModelColumns, filled, rounded
from models.event_model.decisions import (
    DECISIONS,
    SCORED,
    InputEffect,
    alerts_of,
    decide,
    flagged_decisions,
    known_together,
    reasons_of,
    scored_events,
    sources_of,
)
from models.event_model.habits import FittedHabit, FittedHabits, RarityCurve
from models.event_model.inputs import EventInputs, Events
from models.event_model.manifest import EventManifest
from models.event_model.scorers import (
    SCORERS,
    ClassesScorer,
    EventClassifier,
    EventRegressor,
    EventScorer,
    kind_of,
    views_of,
)
from models.event_model.texts import FittedClasses, Texts, made_up_texts, words_of

__all__ = [
    "ClassesScorer",
    "DECISIONS",
    "EventClassifier",
    "EventModelColumns",
    "EventInputs",
    "EventManifest",
    "EventRegressor",
    "EventScorer",
    "Events",
    "LoadedEventModel",
    "FittedClasses",
    "FittedHabit",
    "FittedHabits",
    "InputEffect",
    "RarityCurve",
    "SCORERS",
    "SCORED",
    "Texts",
    "alerts_of",
    "decide",
    "filled",
    "flagged_decisions",
    "golden_scores",
    "kind_of",
    "known_together",
    "made_up_texts",
    "load_event_model",
    "open_event_model",
    "reasons_of",
    "rounded",
    "save_event_model",
    "scored_events",
    "sources_of",
    "try_out",
    "views_of",
    "words_of",
]
