"""What the broker says of topics: their ids, partitions, and whose clock stamps their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.errors import StoreError
from streaming.kafka.topic_admin import admin_client

TIMEOUT_S = 10.0

BROKERS_CLOCK = "LogAppendTime"


@dataclass(frozen=True)
class TopicFacts:
    """A topic that is there.

    Args:
        id: another one for every topic that is made; None from a broker that has no ids.
        timestamps: 'LogAppendTime' or 'CreateTime'; None where the broker does not tell.
        retention_ms: after which its records are deleted; -1 never, None where the broker does not tell.
        cleanup: 'delete', 'compact' or both, with a comma; None where the broker does not tell.
    """

    id: str | None
    partitions: int
    timestamps: str | None = None
    retention_ms: int | None = None
    cleanup: str | None = None


class TopicReader:
    """Asks a cluster about topics.

    Args:
        options: librdkafka's.
    """

    def __init__(self, bootstrap: str, options: Mapping[str, Any] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._bootstrap, self._options, self._timeout_s = bootstrap, options, timeout_s
        self._made: Any = None

    @property
    def _admin(self) -> Any:
        self._made = self._made or admin_client(self._bootstrap, self._options)
        return self._made

    def facts(self, topics: Sequence[str]) -> dict[str, TopicFacts]:
        """The facts of the topics that are there. Raises StoreError where the cluster does not answer in time."""
        described = self._described(topics)
        configs = self._configs(list(described))
        facts = {}
        for name, (topic_id, partitions) in described.items():
            timestamps, retention_ms, cleanup = configs.get(name, (None, None, None))
            facts[name] = TopicFacts(topic_id, partitions, timestamps, retention_ms, cleanup)
        return facts

    def ids(self, topics: Sequence[str]) -> dict[str, str | None]:
        """The ids of the topics that are there. Raises StoreError where the cluster does not answer in time."""
        return {name: topic_id for name, (topic_id, _) in self._described(topics).items()}

    def _described(self, topics: Sequence[str]) -> dict[str, tuple[str | None, int]]:
        from confluent_kafka import KafkaError, KafkaException, TopicCollection

        if not topics:
            return {}
        futures = self._admin.describe_topics(TopicCollection(list(topics)), request_timeout=self._timeout_s)
        described = {}
        for name, future in futures.items():
            try:
                topic = future.result(self._timeout_s)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise self._failed(error.args[0].str()) from error
            except TimeoutError as error:
                raise self._failed("nothing") from error
            else:
                topic_id = None if topic.topic_id is None else str(topic.topic_id)
                described[name] = topic_id, len(topic.partitions)
        return described

    def _configs(self, topics: Sequence[str]) -> dict[str, tuple[str | None, int | None, str | None]]:
        """Topic → whose clock, the retention and the cleanup; without topics that the broker tells nothing of."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # stubs forget them

        resources = [ConfigResource(ResourceType.TOPIC, name) for name in topics]
        if not resources:
            return {}
        configs = {}
        for resource, future in self._admin.describe_configs(resources, request_timeout=self._timeout_s).items():
            try:
                values = future.result(self._timeout_s)
            except (KafkaException, TimeoutError):  # it may not be ours to ask
                continue
            asked = ("message.timestamp.type", "retention.ms", "cleanup.policy")
            timestamps, retention, cleanup = (values.get(name) for name in asked)
            configs[resource.name] = (
                None if timestamps is None else timestamps.value,
                None if retention is None or retention.value is None else int(retention.value),
                None if cleanup is None else cleanup.value,
            )
        return configs

    def _failed(self, got: str) -> StoreError:
        return StoreError(f"Kafka at {self._bootstrap}", f"an answer in {self._timeout_s:.0f} s", got)


def clock_warnings(facts: Mapping[str, TopicFacts], bootstrap: str) -> list[dict[str, str]]:
    """For each topic whose records the producers stamp: 'topic', 'found' and 'mend', the command that changes it."""
    return [
        {
            "topic": name,
            "found": f"topic '{name}' has {each.timestamps}: known_at is the producer's clock, not the broker's",
            "mend": (
                f"kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name {name} "
                f"--add-config message.timestamp.type={BROKERS_CLOCK}"
            ),
        }
        for name, each in facts.items()
        if each.timestamps not in (None, BROKERS_CLOCK)
    ]
