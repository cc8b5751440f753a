"""Conversions between HTTP and the recommender: requests to queries, answers to responses."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field

from features.times import now_ms
from models.recommender import LoadedRecommender, Ranked
from serving.http import schema, struct_of
from serving.recommend.recommender import ItemQuery, Recommendation, UserRead, as_of, newest_event
from serving.recommend.snapshot import ItemSnapshot

RecommendResponse, RecommendedItem = struct_of(schema.RecommendResponse), struct_of(schema.RecommendedItem)
FeaturesUsed, Fallback = struct_of(schema.FeaturesUsed), struct_of(schema.Fallback)


@dataclass(frozen=True)
class ModelAnswer:
    """A recommendation with its id, its time taken, and the model version and user that it was made from."""

    recommendation: Recommendation
    served: LoadedRecommender | None
    user: UserRead
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    took_s: float = 0.0
    request_id: str | None = None


def query_of(request: schema.RecommendRequest) -> ItemQuery:
    """The query of a request."""
    return ItemQuery(
        request.user_id,
        request.k,
        context_of(request.context),
        tuple(request.exclude),
        request.exclude_seen,
        request.session_id,
        None if request.candidates is None else tuple(request.candidates),
        request.filter,
        request.diversity,
        request.context.placement,
        explain=request.explain,
    )


def rank_query(request: schema.RankRequest) -> ItemQuery:
    """The query of a request to rank; items of the context are history here, and may be ranked too."""
    return ItemQuery(
        request.user_id,
        len(request.items),
        context_of(request.context),
        session=request.session_id,
        among=tuple(request.items),
        diversity=request.diversity,
        placement=request.context.placement,
        ranks=True,
        explain=request.explain,
    )


def similar_query(request: schema.SimilarRequest) -> ItemQuery:
    """The query of a request for similar items; the item itself is left out of every answer, also of a late one."""
    exclude = (request.item_id, *request.exclude)
    return ItemQuery(None, request.k, exclude=exclude, conditions=request.filter, explain=request.explain)


def context_of(context: schema.Context) -> tuple[str, ...]:
    """The context's items, newest first, each once."""
    first = () if context.item_id is None else (context.item_id,)
    return tuple(dict.fromkeys((*first, *context.items)))


def response_of(answer: ModelAnswer, model: schema.ModelUsed | None, items: ItemSnapshot) -> schema.RecommendResponse:
    """The HTTP response of an answer."""
    made = answer.recommendation
    at = as_of(answer.user, items) or now_ms()
    newest = newest_event(answer.user, items)
    status = answer.user.status
    return RecommendResponse(
        recommendation_id=answer.id,
        model=model,
        features=FeaturesUsed(
            as_of=at,
            age_ms=None if newest is None else max(0, at - newest),
            status=None if status is None else status.name,
            without_pending=answer.user.matrix is not None and answer.user.matrix.without_pending,
        ),
        fallback=Fallback(used=made.reason is not None, reason=made.reason and made.reason.value),
        took_ms=round(1000 * answer.took_s, 3),
        items=[
            _item(item, rank, made.reasons[rank - 1] if made.reasons is not None else None)
            for rank, item in enumerate(made.items, start=1)
        ],
    )


def _item(item: Ranked, rank: int, reasons: list[str] | None) -> schema.RecommendedItem:
    return RecommendedItem(
        item_id=item.item_id,
        score=None if math.isnan(item.score) else item.score,
        rank=rank,
        source=item.source,
        reasons=reasons,
    )
