"""Event models in the stream: each event scored once, before its own effect on the rows.

In: a batch's accepted events and the rows before it. Out: durable decisions, in the topics of scores and alerts.
"""

from streaming.scoring.rescoring import rescore
from streaming.scoring.scoring import EventScoring, event_scoring
from streaming.scoring.topics import DecisionTopics, problems_topic, scored_streams

__all__ = ["DecisionTopics", "EventScoring", "rescore", "event_scoring", "problems_topic", "scored_streams"]
