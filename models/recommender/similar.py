"""Items similar to an item, of every item that the model or the catalogue has. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats, Int64s
from models.recommender.content import Content
from models.recommender.retrieval import Ranked
from models.recommender.tables import CandidateTables, SparseRows

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
    left_out = tables.indices([item_id, *exclude])
    ranked: list[Ranked] = []
    for source, score in _sources(tables, content, index):
        if len(ranked) == k:
            break
        places, scores = score()
        there = (scores > 0) & ~np.isin(places, left_out)
        there = there if allowed is None else there & allowed[places]
        places, scores = _best(places[there], scores[there], k - len(ranked))
        left_out = np.concatenate([left_out, places])
        scale = ranked[-1].score / scores[0] if ranked and len(places) else 1.0
        pairs = zip(places.tolist(), scores.tolist(), strict=True)
        ranked += [Ranked(tables.items[at], float(scale * part), source) for at, part in pairs]
    return ranked


Scores = tuple[Int64s, Floats]
"""Places, each once, and their scores, above 0 for similar items; all others have 0."""


def _sources(tables: CandidateTables, content: Content | None, index: int) -> list[tuple[str, Callable[[], Scores]]]:
    """The sources that the model has, each with its scores."""
    sources: list[tuple[str, Callable[[], Scores]]] = [("similar", lambda: _row(tables.neighbours, index))]
    if tables.together is not None:
        together = tables.together
        sources.append(("together", lambda: _row(together, index)))
    if tables.factors is not None and index < tables.fitted:
        vectors = tables.factors
        sources.append(("factor", lambda: _above(vectors.likeness(index), LEAST_LIKENESS)))
    if content is not None:
        sources.append(("content", lambda: _above(content.likeness(index), LEAST_LIKENESS)))
    return sources


def _row(rows: SparseRows, index: int) -> Scores:
    span = rows.span(index)
    return rows.column[span].astype(np.int64), rows.weight[span].astype(np.float64)


def _above(scores: Floats, least: float) -> Scores:
    places = np.flatnonzero(scores >= least)
    return places, scores[places]


def _best(places: Int64s, scores: Floats, count: int) -> Scores:
    """The highest scores, the highest first; equal ones in the order of their places."""
    if len(places) > count:
        worst = -np.partition(-scores, count - 1)[count - 1]
        places, scores = places[scores >= worst], scores[scores >= worst]
    order = np.lexsort((places, -scores))[:count]
    return places[order], scores[order]
