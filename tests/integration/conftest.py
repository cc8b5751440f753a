"""A real broker for the tests that need one: started at its first use, one for each process of the run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.jars import kafka_jars as find_kafka_jars
from streaming.jars import spark_jars as find_spark_jars
from streaming.kafka.broker import EmbeddedBroker

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / ".headrace"


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The folder with Kafka's jars, which the set-up fetched."""
    return find_kafka_jars(HOME)


@pytest.fixture(scope="session")
def spark_jars() -> list[Path]:
    """The jars that Spark needs beyond its own, which the set-up fetched."""
    return find_spark_jars(HOME)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, kafka_jars: Path) -> Iterator[str]:
    """The bootstrap servers of a broker on a free port, shared by the tests: use topics of your own."""
    with EmbeddedBroker(tmp_path_factory.mktemp("kafka"), kafka_jars, heap_mb=256) as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def unique_name() -> str:
    """A name for a topic that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"
