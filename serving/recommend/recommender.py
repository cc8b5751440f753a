"""From a question to ranked items: what is known of the user, the model's answer, and what stands in for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from features.rows import FeatureMatrix, Status
from models.recommender import Artefact, Query, Ranked, RankingRequest
from serving.recommend.unpersonal import ItemSnapshot, first_of, unpersonal


class FallbackReason(StrEnum):
    """Why an answer is a fallback; the first that holds."""

    STORE_DOWN = "store_down"
    DEADLINE = "deadline"
    OVERLOADED = "overloaded"
    EMPTY_STORE = "empty_store"
    NO_MODEL = "no_model"
    MODEL_FAILED = "model_failed"
    NO_USER = "no_user"
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_SESSION = "unknown_session"
    UNKNOWN_ITEM = "unknown_item"
    NOTHING_SIMILAR = "nothing_similar"


POOL, LEAST_POOL, MOST_POOL = 5, 50, 500
"""Of so many times k items a varied answer is chosen, and of how many at least and at most."""

KIND = "category"
"""The attribute that makes two items alike."""

UNSCORED = float("nan")
"""The score of an item that nothing is known of."""

SENTENCES = {
    "repeat": "the user came back to it before",
    "similar": "goes with what the user looked at",
    "trending": "on its way up with everybody",
    "popular": "popular with everybody",
    "asked": "among those asked for",
    "unknown": "nothing is known of it",
}
"""Source → why an item is in the answer."""


@dataclass(frozen=True)
class ItemQuery:
    """What is asked for.

    Args:
        user: the user's key text; None for nobody.
        k: how many items.
        context: items of the moment, newest first; never recommended.
        exclude: items that must not come back.
        exclude_seen: nor any of the user's history.
        session: the session's key text; None for none.
        among: only these may come; None for all.
        allowed: the items that meet the request's filter; None for all.
        diversity: 0 to 1 (see ``diversified``).
        placement: where the answer will be shown; for the log.
    """

    user: str | None
    k: int
    context: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = False
    session: str | None = None
    among: tuple[str, ...] | None = None
    allowed: frozenset[str] | None = None
    diversity: float = 0.0
    placement: str | None = None

    @property
    def eligible(self) -> frozenset[str] | None:
        """The items that may come at all; None for all."""
        if self.among is None:
            return self.allowed
        asked = frozenset(self.among)
        return asked if self.allowed is None else asked & self.allowed

    @property
    def unknown(self) -> FallbackReason:
        """What to say when nothing is known of whoever asks."""
        if self.user is not None:
            return FallbackReason.UNKNOWN_USER
        return FallbackReason.NO_USER if self.session is None else FallbackReason.UNKNOWN_SESSION


@dataclass(frozen=True)
class UserRead:
    """What is known of who asks: a matrix of one row, or why there is none (both None: nobody was asked for).

    Args:
        recent: the session's items, newest first.
        given: whether the request brought features of its own.
        schema_hash: of the definition that the matrix was read by; None for the repo's.
    """

    matrix: FeatureMatrix | None = None
    problem: FallbackReason | None = None
    recent: tuple[str, ...] = ()
    given: bool = False
    schema_hash: int | None = None

    @property
    def status(self) -> Status | None:
        """The user's status; None where nothing was read."""
        return None if self.matrix is None else Status(int(self.matrix.status[0]))

    @property
    def present(self) -> FeatureMatrix | None:
        """The features, where the user has any."""
        return self.matrix if self.status == Status.PRESENT else None


@dataclass(frozen=True)
class Recommendation:
    """Items, the best first; ``reason`` where they are a fallback; whether the model's ranking is in them.

    Args:
        asked: what the model was asked with; None where it was not.
    """

    items: list[Ranked]
    reason: FallbackReason | None
    by_model: bool
    asked: RankingRequest | None = None


def recommend(
    question: ItemQuery,
    user: UserRead,
    artefact: Artefact | None,
    items: ItemSnapshot,
    inputs: NDArray[np.float64] | None,
) -> Recommendation:
    """The best answer that these parts allow, and what was missing for a better one.

    Args:
        user: what the store said of question.user.
        artefact: the model; None where there is none.
        items: all items with fresh features, for what no model can say.
        inputs: the item matrix of the artefact; None for items without features.
    """
    if artefact is None:
        return substitute(question, user.problem or FallbackReason.NO_MODEL, items, None)
    recent = recent_items(question, user, artefact)
    if not user.given and not artefact.knows(question.user, recent):
        return substitute(question, user.problem or question.unknown, items, artefact)
    seen = artefact.seen(question.user, recent) if question.exclude_seen else []
    exclude = [*_excluded(question), *seen]
    asked = asking(artefact, question, user, items, inputs)
    ranked = answered(artefact, question, asked, items, exclude)
    return Recommendation(_filled(ranked, question, exclude, items, artefact), user.problem, by_model=True, asked=asked)


def rank(
    question: ItemQuery,
    user: UserRead,
    artefact: Artefact | None,
    items: ItemSnapshot,
    inputs: NDArray[np.float64] | None,
) -> Recommendation:
    """Every item of ``question.among`` once: by the model, then those only fresh features know, then the unknown ones.

    The model ranks for an unknown user too, by what it knows of the items; the reason says that it was unknown.
    """
    wanted = tuple(dict.fromkeys(question.among or ()))
    ranked: list[Ranked] = []
    asked: RankingRequest | None = None
    reason: FallbackReason | None = user.problem or FallbackReason.NO_MODEL
    if artefact is not None:
        known = user.given or artefact.knows(question.user, recent_items(question, user, artefact))
        reason = user.problem or (None if known else question.unknown)
        asked = asking(artefact, question, user, items, inputs)
        ranked = answered(artefact, question, asked, items, ())
    rest = unpersonal(items, artefact, len(wanted), (), frozenset(wanted))
    unknown = (Ranked(item, UNSCORED, "unknown") for item in wanted)
    found = first_of([ranked, rest, unknown], len(wanted), ())
    return Recommendation(found, reason, by_model=bool(ranked), asked=asked)


