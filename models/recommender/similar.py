"""Items similar to an item, of every item that the model or the catalogue has. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender.content import Content
from models.recommender.retrieval import Ranked
from models.recommender.tables import CandidateTables

LEAST_LIKENESS = 0.05
"""Items that are less alike, by their vectors or attributes, are not similar."""


def similar_items(  # one parameter for each part of a query
    tables: CandidateTables,
    content: Content | None,
    item_id: str,
    k: int,
    exclude: Sequence[str] = (),
    allowed: NDArray[np.bool_] | None = None,
) -> list[Ranked]:
    """At most k items similar to this one; none for an unknown item.

    By the first source that has any, the rest by the next: the items of the same users (``similar``), of the same
    sessions (``together``), the nearest vectors (``factor``), the most alike attributes (``content``). Scores fall:
    those of a source begin where the ones before it end.

    Args:
        allowed: (n,) the items that may be named; None for all.
    """
    index = tables.index.get(item_id)
    if index is None:
        return []
    left = np.ones(len(tables.items), dtype=bool) if allowed is None else allowed.copy()
    left[tables.indices([item_id, *exclude])] = False
    ranked: list[Ranked] = []
    for source, score in _sources(tables, content, index):
        if len(ranked) == k:
            break
        scores = np.where(left, score(), 0.0)
        best = _best(scores, k - len(ranked))
        left[best] = False
        scale = ranked[-1].score / scores[best[0]] if ranked and len(best) else 1.0
        ranked += [Ranked(tables.items[at], float(scale * scores[at]), source) for at in best.tolist()]
    return ranked


def _sources(tables: CandidateTables, content: Content | None, index: int) -> list[tuple[str, Callable[[], Floats]]]:
    """The sources that the model has, each with its (n,) scores of all items, above 0 for similar ones."""
    n, row = len(tables.items), np.array([index])
    sources: list[tuple[str, Callable[[], Floats]]] = [("similar", lambda: tables.neighbours.total(row, n))]
    if tables.together is not None:
        together = tables.together
        sources.append(("together", lambda: together.total(row, n)))
    if tables.factors is not None and index < tables.fitted:
        vectors = tables.factors
        sources.append(("factor", lambda: _above(vectors.likeness(index), LEAST_LIKENESS)))
    if content is not None:
        sources.append(("content", lambda: _above(content.likeness(index), LEAST_LIKENESS)))
    return sources


def _above(scores: Floats, least: float) -> Floats:
    return np.where(scores >= least, scores, 0.0)


def _best(scores: Floats, count: int) -> Int64s:
    """The indices of the highest scores above 0, the highest first; equal ones in the order of their indices."""
    above = np.flatnonzero(scores > 0)
    if len(above) > count:
        worst = -np.partition(-scores[above], count - 1)[count - 1]
        above = above[scores[above] >= worst]
    return above[np.argsort(-scores[above], kind="stable")][:count]
