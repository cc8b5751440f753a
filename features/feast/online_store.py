"""Feast's online store over packed state rows: `online_store.type` in feature_store.yaml names one of its classes.

- A request for our views alone: rows are read and finalized, and the response is made without protobuf.
- A request with other views among them goes through Feast; ours are still finalized and keep their statuses.
- Ordinary Feast views are written and read as in Feast; the newer event time wins (ordinary_views.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from threading import RLock
from typing import Any, Literal

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, utils
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type
from pydantic import StrictStr

from features import definitions
from features.definitions import FeatureRepo, load_repo
from features.errors import UsageError
from features.events import entity_keys, key_column
from features.feast import ordinary_views as ordinary
from features.feast.paths import in_repo
from features.feast.response import PackedResponse, ResponsePart, add_part, mark_outdated, values_of
from features.online_store import DEADLINE_MS, FeatureReader, GuardedRows, StoreSettings, settings_of
from features.online_store.redis import RedisRows
from features.online_store.sqlite import SqliteRows
from features.rows import Status

RequestedFeatures = dict[str, list[str]]
"""View → its requested features, in order."""

CACHED_REQUESTS = 1_000


class SqliteRowsOnlineStoreConfig(FeastConfigBaseModel):
    """Packed rows in a SQLite file."""

    type: Literal["headrace.feast.SqliteRowsOnlineStore", "features.online_store.plugin.SqliteRowsOnlineStore"] = (
        "headrace.feast.SqliteRowsOnlineStore"
    )
    path: StrictStr = "../.headrace/online.db"
    """The file, relative to the folder of feature_store.yaml."""
    timeout_s: float = 2.0
    """Timeout of a write that waits for other writers."""
    deadline_ms: float = DEADLINE_MS
    """Deadline of a read."""
    definitions: StrictStr = "."
    """The folder of the definitions, relative to the same folder."""


class RedisRowsOnlineStoreConfig(FeastConfigBaseModel):
    """Packed rows on a Redis server."""

    type: Literal["headrace.feast.RedisRowsOnlineStore", "features.online_store.plugin.RedisRowsOnlineStore"] = (
        "headrace.feast.RedisRowsOnlineStore"
    )
    url: StrictStr = "redis://localhost:6379/0"
    mode: Literal["server", "cluster"] = "server"
    """'cluster' if the server is a node of a Redis Cluster."""
    timeout_s: float = 2.0
    """Timeout of a write."""
    deadline_ms: float = DEADLINE_MS
    """Deadline of a read."""
    definitions: StrictStr = "."
    """The folder of the definitions, relative to the folder of feature_store.yaml."""


class PackedRowsOnlineStore(OnlineStore):
    """The common part of both stores."""

    def __init__(self) -> None:
        self._opened: tuple[GuardedRows, FeatureRepo] | None = None
        self._writable: SqliteRows | RedisRows | None = None
        self._reader: FeatureReader | None = None
        self._opening = RLock()
        self._resolved: dict[tuple[str, ...], RequestedFeatures | None] = {}

    def _open(self, config: RepoConfig) -> tuple[GuardedRows, FeatureRepo]:
        with self._opening:
            if self._opened is None:
                repo = load_repo(in_repo(config, config.online_store.definitions))
                self._opened = _settings(config).open_to_read(), repo
            return self._opened

    def _readable(self, config: RepoConfig) -> FeatureReader:
        """The reader of the store, made at the first read, so that `feast apply` does not wait for it."""
        with self._opening:
            if self._reader is None:
                self._reader = FeatureReader(*self._open(config))
            return self._reader

    async def initialize(self, config: RepoConfig) -> None:
        """Makes the reader before the first request of a feature server."""
        await asyncio.to_thread(self._readable, config)

    def _to_write(self, config: RepoConfig) -> SqliteRows | RedisRows:
        if self._writable is None:
            self._writable = _settings(config).open()
        return self._writable

    def _view(self, config: RepoConfig, name: str) -> definitions.FeatureView | None:
        """Our definition of the view; None for an ordinary view."""
        return self._open(config)[1].views.get(name)

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True)

    # --- reading ---

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: list[dict[str, Any]] | Mapping[str, Sequence[Any] | RepeatedValue],
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        requested = self._requested(config, _references(features), registry, project)
        columns = _columns(entity_rows)
        ours = requested is not None and not include_feature_view_version_metadata
        if requested is None or not ours or not self._has_keys(config, requested, columns):
            return super().get_online_features(
                config,
                features,
                entity_rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )
        keys = [key for name in requested for key in self._defined(config, name).entity.keys]
        parts = [self._part(config, name, names, columns, full_feature_names) for name, names in requested.items()]
        return PackedResponse({key: columns[key] for key in dict.fromkeys(keys)}, parts)

    async def get_online_features_async(self, *args: Any, **kwargs: Any) -> OnlineResponse:
        """get_online_features in a thread: SQLite and Redis both release Python's lock while they wait."""
        return await asyncio.to_thread(self.get_online_features, *args, **kwargs)

    def _requested(
        self, config: RepoConfig, references: tuple[str, ...], registry: Any, project: str
    ) -> RequestedFeatures | None:
        """The request by view; None if it has other views than ours, or Feast would refuse it."""
        if references not in self._resolved:
            if len(self._resolved) >= CACHED_REQUESTS:
                self._resolved.clear()
            self._resolved[references] = self._resolve(config, references, registry, project)
        return self._resolved[references]

    def _resolve(
        self, config: RepoConfig, references: tuple[str, ...], registry: Any, project: str
    ) -> RequestedFeatures | None:
        requested: RequestedFeatures = {}
        for reference in references:
            name, _, feature = reference.partition(":")
            view = self._view(config, name)
            if view is None or feature not in view.names or feature in requested.get(name, []):
                return None
            requested.setdefault(name, []).append(feature)
        names = [feature for features in requested.values() for feature in features]
        if not names or len(set(names)) < len(names):
            return None
        for name in requested:
            registry.get_feature_view(name, project, allow_cache=True)  # raises what Feast raises
        return requested

    def _has_keys(self, config: RepoConfig, requested: RequestedFeatures, columns: Mapping[str, Sequence[Any]]) -> bool:
        """True if every key column is there, and all are equally long."""
        keys = {key for name in requested for key in self._defined(config, name).entity.keys}
        return keys <= set(columns) and len({len(columns[key]) for key in keys}) == 1

    def _defined(self, config: RepoConfig, name: str) -> definitions.FeatureView:
        return self._open(config)[1].views[name]

    def _part(
        self, config: RepoConfig, name: str, features: Sequence[str], columns: Mapping[str, Sequence[Any]], full: bool
    ) -> ResponsePart:
        matrix = self._readable(config).read(name, _keys(self._defined(config, name).entity, columns))
        index = {feature: number for number, feature in enumerate(matrix.names)}
        return ResponsePart(matrix, {f"{name}__{feature}" if full else feature: index[feature] for feature in features})

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[Any],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Adds features to the response as Feast does, with the true statuses of every view."""
        for table, features in grouped_refs:
            if self._view(config, table.name) is None:
                before = len(online_features_response.results)
                super()._read_features_per_fv(
                    config,
                    [(table, features)],
                    join_key_values,
                    entity_name_to_join_key_map,
                    online_features_response,
                    full_feature_names,
                    include_feature_view_version_metadata,
                )
                mark_outdated(online_features_response.results[before:])
                continue
            values = utils._get_table_entity_values(table, entity_name_to_join_key_map, join_key_values)
            part = self._part(config, table.name, features, _plain(values), full=False)
            prefix = f"{table.projection.name_to_use()}__" if full_feature_names else ""
            renamed = {f"{prefix}{name}": index for name, index in part.names.items()}
            add_part(online_features_response, ResponsePart(part.matrix, renamed))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        view = self._view(config, table.name)
        if view is None:
            rows = self._open(config)[0]
            return ordinary.read(rows, config, table, entity_keys, requested_features, datetime.now(UTC))
        columns: dict[str, list[Any]] = {key: [] for key in view.entity.keys}
        for entity in entity_keys:
            for key, value in zip(entity.join_keys, entity.entity_values, strict=True):
                columns[key].append(feast_value_type_to_python_type(value))
        part = self._part(config, table.name, requested_features or view.names, columns, full=False)
        return _rows_of(part)

    # --- writing ---

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        if self._view(config, table.name) is not None:
            next_step = "Run 'headrace stream' to fold events, 'headrace features rebuild' to make its rows anew."
            raise UsageError(f"feature view '{table.name}'", "the stream to write it", "values from Feast", next_step)
        ordinary.write(self._to_write(config), config, table.name, data)
        if progress:
            progress(len(data))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Deletes the values of deleted ordinary views; our rows live as long as their generations."""
        ours = self._open(config)[1].views
        deleted = [table.name for table in tables_to_delete if table.name not in ours]
        ordinary.drop(self._to_write(config), config, deleted)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Deletes the views' values, and the generations that ours are read from."""
        rows, repo = self._to_write(config), self._open(config)[1]
        ordinary.drop(rows, config, [table.name for table in tables if table.name not in repo.views])
        current = {rows.current(table.name) for table in tables if table.name in repo.views}
        for stream_id in current:
            if stream_id is not None:
                rows.drop_generation(stream_id)


