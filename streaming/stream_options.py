"""What a stream is told and given: its options, and the online store as it needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from features.batch import Store
from features.online_store.cells import Cells
from features.online_store.pending import Pending
from streaming.scoring import EventScoring
from streaming.succession import Needed


class DescribedStore(Store, Protocol):
    """A driver's way into a generation, which can keep its definitions."""

    def describe(self, definitions: str) -> None:
        """Keep the definitions of its views with it."""


class Rows(Cells, Protocol):
    """What the pipeline needs of an online store (features/online_store)."""

    def generation(self, stream_id: int, horizons_ms: Mapping[str, int] | None = None) -> DescribedStore:
        """A driver's way into a generation."""

    def take_lease(self, stream_id: int, owner: str, ttl_s: float) -> None:
        """Own the generation for a while, or raise LeaseError."""

    def release_lease(self, stream_id: int, owner: str) -> None:
        """Let others own it."""

    def current(self, view: str) -> int | None:
        """The generation that readers of the view read."""

    def set_current(self, view: str, stream_id: int) -> None:
        """Let readers of the view read this generation."""

    def drop_generation(self, stream_id: int) -> None:
        """Forget the generation."""

    def bytes_per_row(self) -> dict[str, float]:
        """How long a row of each view is on average."""

    def pending(self) -> Pending:
        """Where accepted events wait for the rows."""


@dataclass(frozen=True)
class Models:
    """What a stream has to do with registered models.

    Args:
        needed: the definitions of views that they need.
        scoring: asks those of events about each event; None where the repo defines none.
    """

    needed: Needed = frozenset
    scoring: EventScoring | None = None


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
