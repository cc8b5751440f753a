"""Recommenders: candidate sources and a ranker, fitted on interactions and point-in-time features.

In: a training run. Out: an artefact, its metrics, and scorers for protocols.
"""

from training.recommender.calibrating import CalibrationCheck, calibration, calibration_error
from training.recommender.candidates import fit_candidates
from training.recommender.evaluate import METRICS, ModelResult, chances_of, compared
from training.recommender.fit import (
    Trained,
    candidates_before,
    candidates_for_everybody,
    examples_of,
    held_out_moments,
    learn,
    manifest_of,
    metrics_of,
    tested_users,
    train,
)
from training.recommender.ranker import (
    RankerExamples,
    RetrievedMoments,
    examples,
    fit_ranker,
    item_indices,
    retrieve_at,
    with_item_features,
)
from training.recommender.scorers import (
    Als,
    Blend,
    CoVisited,
    Ease,
    Popular,
    RankingMethod,
    Scorer,
    SessionNeighbours,
    Taken,
    UserFrequency,
    taken_of,
)
from training.recommender.settings_search import Trial, search
from training.recommender.shown_items import ServedUsers, read_served

__all__ = [
    "Als",
    "Blend",
    "CalibrationCheck",
    "CoVisited",
    "Ease",
    "ServedUsers",
    "METRICS",
    "Popular",
    "RankerExamples",
    "RankingMethod",
    "RetrievedMoments",
    "ModelResult",
    "Scorer",
    "SessionNeighbours",
    "Taken",
    "Trained",
    "Trial",
    "UserFrequency",
    "calibration",
    "calibration_error",
    "candidates_before",
    "candidates_for_everybody",
    "chances_of",
    "compared",
    "examples",
    "examples_of",
    "fit_candidates",
    "fit_ranker",
    "held_out_moments",
    "item_indices",
    "learn",
    "manifest_of",
    "metrics",
    "metrics_of",
    "read_served",
    "retrieve_at",
    "search",
    "taken_of",
    "tested_users",
    "train",
    "with_item_features",
]
