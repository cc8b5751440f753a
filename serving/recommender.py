"""From a question to ranked items: what is known of the user, the model's answer, and what stands in for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from features.artefact import Artefact
from features.recommendation import Ranked
from features.state import FeatureMatrix, Status
from serving.retrieval import ItemSnapshot, first_of, unpersonal


class Reason(StrEnum):
    """Why an answer is a fallback; the first that holds."""

    STORE_DOWN = "store_down"
    DEADLINE = "deadline"
    OVERLOADED = "overloaded"
    EMPTY_STORE = "empty_store"
    NO_MODEL = "no_model"
    MODEL_FAILED = "model_failed"
    NO_USER = "no_user"
    UNKNOWN_USER = "unknown_user"


SENTENCES = {
    "repeat": "the user came back to it before",
    "similar": "goes with what the user looked at",
    "trending": "on its way up with everybody",
    "popular": "popular with everybody",
    "asked": "among those asked for",
}
"""Source → why an item is in the answer."""


@dataclass(frozen=True)
class Question:
    """What is asked for.

    Args:
        user: the user's key text; None for nobody.
        k: how many items.
        context: items of the moment, newest first; never recommended.
        exclude: items that must not come back.
        exclude_seen: nor any of the user's history.
    """

    user: str | None
    k: int
    context: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = False


@dataclass(frozen=True)
class UserRead:
    """What the store said of the user: a matrix of one row, or why there is none (both None: nobody was asked for)."""

    matrix: FeatureMatrix | None = None
    problem: Reason | None = None

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
    """Items, the best first; ``reason`` where they are a fallback; whether the model's ranking is in them."""

    items: list[Ranked]
    reason: Reason | None
    by_model: bool


def recommend(
    question: Question,
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
        return substitute(question, user.problem or Reason.NO_MODEL, items, None)
    matrix = user.present
    recent = [*question.context, *(artefact.recent_items(matrix) if matrix is not None else ())]
    if not artefact.knows(question.user, recent):
        unknown = Reason.NO_USER if question.user is None else Reason.UNKNOWN_USER
        return substitute(question, user.problem or unknown, items, artefact)
    seen = artefact.seen(question.user, recent) if question.exclude_seen else []
    exclude = [*_excluded(question), *seen]
    ranked = artefact.recommend(
        recent,
        None if matrix is None else artefact.user_row(matrix),
        inputs,
        question.k,
        user=question.user,
        as_of=as_of(user, items),
        exclude=exclude,
    )
    return Recommendation(_filled(ranked, question, exclude, items, artefact), user.problem, by_model=True)


def as_of(user: UserRead, items: ItemSnapshot) -> int | None:
    """The instant (epoch ms) of the features that an answer is made of; None where there are none."""
    return items.as_of if user.matrix is None else int(user.matrix.as_of[0])


def newest_event(user: UserRead, items: ItemSnapshot) -> int | None:
    """The time (epoch ms) of the newest event in these features; None where there are none."""
    own = 0 if user.matrix is None else int(user.matrix.newest_event[0])
    return max(own, items.newest_event or 0) or None


def _filled(
    ranked: list[Ranked], question: Question, exclude: Sequence[str], items: ItemSnapshot, artefact: Artefact
) -> list[Ranked]:
    """The ranked items; where they are too few, with what is popular after them."""
    if len(ranked) == question.k:
        return ranked
    rest = unpersonal(items, artefact, question.k + len(ranked), exclude)
    return first_of([ranked, rest], question.k, exclude)


def substitute(question: Question, reason: Reason, items: ItemSnapshot, artefact: Artefact | None) -> Recommendation:
    """What is trending and popular, for a stated reason."""
    return Recommendation(unpersonal(items, artefact, question.k, _excluded(question)), reason, by_model=False)


def _excluded(question: Question) -> tuple[str, ...]:
    return question.context + question.exclude
