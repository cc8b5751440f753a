"""Epochs of a topic: offsets that stay different when a topic is made anew, or loses its end.

The broker numbers the records of such a topic from an offset that other records had before. Ours are the broker's plus
the start of the topic's epoch, so that rows, archive, memory of ids and decisions never take one record for another.
In the first epoch, which hardly any topic leaves, both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping

OFFSETS_AN_EPOCH = 1 << 44
"""More than a partition ever has: 17 million million. A sequence (events/columns.py) has room for 128 epochs."""

EPOCHS = 128


def topic_of(name: str) -> str:
    """The topic of 'topic/partition'."""
    return name.rpartition("/")[0]


def epoch_of(offset: int) -> int:
    """The epoch that one of our offsets is in, from 0."""
    return offset // OFFSETS_AN_EPOCH


def epoch_start(offset: int) -> int:
    """The first of our offsets in the same epoch."""
    return offset - offset % OFFSETS_AN_EPOCH


def broker_offsets(offsets: Mapping[str, int]) -> dict[str, int]:
    """Our offsets as the broker numbers them."""
    return {name: offset % OFFSETS_AN_EPOCH for name, offset in offsets.items()}


def epoch_starts(offsets: Mapping[str, int]) -> dict[str, int]:
    """Topic → the start of the latest epoch that offsets of its partitions are in."""
    starts: dict[str, int] = {}
    for name, offset in offsets.items():
        topic = topic_of(name)
        starts[topic] = max(epoch_start(offset), starts.get(topic, 0))
    return starts


def our_offsets(offsets: Mapping[str, int], starts: Mapping[str, int]) -> dict[str, int]:
    """The broker's offsets as ours, by the start of each topic's epoch."""
    return {name: offset + starts.get(topic_of(name), 0) for name, offset in offsets.items()}
