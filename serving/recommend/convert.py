"""Between HTTP and the recommender: a request as a query, an answer as a response."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, field

from models.recommender import LoadedRecommender, Ranked
from serving.http import schema
from serving.recommend.recommender import SENTENCES, ItemQuery, Recommendation, UserRead, as_of, newest_event
from serving.recommend.unpersonal import ItemSnapshot


@dataclass(frozen=True)
class ModelAnswer:
    """A recommendation, the model version and user that it was made of, its id, and the time that it took."""

    recommendation: Recommendation
    served: LoadedRecommender | None
    user: UserRead
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    took_s: float = 0.0


def query_of(request: schema.RecommendRequest, allowed: frozenset[str] | None = None) -> ItemQuery:
    """The request as the recommender takes it.

    Args:
        allowed: the items that meet its filter; None where it has none.
    """
    return ItemQuery(
        request.user_id,
        request.k,
        context_of(request.context),
        tuple(request.exclude),
        request.exclude_seen,
        request.session_id,
        None if request.candidates is None else tuple(request.candidates),
        allowed,
        request.diversity,
        request.context.placement,
    )


def rank_query(request: schema.RankRequest) -> ItemQuery:
    """The request as the recommender takes it; items of the context are history here, and may be ranked too."""
    return ItemQuery(
        request.user_id,
        len(request.items),
        context_of(request.context),
        session=request.session_id,
        among=tuple(request.items),
        diversity=request.diversity,
        placement=request.context.placement,
    )


def context_of(context: schema.Context) -> tuple[str, ...]:
    """The items of the moment, newest first, each once."""
    first = () if context.item_id is None else (context.item_id,)
    return tuple(dict.fromkeys((*first, *context.items)))


def response_of(
    answer: ModelAnswer, model: schema.ModelUsed | None, items: ItemSnapshot, *, explain: bool
) -> schema.RecommendResponse:
    """The answer as HTTP has it."""
    made = answer.recommendation
    at = as_of(answer.user, items) or time.time_ns() // 1_000_000
    newest = newest_event(answer.user, items)
    status = answer.user.status
    return schema.RecommendResponse(
        recommendation_id=answer.id,
        model=model,
        features=schema.FeaturesUsed(
            as_of=at,
            age_ms=None if newest is None else max(0, at - newest),
            status=None if status is None else status.name,
        ),
        fallback=schema.Fallback(used=made.reason is not None, reason=made.reason and made.reason.value),
        took_ms=round(1000 * answer.took_s, 3),
        items=[_item(one, rank, explain=explain) for rank, one in enumerate(made.items, start=1)],
    )


def _item(one: Ranked, rank: int, *, explain: bool) -> schema.RecommendedItem:
    return schema.RecommendedItem(
        item_id=one.item_id,
        score=None if math.isnan(one.score) else one.score,
        rank=rank,
        source=one.source,
        reasons=[SENTENCES.get(one.source, one.source)] if explain else None,
    )
