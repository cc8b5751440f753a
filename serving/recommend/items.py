"""The features of all items in memory, as a request ranks hundreds of items.

All are read once; then those that the fold has changed, and by and by the others, whose features age.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Floats, Int64s
from features.definitions import Condition, FeatureView, attributes_of, matches
from features.events import arrow_type
from features.rows import FeatureMatrix, Status, joined
from models.recommender import Artefact
from serving.recommend.attributes import Attributes
from serving.recommend.later_items import LaterItems
from serving.recommend.readers import Reader
from serving.recommend.snapshot import NO_ITEMS, ItemKeys, ItemRanking, ItemSnapshot, weighted

KEYS_A_READ = 1_024
"""Items of one read, which is the longest that a request waits for the store behind a refresh."""

ROUND_S, MOST_OF_ROUND = 30.0, 20_000
"""Unchanged items are read again within this time, and at most so many of them at once."""


@dataclass(frozen=True)
class Catalogue:
    """The view of the items that may be answered, and the conditions on its features that available ones meet."""

    view: FeatureView
    available: Mapping[str, Condition]

    def answerable(self, matrix: FeatureMatrix) -> Bools | None:
        """(n,) the available items of the catalogue; None as long as it has none at all.

        Args:
            matrix: the view's features of the items.
        """
        if (matrix.status == Status.NOT_FOUND).all():
            return None
        found = (matrix.status == Status.PRESENT) & matches(matrix.to_table(), self.available)
        return None if found.all() else found


Listed = Callable[[], pa.Array]

Models = Callable[[], Sequence[Artefact]]

Inputs = NDArray[np.float64]


class Changes(Protocol):
    """Tells what has changed (see features.online_store.ChangedKeys)."""

    def take(self) -> pa.Array | None:
        """The keys that have changed since the last call; None where all may have. Raises StoreError."""


class ItemFeatures:
    """The newest snapshot of the items; ``refresh`` and ``follow`` replace it in a thread of their own.

    Readers never wait.

    Args:
        reader: reads the features of items now.
        listed: the keys that the store holds.
        trending: feature → weight of what is trending.
        popular: feature → weight of what is popular.
        view: the items' view; models may have been trained on another definition of it.
        describing: more views of the items; their attributes come before those of ``view``.
        catalogue: what may be answered, one of the views that describe items; None for all items.
        changes: of each view that describes items; none where nobody tells what changes.
    """

    def __init__(
        self,
        reader: Reader,
        listed: Listed,
        trending: Mapping[str, float],
        popular: Mapping[str, float],
        view: FeatureView,
        describing: Sequence[FeatureView] = (),
        *,
        catalogue: Catalogue | None = None,
        changes: Sequence[Changes] = (),
    ) -> None:
        self._reader, self._listed = reader, listed
        self._weights = {"trending": trending, "popular": popular}
        self._view, self._describing = view, tuple(describing)
        self._later, self._catalogue, self._changes = LaterItems(), catalogue, tuple(changes)
        self._views = [(each, _nothing_of(each)) for each in (*self._describing, view)]
        self.snapshot: ItemSnapshot = replace(NO_ITEMS, attributes=Attributes.of(self._views))
        self._models: tuple[tuple[Artefact, Artefact, Inputs], ...] = ()
        self._refreshing = threading.Lock()
        self._behind = True
        self._next, self._followed_at = 0, time.monotonic()

    def refresh(self, models: Models, now: int) -> None:
        """The snapshot has the features as of ``now`` (epoch ms) of the store's items and of the models' items.

        Raises StoreError, and leaves the snapshot as it was.

        Args:
            models: those in memory. Called when this refresh begins, not while it waits for another: an earlier list
                may lack a model whose items the other refresh read.
        """
        with self._refreshing:
            artefacts = models()
            self._behind = True
            for change in self._changes:  # before the rows: what changes later is told later
                change.take()
            listed = pc.unique(pa.concat_arrays([self._listed(), *(artefact.item_keys for artefact in artefacts)]))
            keys = self.snapshot.keys if listed.equals(self.snapshot.keys.keys) else ItemKeys(listed)
            matrix, described = self._read_views(keys.keys)
            scores = {source: weighted(matrix, weights) for source, weights in self._weights.items()}
            self._views = described
            inputs = partial(self._inputs_of, matrix, keys)
            self._replace(keys, matrix, scores, artefacts, inputs, now)

    def follow(self, models: Models, now: int, elapsed_s: float | None = None) -> bool:
        """The snapshot has what has changed since, and a share of the other items as of ``now``.

        False where all have to be read (``refresh``): what has changed cannot be told, or there is another model.
        Raises StoreError, after which all have to be read.

        Args:
            elapsed_s: the time since the last call, of which that share is (see ROUND_S); by the clock unless given.
        """
        began = time.monotonic()
        since_s, self._followed_at = began - self._followed_at, began
        with self._refreshing:
            artefacts = models()
            same = len(artefacts) == len(self._models)
            same = same and all(one is model for one, (model, *_) in zip(artefacts, self._models, strict=True))
            if self._behind or not self._changes or not same:
                return False
            self._behind = True
            told = [change.take() for change in self._changes]
            if any(keys is None for keys in told):
                return False
            changed = pc.unique(pa.concat_arrays([*told, self._share(since_s if elapsed_s is None else elapsed_s)]))
            if not len(changed):
                self._behind = False
                self.snapshot = replace(self.snapshot, read_at=now)
                return True
            return self._patch(changed, artefacts, now)

    def current(self, artefact: Artefact) -> tuple[Artefact, Inputs | None]:
        """The model with the items that came after its training, and its item matrix, of the last refresh.

        The model as it is, and None, before the first.
        """
        models = (entry for entry in self._models if entry[0] is artefact)
        return next(((extended, inputs) for _, extended, inputs in models), (artefact, None))

    def _read_views(self, keys: pa.Array) -> tuple[FeatureMatrix, list[tuple[FeatureView, FeatureMatrix]]]:
        """The features of these items, and what is kept of every view."""
        matrix = self._whole(self._view, keys)
        described = [*((view, self._whole(view, keys)) for view in self._describing), (self._view, matrix)]
        return matrix, [(view, self._kept(view, found)) for view, found in described]

    def _whole(self, view: FeatureView, keys: pa.Array, schema_hash: int | None = None) -> FeatureMatrix:
        """The features of these items, by the view or by another definition of it, in several reads."""
        parts = (keys.slice(start, KEYS_A_READ) for start in range(0, max(len(keys), 1), KEYS_A_READ))
        return joined([self._reader.read(view.name, part, None, schema_hash) for part in parts])

    def _kept(self, view: FeatureView, matrix: FeatureMatrix) -> FeatureMatrix:
        """The attributes, and what the catalogue's conditions are on."""
        names = [feature.name for feature in attributes_of(view).values()]
        if self._catalogue is not None and view.name == self._catalogue.view.name:
            names += self._catalogue.available
        return _only(matrix, tuple(dict.fromkeys(names)))

    def _share(self, elapsed_s: float) -> pa.Array:
        """The keys of the next items to be read again."""
        keys = self.snapshot.keys.keys
        count = min(math.ceil(len(keys) * elapsed_s / ROUND_S), MOST_OF_ROUND, len(keys))
        start, self._next = self._next, self._next + count
        if self._next < len(keys):
            return keys.slice(start, count)
        self._next = 0
        return keys.slice(start)

    def _patch(self, changed: pa.Array, artefacts: Sequence[Artefact], now: int) -> bool:
        """The snapshot has these items as of now; False if a model's items are in another order then."""
        before = self.snapshot
        matrix, described = self._read_views(changed)
        at = before.keys.positions(changed.to_pylist())
        new = at < 0
        keys = (
            ItemKeys(pa.concat_arrays([before.keys.keys, changed.filter(pa.array(new))])) if new.any() else before.keys
        )
        at[new] = len(before.keys) + np.arange(int(new.sum()))
        self._views = [
            (view, _patched(held, at, fresh, len(keys)))
            for (view, held), (_, fresh) in zip(self._views, described, strict=True)
        ]
        scores = {}
        for ranking in before.rankings:
            scores[ranking.source] = np.concatenate([ranking.scores, np.zeros(int(new.sum()))])
            scores[ranking.source][at] = weighted(matrix, self._weights[ranking.source])
        whole = None if before.matrix is None else _patched(before.matrix, at, _only(matrix, ()), len(keys))
        inputs = partial(self._patched_inputs, matrix, changed, at, keys)
        return self._replace(keys, whole, scores, artefacts, inputs, now)

    def _replace(
        self,
        keys: ItemKeys,
        matrix: FeatureMatrix | None,
        scores: Mapping[str, Floats],
        artefacts: Sequence[Artefact],
        inputs_of: Callable[[Sequence[Artefact]], list[Inputs] | None],
        now: int,
    ) -> bool:
        attributes = Attributes.of(self._views)
        rankings = tuple(ItemRanking.of(source, values) for source, values in scores.items())
        times = None if matrix is None else _only(matrix, ())
        fresh = ItemSnapshot(keys, times, rankings, now, attributes, self._answerable())
        extended = self._later.extended(list(artefacts), keys, attributes)
        inputs = inputs_of(extended)
        if inputs is None:
            return False
        self._models = tuple(zip(artefacts, extended, inputs, strict=True))
        self.snapshot = fresh
        self._behind = False
        return True

    def _answerable(self) -> Bools | None:
        if self._catalogue is None:
            return None
        (matrix,) = (matrix for view, matrix in self._views if view.name == self._catalogue.view.name)
        return self._catalogue.answerable(matrix)

    def _by_definition(
        self, matrix: FeatureMatrix, keys: pa.Array, artefacts: Sequence[Artefact]
    ) -> dict[str, FeatureMatrix]:
        """Schema hash → the features of these items by the definition of a model's training."""
        current = f"{self._view.schema_hash:016x}"
        others = {artefact.manifest.item.schema_hash for artefact in artefacts} - {current}
        return {current: matrix, **{other: self._whole(self._view, keys, int(other, 16)) for other in others}}

    def _inputs_of(self, matrix: FeatureMatrix, keys: ItemKeys, artefacts: Sequence[Artefact]) -> list[Inputs]:
        """Each model's item matrix."""
        by_hash = self._by_definition(matrix, keys.keys, artefacts)
        return [
            artefact.item_matrix(_rows(by_hash[artefact.manifest.item.schema_hash], keys.of_model(artefact)))
            for artefact in artefacts
        ]

    def _patched_inputs(
        self, matrix: FeatureMatrix, changed: pa.Array, at: Int64s, keys: ItemKeys, artefacts: Sequence[Artefact]
    ) -> list[Inputs] | None:
        """Each model's item matrix with the rows of the changed items; None where its items are others than before."""
        by_hash = self._by_definition(matrix, changed, artefacts)
        found = []
        for artefact, (_, before, held) in zip(artefacts, self._models, strict=True):
            more = len(artefact.items) - len(before.items)
            if artefact is not before and artefact.items[: len(before.items)] != before.items:
                return None
            row_of = np.full(len(keys), -1)
            row_of[keys.of_model(artefact)] = np.arange(len(artefact.items))
            rows = row_of[at]
            if more and not np.isin(np.arange(len(before.items), len(artefact.items)), rows).all():
                return None
            inputs = np.concatenate([held, np.full((more, held.shape[1]), np.nan)])
            names, fresh = artefact.manifest.item.names, by_hash[artefact.manifest.item.schema_hash]
            if names:
                inputs[rows[rows >= 0]] = fresh.to_numpy(names)[rows >= 0]
            found.append(inputs)
        return found


def _nothing_of(view: FeatureView) -> FeatureMatrix:
    """The features of no item."""
    columns = tuple(pa.array([], arrow_type(feature.dtype)) for feature in view.features)
    return FeatureMatrix(view.names, columns, np.zeros(0, np.int8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _only(matrix: FeatureMatrix, names: tuple[str, ...]) -> FeatureMatrix:
    columns = tuple(matrix.columns[matrix.names.index(name)] for name in names)
    return replace(matrix, names=names, columns=columns)


def _rows(matrix: FeatureMatrix, index: Int64s) -> FeatureMatrix:
    rows = pa.array(index)
    columns = tuple(column.take(rows) for column in matrix.columns)
    return FeatureMatrix(matrix.names, columns, matrix.status[index], matrix.as_of[index], matrix.newest_event[index])


def _patched(matrix: FeatureMatrix, at: Int64s, fresh: FeatureMatrix, count: int) -> FeatureMatrix:
    """(count,) the matrix with these rows at these positions, which have those beyond its end."""
    index = np.arange(count)
    index[at] = len(matrix.status) + np.arange(len(at))
    return _rows(joined([matrix, fresh]), index)
