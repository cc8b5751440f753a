"""Answers by sets and lists of item ids: the slow, obvious computation that answers by position are tested against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from models.recommender.artefact import Artefact
from models.recommender.retrieval import Ranked
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead, recent_items
from serving.recommend.snapshot import ItemSnapshot


def meets(condition: object, value: object) -> bool:
    """Whether one value meets one condition of a filter."""
    if value is None:
        return False
    if isinstance(condition, Mapping):
        return condition.get("min", -math.inf) <= value <= condition.get("max", math.inf)
    return value in (condition if isinstance(condition, list) else [condition])


def allowed_items(query: ItemQuery, items: ItemSnapshot) -> frozenset[str] | None:
    """The items that may be answered and meet the query's filter; None for all."""
    if query.ranks or not (query.conditions or items.answerable is not None):
        return None
    columns = {name: column.to_pylist() for name, column in items.attributes.columns.items()}
    return frozenset(
        item
        for at, item in enumerate(items.items)
        if (items.answerable is None or items.answerable[at])
        and all(meets(condition, columns[name][at]) for name, condition in query.conditions.items())
    )


def eligible_items(query: ItemQuery, items: ItemSnapshot) -> frozenset[str] | None:
    """The items that may be in the answer; None for all."""
    allowed = allowed_items(query, items)
    if query.among is None:
        return allowed
    return frozenset(query.among) if allowed is None else frozenset(query.among) & allowed


def first_items(sources: Iterable[Iterable[Ranked]], k: int, exclude: Iterable[str]) -> list[Ranked]:
    """The first k different items of the sources."""
    seen, first = set(exclude), []
    for one in (one for source in sources for one in source):
        if one.item_id not in seen:
            seen.add(one.item_id)
            first.append(one)
    return first[:k]


def boards(items: ItemSnapshot, artefact: Artefact | None) -> list[list[Ranked]]:
    """Every trending and popular item: of the snapshot, then of the model."""
    lists = []
    for ranking in items.rankings:
        scored = sorted(enumerate(ranking.scores.tolist()), key=lambda entry: -entry[1])
        lists.append([Ranked(items.items[at], score, ranking.source) for at, score in scored if score > 0])
    if artefact is not None:
        tables = artefact.tables
        trending = sorted(enumerate(tables.trending.tolist()), key=lambda entry: -entry[1])
        popular = sorted(enumerate(tables.popular.tolist()), key=lambda entry: -entry[1])
        lists.append([Ranked(tables.items[at], score, "trending") for at, score in trending if score > 0])
        lists.append([Ranked(tables.items[at], score, "popular") for at, score in popular])
    return lists


def plain_unpersonal(
    query: ItemQuery, k: int, exclude: Sequence[str], items: ItemSnapshot, artefact: Artefact | None
) -> list[Ranked]:
    """At most k trending and popular items that may be in the answer."""
    eligible = eligible_items(query, items)
    lists = boards(items, artefact)
    if eligible is not None:
        lists = [[one for one in source if one.item_id in eligible] for source in lists]
    return first_items(lists, k, exclude)


def plain_substitute(
    query: ItemQuery, items: ItemSnapshot, artefact: Artefact | None, without: Sequence[str] = ()
) -> list[Ranked]:
    """The items of a fallback."""
    seen = artefact.seen(query.user) if query.exclude_seen and artefact else []
    return plain_unpersonal(query, query.k, [*query.context, *query.exclude, *without, *seen], items, artefact)


def by_model(query: ItemQuery, user: UserRead, artefact: Artefact, items: ItemSnapshot, exclude: Sequence[str]):
    """The model's answer without diversity."""
    allowed = allowed_items(query, items)
    mask = None if allowed is None else np.array([item in allowed for item in artefact.items], dtype=bool)
    return artefact.recommend(
        recent_items(query, user, artefact),
        None if user.present is None else artefact.user_row(user.present),
        None,
        query.k,
        user=query.user,
        as_of=items.as_of if user.matrix is None else int(user.matrix.as_of[0]),
        exclude=exclude,
        among=query.among,
        allowed=mask,
    )


def plain_recommend(
    query: ItemQuery, user: UserRead, artefact: Artefact | None, items: ItemSnapshot
) -> tuple[list[Ranked], FallbackReason | None]:
    """The answer of ``recommend`` without diversity, and its reason."""
    seen = [*user.seen] if query.exclude_seen else []
    if artefact is None:
        return plain_substitute(query, items, None, seen), user.problem or FallbackReason.NO_MODEL
    recent = recent_items(query, user, artefact)
    if not artefact.knows(query.user, recent):
        return plain_substitute(query, items, artefact, seen), user.problem or query.unknown
    seen = artefact.seen(query.user, [*recent, *seen]) if query.exclude_seen else []
    exclude = [*query.context, *query.exclude, *seen]
    ranked = by_model(query, user, artefact, items, exclude)
    rest = plain_unpersonal(query, len(items.items) + len(artefact.items), exclude, items, artefact)
    found = first_items([ranked, rest], query.k, exclude)
    short = FallbackReason.FEW_ITEMS if len(found) < query.k else None
    filled = FallbackReason.FILLED if len(ranked) < len(found) else None
    return found, user.problem or short or filled


def plain_rank(query: ItemQuery, user: UserRead, artefact: Artefact | None, items: ItemSnapshot) -> list[Ranked]:
    """The answer of ``rank`` without diversity; of a fallback's where the user's model is None."""
    ranked = [] if artefact is None else by_model(query, user, artefact, items, ())
    rest = plain_unpersonal(query, len(query.among), (), items, artefact)
    unknown = [Ranked(item, math.nan, "unknown") for item in query.among]
    return first_items([ranked, rest, unknown], len(query.among), ())


def plain_similar(item: str, query: ItemQuery, artefact: Artefact, items: ItemSnapshot) -> list[Ranked]:
    """The answer of ``similar``."""
    allowed = allowed_items(query, items)
    mask = None if allowed is None else np.array([one in allowed for one in artefact.items], dtype=bool)
    found = artefact.similar(item, query.k, [item, *query.exclude], mask)
    return found or plain_substitute(query, items, artefact, (item,))
