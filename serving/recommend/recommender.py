"""Answers to queries: ranked by the model, or a fallback with its reason. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.rows import FeatureMatrix, Status
from models.recommender import Artefact, Query, Ranked, RankingRequest, reasons_of
from serving.recommend.snapshot import ItemSnapshot
from serving.recommend.unpersonal import each_once, first_of, unpersonal, unpersonal_among


class FallbackReason(StrEnum):
    """The reason for a fallback: the first that applies.

    FEW_ITEMS and FILLED are said of an answer that has no other: it has fewer than k items, or trending and popular
    ones where the model had too few.
    """

    STORE_DOWN = "store_down"
    DEADLINE = "deadline"
    EMPTY_STORE = "empty_store"
    NO_MODEL = "no_model"
    MODEL_FAILED = "model_failed"
    NO_USER = "no_user"
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_SESSION = "unknown_session"
    UNKNOWN_ITEM = "unknown_item"
    NOTHING_SIMILAR = "nothing_similar"
    FEW_ITEMS = "few_items"
    FILLED = "filled"


POOL, LEAST_POOL, MOST_POOL = 5, 50, 500
"""A varied answer is chosen from POOL times k items, at least LEAST_POOL and at most MOST_POOL."""

UNPERSONAL = ("trending", "popular")
"""The sources of unpersonal items."""


@dataclass(frozen=True)
class ItemQuery:
    """A query for items.

    Args:
        user: the user's key text; None without a user.
        k: the number of items.
        context: items of the moment, newest first; never recommended.
        exclude: items to leave out.
        exclude_seen: leave out the user's history as well.
        session: the session's key text; None without a session.
        among: the only items that may be in the answer; None for all.
        conditions: the request's filter, which every item of the answer meets (see Attributes.meeting).
        diversity: 0 to 1 (see ``diversified``).
        placement: the place on the page, for the log.
        ranks: whether the answer is all of ``among``, each item once.
        explain: whether the answer has reasons.
        exclude_taken: leave out what the user took, by the model.
        alike_by: the attribute by which items are similar; None for none.
    """

    user: str | None
    k: int
    context: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_seen: bool = False
    session: str | None = None
    among: tuple[str, ...] | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    diversity: float = 0.0
    placement: str | None = None
    ranks: bool = False
    explain: bool = False
    exclude_taken: bool = False
    alike_by: str | None = None

    @property
    def unknown(self) -> FallbackReason:
        """The reason for an unknown user or session."""
        if self.user is not None:
            return FallbackReason.UNKNOWN_USER
        return FallbackReason.NO_USER if self.session is None else FallbackReason.UNKNOWN_SESSION


@dataclass(frozen=True)
class UserRead:
    """The user's features: a matrix of one row, or the reason for none (both None if the query names no user).

    Args:
        recent: the session's items, newest first.
        own_features: whether the request brought features of its own.
        schema_hash: the hash of the definition of the matrix; None for the repo's.
        seen: all items in the features' lists, where the query leaves out seen ones.
    """

    matrix: FeatureMatrix | None = None
    problem: FallbackReason | None = None
    recent: tuple[str, ...] = ()
    own_features: bool = False
    schema_hash: int | None = None
    seen: tuple[str, ...] = ()

    @property
    def status(self) -> Status | None:
        """The user's status; None if nothing was read."""
        return None if self.matrix is None else Status(int(self.matrix.status[0]))

    @property
    def present(self) -> FeatureMatrix | None:
        """The features of a user that has the status PRESENT."""
        return self.matrix if self.status == Status.PRESENT else None


@dataclass(frozen=True)
class Recommendation:
    """Items, the best first; the ``reason`` of a fallback; whether the model ranked any of them.

    Args:
        ranking: the arguments of the model's ranking; None if it ranked nothing.
        artefact: the model that ranked, with the items that came after its training.
        reasons: those of each item (see models.recommender.reasons_of); None if the query asks for none.
    """

    items: list[Ranked]
    reason: FallbackReason | None
    by_model: bool
    ranking: RankingRequest | None = None
    artefact: Artefact | None = None
    reasons: list[list[str]] | None = None


