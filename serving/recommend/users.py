"""Reads the user and the session of a request; features that the request brings replace those of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView, LastK
from features.errors import HeadraceError
from features.online_store import ReadableStore
from features.rows import FeatureMatrix, Status
from features.times import now_ms
from models.recommender import LoadedRecommender
from serving.http import field_problem
from serving.recommend.attributes import FieldError
from serving.recommend.readers import Reader
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead
from serving.recommend.request_features import overridden, request_columns


class UserReader:
    """Reads the user and session of a query; may be shared by threads.

    Args:
        view: the view that describes users.
        item_key: the field that identifies an item; None where several do.
        session_items: the items of a session, newest first; None if none are remembered.
        failed: called with the error if the store cannot be read.
    """

    def __init__(
        self,
        view: str,
        item_key: str | None,
        repo: FeatureRepo,
        reader: Reader,
        rows: ReadableStore,
        session_items: Callable[[str], tuple[str, ...]] | None,
        failed: Callable[[Exception], None],
    ) -> None:
        self._view, self._item_key, self._repo, self._reader, self._rows = view, item_key, repo, reader, rows
        self._session_items, self._failed = session_items, failed

    def request_features(self, features: Mapping[str, Any], served: LoadedRecommender | None) -> Mapping[str, pa.Array]:
        """The request's own features as columns. Raises ProblemError for one that the model's view lacks."""
        if not features:
            return {}
        try:
            return request_columns(self._view_of(served), features)
        except FieldError as error:
            raise field_problem(error.field, error.required, error.got) from None

    def read(
        self, query: ItemQuery, own_features: Mapping[str, pa.Array], served: LoadedRecommender | None
    ) -> UserRead:
        """The features of the query's user, by the definition of the model's training (the repo's without a model).

        A store that does not answer is the read's ``problem``, not an error.
        """
        schema_hash = self.schema_hash(served)
        matrix, problem, recent = self._read(query, schema_hash)
        if own_features:
            now = now_ms()
            matrix = overridden(self._view_of(served), matrix, own_features, now)
        seen = self._seen(matrix, served) if query.exclude_seen and matrix is not None else ()
        return UserRead(matrix, problem, recent, bool(own_features), schema_hash, seen)

    def _seen(self, matrix: FeatureMatrix, served: LoadedRecommender | None) -> tuple[str, ...]:
        """The items of every list of items among the user's features (LastK), over the longest window of each."""
        lists = [
            feature.name
            for feature in self._view_of(served).aggregated
            if isinstance(feature.aggregation, LastK) and feature.aggregation.column == self._item_key
        ]
        values = (matrix.columns[matrix.names.index(name)][0].as_py() for name in lists)
        return tuple(dict.fromkeys(item for value in values for item in value or () if item is not None))

    def schema_hash(self, served: LoadedRecommender | None) -> int | None:
        """The schema hash by which users are read for this version; None for the repo's."""
        inputs = None if served is None else served.model.manifest.user
        return None if inputs is None or inputs.view != self._view else int(inputs.schema_hash, 16)

    def _view_of(self, served: LoadedRecommender | None) -> FeatureView:
        return self._reader.view(self._view, self.schema_hash(served))

    def _read(
        self, query: ItemQuery, schema_hash: int | None
    ) -> tuple[FeatureMatrix | None, FallbackReason | None, tuple[str, ...]]:
        try:
            recent = self._recent(query.session)
            if query.user is None:
                return None, None, recent
            matrix = self._reader.read(self._view, pa.array([query.user], pa.string()), None, schema_hash)
            if matrix.status[0] == Status.NOT_FOUND and self._rows.current(self._view) is None:
                return None, FallbackReason.EMPTY_STORE, recent
        except (HeadraceError, OSError) as error:
            self._failed(error)
            return None, FallbackReason.STORE_DOWN, ()
        return matrix, None, recent

    def _recent(self, session: str | None) -> tuple[str, ...]:
        return () if self._session_items is None or session is None else self._session_items(session)
