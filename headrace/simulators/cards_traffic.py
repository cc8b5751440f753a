"""Simulated card payments as messages for the topics of the streams, with the times when they are due."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping

from features.definitions import FeatureRepo, Stream
from features.errors import UsageError
from features.events.avro import SchemaRegistry
from headrace.simulators.cards import Block, CardSimulator, Payments
from streaming.replay import TimedMessages, in_time_order

PAYMENTS, LABELS = "transactions", "fraud_labels"

CASH = "atm"
"""Suffix of the topic that takes cash machines' payments, where the stream has one; all others go to its first."""


def streams_of(repo: FeatureRepo) -> dict[str, Stream]:
    """Streams of 'atm' and 'online' payments and 'fraud_labels'. Raises UsageError where the repo has none."""
    missing = [name for name in (PAYMENTS, LABELS) if name not in repo.streams]
    if missing:
        got = ", ".join(repo.streams) or "no streams"
        raise UsageError(f"feature repo '{repo.path}'", f"streams '{PAYMENTS}' and '{LABELS}' for card payments", got)
    parts = repo.streams[PAYMENTS].parts
    cash = next((part for part in parts if part.topic.endswith(CASH)), parts[0])
    return {"atm": cash, "online": parts[0], "fraud_labels": repo.streams[LABELS]}


class Past:
    """The days before an instant as batches to send, and the frauds that are not known by then.

    Args:
        until_ms: the instant.
        registry: numbers the Avro messages' schemas.
    """

    def __init__(
        self,
        simulator: CardSimulator,
        streams: Mapping[str, Stream],
        days: float,
        until_ms: int,
        registry: SchemaRegistry | None = None,
    ) -> None:
        self._simulator, self._streams, self._days, self._until_ms = simulator, streams, days, until_ms
        self._registry = registry
        self.unknown: Payments | None = None

    def batches(self) -> Iterator[TimedMessages]:
        """All of it in order, with the times when it became known; ``unknown`` is there when it ends."""
        if self._days > 0:
            self.unknown = yield from self._days_before()

    def _days_before(self) -> Generator[TimedMessages, None, Payments]:
        blocks = self._simulator.history(self._days, self._until_ms)
        while True:
            try:
                block = next(blocks)
            except StopIteration as stopped:
                unknown: Payments = stopped.value
                return unknown
            yield from in_time_order(iter(block.items()), self._streams, 0, self._registry)


def live(
    blocks: Iterable[Block], streams: Mapping[str, Stream], registry: SchemaRegistry | None = None
) -> Iterator[TimedMessages]:
    """Batches of what becomes known, in order, as it does; the broker sets the times."""
    for block in blocks:
        yield from in_time_order(iter(block.items()), streams, None, registry)
