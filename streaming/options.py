"""What a stream is told and given: its options, and the online store as it needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StreamOptions:
    """How a stream runs.

    Args:
        home: the project's own folder, for checkpoints and status.
        offline: where the archive's tables are.
        bootstrap: Kafka's bootstrap servers.
        client: further options of librdkafka.
        spark_kafka: further options of Spark's Kafka source.
        max_offsets: records in a batch of the fold at most; a batch of the archive has up to twice as many.
        long_running: Spark's Java compiles for hours of load, not to be ready soon.
        rows_in_memory: events of the archive that a rebuild reads at once.
        driver_records: a batch of the fold with more records is folded on executors.
        archive_trigger_s: how long records wait for the archive at most.
        grace_s: how long an older definition's rows are folded on at least, once readers have newer ones.
        slo_ms: how old an event should be at most when its row can be read.
    """

    home: Path
    offline: Path
    bootstrap: str
    jars: list[Path] = field(default_factory=list)
    client: Mapping[str, Any] = field(default_factory=dict)
    spark_kafka: Mapping[str, str] = field(default_factory=dict)
    master: str = "local[2]"
    memory: str = "1g"
    long_running: bool = False
    trigger_ms: int = 100
    archive_trigger_s: float = 10.0
    max_offsets: int = 100_000
    rows_in_memory: int = 10_000_000
    driver_records: int = 200_000
    grace_s: float = 600.0
    slo_ms: float = 1_000.0
