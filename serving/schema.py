"""Requests and responses of the HTTP interface: what clients may rely on. An unknown field is an error, not ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_K = 500
Id = Annotated[str, Field(min_length=1, max_length=256)]
Ids = Annotated[list[Id], Field(max_length=1_000)]


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


class RecommendRequest(Strict):
    """POST /v1/recommend."""

    user_id: Id | None = None
    """Whom to recommend to; without one, what is popular or goes with the context."""
    context: Context = Context()
    """What is known of the moment."""
    k: Annotated[int, Field(ge=1, le=MAX_K, strict=True)] = 10
    """How many items."""
    exclude_seen: Annotated[bool, Field(strict=True)] = False
    """Leave out the items of the user's own recent history."""
    exclude: Ids = []
    """Leave out these items."""
    explain: Annotated[bool, Field(strict=True)] = False
    """Say for each item why it is there."""


class ModelUsed(Strict):
    """The model behind an answer."""

    name: str
    version: str
    alias: str


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
    score: float
    rank: int
    source: str
    reasons: list[str] | None = None


class RecommendResponse(Strict):
    """The answer to POST /v1/recommend."""

    recommendation_id: str
    model: ModelUsed | None
    features: FeaturesUsed
    fallback: Fallback
    took_ms: float
    items: list[RecommendedItem]


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
    problem: str | None
    """Why the registry could not be asked the last time."""


class Readiness(Strict):
    """The answer to GET /readyz: ready once every part was tried; each part is ok or says what is wrong."""

    ready: bool
    store: str
    items: int
    model: str
    events: str
