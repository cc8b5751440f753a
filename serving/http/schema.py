"""Requests and responses of the HTTP interface: what clients may rely on. An unknown field is an error, not ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

MAX_K = 500

Id = Annotated[str, Field(min_length=1, max_length=256)]

Ids = Annotated[list[Id], Field(max_length=1_000)]

Scalar = StrictStr | StrictBool | StrictInt | StrictFloat

Given = Scalar | list[Scalar] | None
"""A feature that the request brings: as GET /v1/features shows it."""

Filter = Annotated[dict[str, Scalar | list[Scalar] | dict[str, Scalar]], Field(max_length=20)]


class Strict(BaseModel):
    """A message with exactly these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Context(Strict):
    """Where the recommendation will be shown."""

    item_id: Id | None = None
    """The item that is being looked at: counts as the newest of the history, and is not recommended."""
    items: Ids = []
    """More items of the moment, such as the basket, newest first: as item_id."""
    placement: Annotated[str, Field(max_length=64)] | None = None
    """The place on the page, for logs and metrics."""


class Asking(Strict):
    """Who asks, and in which moment."""

    user_id: Id | None = None
    """Whom to recommend to; without one, what is popular or goes with the session or the context."""
    session_id: Id | None = None
    """The session: what was done in it, posted to /v1/events, counts as newest history, with or without a user."""
    user_features: Annotated[dict[str, Given], Field(max_length=500)] = {}
    """Features of the user by name, such as its newest items: they stand in for those of the store."""
    context: Context = Context()
    """What is known of the moment."""
    explain: Annotated[bool, Field(strict=True)] = False
    """Say for each item why it is there."""
    model: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Another model than the one that serves: an alias of the registered model, or the number of a version."""


class RecommendRequest(Asking):
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
    """How many items."""
    exclude_seen: Annotated[bool, Field(strict=True)] = False
    """Leave out the items of the user's own recent history."""
    exclude: Ids = []
    """Leave out these items."""
    candidates: Ids | None = None
    """Only these items may come."""
    filter: Filter = {}
    """Only items whose attributes are so: a value, a list of which one must be it, or {"min", "max"}, both met too."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much an item is held back for being like those before it; 0 leaves the order to the scores."""


class RankRequest(Asking):
    """POST /v1/rank: the caller's items, the best first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "u1", "items": ["i1", "i2", "i3"], "explain": True}]}
    )

    items: Annotated[list[Id], Field(min_length=1, max_length=1_000)]
    """The items to rank; each comes back once, those that nothing is known of last, as source ``unknown``."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much an item is held back for being like those before it; 0 leaves the order to the scores."""


class SimilarRequest(Strict):
    """POST /v1/similar: items that go with an item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": "i42", "k": 5}]})

    item_id: Id
    """The item; it is not in the answer."""
    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True)] = 10
    """How many items; fewer where fewer go with it."""
    exclude: Ids = []
    """Leave out these items."""
    filter: Filter = {}
    """As in /v1/recommend."""
    explain: Annotated[bool, Field(strict=True)] = False
    """Say for each item why it is there."""
    model: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """As in /v1/recommend."""


class ModelUsed(Strict):
    """The model behind an answer."""

    name: str
    version: str
    alias: str | None
    """None where the request named a version."""


class FeaturesUsed(Strict):
    """The features behind an answer: ``as_of`` (epoch ms), how far the stream is behind it, the user's status."""

    as_of: int
    age_ms: int | None
    """None while nothing was ever folded."""
    status: str | None
    """PRESENT, OUTSIDE_MAX_AGE or NOT_FOUND; None where no user was asked for or could be read."""


class Fallback(Strict):
    """Whether the answer is less than was asked for, and why."""

    used: bool
    reason: str | None


class RecommendedItem(Strict):
    """One item of an answer, the best first."""

    item_id: str
    score: float | None
    """Higher is better, within one source; None for an item of /v1/rank that nothing is known of."""
    rank: int
    source: str
    reasons: list[str] | None = None


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
    event: Annotated[dict[str, Scalar | None], Field(max_length=500)]
    """The event by our names: fields of the model's stream; event_time is now unless given."""
    as_of: Annotated[int, Field(gt=0, strict=True)] | None = None
    """Features as of this time (epoch ms), or of the row's own newest event where that is later; now unless given."""


class ScoreReason(Strict):
    """An input that raised the score: by how much, had it been as usual for whom the event names, or in training."""

    feature: str
    value: float | None
    usual: float | None
    effect: float


class ScoreFeatures(Strict):
    """Where features came from, as of when (epoch ms)."""

    view: str
    status: str
    as_of: int
    age_ms: int | None
    """How old the newest event in them is."""


class ScoreResponse(Strict):
    """The answer to POST /v1/score: flagged from the threshold on; rules that the event meets besides."""

    model: ModelUsed
    score: float
    threshold: float
    flagged: bool
    rules: list[str]
    reasons: list[ScoreReason]
    features: list[ScoreFeatures]
    took_ms: float


class EventVerdict(Strict):
    """What became of one event: accepted, late (archived, not folded), refused, or unknown (send it again)."""

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
    """The features of one entity in one view, as of a time (epoch ms)."""

    view: str
    status: str
    as_of: int
    newest_event: int | None
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
    """A version that the alias names and that could not be served."""

    version: str
    reason: str


class ModelsResponse(Strict):
    """The answer to GET /v1/models."""

    name: str
    alias: str
    current: ModelVersion | None
    previous: ModelVersion | None
    refused: RefusedVersion | None
    canary: ModelVersion | None
    """The version of the alias canary, whether it answers or has stopped."""
    canary_state: str
    """What the canary does, or why it does not; none where the alias names no version but the champion."""
    challenger: ModelVersion | None
    """The version that is asked beside the champion, and never answers."""
    problem: str | None
    """Why the registry could not be asked the last time."""


class Readiness(Strict):
    """The answer to GET /readyz: ready once every part was tried; each part is ok or says what is wrong."""

    ready: bool
    store: str
    items: int
    model: str
    canary: str
    """What the canary does, or why it has stopped."""
    events: str
