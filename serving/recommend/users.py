"""Reads the user and the session of a request; features that the request brings replace those of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView, LastK
from features.errors import HeadraceError, StateError
from features.online_store import ReadableStore
from features.rows import FeatureMatrix, Status
from features.times import now_ms
from models.recommender import LoadedRecommender
from serving.http import field_problem
from serving.recommend.attributes import FieldError
from serving.recommend.readers import Reader, observe_ages
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead
from serving.recommend.request_features import overridden, request_columns


class UserReader:
    """Reads the user and session of a query; may be shared by threads.

    Args:
        view: the view that describes users.
        item_key: the field that identifies an item; None where several do.
        session_items: the items of a session, newest first; None if none are remembered.
        failed: called with the error if the store cannot be read.
        ages: of the users that are read together (see ObservedReader); of the others the reader observes it.
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
        ages: Any,
    ) -> None:
        self._view, self._item_key, self._repo, self._reader, self._rows = view, item_key, repo, reader, rows
        self._session_items, self._failed, self._ages = session_items, failed, ages

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
        """The features of the query's user; as ``read_all`` of this one."""
        return self.read_all([(query, own_features)], served)[0]

    def read_all(
        self, asked: Sequence[tuple[ItemQuery, Mapping[str, pa.Array]]], served: LoadedRecommender | None
    ) -> list[UserRead]:
        """The features of each query's user, by the definition of the model's training (the repo's without a model).

        The store is read once for all of them. If it does not answer, that is each read's ``problem``, not an error.
        """
        schema_hash = self.schema_hash(served)
        found = self._found([query.user for query, _ in asked if query.user is not None], schema_hash)
        return [
            self._user(query, own_features, served, schema_hash, found.get(query.user or ""))
            for query, own_features in asked
        ]

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

    def _user(
        self,
        query: ItemQuery,
        own_features: Mapping[str, pa.Array],
        served: LoadedRecommender | None,
        schema_hash: int | None,
        found: FeatureMatrix | FallbackReason | None,
    ) -> UserRead:
        problem, matrix = (found, None) if isinstance(found, FallbackReason) else (None, found)
        recent: tuple[str, ...] = ()
        if problem != FallbackReason.STORE_DOWN and self._session_items is not None and query.session is not None:
            try:
                recent = self._session_items(query.session)
            except (HeadraceError, OSError) as error:
                self._failed(error)
                problem, matrix = FallbackReason.STORE_DOWN, None
        if own_features:
            matrix = overridden(self._view_of(served), matrix, own_features, now_ms())
        seen = self._seen(matrix, served) if query.exclude_seen and matrix is not None else ()
        return UserRead(matrix, problem, recent, bool(own_features), schema_hash, seen)

    def _found(self, users: Sequence[str], schema_hash: int | None) -> dict[str, FeatureMatrix | FallbackReason]:
        """User → the features, or the reason for none."""
        keys = list(dict.fromkeys(users))
        try:
            return self._read(keys, schema_hash) if keys else {}
        except StateError as error:  # a damaged row is one user's trouble
            if len(keys) > 1:
                return {key: found for one in keys for key, found in self._found([one], schema_hash).items()}
            self._failed(error)
        except (HeadraceError, OSError) as error:
            self._failed(error)
        return dict.fromkeys(keys, FallbackReason.STORE_DOWN)

    def _read(self, keys: Sequence[str], schema_hash: int | None) -> dict[str, FeatureMatrix | FallbackReason]:
        """As ``_found``; raises what the reader does."""
        matrix = self._reader.read(self._view, pa.array(keys, pa.string()), None, schema_hash)
        if (matrix.status == Status.NOT_FOUND).any() and self._rows.current(self._view) is None:
            return dict.fromkeys(keys, FallbackReason.EMPTY_STORE)
        if len(keys) == 1:
            return {keys[0]: matrix}
        observe_ages(self._ages, self._view, matrix)
        return {key: matrix.row(at) for at, key in enumerate(keys)}