class SqliteRowsOnlineStore(PackedRowsOnlineStore):
    """Packed rows in a SQLite file."""


class RedisRowsOnlineStore(PackedRowsOnlineStore):
    """Packed rows on a Redis server, or a cluster."""


def _settings(config: RepoConfig) -> StoreSettings:
    """The settings of the store."""
    return settings_of(config.online_store.model_dump(), in_repo(config), config.project)


def _references(features: list[str] | FeatureService) -> tuple[str, ...]:
    """'view:feature' for each, in order; the view's name is empty for a projection that renames the view or keys."""
    if not isinstance(features, FeatureService):
        return tuple(features)
    return tuple(
        f"{'' if view.name_alias or view.join_key_map or view.version_tag else view.name}:{feature.name}"
        for view in features.feature_view_projections
        for feature in view.features
    )


def _columns(entity_rows: list[dict[str, Any]] | Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    """The key columns; empty if the rows do not all have the same ones."""
    if isinstance(entity_rows, Mapping):
        return _plain(entity_rows)
    names = list(entity_rows[0]) if entity_rows else []
    if sum(map(len, entity_rows)) != len(names) * len(entity_rows):  # a row lacks a key
        return {}
    try:
        return _plain({name: [row[name] for row in entity_rows] for name in names})
    except KeyError:
        return {}


def _plain(columns: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """The columns as Python values, also of Feast's protobuf values."""
    plain: dict[str, Sequence[Any]] = {}
    for name, column in columns.items():
        values = column.val if isinstance(column, RepeatedValue) else column
        proto = len(values) and isinstance(values[0], Value)
        plain[name] = [feast_value_type_to_python_type(value) for value in values] if proto else values
    return plain


def _keys(entity: definitions.Entity, columns: Mapping[str, Sequence[Any]]) -> pa.Array:
    keys = {key: key_column(columns[key], dtype, f"entity key '{key}'") for key, dtype in entity.keys.items()}
    return entity_keys(keys, entity)


def _rows_of(part: ResponsePart) -> list[tuple[datetime | None, dict[str, Value] | None]]:
    columns = {name: values_of(part.matrix.columns[index]) for name, index in part.names.items()}
    rows: list[tuple[datetime | None, dict[str, Value] | None]] = []
    for row, (status, newest) in enumerate(zip(part.matrix.status, part.matrix.newest_event, strict=True)):
        values = {name: column[row] for name, column in columns.items()}
        present = status == Status.PRESENT
        rows.append((datetime.fromtimestamp(newest / 1000, UTC), values) if present else (None, None))
    return rows
