"""Definitions of models: classifiers of a stream's events, and recommenders.

In: the streams, entities and views of a feature repo. Out: frozen definitions, checked when they are made; training and
serving take all names from them.
"""

from features.definitions.models.earlier import (
    REPLACED_NAMES,
    REPLACED_SETTINGS,
    ChosenRecommenders,
    chosen_recommenders,
    replaced_names,
    with_names,
)
from features.definitions.models.event_models import AtPrecision, EventModel, Rule, TopADay
from features.definitions.models.recommenders import SOURCES, Recommender, Source, attributes_of

__all__ = [
    "AtPrecision",
    "ChosenRecommenders",
    "EventModel",
    "REPLACED_NAMES",
    "REPLACED_SETTINGS",
    "Recommender",
    "Rule",
    "SOURCES",
    "Source",
    "TopADay",
    "attributes_of",
    "chosen_recommenders",
    "replaced_names",
    "with_names",
]
