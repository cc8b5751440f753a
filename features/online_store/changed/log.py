"""The log of a view's changes in a generation: one small cell, replaced with the marker when a batch is done."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MOST_BATCHES, MOST_KEYS = 128, 8_192
"""Batches and keys in a log; those of before are left out."""


def log_cell(view: str) -> str:
    """The cell of STATE with the view's log."""
    return f"changed/{view}"


class ChangeLog(msgspec.Struct, frozen=True):
    """The keys of the rows that each batch after ``since`` changed, oldest first."""

    since: int
    batches: tuple[tuple[int, tuple[str, ...]], ...] = ()

    def with_batch(self, batch_id: int, keys: Sequence[str] | None) -> ChangeLog:
        """The log with this batch, which replaces it if it is there; None for keys that nobody knows."""
        if keys is None or len(keys) > MOST_KEYS:
            return ChangeLog(batch_id)
        batches = [batch for batch in self.batches if batch[0] < batch_id]
        batches += [(batch_id, tuple(keys))] if keys else []
        since, total = self.since, sum(len(of_batch) for _, of_batch in batches)
        while len(batches) > MOST_BATCHES or total > MOST_KEYS:
            since, dropped = batches.pop(0)
            total -= len(dropped)
        return ChangeLog(since, tuple(batches))

    def after(self, batch_id: int) -> list[str] | None:
        """The keys that batches after this one changed, each once; None where the log does not go back so far."""
        if batch_id < self.since:
            return None
        return list(dict.fromkeys(key for batch, keys in self.batches if batch > batch_id for key in keys))

    def encoded(self) -> bytes:
        """The bytes of the cell."""
        return msgspec.json.encode(self)


def decoded(value: bytes | None) -> ChangeLog | None:
    """The log in a cell; None for an empty one, and for a form that this version does not know."""
    try:
        return None if value is None else msgspec.json.decode(value, type=ChangeLog)
    except msgspec.DecodeError:
        return None
