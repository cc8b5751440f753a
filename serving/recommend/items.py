"""The features of all items in memory, read again every few seconds, as a request ranks hundreds of items."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.arrays import Bools, Int64s
from features.definitions import Condition, FeatureView, matches
from features.events import arrow_type
from features.rows import FeatureMatrix, Status
from models.recommender import Artefact
from serving.recommend.attributes import Attributes
from serving.recommend.later_items import LaterItems
from serving.recommend.snapshot import NO_ITEMS, ItemKeys, ItemSnapshot, snapshot

KEYS_A_READ = 1_024
"""Items of one read, which is the longest that a request waits for the store behind a refresh."""

Read = Callable[[pa.Array], FeatureMatrix]


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


ReadOf = Callable[[int, pa.Array], FeatureMatrix]

Listed = Callable[[], pa.Array]

Inputs = NDArray[np.float64]


class ItemFeatures:
    """The newest snapshot of the items; ``refresh`` replaces it in a thread of its own, and readers never wait.

    Args:
        read: the features of these keys now.
        listed: the keys that the store holds.
        trending: feature → weight of what is trending.
        popular: feature → weight of what is popular.
        view: the items' view, which ``read`` reads.
        describing: more views of the items, with their reads; their attributes come before those of ``view``.
        read_of: the features by another definition of ``view`` (schema hash), for models that were trained on it.
        catalogue: what may be answered, one of the views that describe items; None for all items.
    """

    def __init__(
        self,
        read: Read,
        listed: Listed,
        trending: Mapping[str, float],
        popular: Mapping[str, float],
        view: FeatureView | None = None,
        describing: Sequence[tuple[FeatureView, Read]] = (),
        read_of: ReadOf | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self._read, self._listed = read, listed
        self._trending, self._popular = trending, popular
        self._view, self._describing, self._read_of = view, tuple(describing), read_of
        views = [*(described for described, _ in self._describing), *([] if view is None else [view])]
        unread = Attributes.of([(view, _nothing_of(view)) for view in views])
        self.snapshot: ItemSnapshot = replace(NO_ITEMS, attributes=unread)
        self._later, self._catalogue = LaterItems(), catalogue
        self._models: tuple[tuple[Artefact, Artefact, Inputs], ...] = ()
        self._refreshing = threading.Lock()

    def refresh(self, models: Callable[[], Sequence[Artefact]], now: int) -> None:
        """The snapshot has the features as of ``now`` (epoch ms) of the store's items and of the models' items.

        Raises StoreError, and leaves the snapshot as it was.

        Args:
            models: those in memory. Called when this refresh begins, not while it waits for another: an earlier list
                may lack a model whose items the other refresh read.
        """
        with self._refreshing:
            artefacts = models()
            keys = pc.unique(pa.concat_arrays([self._listed(), *(artefact.item_keys for artefact in artefacts)]))
            matrix = _whole(self._read, keys)
            described = [(view, _whole(read, keys)) for view, read in self._describing]
            if self._view is not None:
                described.append((self._view, matrix))
            known = self.snapshot.keys if keys.equals(self.snapshot.keys.keys) else ItemKeys(keys)
            attributes = Attributes.of(described)
            answerable = self._answerable(described)
            fresh = snapshot(known, matrix, self._trending, self._popular, now, attributes, answerable)
            extended = self._later.extended(list(artefacts), known, attributes)
            inputs = self._inputs_of(extended, matrix, known)
            self._models = tuple(zip(artefacts, extended, inputs, strict=True))
            self.snapshot = fresh

    def _answerable(self, described: Sequence[tuple[FeatureView, FeatureMatrix]]) -> Bools | None:
        if self._catalogue is None:
            return None
        (matrix,) = (matrix for view, matrix in described if view.name == self._catalogue.view.name)
        return self._catalogue.answerable(matrix)

    def _inputs_of(self, artefacts: Sequence[Artefact], matrix: FeatureMatrix, keys: ItemKeys) -> list[Inputs]:
        """Each model's item matrix, by the definition of its training."""
        current = None if self._view is None else f"{self._view.schema_hash:016x}"
        by_hash: dict[str | None, FeatureMatrix] = {current: matrix}
        for schema_hash in {artefact.manifest.item.schema_hash for artefact in artefacts} - {current}:
            if self._read_of is None or current is None:
                by_hash[schema_hash] = matrix
            else:
                by_hash[schema_hash] = _whole(partial(self._read_of, int(schema_hash, 16)), keys.keys)
        return [_inputs(artefact, by_hash[artefact.manifest.item.schema_hash], keys) for artefact in artefacts]

    def current(self, artefact: Artefact) -> tuple[Artefact, Inputs | None]:
        """The model with the items that came after its training, and its item matrix, of the last refresh.

        The model as it is, and None, before the first.
        """
        models = (entry for entry in self._models if entry[0] is artefact)
        return next(((extended, inputs) for _, extended, inputs in models), (artefact, None))


def _whole(read: Read, keys: pa.Array) -> FeatureMatrix:
    starts = range(0, max(len(keys), 1), KEYS_A_READ)
    return joined([read(keys.slice(start, KEYS_A_READ)) for start in starts])


def _nothing_of(view: FeatureView) -> FeatureMatrix:
    """The features of no item."""
    columns = tuple(pa.array([], arrow_type(feature.dtype)) for feature in view.features)
    return FeatureMatrix(view.names, columns, np.zeros(0, np.int8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _inputs(artefact: Artefact, matrix: FeatureMatrix, keys: ItemKeys) -> Inputs:
    return artefact.item_matrix(_rows(matrix, keys.of_model(artefact)))


def _rows(matrix: FeatureMatrix, index: Int64s) -> FeatureMatrix:
    rows = pa.array(index)
    columns = tuple(column.take(rows) for column in matrix.columns)
    return FeatureMatrix(matrix.names, columns, matrix.status[index], matrix.as_of[index], matrix.newest_event[index])


def joined(parts: Sequence[FeatureMatrix]) -> FeatureMatrix:
    """The parts' rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.columns for part in parts), strict=True)
    return FeatureMatrix(
        parts[0].names,
        tuple(pa.concat_arrays(list(chunks)) for chunks in columns),
        np.concatenate([part.status for part in parts]),
        np.concatenate([part.as_of for part in parts]),
        np.concatenate([part.newest_event for part in parts]),
    )
