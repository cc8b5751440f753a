"""The settings of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from features.definitions import Recommender, Source

FADE_SHARE, FADE_LEAST_MS = 0.25, 90 * 86_400_000.0
"""See fade_half_life_ms."""
SOURCES: tuple[Source, ...] = ("factor", "lasting")
"""Each of these made lists better on one of the files of docs/adr/0021."""


class TrainingSettings(BaseModel):
    """The settings of one model's training; times in ms, shares from 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "recommender"
    """The registered model's name; this and the next three are of the recommender's definition (see ``of``)."""
    targets: tuple[str, ...] = ()
    """Event types that can be the target, the best first: the first with at least target_events events is taken."""
    target_events: int = 200
    """The fewest events of a target."""
    weights: dict[str, float] = {}
    """The weight of an event by its type: higher where the user gave more for it, negative where it takes something
    back. Types left out have 0, and those of the target at least 1."""
    test_ms: int | None = None
    """The length of the newest part, which the model is tested on; None takes test_share of the events."""
    test_share: float = Field(0.2, gt=0, lt=0.5)
    """The share of events in the test part, and in the part before it that the ranker learns from."""
    max_events: int | None = Field(None, ge=1)
    """The most events read into memory. Of more, the model is fitted to all events of some users, drawn by the seed,
    with items' features from everybody's events. None takes as many as half of the machine's memory has room for.
    """

    ease_items: int = 5_000
    """EASE inverts a matrix of this many items at most: the most popular."""
    ease_l2: float = 300.0
    """EASE's regularisation for weights that do not fade; for fading weights it shrinks as their squares do."""
    fade_half_life_ms: float | None = Field(None, gt=0)
    """The half-life of an interaction's weight in similarities; None takes FADE_SHARE of the history's length, but at
    least FADE_LEAST_MS."""
    neighbours: int = 200
    """Similar items kept for each item."""
    own_items: int = 200
    """Items kept for each user: the most frequent."""
    popular_half_life_ms: int = 30 * 86_400_000
    """The half-life of an event's weight in popularity."""
    sources: tuple[Source, ...] = SOURCES
    """Candidate sources besides similar, popular and trending items and the user's own."""
    session_gap_ms: int = 30 * 60_000
    """The longest gap between two events of one session."""
    session_items: int = 50
    """Items of a session that count: the last ones."""
    sessions: int = 20_000
    """Sessions that a model keeps: the latest."""
    together_items: int = 60
    """Co-occurring items kept for each item."""
    together_half_life_ms: int = 90 * 86_400_000
    """The half-life of a session's weight in co-occurrence."""
    together_shrink: float = 20.0
    """Added to the norms in co-occurrence, so that items that rarely share a session are not called similar."""
    factors: int = 32
    """The width of an item's vector."""
    factor_regularization: float = 5.0
    """The regularisation of the vectors."""
    factor_alpha: float = 5.0
    """The weight of an item that was taken, above that of one that was not."""
    factor_iterations: int = 15
    """Rounds of ALS over users and items."""
    repeats: bool | None = None
    """True recommends items that the user has taken already, False does not. None decides by the events: False where
    fewer than repeat_share of the targets are of an item that the user took in an earlier session."""
    repeat_share: float = Field(0.01, ge=0, le=1)
    """See repeats."""

    moments: int = 4_000
    """The most requests that the ranker learns from, and the most users as of the part's start besides."""
    moments_per_user: int = 3
    """The most requests of one user after an event of theirs, besides the one on arrival."""
    negatives: int = 20
    """Candidates not taken that are kept of each request."""
    impressions: Literal["auto", "served", "split"] = "auto"
    """The ranker's examples: ``split``, candidates, which were taken later or not; ``served``, only items that were
    really shown; ``auto``, both where enough of the shown ones were taken (ranker_positives), else ``split``."""
    taken_within_ms: int = 30 * 60_000
    """The longest time from an answer until an item shown in it counts as taken."""
    iterations: int = 80
    """Trees of the ranker."""
    learning_rate: float = 0.1
    """The ranker's learning rate."""
    leaves: int = 8
    """Leaves of each tree."""
    smallest_leaf: int = 40
    """The fewest rows of a leaf."""
    l2: float = Field(1.0, ge=0)
    """The ranker's regularisation of the leaves."""
    threads: int = Field(1, ge=1)
    """Threads of the ranker's fit. On cores that others use too, several wait for each other most of the time."""
    ranker_positives: int = 100
    """With fewer candidates taken than this there is no ranker, and the candidates' own scores are blended."""

    test_users: int = 2_000
    """The most users of the test."""
    least_test_users: int = Field(30, ge=1)
    """The fewest users of the test who took something: with fewer there is not enough to judge, and nothing is
    promoted."""
    least_test_positives: int = Field(50, ge=1)
    """The fewest items that they took, all together: with fewer there is not enough to judge either."""
    ask: Literal["arrival", "start"] = "arrival"
    """The time of the test's requests: just before a user's first event of the test part, or its start for all."""
    tolerance: float = Field(0.02, ge=0, lt=1)
    """The share by which a model may be worse than the champion and still replace it: it knows newer items and users,
    which a test in which both rank the same candidates does not show. The lower end of the difference's interval must
    be above that."""
    coverage_share: float = Field(0.5, ge=0, le=1)
    """The share of the champion's coverage of the catalogue that a new model must reach."""
    scoring_budget_ms: float = Field(50.0, gt=0)
    """The longest time of scoring 500 candidates."""
    parity: Literal["require", "ask", "skip"] = "ask"
    """The check, before promotion, that a sample of features is the same online as offline. Where it cannot be made (no
    rows, a stream that does not run), ``ask`` promotes with a note and ``require`` does not; ``skip`` never checks."""
    parity_entities: int = Field(100, ge=1)
    """Entities of each view in that sample."""
    k: int = 10
    """Length of the lists that are judged."""
    seed: int = 0
    """The seed of all random draws."""

    @classmethod
    def of(cls, recommender: Recommender, changed: Mapping[str, Any] | None = None) -> TrainingSettings:
        """The settings of the definition, under ``changed``; weights given are over its weights by kind."""
        given = dict(changed or {})
        values: dict[str, Any] = {
            "name": recommender.name,
            "targets": recommender.targets,
            "weights": dict(recommender.counts),
            "repeats": recommender.repeats,
            **({} if recommender.sources is None else {"sources": recommender.sources}),
        }
        weights = given.get("weights")
        if isinstance(weights, Mapping):
            given["weights"] = {**recommender.counts, **weights}
        return cls(**{**values, **given})

    @property
    def engaged(self) -> tuple[str, ...]:
        """The event types with a positive weight."""
        return tuple(kind for kind, weight in self.weights.items() if weight > 0)

    def counted(self, target: tuple[str, ...]) -> dict[str, float]:
        """Weights by event type for this target."""
        return {**self.weights, **{kind: max(self.weights.get(kind, 1.0), 1.0) for kind in target}}
