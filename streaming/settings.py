"""Settings of the stream: the section [stream] of settings.toml, and what a run adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class StreamSettings(BaseModel):
    """The section [stream]: the queries that fold and archive events."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: str = "feature_repo"
    """The folder with the definitions."""
    trigger_ms: int = Field(default=100, ge=0)
    """The shortest time between two batches of the fold."""
    archive_trigger_s: float = Field(default=10, gt=0)
    """The time between two commits to the offline store: how long a record waits for the archive at most."""
    max_offsets_per_trigger: int = Field(default=100_000, ge=1)
    """The most records of a batch of the fold, which bounds memory and the time to stop; a batch of the archive has up
    to twice as many."""
    driver_records: int = Field(default=200_000, ge=0)
    """The most records of a batch that the driver folds itself; executors fold a larger batch."""
    keep_older_s: float = Field(default=600, ge=0)
    """The time that rows of an older definition stay and are folded on once readers have newer ones, at least; longer
    where an alias names a model that needs them."""
    freshness_slo_ms: float = Field(default=1_000, gt=0)
    """The age of an event, at most, when its features can be read."""
    accept_loss: bool = False
    """Go on where topics lack records that were not read, and keep a record of which; else the stream ends."""
    spark_master: str = "local[2]"
    """local[cores], or the address of a Spark cluster."""
    spark_memory: str = "1g"
    """The heap of Spark's driver: a batch is fetched in pieces of at most a sixteenth of it, and of 256 MiB."""
    long_running: bool = False
    """Spark's Java is compiled for hours of load: half the processor time a record after some minutes, for five seconds
    more of it at the start."""
    scores_topic: str = "scores"
    """The topic of the scores of event models, where the definitions have such models."""
    alerts_topic: str = "alerts"
    """The topic of the events that reach a model's threshold or meet a rule."""


@dataclass(frozen=True)
class StreamOptions:
    """A run of the stream: its settings, and the paths and addresses of its project.

    Args:
        home: the project's own folder, for checkpoints and status.
        offline: the folder of the archive's tables.
        bootstrap: Kafka's bootstrap servers.
        jars: Spark's Kafka connector.
        client: further options of librdkafka.
        spark_kafka: further options of Spark's Kafka source.
        rows_in_memory: events of the archive that a rebuild reads at once.
    """

    home: Path
    offline: Path
    bootstrap: str
    jars: list[Path] = field(default_factory=list)
    client: Mapping[str, Any] = field(default_factory=dict)
    spark_kafka: Mapping[str, str] = field(default_factory=dict)
    rows_in_memory: int = 10_000_000
    settings: StreamSettings = field(default_factory=StreamSettings)
