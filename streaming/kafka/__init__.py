"""Kafka: a broker of our own, topics, consumers, producers, and events as messages.

In: bootstrap servers and client options. Out: records read, events acknowledged, topics made.
"""

from streaming.kafka.broker import BrokerError, EmbeddedBroker, has_data, running_broker
from streaming.kafka.consumer import CONSUMER_OPTIONS, POLL_S, ReadError, Record, follow_topic, read_topic, record_of
from streaming.kafka.encoding import Message, messages
from streaming.kafka.ports import is_free
from streaming.kafka.producer import (
    ELEMENT,
    FIRST_PLACE,
    FIRST_TIME,
    FORGOTTEN,
    KNOWN_AT,
    PLACE_PATTERN,
    PRODUCER_OPTIONS,
    EventProducer,
    Headers,
    OnAck,
)
from streaming.kafka.topic_admin import (
    DEAD,
    TopicError,
    admin_client,
    dead_letter_topic,
    ensure_named_topics,
    ensure_topics,
    topics,
)
from streaming.kafka.topic_facts import BROKERS_CLOCK, TopicFacts, TopicReader, clock_warnings
from streaming.kafka.watermarks import Watermarks, read_watermarks

__all__ = [
    "BROKERS_CLOCK",
    "BrokerError",
    "CONSUMER_OPTIONS",
    "DEAD",
    "EmbeddedBroker",
    "EventProducer",
    "Headers",
    "KNOWN_AT",
    "ELEMENT",
    "FIRST_PLACE",
    "FIRST_TIME",
    "FORGOTTEN",
    "PLACE_PATTERN",
    "Message",
    "OnAck",
    "POLL_S",
    "PRODUCER_OPTIONS",
    "ReadError",
    "Record",
    "TopicError",
    "TopicFacts",
    "TopicReader",
    "Watermarks",
    "admin_client",
    "clock_warnings",
    "dead_letter_topic",
    "ensure_named_topics",
    "ensure_topics",
    "follow_topic",
    "has_data",
    "is_free",
    "messages",
    "read_topic",
    "read_watermarks",
    "record_of",
    "running_broker",
    "topics",
]