def similar(item: str, question: ItemQuery, artefact: Artefact | None, items: ItemSnapshot) -> Recommendation:
    """At most k items that go with the item; where none does, what is trending and popular, and why."""
    exclude = (item, *_excluded(question))
    if artefact is None:
        return substitute(question, FallbackReason.NO_MODEL, items, None, (item,))
    mask = None if question.allowed is None else artefact.allowing(question.allowed)
    found = artefact.similar(item, question.k, exclude, mask)
    if found:
        return Recommendation(found, None, by_model=True)
    known = item in artefact.tables.index
    return substitute(
        question, FallbackReason.NOTHING_SIMILAR if known else FallbackReason.UNKNOWN_ITEM, items, artefact, (item,)
    )


def recent_items(question: ItemQuery, user: UserRead, artefact: Artefact) -> list[str]:
    """The items of the moment, then of the session, then of the user's history: newest first."""
    own = () if user.present is None else artefact.recent_items(user.present)
    return [*question.context, *user.recent, *own]


def asking(
    artefact: Artefact,
    question: ItemQuery,
    user: UserRead,
    items: ItemSnapshot,
    inputs: NDArray[np.float64] | None,
) -> RankingRequest:
    """What the model is to be asked with."""
    at = as_of(user, items) or artefact.manifest.as_of_ms
    return RankingRequest(
        Query(question.user, recent_items(question, user, artefact), at),
        None if user.present is None else artefact.user_row(user.present),
        inputs,
        question.among,
        None if question.allowed is None else artefact.allowing(question.allowed),
    )


def answered(
    artefact: Artefact,
    question: ItemQuery,
    asked: RankingRequest,
    items: ItemSnapshot,
    exclude: Sequence[str],
) -> list[Ranked]:
    """The model's answer, varied where the question wants variety."""
    query = asked.query
    ranked = artefact.recommend(
        query.recent,
        asked.user_row,
        asked.item_matrix,
        question.k if not question.diversity else min(max(POOL * question.k, LEAST_POOL), MOST_POOL),
        user=query.user,
        as_of=query.as_of,
        exclude=exclude,
        among=asked.among,
        allowed=asked.allowed,
    )
    return varied(ranked, question, artefact, items) if question.diversity else ranked


def varied(ranked: list[Ranked], question: ItemQuery, artefact: Artefact, items: ItemSnapshot) -> list[Ranked]:
    """k of the ranked items in an order in which like does not follow like: of one kind, or often taken together."""
    names = [one.item_id for one in ranked]
    together = artefact.likeness(names)
    kind = items.attributes.alike(names, KIND)
    likeness = np.where(np.isnan(kind), together, (np.nan_to_num(kind) + together) / 2)
    scores = np.array([one.score for one in ranked], dtype=np.float64)
    return [ranked[place] for place in diversified(scores, likeness, question.k, question.diversity).tolist()]


def diversified(
    scores: NDArray[np.float64], likeness: NDArray[np.float64], k: int, diversity: float
) -> NDArray[np.int64]:
    """The places of at most k items, each the best of the rest by its score less its likeness to those before it.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): (1 − d) · score − d · the highest likeness to a
    chosen one, with scores as shares of their range. 0 is the order of the scores, earlier places first where equal.

    Args:
        scores: (c,), higher is better.
        likeness: (c, c), 0 to 1.
    """
    spread = float(np.ptp(scores)) if len(scores) else 0.0
    relevance = (scores - scores.min()) / spread if spread > 0 else np.zeros(len(scores))
    if diversity == 0:
        return np.argsort(-scores, kind="stable")[:k]
    nearest = np.zeros(len(scores))
    open_ = np.ones(len(scores), dtype=bool)
    chosen = np.empty(min(k, len(scores)), dtype=np.int64)
    for rank_ in range(len(chosen)):
        worth = np.where(open_, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        chosen[rank_] = place = int(np.argmax(worth))
        open_[place] = False
        nearest = np.maximum(nearest, likeness[place])
    return chosen


def as_of(user: UserRead, items: ItemSnapshot) -> int | None:
    """The instant (epoch ms) of the features that an answer is made of; None where there are none."""
    return items.as_of if user.matrix is None else int(user.matrix.as_of[0])


def newest_event(user: UserRead, items: ItemSnapshot) -> int | None:
    """The time (epoch ms) of the newest event in these features; None where there are none."""
    own = 0 if user.matrix is None else int(user.matrix.newest_event[0])
    return max(own, items.newest_event or 0) or None


def _filled(
    ranked: list[Ranked], question: ItemQuery, exclude: Sequence[str], items: ItemSnapshot, artefact: Artefact
) -> list[Ranked]:
    """The ranked items; where they are too few, with what is popular after them."""
    if len(ranked) == question.k:
        return ranked
    rest = unpersonal(items, artefact, question.k + len(ranked), exclude, question.eligible)
    return first_of([ranked, rest], question.k, exclude)


def substitute(
    question: ItemQuery,
    reason: FallbackReason,
    items: ItemSnapshot,
    artefact: Artefact | None,
    without: Sequence[str] = (),
) -> Recommendation:
    """What is trending and popular, for a stated reason."""
    exclude = (*_excluded(question), *without)
    return Recommendation(unpersonal(items, artefact, question.k, exclude, question.eligible), reason, by_model=False)


def _excluded(question: ItemQuery) -> tuple[str, ...]:
    return question.context + question.exclude
