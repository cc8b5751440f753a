"""The topics of a feature repo's streams, and the dead-letter topic beside each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from features.definitions import Stream
from features.errors import HeadraceError

DEAD = ".dead"

STREAM_CONFIG = {"message.timestamp.type": "LogAppendTime", "compression.type": "producer"}
"""The broker's own clock stamps every record: that time is its known_at, and no producer can make it wrong."""

KEPT = {"retention.ms": "-1"}
"""Nothing is deleted by age: dead letters, and alerts, which wait for their sinks."""

LETTERS_CONFIG = KEPT | {"retention.bytes": str(1 << 30)}
"""Of a topic's dead letters 1 GiB is kept, and the oldest go: a broken producer would fill the disk with them."""

TIMEOUT_S = 30.0


class TopicError(HeadraceError):
    """Raised when a topic cannot be made or does not exist."""


def dead_letter_topic(topic: str) -> str:
    """The topic of the dead letters of a topic."""
    return f"{topic}{DEAD}"


def admin_client(bootstrap_servers: str, client_options: Mapping[str, Any] | None = None) -> Any:
    """An admin client of the cluster, which logs nothing by itself."""
    from confluent_kafka.admin import AdminClient

    return AdminClient({"log_level": 0, **(client_options or {}), "bootstrap.servers": bootstrap_servers})


def ensure_topics(
    bootstrap_servers: str,
    streams: Iterable[Stream],
    partitions: int = 2,
    client_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Make the missing topics of the streams, stamped by the broker, and a dead-letter topic for each; returns the new.

    A topic that exists stays as it is: it may be anybody's.

    Args:
        bootstrap_servers: the cluster.
        streams: more than one may read the same topic.
        partitions: of the new topics; those of dead letters have one.
        client_options: further options of librdkafka, such as security.

    Raises:
        TopicError: the cluster does not answer, or refuses.
    """
    names = [topic for stream in streams for topic in stream.topics]
    return ensure_named_topics(bootstrap_servers, names, partitions, client_options)


def ensure_named_topics(
    bootstrap_servers: str,
    names: Iterable[str],
    partitions: int = 2,
    client_options: Mapping[str, Any] | None = None,
    dead_letters_of: Iterable[str] = (),
    kept: Collection[str] = (),
) -> list[str]:
    """As ensure_topics, of topics by name.

    Args:
        dead_letters_of: names that get a topic of dead letters alone.
        kept: those of the topics whose records are never deleted by age.
    """
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # its stubs forget it

    admin = admin_client(bootstrap_servers, client_options)
    existing = topics(admin, bootstrap_servers)
    required = {}
    for topic in dict.fromkeys(names):
        required[topic] = NewTopic(topic, partitions, config=STREAM_CONFIG | (KEPT if topic in kept else {}))
        required[dead_letter_topic(topic)] = NewTopic(dead_letter_topic(topic), 1, config=LETTERS_CONFIG)
    for topic in dead_letters_of:
        required[dead_letter_topic(topic)] = NewTopic(dead_letter_topic(topic), 1, config=LETTERS_CONFIG)
    new = [topic for name, topic in required.items() if name not in existing]
    return [name for name in _create(admin, new) if name]


def topics(admin: Any, bootstrap_servers: str, timeout_s: float = TIMEOUT_S) -> dict[str, int]:
    """The cluster's topics with the number of their partitions.

    Raises:
        TopicError: the cluster does not answer.
    """
    from confluent_kafka import KafkaException

    try:
        by_name = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        got = f"no answer ({error.args[0].str()})"
        raise TopicError("Kafka", f"a cluster at {bootstrap_servers}", got, "See headrace doctor.") from error
    return {name: len(topic.partitions) for name, topic in by_name.items()}


def _create(admin: Any, new: list[Any]) -> Iterable[str | None]:
    if not new:
        return
    for name, future in admin.create_topics(new, request_timeout=TIMEOUT_S).items():
        yield name if _is_made(name, future) else None


def _is_made(name: str, future: Any) -> bool:
    """True when it was made; False when another process made it at the same moment."""
    from confluent_kafka import KafkaError, KafkaException

    try:
        future.result(TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise TopicError(f"topic '{name}'", "to be made", error.args[0].str()) from error
    return True
