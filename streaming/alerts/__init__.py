"""Delivery of alerts from their topic to each sink, which has its own offsets in the topic.

In: the topic of alerts. Out: rows and requests in sinks; the state of each delivery.
"""

from streaming.alerts.delivery import Delivery, Letters, deliver_all
from streaming.alerts.status import delivery_file, delivery_lines, delivery_metrics, read_delivery
from streaming.alerts.topic import AlertTopic

__all__ = [
    "AlertTopic",
    "Delivery",
    "Letters",
    "deliver_all",
    "delivery_file",
    "delivery_lines",
    "delivery_metrics",
    "read_delivery",
    "sinks",
]
