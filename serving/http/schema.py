"""Requests and responses of the HTTP interface. An unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from pydantic_core import PydanticCustomError

from features.events import MOST_BYTES, may_identify

MAX_K, MAX_LISTED, MAX_TEXT = 500, 1_000, 4_096


def _identifier(text: str) -> str:
    if not may_identify(text):
        required = f"at most {MOST_BYTES} bytes of UTF-8 without control characters"
        raise PydanticCustomError("identifier", "{required}", {"required": required})
    return text


IDENTIFIES = AfterValidator(_identifier)

Id = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MOST_BYTES,
        json_schema_extra={"pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"},
        description=f"At most {MOST_BYTES} bytes of UTF-8, without control characters.",
    ),
    IDENTIFIES,
]

Ids = Annotated[list[Id], Field(max_length=MAX_LISTED)]

Text = Annotated[StrictStr, Field(max_length=MAX_TEXT)]

Scalar = Text | StrictBool | StrictInt | StrictFloat

Scalars = Annotated[list[Scalar], Field(max_length=MAX_LISTED)]

FeatureValue = Scalar | Scalars | None
"""The value of a feature in a request, as GET /v1/features shows it."""

Name = Annotated[str, Field(max_length=MOST_BYTES)]
"""The name of a feature, an attribute or a field of an event."""

Range = Annotated[dict[Name, Scalar], Field(max_length=2)]

Filter = Annotated[dict[Name, Scalar | Scalars | Range], Field(max_length=20)]


class Strict(BaseModel):
    """A message with exactly these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Context(Strict):
    """Where the recommendation will be shown."""

    item_id: Id | None = None
    """The item that is being looked at: counts as the newest of the history, and is not recommended."""
    items: Ids = []
    """More items of the moment, such as the basket, newest first; they count as item_id does."""
    placement: Annotated[str, Field(max_length=64), IDENTIFIES] | None = None
    """The place on the page, for logs and metrics."""


Named = Annotated[str, Field(min_length=1, max_length=256), IDENTIFIES] | None


class PersonalRequest(Strict):
    """The user, the session and the context of a request."""

    recommender: Named = None
    """The recommender of the definitions that is asked; the default one unless given."""
    user_id: Id | None = None
    """The user to recommend to; without one, items are popular or go with the session or the context."""
    session_id: Id | None = None
    """The session: its events, posted to /v1/events, count as newest history, with or without a user."""
    user_features: Annotated[dict[Name, FeatureValue], Field(max_length=500)] = {}
    """Features of the user by name, such as its newest items: they stand in for those of the store."""
    context: Context = Context()
    """The context of the request."""
    explain: Annotated[bool, Field(strict=True)] = False
    """Give the reasons for each item."""
    model: Annotated[str, Field(min_length=1, max_length=64), IDENTIFIES] | None = None
    """A model other than the one that serves: an alias of the registered model, or the number of a version."""


class RecommendRequest(PersonalRequest):
    """POST /v1/recommend."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "u1", "k": 5, "exclude_seen": True, "explain": True},
                {"session_id": "s1", "context": {"item_id": "i42"}, "filter": {"category": ["mug", "teapot"]}},
                {"user_id": "u1", "filter": {"price": {"max": 20}}, "diversity": 0.3},
            ]
        }
    )

    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True)] = 10
    """The number of items."""
    exclude_seen: Annotated[bool, Field(strict=True)] = False
    """Leave out what the user did something with: the items in the lists of its features (LastK), up to the longest
    window and the most events of each, of its session, and of its history at the model's training; in a fallback,
    those that could be read in time."""
    exclude: Ids = []
    """Leave out these items."""
    candidates: Ids | None = None
    """The only items that may be in the answer."""
    filter: Filter = {}
    """Conditions on attributes of items: a value, a list of values, or {"min", "max"}, both inclusive."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The weight of an item's likeness to those before it, against its score; 0 orders by score."""


class RankRequest(PersonalRequest):
    """POST /v1/rank: the caller's items, the best first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "u1", "items": ["i1", "i2", "i3"], "explain": True}]}
    )

    items: Annotated[list[Id], Field(min_length=1, max_length=1_000)]
    """The items to rank; each is in the answer once, unknown items last with the source ``unknown``."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The weight of an item's likeness to those before it, against its score; 0 orders by score."""


class SimilarRequest(Strict):
    """POST /v1/similar: items similar to an item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": "i42", "k": 5}]})

    recommender: Named = None
    """As in /v1/recommend."""
    item_id: Id
    """The item; it is not in the answer."""
    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True)] = 10
    """The number of items; fewer if fewer are similar."""
    exclude: Ids = []
    """Leave out these items."""
    filter: Filter = {}
    """As in /v1/recommend."""
    explain: Annotated[bool, Field(strict=True)] = False
    """Give the reasons for each item."""
    model: Annotated[str, Field(min_length=1, max_length=64), IDENTIFIES] | None = None
    """As in /v1/recommend."""


class ModelUsed(Strict):
    """The model of an answer."""

    name: str
    version: str
    alias: str | None
    """None where the request named a version."""


class FeaturesUsed(Strict):
    """The features of an answer: ``as_of`` (epoch ms), the stream's lag behind it, the user's status."""

    as_of: int
    age_ms: int | None
    """None before the first fold."""
    status: str | None
    """PRESENT, OUTSIDE_MAX_AGE or NOT_FOUND; None without a user, and if the user could not be read."""
    without_pending: bool = False
    """The user's events of the last moment could not be read in time, and may be missing."""