def recommend(
    query: ItemQuery,
    user: UserRead,
    artefact: Artefact | None,
    items: ItemSnapshot,
    inputs: NDArray[np.float64] | None,
) -> Recommendation:
    """The model's items for the user, or a fallback with its reason.

    Args:
        user: the store's features of query.user.
        artefact: the model; None without one.
        items: all items with fresh features, for fallbacks.
        inputs: the item matrix of the artefact; None for items without features.
    """
    seen = (*user.recent, *user.seen) if query.exclude_seen else ()
    if artefact is None:
        return substitute(query, user.problem or FallbackReason.NO_MODEL, items, None, seen)
    recent = recent_items(query, user, artefact)
    if not user.own_features and not artefact.knows(query.user, recent):
        return substitute(query, user.problem or query.unknown, items, artefact, seen)
    exclude = [*_excluded(query), *_left_out(query, artefact, [*recent, *seen])]
    ranking = ranking_request(artefact, query, user, recent, items, inputs)
    ranked = ranked_by(artefact, query, ranking, items, exclude)
    found = _filled(ranked, query, exclude, items, artefact)
    reason = user.problem or _shortage(query.k, len(found), len(ranked))
    reasons = _reasons(query, found, artefact, ranking.query)
    return Recommendation(found, reason, True, ranking, artefact, reasons)


def rank(
    query: ItemQuery,
    user: UserRead,
    artefact: Artefact | None,
    items: ItemSnapshot,
    inputs: NDArray[np.float64] | None,
) -> Recommendation:
    """Every item of ``query.among`` once: ranked by the model, then by fresh features, then the unknown ones.

    The model ranks for an unknown user too, by the items' features; the reason then is that the user is unknown.
    Items that the catalogue does not have, or that are unavailable, are ranked like others: the caller has them.
    """
    query = replace(query, ranks=True)
    if artefact is None:
        return substitute(query, user.problem or FallbackReason.NO_MODEL, items, None)
    recent = recent_items(query, user, artefact)
    known = user.own_features or artefact.knows(query.user, recent)
    reason = user.problem or (None if known else query.unknown)
    ranking = ranking_request(artefact, query, user, recent, items, inputs)
    ranked = ranked_by(artefact, query, ranking, items, ())
    if not ranked:
        reason = reason or FallbackReason.FILLED
    ordered = each_once(items, artefact, query.among or (), ranked)
    reasons = _reasons(query, ordered, artefact, ranking.query)
    return Recommendation(ordered, reason, bool(ranked), ranking, artefact, reasons)


def similar(item: str, query: ItemQuery, artefact: Artefact | None, items: ItemSnapshot) -> Recommendation:
    """At most k items similar to the item; else trending and popular items, with the reason."""
    exclude = (item, *_excluded(query))
    if artefact is None:
        return substitute(query, FallbackReason.NO_MODEL, items, None, (item,))
    neighbours = artefact.similar(item, query.k, exclude, items.allowed(artefact, query.conditions))
    if neighbours:
        reasons = [[f"similar_to: {item}"] for _ in neighbours] if query.explain else None
        return Recommendation(neighbours, _shortage(query.k, len(neighbours), len(neighbours)), True, reasons=reasons)
    known = item in artefact.tables.index
    return substitute(
        query, FallbackReason.NOTHING_SIMILAR if known else FallbackReason.UNKNOWN_ITEM, items, artefact, (item,)
    )


def _shortage(k: int, found: int, ranked: int) -> FallbackReason | None:
    """The reason of a personal answer with this number of items, of which the model ranked some."""
    if found < k:
        return FallbackReason.FEW_ITEMS
    return FallbackReason.FILLED if ranked < found else None


def recent_items(query: ItemQuery, user: UserRead, artefact: Artefact) -> list[str]:
    """The items of the context, of the session, then of the user's history; newest first."""
    own = () if user.present is None else artefact.recent_items(user.present)
    return [*query.context, *user.recent, *own]


def ranking_request(
    artefact: Artefact,
    query: ItemQuery,
    user: UserRead,
    recent: Sequence[str],
    items: ItemSnapshot,
    inputs: NDArray[np.float64] | None,
) -> RankingRequest:
    """The arguments of the model's ranking; ``recent`` are the ``recent_items``."""
    at = as_of(user, items) or artefact.manifest.as_of_ms
    return RankingRequest(
        Query(query.user, recent, at),
        None if user.present is None else artefact.user_row(user.present),
        inputs,
        query.among,
        None if query.ranks else items.allowed(artefact, query.conditions),
    )


def ranked_by(
    artefact: Artefact,
    query: ItemQuery,
    ranking: RankingRequest,
    items: ItemSnapshot,
    exclude: Sequence[str],
) -> list[Ranked]:
    """The model's answer, of which the first ``MOST_POOL`` are diversified if the query says so."""
    pool = min(max(POOL * query.k, LEAST_POOL), MOST_POOL) if query.diversity else 0
    ranked = artefact.answer(replace(ranking, k=max(query.k, pool), exclude=artefact.tables.indices(exclude)))
    return [*varied(ranked[:pool], query, artefact, items), *ranked[pool:]] if query.diversity else ranked


