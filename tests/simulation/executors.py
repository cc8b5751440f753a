"""A batch on simulated executors: each share's rows in a shard, by attempts that fail and are made again, or linger."""

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
    """The work of a batch of one stream and view, as executors do it."""

    def __init__(self, batch: Batch, view: FeatureView, stream: Stream, rng: Random) -> None:
        super().__init__(batch, [view])
        self._view, self._stream, self._rng = view, stream, rng

    def fold(self, decided: Mapping[str, Decision], store: Store, key: BatchKey) -> Mapping[str, str]:
        name = self._stream.name
        shared = shares(self._view, self._stream, accepted_events(self._valid[name], decided[name]), SHARES)
        return {f"v/{share}": self._written(f"v/{share}", {name: some}, store, key) for share, some in shared.items()}

    def _written(self, name: str, events: Mapping[str, pa.Table], store: Store, key: BatchKey) -> str:
        """The token of the shard's last write when an attempt has written the share's rows."""
        lingering = store.shard(name) if self._rng.random() < LINGERING_SHARE else None
        token = self._attempted(ATTEMPTS, name, events, store, key)
        if lingering is not None:
            # It was thought dead. What it wrote behind the other's back would be refused at the batch's end.
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
