"""A recommendation from what is known of a user: read, retrieve, filter, rank, fall back.

In: a request, a user's features, a model. Out: ranked items with their sources, and why it is a fallback if it is one.
"""

from serving.recommend.attributes import FieldError
from serving.recommend.convert import Answer, question_of, rank_question, response_of
from serving.recommend.items import Inputs, ItemFeatures, Read
from serving.recommend.readers import ObservedReader, Reader, StreamClockReader
from serving.recommend.recommender import (
    Question,
    Reason,
    Recommendation,
    UserRead,
    rank,
    recommend,
    similar,
    substitute,
)
from serving.recommend.served_log import ServedAnswer, ServedLog, Shadowed, is_sampled
from serving.recommend.unpersonal import ItemSnapshot
from serving.recommend.users import Askers

__all__ = [
    "Answer",
    "Askers",
    "FieldError",
    "Inputs",
    "ItemFeatures",
    "ItemSnapshot",
    "ObservedReader",
    "Question",
    "Read",
    "Reader",
    "Reason",
    "Recommendation",
    "ServedAnswer",
    "ServedLog",
    "Shadowed",
    "StreamClockReader",
    "UserRead",
    "is_sampled",
    "question_of",
    "rank",
    "rank_question",
    "recommend",
    "response_of",
    "similar",
    "substitute",
]
