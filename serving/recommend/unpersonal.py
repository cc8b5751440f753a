"""Unpersonal answers: trending and popular items, by fresh features and by the model. Pure functions.

The work is that of the items answered, and of those passed over for them; never of all items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from models.recommender import Artefact, Ranked
from serving.recommend.snapshot import ItemSnapshot

UNSCORED = float("nan")
"""The score of an unknown item."""

FIRST_LOOK, MOST_UNKNOWN = 64, 16_384
"""Items of a ranking that are looked at together at first (then twice as many each time), and in all where it is not
known yet which of them meet the filter."""

Met = Callable[[Int64s], Bools]


def unpersonal(
    items: ItemSnapshot,
    artefact: Artefact | None,
    k: int,
    exclude: Sequence[str],
    conditions: Mapping[str, Any] | None = None,
) -> list[Ranked]:
    """At most k answerable items that meet the conditions: first by fresh features, then by the model's own lists.

    Where nobody has found which items meet them (ItemSnapshot.meeting), the best MOST_UNKNOWN of each list are asked.
    """
    conditions = conditions or {}
    limited = bool(conditions) or items.answerable is not None
    most = None if items.is_found(conditions) else MOST_UNKNOWN
    met: Met | None = (lambda at: items.meeting_at(conditions, at)) if limited else None
    sources = [
        _listed(ranking.source, items.items, ranking.indices[:most], ranking.scores, met) for ranking in items.rankings
    ]
    if artefact is not None:
        positions = items.keys.of_model(artefact) if limited else None
        of_model = None if positions is None else (lambda at: items.meeting_at(conditions, positions[at]))
        tables = artefact.tables
        sources += [
            _listed("trending", tables.items, tables.most_trending[:most], tables.trending, of_model),
            _listed("popular", tables.items, tables.most_popular[:most], tables.popular, of_model),
        ]
    return first_of(sources, k, exclude)


def unpersonal_among(
    items: ItemSnapshot, artefact: Artefact | None, among: Sequence[str], conditions: Mapping[str, Any] | None = None
) -> list[Ranked]:
    """Those of these items that any list has, each once, as ``unpersonal`` orders them.

    Args:
        conditions: those that answerable items have to meet; None for all of ``among``.
    """
    names = list(dict.fromkeys(among))
    at = items.keys.positions(names)
    free = conditions is None or not (conditions or items.answerable is not None)
    met = np.ones(len(names), dtype=bool) if free else items.meeting_at(conditions or {}, at)
    sources = []
    for ranking in items.rankings:
        rows = np.flatnonzero(met & (at >= 0))
        scores = ranking.scores[at[rows]]
        rows, scores = rows[scores > 0], scores[scores > 0]
        order = np.lexsort((at[rows], -scores))
        sources.append(_chosen(ranking.source, names, rows[order], scores[order]))
    if artefact is not None:
        tables = artefact.tables
        index = np.array([tables.index.get(name, -1) for name in names], dtype=np.int64)
        rows = np.flatnonzero(met & (index >= 0))
        trends = tables.trending[index[rows]]
        rising, trends = rows[trends > 0], trends[trends > 0]
        order = np.lexsort((index[rising], -trends))
        sources.append(_chosen("trending", names, rising[order], trends[order]))
        rows = rows[np.argsort(tables.popular_rank[index[rows]], kind="stable")]
        sources.append(_chosen("popular", names, rows, tables.popular[index[rows]]))
    return first_of(sources, len(names), ())


def each_once(
    items: ItemSnapshot, artefact: Artefact | None, among: Sequence[str], first: list[Ranked]
) -> list[Ranked]:
    """Every one of these items once: ``first``, then as ``unpersonal`` orders them, then the unknown ones."""
    ranked = {item.item_id for item in first}
    left = [item for item in dict.fromkeys(among) if item not in ranked]
    if not left:
        return first
    unknown = (Ranked(item, UNSCORED, "unknown") for item in left)
    return [*first, *first_of([unpersonal_among(items, artefact, left), unknown], len(left), ())]


def _listed(
    source: str, items: Sequence[str], order: Int64s, scores: NDArray[Any], met: Met | None
) -> Iterator[Ranked]:
    """The items of a ranking that are met, lazily."""
    start, size = 0, FIRST_LOOK
    while start < len(order):
        look = order[start : start + size]
        for at in (look if met is None else look[met(look)]).tolist():
            yield Ranked(items[at], float(scores[at]), source)
        start, size = start + size, 2 * size


def _chosen(source: str, names: Sequence[str], rows: Int64s, scores: NDArray[Any]) -> list[Ranked]:
    return [Ranked(names[row], float(score), source) for row, score in zip(rows.tolist(), scores, strict=True)]


def first_of(sources: Iterable[Iterable[Ranked]], k: int, exclude: Iterable[str]) -> list[Ranked]:
    """The first k different items of the sources, one source after the other, without those excluded."""
    seen = set(exclude)
    first: list[Ranked] = []
    for source in sources if k else ():
        for item in source:
            if item.item_id not in seen:
                seen.add(item.item_id)
                first.append(item)
                if len(first) == k:
                    return first
    return first
