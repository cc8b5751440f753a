"""What training can be set to, with the meaning of each."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from features.artefact import MODEL_NAME


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
    engaged: tuple[str, ...] = ("view", "click", "cart", "favorite", "purchase", "rating")
    """Event types that say what a user likes."""
    engaged_weight: float = 0.2
    """What an event counts that is engaged but not the target, which counts 1."""
    test_ms: int | None = None
    """How long the last part is that the model is tested on; None takes test_share of the events."""
    test_share: float = Field(0.2, gt=0, lt=0.5)
    """The share of events in the test part, and in the part before it that the ranker learns from."""

    ease_items: int = 5_000
    """EASE inverts a matrix of this many items at most: the most popular."""
    ease_l2: float = 300.0
    """EASE's regularisation."""
    neighbours: int = 200
    """How many similar items are kept of each."""
    own_items: int = 200
    """How many items are kept of each user: the most frequent."""
    popular_half_life_ms: int = 30 * 86_400_000
    """How long until a user's event counts half for popularity."""

    moments: int = 4_000
    """How many moments of asking the ranker learns from, at most."""
    moments_per_user: int = 3
    """After how many of a user's events it is asked, besides on arrival, at most."""
    negatives: int = 20
    """Candidates that were not taken which are kept of each moment."""
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
