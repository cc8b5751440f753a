"""The recommender's artefact: candidate sources, the ranker's inputs, and how both become a ranked list.

In: a user's history and feature values. Out: ranked items, with the source of each.
"""

from models.recommender.arrays import candidate_arrays, candidate_tables, read_arrays
from models.recommender.artefact import Artefact, LoadedRecommender, Manifest, load, save
from models.recommender.calibration import Calibration, log_odds
from models.recommender.content import Columns, Content, ContentEncoder, ContentRows
from models.recommender.extension import tables_with_items, with_items
from models.recommender.golden import goldens_of, open_recommender, try_out
from models.recommender.pairs import Query
from models.recommender.reasons import reasons_of
from models.recommender.retrieval import (
    Candidates,
    Ranked,
    RankingRequest,
    first_scores,
    ranker_inputs,
    ranking_order,
    retrieve,
)
from models.recommender.scoring import PAIR_FEATURES
from models.recommender.tables import CandidateTables, Factors, Sessions, SparseRows

__all__ = [
    "Artefact",
    "RankingRequest",
    "Calibration",
    "CandidateTables",
    "Candidates",
    "Columns",
    "Content",
    "ContentEncoder",
    "ContentRows",
    "Factors",
    "LoadedRecommender",
    "Manifest",
    "PAIR_FEATURES",
    "Query",
    "Ranked",
    "Sessions",
    "SparseRows",
    "candidate_arrays",
    "candidate_tables",
    "first_scores",
    "goldens_of",
    "load",
    "log_odds",
    "open_recommender",
    "ranker_inputs",
    "ranking_order",
    "read_arrays",
    "reasons_of",
    "retrieve",
    "save",
    "tables_with_items",
    "try_out",
    "with_items",
]
