"""The project's Kafka: a configured cluster, our running broker, or our broker started for a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.settings import Settings
from streaming.jars import resolve_kafka
from streaming.kafka import BrokerError, EmbeddedBroker, has_data, running_broker


def embedded_broker(settings: Settings, root: Path) -> EmbeddedBroker:
    """The project's own broker, not started; missing jars are fetched.

    Raises:
        JarsError: there is no Java, or the jars cannot be fetched.
    """
    home = root / settings.home
    return EmbeddedBroker(home, resolve_kafka(home), settings.broker.port, settings.broker.heap_mb)


def find_cluster(settings: Settings, root: Path) -> str:
    """The bootstrap servers of the configured cluster, or of our running broker.

    Raises:
        BrokerError: the settings name none, and ours does not run.
    """
    servers = settings.kafka.bootstrap_servers or running_broker(root / settings.home)
    if servers is None:
        next_step = "Start it: headrace stream (or name a cluster in settings.toml: [kafka] bootstrap_servers)."
        raise BrokerError("Kafka", f"a broker that runs on {root / settings.home}", "none", next_step)
    return servers


def has_cluster(settings: Settings, root: Path) -> bool:
    """True where there may be events: the settings name a cluster, or our broker runs or ran on the project."""
    home = root / settings.home
    return bool(settings.kafka.bootstrap_servers or running_broker(home) or has_data(home))


@contextmanager
def cluster(settings: Settings, root: Path) -> Iterator[str]:
    """The bootstrap servers during the block, for which our broker is started where none runs.

    Raises:
        BrokerError: our broker does not start.
        JarsError: there is no Java, or the jars cannot be fetched.
    """
    servers = settings.kafka.bootstrap_servers or running_broker(root / settings.home)
    if servers is not None:
        yield servers
        return
    with embedded_broker(settings, root) as broker:
        yield broker.bootstrap_servers
