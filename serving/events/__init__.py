"""Events that are posted over HTTP: judged by the stream's rules, acknowledged by Kafka, pending until folded.

In: bodies of POST /v1/events. Out: a verdict for each event; messages in the stream's topic.
"""

from serving.events.document import EVENTS_BODY
from serving.events.kafka_sink import KafkaSink
from serving.events.pending import OwnClicks
from serving.events.posted import PostedEvents
from serving.events.verdicts import EventSink, Message, judge, message_of

__all__ = ["EVENTS_BODY", "EventSink", "KafkaSink", "Message", "OwnClicks", "PostedEvents", "judge", "message_of"]
