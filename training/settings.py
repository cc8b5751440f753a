"""What training can be set to, with the meaning of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.tags import MODEL_NAME

WEIGHTS = {
    "view": 0.2,
    "click": 0.2,
    "favorite": 0.4,
    "cart": 0.5,
    "rating": 1.0,
    "purchase": 1.0,
    "remove": -0.3,
    "return": -1.0,
    "dislike": -1.0,
}
FADE_SHARE, FADE_LEAST_MS = 0.25, 90 * 86_400_000.0
"""See fade_half_life_ms."""
Source = Literal["together", "factor", "session", "lasting"]
SOURCES: tuple[Source, ...] = ("factor", "lasting")
"""Those whose lack made lists worse on one of the files that they were tried on (docs/adr/0021)."""


class TrainingSettings(BaseModel):
    """One model's training; times in ms, shares from 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = MODEL_NAME
    """The registered model's name."""
    stream: str = "activity"
    """The stream whose events say what users did with items; it has event_type."""
    user_view: str = "user_activity"
    """The feature view of the user."""
    item_view: str = "item_activity"
    """The feature view of the item."""
    targets: tuple[str, ...] = ("purchase", "rating", "cart", "click", "view")
    """Event types worth predicting, the best first: the first that target_events of the events have is the target."""
    target_events: int = 200
    """How many events a target needs."""
    weights: dict[str, float] = WEIGHTS
    """What an event of each type counts: more where the user gave more for it, less than 0 for what takes back. Types
    that are not said count as usual, others nothing, and those of the target at least 1."""
    test_ms: int | None = None
    """How long the last part is that the model is tested on; None takes test_share of the events."""
    test_share: float = Field(0.2, gt=0, lt=0.5)
    """The share of events in the test part, and in the part before it that the ranker learns from."""
    max_events: int | None = Field(None, ge=1)
    """More events than these are not read into memory: then the model is of some users with all that they did, drawn by
    the seed, and of items' features from everybody's events. None takes what half of the machine's memory has room for.
    """

    ease_items: int = 5_000
    """EASE inverts a matrix of this many items at most: the most popular."""
    ease_l2: float = 300.0
    """EASE's regularisation, of weights that do not fade; of those that do, as much less as their squares are."""
    fade_half_life_ms: float | None = Field(None, gt=0)
    """How long until what a user took counts half for what is similar; None takes FADE_SHARE of the history's length,
    but FADE_LEAST_MS at least."""
    neighbours: int = 200
    """How many similar items are kept of each."""
    own_items: int = 200
    """How many items are kept of each user: the most frequent."""
    popular_half_life_ms: int = 30 * 86_400_000
    """How long until a user's event counts half for popularity."""
    sources: tuple[Source, ...] = SOURCES
    """Which further candidates a model has, besides similar, popular and trending items and the user's own."""
    session_gap_ms: int = 30 * 60_000
    """A user's events that are no further apart are of one session."""
    session_items: int = 50
    """How many items of a session count: the last."""
    sessions: int = 20_000
    """How many sessions a model remembers: the latest."""
    together_items: int = 60
    """How many items of the same sessions are kept of each."""
    together_half_life_ms: int = 90 * 86_400_000
    """How long until a session counts half for what goes together."""
    together_shrink: float = 20.0
    """Items that rarely stand in the same sessions are not called similar: how much is added to the norms."""
    factors: int = 32
    """The width of an item's vector."""
    factor_regularization: float = 5.0
    """Of the vectors."""
    factor_alpha: float = 5.0
    """How much more something taken counts than something not taken."""
    factor_iterations: int = 15
    """Rounds over users and items."""
    repeats: bool | None = None
    """Whether users come back to what they took; None learns it: where fewer than repeat_share of the targets are of
    an item that the user took in an earlier session, nobody is recommended what they took."""
    repeat_share: float = Field(0.01, ge=0, le=1)
    """See repeats."""
    category_field: str = "category"
    """The stream's field that says of which kind an item is; unused where the stream has none."""
    price_field: str = "price"
    """The stream's field that says what an item costs; unused where the stream has none."""

    moments: int = 4_000
    """How many moments of asking the ranker learns from, at most, and how many users at the part's start besides."""
    moments_per_user: int = 3
    """After how many of a user's events it is asked, besides on arrival, at most."""
    negatives: int = 20
    """Candidates that were not taken which are kept of each moment."""
    impressions: Literal["auto", "served", "split"] = "auto"
    """What the ranker learns from: ``split``, candidates that were taken later or not; ``served``, only items that were
    really shown; ``auto``, both where enough of the shown ones were taken (ranker_positives), else the former."""
    served_stream: str = "served"
    """The stream of what was shown."""
    taken_within_ms: int = 30 * 60_000
    """How long after an answer what was shown in it can be taken."""
    iterations: int = 80
    """Trees of the ranker."""
    learning_rate: float = 0.1
    """The ranker's learning rate."""
    leaves: int = 8
    """Leaves of each tree."""
    smallest_leaf: int = 40
    """Rows in a leaf, at least."""
    l2: float = Field(1.0, ge=0)
    """The ranker's regularisation of the leaves."""
    threads: int = Field(1, ge=1)
    """On cores that others use too, several threads wait for each other most of the time."""
    ranker_positives: int = 100
    """With fewer candidates taken than this there is no ranker, and the candidates' own scores are blended."""

    test_users: int = 2_000
    """How many users it is tested on, at most."""
    ask: Literal["arrival", "start"] = "arrival"
    """Tested as of when: just before a user's first event of the test part, or the part's start for all alike."""
    tolerance: float = Field(0.02, ge=0, lt=1)
    """How much worse than the champion a model may be, as a share, and still take its place: it knows newer items and
    users, which a test in which both rank the same candidates does not show. The lower end of the difference's interval
    must be above that."""
    coverage_share: float = Field(0.5, ge=0, le=1)
    """How much of what the champion's lists cover of the catalogue a new model's must cover."""
    scoring_budget_ms: float = Field(50.0, gt=0)
    """How long scoring 500 candidates may take."""
    parity: Literal["require", "ask", "skip"] = "ask"
    """Whether a model is promoted only when a sample of the features is the same online as offline. Where nobody can
    know (no rows, a stream that does not run) ``ask`` promotes and says so, ``require`` does not; ``skip`` asks not."""
    parity_entities: int = Field(100, ge=1)
    """Entities of each view in that sample."""
    k: int = 10
    """How many recommendations are judged."""
    seed: int = 0
    """Of everything that is drawn."""

    @field_validator("weights", mode="before")
    @classmethod
    def _over_the_usual(cls, weights: object) -> object:
        """Only what differs needs to be said."""
        return {**WEIGHTS, **weights} if isinstance(weights, Mapping) else weights

    @property
    def engaged(self) -> tuple[str, ...]:
        """The event types that say what a user likes."""
        return tuple(kind for kind, weight in self.weights.items() if weight > 0)

    def counted(self, target: tuple[str, ...]) -> dict[str, float]:
        """What an event of each type counts where this is the target."""
        return {**self.weights, **{kind: max(self.weights.get(kind, 1.0), 1.0) for kind in target}}
