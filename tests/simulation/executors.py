"""A batch on simulated executors: one shard for each share of entities; attempts fail, are repeated, or linger."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from random import Random

import pyarrow as pa

from features.definitions import FeatureView, Stream
from features.errors import LeaseError
from features.events.dedupe import Decision, accepted_events
from features.online_store.batch_step import Batch, OnDriver, write_rows
from features.online_store.port import Store
from features.rows.matrix import BatchKey
from streaming.fold.shares import shares

SHARES, ATTEMPTS = 2, 4

LINGERING_SHARE = 0.3


class Scattered(OnDriver):
    """The work of a batch of one stream and view, done as executors do it."""

    def __init__(self, batch: Batch, view: FeatureView, stream: Stream, rng: Random) -> None:
        super().__init__(batch, [view])
        self._view, self._stream, self._rng = view, stream, rng

    def fold(self, decided: Mapping[str, Decision], store: Store, key: BatchKey) -> Mapping[str, str]:
        name = self._stream.name
        shared = shares(self._view, self._stream, accepted_events(self._valid[name], decided[name]), SHARES)
        return {
            f"v/{share}": self._written(f"v/{share}", {name: events}, store, key) for share, events in shared.items()
        }

    def _written(self, name: str, events: Mapping[str, pa.Table], store: Store, key: BatchKey) -> str:
        """Writes the share's rows in one or more attempts; returns the token of the shard's last write."""
        lingering = store.shard(name) if self._rng.random() < LINGERING_SHARE else None
        token = self._attempted(ATTEMPTS, name, events, store, key)
        if lingering is not None:
            # An attempt that was thought dead writes again; if it succeeds, the end of the batch is refused.
            with suppress(LeaseError):
                write_rows(lingering, self._view, events, key)
        return token

    def _attempted(self, attempts: int, name: str, events: Mapping[str, pa.Table], store: Store, key: BatchKey) -> str:
        shard = store.shard(name)
        try:
            write_rows(shard, self._view, events, key)
        except LeaseError:
            if attempts == 1:
                raise
            return self._attempted(attempts - 1, name, events, store, key)
        return shard.token()
