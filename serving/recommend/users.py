"""Who asks: what the store knows of the user and of the session, under what the request says itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from features.definitions import FeatureRepo, FeatureView
from features.errors import HeadraceError
from features.online_store import ReadableStore
from features.rows import FeatureMatrix, Status
from models.recommender import LoadedRecommender
from serving.events import OwnClicks
from serving.http import field_problem
from serving.recommend.attributes import FieldError
from serving.recommend.readers import Reader
from serving.recommend.recommender import FallbackReason, ItemQuery, UserRead
from serving.recommend.request_features import overridden, request_columns


class UserReader:
    """Reads who asks; may be shared by threads.

    Args:
        view: the view that describes users.
        own: the sessions; None where none are remembered.
        failed: is told why the store could not be read.
    """

    def __init__(
        self,
        view: str,
        repo: FeatureRepo,
        reader: Reader,
        rows: ReadableStore,
        own: OwnClicks | None,
        failed: Callable[[Exception], None],
    ) -> None:
        self._view, self._repo, self._reader, self._rows = view, repo, reader, rows
        self._own, self._failed = own, failed

    def given(self, features: Mapping[str, Any], served: LoadedRecommender | None) -> Mapping[str, pa.Array]:
        """The request's own features as columns. Raises ProblemError for one that the model's view does not have so."""
        if not features:
            return {}
        try:
            return request_columns(self._view_of(served), features)
        except FieldError as error:
            raise field_problem(error.field, error.required, error.got) from None

    def read(self, question: ItemQuery, given: Mapping[str, pa.Array], served: LoadedRecommender | None) -> UserRead:
        """What is known of who asks, by the definition that the model was trained on (the repo's without a model).

        A store that does not answer is a problem of the read and no error.
        """
        schema_hash = self.schema_hash(served)
        matrix, problem, recent = self._read(question, schema_hash)
        if given:
            now = time.time_ns() // 1_000_000
            matrix = overridden(self._view_of(served), matrix, given, now)
        return UserRead(matrix, problem, recent, bool(given), schema_hash)

    def schema_hash(self, served: LoadedRecommender | None) -> int | None:
        """Of the definition that who asks is read by; None for the repo's."""
        own = None if served is None else served.model.manifest.user
        return None if own is None or own.view != self._view else int(own.schema_hash, 16)

    def _view_of(self, served: LoadedRecommender | None) -> FeatureView:
        return self._reader.view(self._view, self.schema_hash(served))

    def _read(
        self, question: ItemQuery, schema_hash: int | None
    ) -> tuple[FeatureMatrix | None, FallbackReason | None, tuple[str, ...]]:
        try:
            recent = () if self._own is None or question.session is None else self._own.items(question.session)
            if question.user is None:
                return None, None, recent
            matrix = self._reader.read(self._view, pa.array([question.user], pa.string()), None, schema_hash)
            if matrix.status[0] == Status.NOT_FOUND and self._rows.current(self._view) is None:
                return None, FallbackReason.EMPTY_STORE, recent
        except (HeadraceError, OSError) as error:
            self._failed(error)
            return None, FallbackReason.STORE_DOWN, ()
        return matrix, None, recent
