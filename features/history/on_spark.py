"""History on Spark: features of spines that are too large for one machine, by the kernels of point_in_time_join.py.

    events ──by event_id──► each once ──by entity──┐
    spine ─────────────────────────────by entity──┴──► point_in_time of each bucket

Spark reads the archive's own Parquet files, as the table's log names them. Buckets are hashes, so that no group is an
entity alone; their number bounds what a task holds. The session is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from features.definitions import RESERVED, FeatureView, Stream, duration_ms, used_columns
from features.events import (
    ARROW,
    arrow_type,
    entity_keys,
    event_schema,
    integers,
    key_column,
    plausible_times,
    without_duplicates,
)
from features.history.archive import ALWAYS, ArchiveTable, Span
from features.history.archive_reader import Tables
from features.history.point_in_time_join import Spine, point_in_time
from features.history.stored_columns import StoredColumns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

ROWS_A_BUCKET = 1_000_000
"""Events that a task holds at once, about."""

AS_OF, BUCKET, STREAM = "__headrace_as_of", "__headrace_bucket", "__headrace_stream"

KEY_TYPES = {"string": "string", "int64": "bigint"}


def history_on_spark(
    spark: SparkSession,
    view: FeatureView,
    spine: DataFrame,
    tables: Tables,
    time: str = "event_timestamp",
    span: Span = ALWAYS,
    rows_a_bucket: int = ROWS_A_BUCKET,
) -> DataFrame:
    """The spine's rows and columns, in any order, and the view's features as they were at each row's time.

    Args:
        spine: has the view's key columns and a timestamp, or an integer of epoch ms.
        tables: by stream; a stream that has none has no events.
        span: the events that may count (spines.span_of computes it); everything unless given.
    """
    of_view = {stream.name: tables[stream.name] for stream in view.streams if stream.name in tables}
    count = max(-(-sum(table.rows(span) for table in of_view.values()) // rows_a_bucket), 1)
    events = _union([_events(spark, view, table, span, count) for table in of_view.values()], spark, view)
    rows = _with_as_of(spine, view, time)
    bucket = _bucket(list(view.entity.keys), count)
    grouped = rows.groupBy(bucket).cogroup(events.groupBy(bucket))
    return grouped.applyInArrow(_joining(view), _schema(rows, view)).drop(AS_OF)


def _with_as_of(spine: DataFrame, view: FeatureView, time: str) -> DataFrame:
    """The spine with as_of in ms, rounded down, and its keys in the entity's dtypes."""
    from pyspark.sql import functions as f

    spine = _with_keys(spine, view.entity.keys)
    is_number = dict(spine.dtypes)[time] in ("int", "bigint")
    as_of = f.col(time).cast("bigint") if is_number else f.unix_millis(f.col(time).cast("timestamp"))
    return spine.withColumn(AS_OF, as_of)


def _with_keys(spine: DataFrame, keys: Mapping[str, str]) -> DataFrame:
    """The spine with its keys in the entity's dtypes, by the rule that every path has (key_column)."""
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField, StructType

    types = dict(spine.dtypes)
    if all(types[key] == KEY_TYPES[dtype] for key, dtype in keys.items()):
        return spine

    def converted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for key, dtype in keys.items():
                columns[key] = key_column(columns[key], dtype, f"column '{key}' of the spine")
            yield pa.RecordBatch.from_pydict(columns)

    ours = {key: StructField(key, from_arrow_type(ARROW[dtype])) for key, dtype in keys.items()}
    return spine.mapInArrow(converted, StructType([ours.get(field.name, field) for field in spine.schema.fields]))


def _bucket(columns: list[str], count: int) -> Column:
    from pyspark.sql import functions as f

    return f.pmod(f.xxhash64(*columns), f.lit(count)).alias(BUCKET)


def _schema(rows: DataFrame, view: FeatureView) -> Any:
    """The spine's columns and the features."""
    from pyspark.sql.pandas.types import from_arrow_schema

    added = from_arrow_schema(pa.schema([(feature.name, arrow_type(feature.dtype)) for feature in view.features]))
    return type(rows.schema)([*rows.schema.fields, *added.fields])


