"""Feast's offline store over the archive: `offline_store.type` in feature_store.yaml names ArchiveOfflineStore.

- Our views are computed from the archive's events, by the kernels that answer online reads.
- Ordinary Feast views (files) are read by Feast's own file store, in the same call as ours or alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView, utils
from feast.data_source import DataSource
from feast.infra.offline_stores.dask import DaskOfflineStore, DaskOfflineStoreConfig, DaskRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.repo_config import RepoConfig
from pydantic import PositiveInt, StrictStr

from features import definitions
from features.arrays import Int64s
from features.definitions import FeatureRepo, load_repo
from features.errors import UsageError
from features.events import entity_keys, key_column, plausible_times
from features.feast.objects import events_of
from features.feast.paths import in_repo
from features.feast.response import exact_frame
from features.history import ROWS_IN_MEMORY, ArchiveReader, Spine, SpineRequest, history, open_tables

TIME = "event_timestamp"

ROW = "__headrace_row"


Columns = dict[str, pa.Array]


class ArchiveOfflineStoreConfig(DaskOfflineStoreConfig):
    """The archive that the stream and `headrace import` write."""

    # Feast's file store refuses a config of another class, and a type that is not this class's.
    type: Literal["headrace.feast.ArchiveOfflineStore", "features.offline_store.ArchiveOfflineStore"] = (
        "headrace.feast.ArchiveOfflineStore"  # type: ignore[assignment]
    )
    path: StrictStr = "../.headrace/offline"
    """The folder of the tables, relative to that of feature_store.yaml: offline.path of the settings."""
    definitions: StrictStr = "."
    """The folder of the definitions, relative to the same folder."""
    rows_in_memory: PositiveInt = ROWS_IN_MEMORY
    """Events in memory at once; if there are more, entities are computed in parts."""


class ArchiveOfflineStore(DaskOfflineStore):
    """History of our views from the archive's events, of ordinary views from their files."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **options: Any,
    ) -> RetrievalJob:
        """A job whose table has entity_df's rows and columns unchanged, and then the features.

        Raises:
            UsageError: entity_df is not a table, or lacks a time or a key, or has a column with a feature's name.
        """
        repo = load_repo(in_repo(config, config.offline_store.definitions))
        frame = _frame(entity_df)
        odfvs = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        requested, _ = utils._get_requested_feature_views_to_features_dict(feature_refs, feature_views, odfvs)
        spine = _SpineFrame(frame, _time_column(frame))
        spine.check_names(
            [name for view, names in requested.items() for name in _named(view, names, full_feature_names)]
        )
        ours = {view: names for view, names in requested.items() if view.name in repo.views}
        ordinary = {view: names for view, names in requested.items() if view.name not in repo.views}
        spines = [SpineRequest(repo.views[view.name], spine.of(view, repo.views[view.name])) for view in ours]

        def columns() -> Columns:
            computed = _from_archive(config, repo, ours, spines, full_feature_names)
            if ordinary:
                job = partial(
                    DaskOfflineStore.get_historical_features,
                    registry=registry,
                    project=project,
                    full_feature_names=full_feature_names,
                    filter_by_created_timestamp=filter_by_created_timestamp,
                    **options,
                )
                computed |= _from_files(config, spine, ordinary, job, full_feature_names)
            every = (name for view, names in requested.items() for name in _named(view, names, full_feature_names))
            return {name: computed[name] for name in every}

        bounds = spine.bounds()
        metadata = RetrievalMetadata(feature_refs, [c for c in frame.columns if c != spine.time], *bounds)
        return ArchiveRetrievalJob(frame, columns, full_feature_names, str(config.repo_path), odfvs, metadata)

    @staticmethod
    def pull_latest_from_table_or_query(config: RepoConfig, data_source: DataSource, *args: Any, **more: Any) -> Any:
        """The newest rows of an ordinary view, for `feast materialize`. Raises UsageError for a view of ours."""
        _ordinary(config, data_source)
        return DaskOfflineStore.pull_latest_from_table_or_query(config, data_source, *args, **more)

    @staticmethod
    def pull_all_from_table_or_query(config: RepoConfig, data_source: DataSource, *args: Any, **more: Any) -> Any:
        """The rows of an ordinary view. Raises UsageError for a view of ours."""
        _ordinary(config, data_source)
        return DaskOfflineStore.pull_all_from_table_or_query(config, data_source, *args, **more)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Writes rows of an ordinary view to its file. Raises UsageError for a view of ours: it is made of events."""
        if feature_view.name in load_repo(in_repo(config, config.offline_store.definitions)).views:
            next_step = "Send events to its topic, or bring them in with 'headrace import'."
            raise UsageError(f"feature view '{feature_view.name}'", "events", "values from Feast", next_step)
        DaskOfflineStore.offline_write_batch(config, feature_view, table, progress)


class ArchiveRetrievalJob(DaskRetrievalJob):
    """The spine's rows and columns in their order, and the features; computed on request."""

    def __init__(
        self,
        spine: pd.DataFrame,
        columns: Callable[[], Columns],
        full_feature_names: bool,
        repo_path: str,
        on_demand_feature_views: list[OnDemandFeatureView],
        metadata: RetrievalMetadata,
    ) -> None:
        super().__init__(columns, full_feature_names, repo_path, on_demand_feature_views, metadata)
        self._spine = spine
        self._columns = columns

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """The spine with its index, and the features as further columns."""
        if validation_reference is None and not self.on_demand_feature_views:
            return self._to_df_internal(timeout)
        frame = exact_frame(self.to_arrow(validation_reference, timeout))
        added = frame[[name for name in frame.columns if name not in self._spine.columns]]
        return self._beside_the_spine(added)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._beside_the_spine(exact_frame(pa.table(self._columns())))

    def _beside_the_spine(self, added: pd.DataFrame) -> pd.DataFrame:
        return (
            pd.concat([self._spine, added.set_axis(self._spine.index)], axis=1) if len(added.columns) else self._spine
        )

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = pa.Table.from_pandas(self._spine, preserve_index=False).replace_schema_metadata(None)
        for name, column in self._columns().items():
            table = table.append_column(name, column)
        return table


