"""Unpersonal answers: trending and popular items by fresh features. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.arrays import Floats
from features.rows import FeatureMatrix
from models.recommender import Artefact, Ranked
from serving.recommend.attributes import NO_ATTRIBUTES, Attributes


@dataclass(frozen=True)
class ItemRanking:
    """The items with a score above 0, the best first."""

    source: str
    indices: NDArray[np.int64]
    scores: Floats

    @classmethod
    def of(cls, source: str, scores: Floats) -> ItemRanking:
        """The ranking by a score of each item."""
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0]
        return cls(source, order, scores[order])

    def ranked(self, items: Sequence[str]) -> Iterator[Ranked]:
        """The items of the ranking, lazily."""
        for index, score in zip(self.indices, self.scores, strict=True):
            yield Ranked(items[index], float(score), self.source)


@dataclass(frozen=True)
class ItemSnapshot:
    """All items with their features, read together; read-only and shared.

    Args:
        items: the item ids: the order of the matrix's rows.
        matrix: the item view's features.
        rankings: of trending, then of popular items.
        read_at: epoch ms.
        attributes: for filters and variety.
    """

    items: tuple[str, ...]
    matrix: FeatureMatrix | None
    rankings: tuple[ItemRanking, ...]
    read_at: int
    attributes: Attributes = NO_ATTRIBUTES

    @property
    def newest_event(self) -> int | None:
        """The time (epoch ms) of the newest event of any item; None without one."""
        if self.matrix is None or not len(self.matrix.newest_event):
            return None
        return int(self.matrix.newest_event.max()) or None

    @property
    def as_of(self) -> int | None:
        """The as_of (epoch ms) of the features; None without features."""
        if self.matrix is None or not len(self.matrix.as_of):
            return None
        return int(self.matrix.as_of.max())


NO_ITEMS = ItemSnapshot((), None, (), 0)


def snapshot(
    items: Sequence[str],
    matrix: FeatureMatrix,
    trending: Mapping[str, float],
    popular: Mapping[str, float],
    read_at: int,
    attributes: Attributes = NO_ATTRIBUTES,
) -> ItemSnapshot:
    """The snapshot of these items, scored by weights of features; features that the view lacks count 0."""
    rankings = (
        ItemRanking.of("trending", weighted(matrix, trending)),
        ItemRanking.of("popular", weighted(matrix, popular)),
    )
    return ItemSnapshot(tuple(items), matrix, rankings, read_at, attributes)


def weighted(matrix: FeatureMatrix, weights: Mapping[str, float]) -> Floats:
    """(n,) the weighted sum of these features, null as 0."""
    known = [name for name in weights if name in matrix.names]
    if not known:
        return np.zeros(len(matrix.status))
    values: Floats = np.nan_to_num(matrix.to_numpy(known)) @ np.array([weights[name] for name in known])
    return values


def unpersonal(
    items: ItemSnapshot,
    artefact: Artefact | None,
    k: int,
    exclude: Sequence[str],
    eligible: frozenset[str] | None = None,
) -> list[Ranked]:
    """At most k items for any user: first by fresh features, then by the model's own lists.

    Args:
        eligible: the items that may be in the answer; None for all.
    """
    sources: list[Iterable[Ranked]] = [ranking.ranked(items.items) for ranking in items.rankings]
    if artefact is not None:
        most = k if eligible is None else len(artefact.items)
        sources += [artefact.trending(most, exclude), artefact.popular(most, exclude)]
    if eligible is not None:
        sources = [[item for item in source if item.item_id in eligible] for source in sources]
    return first_of(sources, k, exclude)


def first_of(sources: Iterable[Iterable[Ranked]], k: int, exclude: Iterable[str]) -> list[Ranked]:
    """The first k different items of the sources, one source after the other, without those excluded."""
    seen = set(exclude)
    first: list[Ranked] = []
    for source in sources:
        for item in source:
            if len(first) == k:
                return first
            if item.item_id not in seen:
                seen.add(item.item_id)
                first.append(item)
    return first
