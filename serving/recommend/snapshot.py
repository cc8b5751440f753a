"""All items in memory: their features, attributes and unpersonal rankings, in arrays by an item's position.

Positions are those of a snapshot's keys; a model has positions of its own, and ``ItemKeys.of_model`` maps them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s
from features.rows import FeatureMatrix
from models.recommender import Artefact
from serving.recommend.attributes import NO_ATTRIBUTES, Attributes

MASKS_KEPT = 16
"""The filters of which a snapshot keeps the answer."""


class ItemKeys:
    """The items of a snapshot, in order; may be shared by snapshots and threads."""

    def __init__(self, keys: pa.Array) -> None:
        self.keys = keys
        self.items: tuple[str, ...] = tuple(keys.to_pylist())
        self.index = {item: position for position, item in enumerate(self.items)}
        self._of_models: tuple[tuple[weakref.ref[Artefact], Int64s], ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def positions(self, items: Sequence[str]) -> Int64s:
        """The position of each of these items; -1 for one that is not here."""
        return np.array([self.index.get(item, -1) for item in items], dtype=np.int64)

    def of_model(self, artefact: Artefact) -> Int64s:
        """(len(artefact.items),) the position of each of the model's items, found once; -1 for one that is not here."""
        for model, positions in self._of_models:
            if model() is artefact:
                return positions
        found = np.asarray(pc.fill_null(pc.index_in(artefact.item_keys, value_set=self.keys), -1)).astype(np.int64)
        alive = tuple(entry for entry in self._of_models if entry[0]() is not None)
        self._of_models = (*alive, (weakref.ref(artefact), found))
        return found


@dataclass(frozen=True)
class ItemRanking:
    """A score of every item, (n,), and the positions of those with one above 0, the best first."""

    source: str
    indices: Int64s
    scores: Floats

    @classmethod
    def of(cls, source: str, scores: Floats) -> ItemRanking:
        """The ranking by these scores; equal ones in the order of their positions."""
        order = np.argsort(-scores, kind="stable")
        return cls(source, order[scores[order] > 0], scores)


@dataclass(frozen=True)
class ItemSnapshot:
    """All items with their features, read together; read-only and shared.

    Args:
        keys: the items: the order of the matrix's rows.
        matrix: the item view's features.
        rankings: of trending, then of popular items.
        read_at: epoch ms; 0 before the first read.
        attributes: for filters and variety.
        answerable: (n,) the items that may be answered: those of the catalogue that are available; None for all.
    """

    keys: ItemKeys
    matrix: FeatureMatrix | None
    rankings: tuple[ItemRanking, ...]
    read_at: int
    attributes: Attributes = NO_ATTRIBUTES
    answerable: Bools | None = None
    _masks: dict[bytes, Bools] = field(default_factory=dict, repr=False, compare=False)
    _allowed: dict[bytes, tuple[Bools, weakref.ref[Artefact], Bools]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def items(self) -> tuple[str, ...]:
        """The item ids, in order."""
        return self.keys.items

    @cached_property
    def newest_event(self) -> int | None:
        """The time (epoch ms) of the newest event of any item, found once; None without one."""
        if self.matrix is None or not len(self.matrix.newest_event):
            return None
        return int(self.matrix.newest_event.max()) or None

    @cached_property
    def as_of(self) -> int | None:
        """The as_of (epoch ms) of the features, found once; None without features."""
        if self.matrix is None or not len(self.matrix.as_of):
            return None
        return int(self.matrix.as_of.max())

    def meeting(self, conditions: Mapping[str, Any]) -> Bools | None:
        """(n,) the answerable items that meet the conditions (see Attributes.meeting); None for all.

        Raises FieldError.
        """
        name = _name(conditions)
        known = self._masks.get(name)
        if known is not None:
            return known
        met = self.attributes.meeting(conditions)
        if met is None:
            return self.answerable
        if len(self._masks) >= MASKS_KEPT:
            self._masks.clear()
        self._masks[name] = mask = met if self.answerable is None else met & self.answerable
        return mask

    def is_found(self, conditions: Mapping[str, Any]) -> bool:
        """Whether ``meeting`` knows already which items meet the conditions."""
        return not conditions or _name(conditions) in self._masks

    def meeting_at(self, conditions: Mapping[str, Any], positions: Int64s) -> Bools:
        """As ``meeting``, of these positions; false for -1 (an item that is not here). Raises FieldError."""
        met = positions >= 0
        if self.answerable is not None:
            met[met] = self.answerable[positions[met]]
        if conditions:
            asked, mask = positions[met], self._masks.get(_name(conditions))
            met[met] = self.attributes.meeting(conditions, asked) if mask is None else mask[asked]
        return met

    def allowed(self, artefact: Artefact, conditions: Mapping[str, Any]) -> Bools | None:
        """(len(artefact.items),) the model's items of which ``meeting`` is true; None for all. Raises FieldError."""
        mask, name = self.meeting(conditions), _name(conditions)
        if mask is None:
            return None
        known = self._allowed.get(name)
        if known is not None and known[0] is mask and known[1]() is artefact:
            return known[2]
        # An item that is not here has the position -1, and finds the last entry.
        allowed = np.append(mask, False)[self.keys.of_model(artefact)]
        if len(self._allowed) >= MASKS_KEPT:
            self._allowed.clear()
        self._allowed[name] = mask, weakref.ref(artefact), allowed
        return allowed


def _name(conditions: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(dict(conditions), order="sorted")


NO_ITEMS = ItemSnapshot(ItemKeys(pa.array([], pa.string())), None, (), 0)


def weighted(matrix: FeatureMatrix, weights: Mapping[str, float]) -> Floats:
    """(n,) the weighted sum of these features, null as 0."""
    known = [name for name in weights if name in matrix.names]
    if not known:
        return np.zeros(len(matrix.status))
    values: Floats = np.nan_to_num(matrix.to_numpy(known)) @ np.array([weights[name] for name in known])
    return values