def _events(spark: SparkSession, view: FeatureView, table: ArchiveTable, span: Span, count: int) -> DataFrame:
    """The stream's events that count, each once, under names that no other stream's columns have."""
    from pyspark.sql import functions as f
    from pyspark.sql.pandas.types import from_arrow_schema

    wanted = used_columns(view, table.stream)
    schema = pa.schema([event_schema(table.stream).field(name) for name in wanted])
    read = spark.read.schema(from_arrow_schema(table.stored.schema(wanted))).parquet(*table.files(span))
    known = f.col("known_at")
    lower, upper = span.start_ms, span.end_ms
    read = read if lower is None else read.where(known >= lower)
    read = read if upper is None else read.where(known < upper)
    if table.horizon_ms is not None:
        read = read.where(f.col("event_time") >= known - table.horizon_ms)
    each_once = _deduplicating(table.stream, table.stored, schema)
    once = read.groupBy(_bucket(["event_id"], count)).applyInArrow(each_once, from_arrow_schema(schema))
    own = [f.col(name).alias(_own(table.stream, name)) for name in wanted if name not in _SHARED]
    keys = [f.col(key) for key in view.entity.keys]
    return once.select(f.lit(table.stream.name).alias(STREAM), *RESERVED, *keys, *own)


_SHARED = frozenset(RESERVED)


def _own(stream: Stream, name: str) -> str:
    return f"{stream.name}.{name}".replace(".", "__")


def _union(streams: list[DataFrame], spark: SparkSession, view: FeatureView) -> DataFrame:
    """All streams' events together; none for a view without events."""
    if not streams:
        stream = view.streams[0]
        fields = [(STREAM, pa.string()), *((name, event_schema(stream).field(name).type) for name in RESERVED)]
        fields += [(key, event_schema(stream).field(key).type) for key in view.entity.keys]
        from pyspark.sql.pandas.types import from_arrow_schema

        return spark.createDataFrame([], from_arrow_schema(pa.schema(fields)))
    first, *others = streams
    for other in others:
        first = first.unionByName(other, allowMissingColumns=True)
    return first


def _deduplicating(stream: Stream, stored: StoredColumns, schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """A function of all rows of some ids that leaves each event once, in the types of ``schema``."""
    horizon_ms = duration_ms(stream.dedupe_horizon)

    def deduplicate(rows: pa.Table) -> pa.Table:
        return without_duplicates(stored.read(rows, schema.names, schema), horizon_ms)

    return deduplicate


def _joining(view: FeatureView) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """A function of a bucket's rows and all its entities' events that adds the features to the rows."""

    def join(rows: pa.Table, events: pa.Table) -> pa.Table:
        keys = entity_keys({key: rows[key] for key in view.entity.keys}, view.entity)
        as_of = integers(rows[AS_OF])
        plausible_times("the spine", as_of)
        spine = Spine(keys, as_of)
        features = point_in_time(view, spine, _by_stream(view, events)).to_table()
        return pa.table([*rows.columns, *features.columns], names=[*rows.column_names, *features.column_names])

    return join


def _by_stream(view: FeatureView, events: pa.Table) -> Mapping[str, pa.Table]:
    """Each stream's events under their own names again."""
    return {stream.name: _own_columns(view, stream, events) for stream in view.streams}


def _own_columns(view: FeatureView, stream: Stream, events: pa.Table) -> pa.Table:
    mine = events.filter(pc.equal(events[STREAM], stream.name))
    types = event_schema(stream)
    names = used_columns(view, stream)
    own_names = {name: name if name in _SHARED else _own(stream, name) for name in names}
    absent = pa.nulls(mine.num_rows)
    columns = {name: mine[own] if own in mine.column_names else absent for name, own in own_names.items()}
    return pa.table({name: column.cast(types.field(name).type) for name, column in columns.items()})