def _ordinary(config: RepoConfig, data_source: DataSource) -> None:
    """Raises UsageError if the source is the events of a view of ours."""
    repo = load_repo(in_repo(config, config.offline_store.definitions))
    ours = {events_of(view): view.name for view in repo.views.values()}
    if data_source.name in ours:
        required = "'headrace stream', which writes its rows from the events as they come"
        next_step = "Name the views that Feast has to materialize: feast materialize … --views NAME."
        raise UsageError(f"feature view '{ours[data_source.name]}'", required, "feast materialize", next_step)


@dataclass(frozen=True)
class _SpineFrame:
    """The spine: rows of keys and times, and the name of their time column."""

    frame: pd.DataFrame
    time: str

    def check_names(self, features: Sequence[str]) -> None:
        """Raises UsageError if a feature has the name of a column."""
        both = [name for name in features if name in self.frame.columns]
        if both:
            next_step = "Rename the columns, or ask with full_feature_names=True."
            raise UsageError("the spine (entity_df)", "column names that no feature has", ", ".join(both), next_step)

    def of(self, view: FeatureView, ours: definitions.FeatureView) -> Spine:
        """Key texts and times for a view of ours; a null key is NOT_FOUND."""
        columns = {key: self._key(column, ours.entity.keys[key], view) for key, column in join_keys(view).items()}
        return Spine(entity_keys(columns, ours.entity), self.as_of())

    def _key(self, column: str, dtype: str, view: FeatureView) -> pa.Array:
        where = f"the spine (entity_df) for feature view '{view.name}'"
        if column not in self.frame.columns:
            raise UsageError(where, f"a column '{column}' ({dtype})", ", ".join(map(str, self.frame.columns)))
        return key_column(self.frame[column], dtype, f"column '{column}' of {where}")

    def as_of(self) -> Int64s:
        """The times in epoch ms, rounded down; integers are epoch ms, times without a zone are UTC."""
        where, column = f"column '{self.time}' of the spine (entity_df)", self.frame[self.time]
        numbers = pd.api.types.infer_dtype(column, skipna=True) == "integer"
        try:
            times: Any = column.astype("Int64") if numbers else pd.to_datetime(column, utc=True)
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(where, "epoch ms, timestamps or texts of times", str(error).rstrip(".")) from None
        if times.isna().any():
            raise UsageError(where, "a time in every row", f"{times.isna().sum()} without")
        whole = times if numbers else times.dt.floor("ms").dt.as_unit("ms")
        as_of = np.asarray(whole.astype("int64"), dtype=np.int64)
        plausible_times(where, as_of, "ms" if numbers else "ns")
        return as_of

    def only(self, keys: Sequence[str]) -> pd.DataFrame:
        """These columns, and the time as event_timestamp."""
        missing = [key for key in keys if key not in self.frame.columns]
        if missing:
            got = ", ".join(map(str, self.frame.columns))
            raise UsageError("the spine (entity_df)", f"columns {', '.join(missing)}", got)
        return self.frame[list(keys)].assign(**{TIME: pd.to_datetime(self.as_of(), unit="ms", utc=True)})

    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """The first and the last time."""
        if self.frame.empty:
            return None, None
        times = pd.to_datetime(self.as_of(), unit="ms", utc=True)
        return times.min().to_pydatetime(), times.max().to_pydatetime()


