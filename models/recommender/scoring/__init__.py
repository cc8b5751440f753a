"""Scores of the candidate sources, and pair features: what a request costs is by the entries it names.

In: the candidate tables, a user's items. Out: each source's best places, and a row of pair features for each candidate.
The loops are compiled, once a machine; ``ready`` loads them, before the first request.
"""

from models.recommender.scoring.columns import COLUMN, PAIR_FEATURES, SCORED, SPARSE
from models.recommender.scoring.loading import fill, ready
from models.recommender.scoring.sources import (
    ALL_PLACES,
    NEAREST_SESSIONS,
    SESSIONS_AN_ITEM,
    TOP_CONTENT,
    Restriction,
    Scored,
    Scoring,
    Sums,
    WorkingMemory,
    best_by_vectors,
    nearest_sessions,
    recency_weights,
    vector_products,
    working_memory,
)

__all__ = [
    "ALL_PLACES",
    "COLUMN",
    "NEAREST_SESSIONS",
    "PAIR_FEATURES",
    "SCORED",
    "SESSIONS_AN_ITEM",
    "SPARSE",
    "TOP_CONTENT",
    "Restriction",
    "Scored",
    "Scoring",
    "Sums",
    "WorkingMemory",
    "best_by_vectors",
    "fill",
    "nearest_sessions",
    "ready",
    "recency_weights",
    "vector_products",
    "working_memory",
]