class Fallback(Strict):
    """Whether the answer lacks something, and the reason: the first that applies.

    Without a personal answer: store_down, deadline, empty_store, no_model, model_failed, no_user,
    unknown_user, unknown_session, unknown_item, nothing_similar. Of a personal one: few_items (fewer than k items may
    be answered) and filled (the model had fewer than k, and trending and popular items follow them).
    """

    used: bool
    reason: str | None


class RecommendedItem(Strict):
    """One item of an answer, the best first."""

    item_id: str
    score: float | None
    """Higher is better, within one source; None for an unknown item of /v1/rank."""
    rank: int
    source: str
    """The candidate source that named it: ``similar``, ``factor``, ``content`` (by its attributes), ``popular``, …"""
    reasons: list[str] | None = None
    """With ``explain``, what is true of the item: bought_before; viewed, or otherwise among the user's items of late;
    "similar_to: ITEM", the user's item that gave the largest part of its score; taste, near to all that the user took;
    trending; popular; new to the model."""


class RecommendResponse(Strict):
    """The answer to POST /v1/recommend, /v1/rank and /v1/similar."""

    recommendation_id: str
    model: ModelUsed | None
    features: FeaturesUsed
    fallback: Fallback
    took_ms: float
    items: list[RecommendedItem]


class ScoreRequest(Strict):
    """POST /v1/score."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "cards", "event": {"customer_id": 596, "terminal_id": 3156, "amount": 57.16}}]
        }
    )

    model: Id
    """An event model of the feature repo."""
    event: Annotated[dict[Name, Scalar | None], Field(max_length=500)]
    """The event, by the field names of the model's stream; event_time is now by default."""
    as_of: Annotated[int, Field(gt=0, lt=2**63, strict=True)] | None = None
    """Features as of this time (epoch ms, 1990 to 2099), or as of the row's newest event if that is later; now by
    default."""


class ScoreReason(Strict):
    """An input that raised the score: its value, the usual one (the entity's or training's), and the effect."""

    feature: str
    value: float | None
    usual: float | None
    effect: float


class ScoreFeatures(Strict):
    """The features of one view that were used, and their as_of (epoch ms)."""

    view: str
    status: str
    as_of: int
    age_ms: int | None
    """The age of the newest event in them."""
    without_pending: bool = False
    """Events of the last moment could not be read in time, and may be missing."""


class ScoreResponse(Strict):
    """The answer to POST /v1/score: flagged from the threshold on; ``rules`` are those that the event meets.

    The score is a probability, a number, or how unusual the event is, by the kind of the model; one that flags nothing
    has no threshold.
    """

    model: ModelUsed
    score: float
    threshold: float | None
    flagged: bool
    rules: list[str]
    reasons: list[ScoreReason]
    features: list[ScoreFeatures]
    took_ms: float
    predicted: str | None = None
    """The likeliest class, of a model of several."""
    probabilities: dict[str, float] | None = None
    """The probability of each class, of a model of several."""


class EventVerdict(Strict):
    """The outcome of one event: accepted, late (archived, not folded), refused, or unknown (send it again)."""

    index: int
    event_id: str | None
    status: str
    reason: str | None = None


class EventsResponse(Strict):
    """The answer to POST /v1/events: 202 when Kafka has every event, 207 when it has some of them."""

    accepted: int
    refused: int
    unknown: int
    events: list[EventVerdict]


class ViewFeatures(Strict):
    """The features of one entity in one view, as of an instant (epoch ms)."""

    view: str
    status: str
    as_of: int
    newest_event: int | None
    without_pending: bool = False
    """Events of the last moment could not be read in time, and may be missing."""
    features: dict[str, Any]


class FeaturesResponse(Strict):
    """The answer to GET /v1/features/{entity}/{id}."""

    entity: str
    key: dict[str, str | int]
    age_ms: int | None
    views: list[ViewFeatures]


class ModelVersion(Strict):
    """A version of the registered model in this process."""

    version: str
    loaded_at: int
    """Epoch ms."""
    items: int
    metrics: dict[str, float]


class RefusedVersion(Strict):
    """A version that the alias names and that may not serve."""

    version: str
    reason: str


class RecommenderModels(Strict):
    """The versions of one recommender in this process."""

    name: str
    alias: str
    current: ModelVersion | None
    previous: ModelVersion | None
    refused: RefusedVersion | None
    canary: ModelVersion | None
    """The version of the alias canary, whether it answers or has stopped."""
    canary_state: str
    """The canary's state, with the reason of a stop; "none" if the alias names no version but the champion."""
    challenger: ModelVersion | None
    """The version that repeats the champion's requests and never answers."""
    problem: str | None
    """The error of the last look at the registry."""


class ModelsResponse(RecommenderModels):
    """The answer to GET /v1/models: the versions of the default recommender, and those of each by name."""

    recommenders: dict[str, RecommenderModels]
    """The name of each recommender → its versions."""


class Ready(Strict):
    """The answer to GET /readyz for those who have no key with the scope ops."""

    ready: bool


class RecommenderReadiness(Strict):
    """Whether a recommender answers as asked; each part is ok or has its error."""

    ready: bool
    store: str
    items: int
    model: str
    canary: str


class Readiness(Strict):
    """The answer to GET /readyz: ready while this replica answers as asked; each part is ok or has its error.

    Not ready until items and registry have been read, while the store does not answer, without a model where the
    registry does not answer, and while the stream that runs on this machine does not get on with the rows read here.
    """

    ready: bool
    store: str
    items: int
    model: str
    canary: str
    """The canary's state, with the reason of a stop."""
    events: str
    stream: str
    """"ok"; or each query that does not get on, since when and why; or "not running" on this machine."""
    recommenders: dict[str, RecommenderReadiness]
    """The name of each recommender → its parts; those above are the default one's."""
