"""The topics of a feature repo's streams, and the dead-letter topic beside each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from features.definitions import Stream
from features.errors import HeadraceError

DEAD = ".dead"

STREAM_CONFIG = {"message.timestamp.type": "LogAppendTime", "compression.type": "producer"}
"""The broker's own clock stamps every record: that time is its known_at, and no producer can make it wrong."""

DEAD_CONFIG = {"retention.ms": "-1"}
"""Dead letters stay until somebody has looked at them."""

TIMEOUT_S = 30.0


class TopicError(HeadraceError):
    """Raised when a topic cannot be made or found."""


def dead_letter_topic(topic: str) -> str:
    """The topic that takes what a stream's topic had and could not be read."""
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
    """Every stream has its topic, stamped by the broker, and a dead-letter topic; returns those that were made now.

    A topic that exists stays as it is: it may be anybody's.

    Args:
        bootstrap_servers: the cluster.
        streams: whose topics; several streams may read one.
        partitions: of the topics that are made; dead letters get one.
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
) -> list[str]:
    """As ensure_topics, of topics by name; for names in ``dead_letters_of`` there is a topic of dead letters alone."""
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # its stubs forget it

    admin = admin_client(bootstrap_servers, client_options)
    there = topics(admin, bootstrap_servers)
    wanted = {}
    for topic in dict.fromkeys(names):
        wanted[topic] = NewTopic(topic, partitions, config=STREAM_CONFIG)
        wanted[dead_letter_topic(topic)] = NewTopic(dead_letter_topic(topic), 1, config=DEAD_CONFIG)
    for topic in dead_letters_of:
        wanted[dead_letter_topic(topic)] = NewTopic(dead_letter_topic(topic), 1, config=DEAD_CONFIG)
    new = [one for name, one in wanted.items() if name not in there]
    return [name for name in _create(admin, new) if name]


def topics(admin: Any, bootstrap_servers: str, timeout_s: float = TIMEOUT_S) -> dict[str, int]:
    """The cluster's topics with the number of their partitions.

    Raises:
        TopicError: the cluster does not answer.
    """
    from confluent_kafka import KafkaException

    try:
        found = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        got = f"no answer ({error.args[0].str()})"
        raise TopicError("Kafka", f"a cluster at {bootstrap_servers}", got, "See headrace doctor.") from error
    return {name: len(topic.partitions) for name, topic in found.items()}


def _create(admin: Any, new: list[Any]) -> Iterable[str | None]:
    if not new:
        return
    for name, future in admin.create_topics(new, request_timeout=TIMEOUT_S).items():
        yield name if _is_made(name, future) else None


def _is_made(name: str, future: Any) -> bool:
    """True when it was made; False when somebody else made it at the same moment."""
    from confluent_kafka import KafkaError, KafkaException

    try:
        future.result(TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise TopicError(f"topic '{name}'", "to be made", error.args[0].str()) from error
    return True
