"""Recommendations: read the user, retrieve, filter, rank, fall back.

In: a request, a user's features, a model. Out: ranked items with their sources, and the reason of a fallback.
"""

from serving.recommend.attributes import FieldError
from serving.recommend.convert import ModelAnswer, query_of, rank_query, response_of, similar_query
from serving.recommend.items import Catalogue, Inputs, ItemFeatures
from serving.recommend.readers import ObservedReader, Reader, StreamClockReader
from serving.recommend.recommender import (
    FallbackReason,
    ItemQuery,
    Recommendation,
    UserRead,
    rank,
    recommend,
    similar,
    substitute,
)
from serving.recommend.served_log import ServedAnswer, ServedLog, ShadowOverlap, is_sampled
from serving.recommend.snapshot import ItemSnapshot
from serving.recommend.users import UserReader

__all__ = [
    "Catalogue",
    "ModelAnswer",
    "UserReader",
    "FieldError",
    "Inputs",
    "ItemFeatures",
    "ItemSnapshot",
    "ObservedReader",
    "ItemQuery",
    "Reader",
    "FallbackReason",
    "Recommendation",
    "ServedAnswer",
    "ServedLog",
    "ShadowOverlap",
    "StreamClockReader",
    "UserRead",
    "is_sampled",
    "query_of",
    "rank",
    "rank_query",
    "recommend",
    "response_of",
    "similar",
    "similar_query",
    "substitute",
]