def varied(ranked: list[Ranked], query: ItemQuery, artefact: Artefact, items: ItemSnapshot) -> list[Ranked]:
    """k of the ranked items, diversified by category and by co-occurrence."""
    names = [item.item_id for item in ranked]
    co_occurrence = artefact.likeness(names)
    kind = items.attributes.alike(items.keys.positions(names), query.alike_by)
    likeness = np.where(np.isnan(kind), co_occurrence, (np.nan_to_num(kind) + co_occurrence) / 2)
    scores = np.array([item.score for item in ranked], dtype=np.float64)
    return [ranked[index] for index in diversified(scores, likeness, query.k, query.diversity).tolist()]


def diversified(
    scores: NDArray[np.float64], likeness: NDArray[np.float64], k: int, diversity: float
) -> NDArray[np.int64]:
    """The indices of at most k items by maximal marginal relevance.

    Each is the best of the rest by (1 − d) · score − d · the highest likeness to an item before it (Carbonell and
    Goldstein, SIGIR 1998), with scores as shares of their range. 0 is the order of the scores, with equal ones in
    order.

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
        chosen[rank_] = index = int(np.argmax(worth))
        open_[index] = False
        nearest = np.maximum(nearest, likeness[index])
    return chosen


def as_of(user: UserRead, items: ItemSnapshot) -> int | None:
    """The as_of (epoch ms) of the features of an answer; None without features."""
    return items.as_of if user.matrix is None else int(user.matrix.as_of[0])


def newest_event(user: UserRead, items: ItemSnapshot) -> int | None:
    """The time (epoch ms) of the newest event in the features of an answer; None without one."""
    own = 0 if user.matrix is None else int(user.matrix.newest_event[0])
    return max(own, items.newest_event or 0) or None


def _filled(
    ranked: list[Ranked], query: ItemQuery, exclude: Sequence[str], items: ItemSnapshot, artefact: Artefact
) -> list[Ranked]:
    """The ranked items, filled up to k with trending and popular ones."""
    if len(ranked) == query.k:
        return ranked
    taken = [*exclude, *(item.item_id for item in ranked)]
    return [*ranked, *_unpersonal(query, query.k - len(ranked), taken, items, artefact)]


def substitute(
    query: ItemQuery,
    reason: FallbackReason,
    items: ItemSnapshot,
    artefact: Artefact | None,
    without: Sequence[str] = (),
) -> Recommendation:
    """Trending and popular items, or all that are to be ranked in that order, for a stated reason."""
    if query.ranks:
        found = each_once(items, artefact, query.among or (), [])
    else:
        left_out = () if artefact is None else _left_out(query, artefact)
        found = _unpersonal(query, query.k, (*_excluded(query), *without, *left_out), items, artefact)
    return Recommendation(found, reason, False, reasons=_reasons(query, found, artefact))


def _reasons(
    query: ItemQuery, found: list[Ranked], artefact: Artefact | None, personal: Query | None = None
) -> list[list[str]] | None:
    """The reasons for the items of an answer; those of a ``personal`` one are its user's too."""
    if not query.explain:
        return None
    if artefact is None:
        return [[item.source] if item.source in UNPERSONAL else [] for item in found]
    return reasons_of(artefact.tables, personal or Query(None, (), artefact.manifest.as_of_ms), found)


def _unpersonal(
    query: ItemQuery, k: int, exclude: Sequence[str], items: ItemSnapshot, artefact: Artefact | None
) -> list[Ranked]:
    """At most k trending and popular items that the query may have. Raises FieldError for an impossible condition."""
    if artefact is not None and not artefact.tables.repeats and query.among is None:
        exclude = [*exclude, *artefact.taken(query.user)]
    if query.among is None:
        return unpersonal(items, artefact, k, exclude, query.conditions)
    return first_of([unpersonal_among(items, artefact, query.among, query.conditions)], k, exclude)


def _left_out(query: ItemQuery, artefact: Artefact, seen: Sequence[str] = ()) -> list[str]:
    """The items that the user took or saw, as far as the query leaves them out."""
    taken = artefact.taken(query.user) if query.exclude_taken else []
    return [*taken, *(artefact.seen(query.user, seen) if query.exclude_seen else ())]


def _excluded(query: ItemQuery) -> tuple[str, ...]:
    return query.context + query.exclude
