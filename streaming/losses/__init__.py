"""Records that topics no longer have and that nobody has read: found, said, accepted, and written down.

In: where queries stand, and what the broker has. Out: gaps, the offsets to go on from, and a record of what is lost.
"""

from streaming.losses.gaps import ARCHIVE, FOLD, SCORES, Gap, TopicLogs
from streaming.losses.pinned_topics import PinnedTopic, PinnedTopics
from streaming.losses.record import (
    ACCEPT,
    accept,
    accepted_line,
    keep_open,
    loss_error,
    loss_lines,
    loss_metrics,
    read_losses,
)
from streaming.losses.topic_watch import Found, TopicWatch

__all__ = [
    "ACCEPT",
    "ARCHIVE",
    "FOLD",
    "Found",
    "Gap",
    "PinnedTopic",
    "PinnedTopics",
    "SCORES",
    "TopicLogs",
    "TopicWatch",
    "accept",
    "accepted_line",
    "keep_open",
    "loss_error",
    "loss_lines",
    "loss_metrics",
    "read_losses",
]
