"""Sinks of alerts: a Delta table, PostgreSQL and a webhook, behind a common port.

In: alerts. Out: each alert once in the sink, or an error after which it is tried again.
"""

from streaming.alerts.sinks.delta import DeltaSink
from streaming.alerts.sinks.port import Alert, Sink, SinkError, read_alert
from streaming.alerts.sinks.postgres import PostgresSink, connected, first_line
from streaming.alerts.sinks.webhook import WebhookSink

__all__ = [
    "Alert",
    "DeltaSink",
    "PostgresSink",
    "Sink",
    "SinkError",
    "WebhookSink",
    "connected",
    "first_line",
    "read_alert",
]
