"""Models in memory with the items that came after their training, by the attributes of a snapshot."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Int64s
from models.recommender import Artefact, ContentEncoder, ContentRows, with_items
from serving.recommend.attributes import Attributes
from serving.recommend.snapshot import ItemKeys


@dataclass(frozen=True)
class _Extension:
    """A model with later items: their keys and attributes, and what the model's encoder made of them."""

    base: weakref.ref[Artefact]
    extended: Artefact
    keys: pa.Array
    columns: Mapping[str, pa.Array]
    rows: ContentRows


class LaterItems:
    """Extends models by the items of each snapshot; what did not change since the last is not made again."""

    def __init__(self) -> None:
        self._last: list[_Extension] = []

    def extended(self, artefacts: list[Artefact], keys: ItemKeys, attributes: Attributes) -> list[Artefact]:
        """Each model with the snapshot's items that it was trained without, if they have attributes that it knows."""
        before = {id(base): extension for extension in self._last if (base := extension.base()) is not None}
        now = [self._extension(artefact, before.get(id(artefact)), keys, attributes) for artefact in artefacts]
        self._last = [extension for extension in now if extension is not None]
        pairs = zip(artefacts, now, strict=True)
        return [artefact if extension is None else extension.extended for artefact, extension in pairs]

    def _extension(
        self, artefact: Artefact, before: _Extension | None, keys: ItemKeys, attributes: Attributes
    ) -> _Extension | None:
        if artefact.content is None:
            return None
        encoder = artefact.content.encoder
        names = [name for name in (*encoder.texts, *encoder.numbers) if name in attributes.columns]
        positions = _told(attributes, names, _others(artefact, keys))
        if not len(positions):
            return None
        later = keys.keys.take(pa.array(positions))
        columns = {name: attributes.columns[name].take(pa.array(positions)) for name in names}
        if before is not None and later.equals(before.keys) and _same(columns, before.columns):
            return before
        rows = _encoded(encoder, later, columns, before)
        extended = with_items(artefact, later.to_pylist(), rows)
        return _Extension(weakref.ref(artefact), extended, later, columns, rows)


def _others(artefact: Artefact, keys: ItemKeys) -> Int64s:
    """The positions of the items that the model does not know."""
    other = np.ones(len(keys), dtype=bool)
    known = keys.of_model(artefact)
    other[known[known >= 0]] = False
    return np.flatnonzero(other)


def _told(attributes: Attributes, names: list[str], positions: Int64s) -> Int64s:
    """Those of the positions that have any of the attributes."""
    told = np.zeros(len(positions), dtype=bool)
    for name in names:
        told |= np.asarray(attributes.columns[name].take(pa.array(positions)).is_valid())
    return positions[told]


def _same(columns: Mapping[str, pa.Array], others: Mapping[str, pa.Array]) -> bool:
    return columns.keys() == others.keys() and all(column.equals(others[name]) for name, column in columns.items())


def _encoded(
    encoder: ContentEncoder, keys: pa.Array, columns: Mapping[str, pa.Array], before: _Extension | None
) -> ContentRows:
    """The encoder's rows of these items: those of before for what has not changed."""
    if before is None or columns.keys() != before.columns.keys():
        return ContentRows(encoder.rows(columns, len(keys)))
    place = np.asarray(pc.fill_null(pc.index_in(keys, value_set=before.keys), -1), dtype=np.int64)
    changed = place < 0
    for name, column in columns.items():
        changed |= ~_equal(column, before.columns[name].take(pa.array(np.maximum(place, 0))))
    new = np.flatnonzero(changed)
    fresh = encoder.rows({name: column.take(pa.array(new)) for name, column in columns.items()}, len(new))
    row = np.where(changed, len(before.keys) + np.cumsum(changed) - 1, place)
    return before.rows.then(ContentRows(fresh)).picked(row)


def _equal(column: pa.Array, other: pa.Array) -> Bools:
    """(n,) whether both have the same value, or neither has one."""
    equal = pc.fill_null(pc.equal(column, other), fill_value=False)
    return np.asarray(pc.or_(equal, pc.and_(column.is_null(), other.is_null())), dtype=bool)
