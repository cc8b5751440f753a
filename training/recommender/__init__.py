"""Recommenders: candidate sources and a ranker, fitted on interactions and point-in-time features.

In: events, examples, settings. Out: an artefact, its metrics, and scorers for protocols.
"""

from training.recommender.calibrating import Checked, calibration, calibration_error
from training.recommender.candidates import fit_candidates
from training.recommender.evaluate import METRICS, Row, chances_of, compared
from training.recommender.fit import (
    Stopwatch,
    Trained,
    examples_of,
    learn,
    manifest_of,
    metrics_of,
    target_of,
    tested,
    train,
    worth_splitting,
)
from training.recommender.ranker import Asked, Examples, Features, ask, examples, fit_ranker, told_of_items
from training.recommender.scorers import (
    Als,
    Blend,
    CoVisited,
    Ease,
    Own,
    Popular,
    Recommender,
    Scorer,
    SessionNeighbours,
    Taken,
    taken_of,
)
from training.recommender.settings_search import Trial, search
from training.recommender.shown_items import Listeners, read_served

__all__ = [
    "Als",
    "Asked",
    "Blend",
    "Checked",
    "CoVisited",
    "Ease",
    "Examples",
    "Features",
    "Listeners",
    "METRICS",
    "Own",
    "Popular",
    "Recommender",
    "Row",
    "Scorer",
    "SessionNeighbours",
    "Stopwatch",
    "Taken",
    "Trained",
    "Trial",
    "ask",
    "calibration",
    "calibration_error",
    "chances_of",
    "compared",
    "examples",
    "examples_of",
    "fit_candidates",
    "fit_ranker",
    "learn",
    "manifest_of",
    "metrics",
    "metrics_of",
    "read_served",
    "search",
    "taken_of",
    "target_of",
    "tested",
    "told_of_items",
    "train",
    "worth_splitting",
]
