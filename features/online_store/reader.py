"""Features of entities, from a single read of the online store, finalized.

view and keys ──stored──► rows' bytes and their generation ──finalize──► features
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import FeatureRepo, FeatureView, views_of_text
from features.errors import ForeignRowError, UsageError
from features.online_store.port import ReadableStore, ReadRows, of_schema
from features.rows import FeatureMatrix, PackedRows, finalize, in_portions, joined, make_ready
from features.times import now_ms

NO_GENERATION = 0


class FeatureReader:
    """Reads the views of a repo; may be shared by threads where the store may.

    Making one takes as long as it takes to load the compiled kernels, so that no read does.

    Args:
        clock: the default of ``as_of`` (ms).
    """

    def __init__(self, rows: ReadableStore, repo: FeatureRepo, clock: Callable[[], int] = now_ms) -> None:
        self._rows = rows
        self._repo = repo
        self._clock = clock
        self._older: dict[tuple[str, int], FeatureView] = {}
        for view in repo.views.values():
            make_ready(view)

    def view(self, name: str, schema_hash: int | None = None) -> FeatureView:
        """The repo's definition of the view, or that of schema_hash, of which the store still keeps rows.

        Raises:
            StoreError: the store does not answer.
            UsageError: the repo has no such view, and no rows of that definition are kept.
        """
        view = self._repo.views.get(name)
        if view is not None and schema_hash in (None, view.schema_hash):
            return view
        older = None if schema_hash is None else self._older.get((name, schema_hash))
        if older is None and schema_hash is not None:
            text = self._rows.definitions(name, schema_hash)
            stored = [] if text is None else views_of_text(text)
            older = next((view for view in stored if (view.name, view.schema_hash) == (name, schema_hash)), None)
        if older is None:
            required = f"a feature view of the repo ({', '.join(self._repo.views)})"
            got = f"'{name}'" if schema_hash is None else f"'{name}' of schema {schema_hash:016x}, without rows"
            raise UsageError("a read of features", required, got)
        self._older[name, older.schema_hash] = older
        return older

    def read(
        self, view_name: str, keys: pa.Array, as_of: int | None = None, schema_hash: int | None = None
    ) -> FeatureMatrix:
        """The features of each key (text, see columns.entity_keys) as of now or ``as_of`` (ms), in the keys' order.

        NOT_FOUND where a key is null, and everywhere as long as the definition has no generation.

        Args:
            schema_hash: that of another definition of the view, on which a model was trained.

        Raises:
            StoreError: the store does not answer.
            UsageError: the repo has no such view, and no rows of that definition are kept.
        """
        view = self.view(view_name, schema_hash)
        at = self._clock() if as_of is None else as_of
        parts: list[FeatureMatrix] = []

        def read(start: int, length: int) -> int:
            part, size = self._read(view, keys.slice(start, length), at)
            parts.append(part)
            return size

        in_portions(view, len(keys), read)
        return joined(parts) if parts else self._read(view, keys, at)[0]

    def _read(self, view: FeatureView, keys: pa.Array, at: int) -> tuple[FeatureMatrix, int]:
        """The features of each key, and the bytes of the rows."""
        found = self._stored(view, keys)
        size, stream_id = found.values.nbytes, NO_GENERATION if found.stream_id is None else found.stream_id
        try:
            matrix = finalize(view, PackedRows(keys, found.values), at, stream_id)
            return (replace(matrix, without_pending=True) if found.without_pending else matrix), size
        except ForeignRowError:
            if self._rows.current(of_schema(view.name, view.schema_hash)) is not None:
                raise
        # The view's rows are of another definition, and this one has none yet: nothing is known in its terms.
        return finalize(view, PackedRows(keys, pa.nulls(len(keys), pa.binary())), at, NO_GENERATION), size

    def _stored(self, view: FeatureView, keys: pa.Array) -> ReadRows:
        """The row of each key, null if there is none or the key is null."""
        texts = keys.fill_null("") if keys.null_count else keys
        found = self._rows.read_rows(view.name, texts, view.schema_hash)
        return replace(found, values=pc.if_else(keys.is_valid(), found.values, None)) if keys.null_count else found
