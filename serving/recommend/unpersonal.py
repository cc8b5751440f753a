"""Answers for nobody in particular: items that are trending or popular by their fresh features. Pure."""

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
class Board:
    """Items by a score, the best first; only those with a score above 0."""

    source: str
    places: NDArray[np.int64]
    scores: Floats

    @classmethod
    def of(cls, source: str, scores: Floats) -> Board:
        """The board of one score for each item."""
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0]
        return cls(source, order, scores[order])

    def ranked(self, items: Sequence[str]) -> Iterator[Ranked]:
        """The items of the board, lazily."""
        for place, score in zip(self.places, self.scores, strict=True):
            yield Ranked(items[place], float(score), self.source)


@dataclass(frozen=True)
class ItemSnapshot:
    """All items with their features, as they were read together; everything here is read-only and shared.

    Args:
        items: the item ids: the order of the matrix's rows.
        matrix: the item view's features.
        boards: what is trending, then what is popular.
        read_at: epoch ms.
        attributes: what the items are.
    """

    items: tuple[str, ...]
    matrix: FeatureMatrix | None
    boards: tuple[Board, ...]
    read_at: int
    attributes: Attributes = NO_ATTRIBUTES

    @property
    def newest_event(self) -> int | None:
        """The time (epoch ms) of the newest event of any item; None where there is none."""
        if self.matrix is None or not len(self.matrix.newest_event):
            return None
        return int(self.matrix.newest_event.max()) or None

    @property
    def as_of(self) -> int | None:
        """The instant (epoch ms) that the features are of; None where there are none."""
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
    """The snapshot of these items, scored by weights of features; a feature that the view lacks counts nothing."""
    boards = (Board.of("trending", weighted(matrix, trending)), Board.of("popular", weighted(matrix, popular)))
    return ItemSnapshot(tuple(items), matrix, boards, read_at, attributes)


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
    """At most k items for anybody: by fresh features as far as they go, then by the model's own lists.

    Args:
        eligible: the items that may come; None for all.
    """
    sources: list[Iterable[Ranked]] = [board.ranked(items.items) for board in items.boards]
    if artefact is not None:
        most = k if eligible is None else len(artefact.items)
        sources += [artefact.trending(most, exclude), artefact.popular(most, exclude)]
    if eligible is not None:
        sources = [[one for one in source if one.item_id in eligible] for source in sources]
    return first_of(sources, k, exclude)


def first_of(sources: Iterable[Iterable[Ranked]], k: int, exclude: Iterable[str]) -> list[Ranked]:
    """The first k different items of the sources, one source after the other, without those excluded."""
    seen = set(exclude)
    found: list[Ranked] = []
    for source in sources:
        for one in source:
            if len(found) == k:
                return found
            if one.item_id not in seen:
                seen.add(one.item_id)
                found.append(one)
    return found
