"""A streaming query over topics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from features.epochs import broker_offsets
from features.online_store import Offsets
from streaming.spark.session import read_topics
from streaming.spark.source import nested_offsets

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery


@dataclass(frozen=True)
class TopicQuery:
    """A streaming query that hands each micro-batch of some topics to a function.

    Args:
        first: the offsets where its batch 0 starts.
        options: of Spark's Kafka source.
        trigger_ms: the shortest time from the start of a batch to that of the next.
    """

    name: str
    topics: Sequence[str]
    first: Offsets
    checkpoint: Path
    options: Mapping[str, str]
    trigger_ms: int

    def start(self, spark: SparkSession, bootstrap: str, handle: Callable[[DataFrame, int], None]) -> StreamingQuery:
        """The query has started, and calls ``handle`` with each batch and its id."""
        first = {"startingOffsets": json.dumps(nested_offsets(broker_offsets(self.first)))}
        messages = read_topics(spark, self.topics, bootstrap, first | dict(self.options))
        writer = messages.writeStream.queryName(self.name).foreachBatch(handle)
        writer = writer.option("checkpointLocation", str(self.checkpoint))
        return writer.trigger(processingTime=f"{self.trigger_ms} milliseconds").start()
