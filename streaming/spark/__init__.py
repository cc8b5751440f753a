"""Spark's session, its Kafka source and its queries.

In: settings. Out: a session, the messages of a micro-batch by topic, and the offsets of a batch.
"""

from streaming.spark.pieces import BatchPieces, BatchReader, fetched_in_parts, most_bytes, tables_of
from streaming.spark.query import TopicQuery
from streaming.spark.session import COLUMNS, SOURCE, Java, SparkError, running_session, spark_session
from streaming.spark.source import (
    MESSAGES,
    Messages,
    OffsetLog,
    Schemas,
    SendDeadLetters,
    check_partitions,
    flat_offsets,
    known_at,
    messages_by_topic,
    nested_offsets,
    records_between,
)

__all__ = [
    "BatchPieces",
    "BatchReader",
    "COLUMNS",
    "Java",
    "MESSAGES",
    "Messages",
    "OffsetLog",
    "SOURCE",
    "Schemas",
    "SendDeadLetters",
    "SparkError",
    "TopicQuery",
    "check_partitions",
    "fetched_in_parts",
    "flat_offsets",
    "known_at",
    "messages_by_topic",
    "most_bytes",
    "nested_offsets",
    "records_between",
    "running_session",
    "spark_session",
    "tables_of",
]
