"""The Kafka that the settings mean: somebody's cluster, our broker where it runs, or our broker started for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.settings import Settings
from streaming.kafka import BrokerError, EmbeddedBroker, has_data, resolve_kafka, running_broker


def embedded_broker(settings: Settings, root: Path) -> EmbeddedBroker:
    """The project's own broker, not started; its jars are fetched where they are not there yet.

    Raises:
        JarsError: there is no Java, or the jars cannot be fetched.
    """
    home = root / settings.home
    return EmbeddedBroker(home, resolve_kafka(home), settings.broker.port, settings.broker.heap_mb)


def find_cluster(settings: Settings, root: Path) -> str:
    """The bootstrap servers of the configured cluster, or of our broker that runs.

    Raises:
        BrokerError: the settings name none, and ours does not run.
    """
    found = settings.kafka.bootstrap_servers or running_broker(root / settings.home)
    if found is None:
        next_step = "Start it: headrace stream (or name a cluster in settings.toml: [kafka] bootstrap_servers)."
        raise BrokerError("Kafka", f"a broker that runs on {root / settings.home}", "none", next_step)
    return found


def has_cluster(settings: Settings, root: Path) -> bool:
    """True when the settings name a cluster, or our broker runs or ran on the project: it may have events."""
    home = root / settings.home
    return bool(settings.kafka.bootstrap_servers or running_broker(home) or has_data(home))


@contextmanager
def cluster(settings: Settings, root: Path) -> Iterator[str]:
    """The bootstrap servers, for as long as the block lasts: our broker is started for it where nothing runs.

    Raises:
        BrokerError: our broker does not start.
        JarsError: there is no Java, or the jars cannot be fetched.
    """
    found = settings.kafka.bootstrap_servers or running_broker(root / settings.home)
    if found is not None:
        yield found
        return
    with embedded_broker(settings, root) as broker:
        yield broker.bootstrap_servers
