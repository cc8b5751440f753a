"""Definitions of models: of a stream's events (classifiers, regressors, anomalies), and recommenders; and silences.

In: the streams, entities and views of a feature repo. Out: frozen definitions, checked when they are made; training and
serving take all names from them.
"""

from features.definitions.models.anomalies import Anomaly, FalseAlerts, Habit
from features.definitions.models.classifiers import Classifier
from features.definitions.models.earlier import (
    REPLACED_NAMES,
    REPLACED_SETTINGS,
    ChosenRecommenders,
    chosen_recommenders,
    replaced_names,
    with_names,
)
from features.definitions.models.event_models import SCORE, AtPrecision, BaseEventModel, EventModel, Rule, TopADay
from features.definitions.models.recommenders import SOURCES, Recommender, Source, attributes_of
from features.definitions.models.regressors import Regressor
from features.definitions.models.scored_streams import OF_EVENT, SCORED_COLUMNS, scored_stream
from features.definitions.models.silences import Silence

__all__ = [
    "Anomaly",
    "AtPrecision",
    "BaseEventModel",
    "ChosenRecommenders",
    "Classifier",
    "EventModel",
    "OF_EVENT",
    "FalseAlerts",
    "Habit",
    "REPLACED_NAMES",
    "REPLACED_SETTINGS",
    "Recommender",
    "Regressor",
    "Rule",
    "SCORE",
    "SCORED_COLUMNS",
    "SOURCES",
    "Silence",
    "Source",
    "TopADay",
    "attributes_of",
    "chosen_recommenders",
    "replaced_names",
    "scored_stream",
    "with_names",
]