def _frame(entity_df: Any) -> pd.DataFrame:
    frame = entity_df.to_pandas() if isinstance(entity_df, pa.Table) else entity_df
    if isinstance(frame, pd.DataFrame):
        return frame
    got = "none" if entity_df is None else type(entity_df).__name__
    raise UsageError("get_historical_features", "entity_df, a DataFrame of keys and times", got)


def _time_column(frame: pd.DataFrame) -> str:
    """The column of times: event_timestamp, or the only datetime column."""
    if TIME in frame.columns:
        return TIME
    times = list(frame.select_dtypes(include=["datetime", "datetimetz"]).columns)
    if len(times) != 1:
        raise UsageError(
            "the spine (entity_df)", f"a column '{TIME}', or just one of times", ", ".join(times) or "none"
        )
    return str(times[0])


def join_keys(view: FeatureView) -> dict[str, str]:
    """View's key column → spine's column, in the view's order."""
    renamed = view.projection.join_key_map
    return {column.name: renamed.get(column.name, column.name) for column in view.entity_columns}


def _named(view: FeatureView, names: Sequence[str], full: bool) -> list[str]:
    return [f"{_alias(view)}__{name}" if full else name for name in names]


def _alias(view: FeatureView) -> str:
    return str(view.projection.name_to_use())  # type: ignore[no-untyped-call]


def _from_archive(
    config: RepoConfig,
    repo: FeatureRepo,
    ours: Mapping[FeatureView, list[str]],
    spines: Sequence[SpineRequest],
    full: bool,
) -> Columns:
    streams = [stream for request in spines for stream in request.view.streams]
    tables = open_tables(in_repo(config, config.offline_store.path), streams, repo)
    matrices = history(spines, ArchiveReader(tables, rows_in_memory=config.offline_store.rows_in_memory))
    columns: Columns = {}
    for (view, names), matrix in zip(ours.items(), matrices, strict=True):
        by_name = dict(zip(matrix.names, matrix.columns, strict=True))
        columns |= {named: by_name[name] for named, name in zip(_named(view, names, full), names, strict=True)}
    return columns


def _from_files(
    config: RepoConfig,
    spine: _SpineFrame,
    views: Mapping[FeatureView, list[str]],
    job_of: Callable[..., RetrievalJob],
    full: bool,
) -> Columns:
    """The features of ordinary views by Feast's file store, which drops repeated rows, and some without a value."""
    rows = spine.only(list(dict.fromkeys(column for view in views for column in join_keys(view).values())))
    group = np.asarray(rows.groupby(list(rows.columns), dropna=False, sort=False).ngroup(), dtype=np.int64)
    distinct = rows.assign(**{ROW: group}).drop_duplicates(ROW)
    references = [f"{_alias(view)}:{name}" for view, names in views.items() for name in names]
    job = job_of(config, list(views), references, distinct)
    features = job._to_df_internal().drop_duplicates(ROW).set_index(ROW)
    columns = [name for view, names in views.items() for name in _named(view, names, full)]
    per_row = features[columns].reindex(group)
    return {name: pa.array(per_row[name], from_pandas=True) for name in columns}
