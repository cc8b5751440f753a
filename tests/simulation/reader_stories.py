"""Readers in the simulator's stories: every read counts each accepted event once, or says that it cannot.

The driver of a story runs in a thread that stops before and after each of its effects; the steps of reads run in
between, so a read may begin before a batch and end after it. Only one of the two runs at a time, so a seed gives the
same story here too. All records of the topic are pending from the start, as if one service had accepted them all. So
nothing is lost here by retention: whether a pending event counts would depend on when it is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
from memory_store import Action, MemoryStore
from stories import Outcome, Story
from topic import KEYS, STREAM, VIEW, breaking_comparison

from features.checks.oracle import disagreements, oracle
from features.definitions.repo import FeatureRepo
from features.errors import StoreError
from features.online_store.batch_step import BatchStep
from features.online_store.pending import RowsWithPending, done_end
from features.online_store.port import Offsets, Pending, PendingEvent, ReadableStore, Store
from features.online_store.reader import FeatureReader

REPO = FeatureRepo(path=Path(), entities={}, streams={"s": STREAM}, views={"v": VIEW})

READ_SHARE, STEP_SHARE = 0.25, 0.5


class Turns:
    """Work in a thread that runs from one pause to the next, each time ``step`` is called."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=[work], daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        self._go.acquire()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  (raised again by step)
            self._error = error
        finally:
            self._ended = True
            self._stopped.release()

    def pause(self) -> None:
        """Called by the work: waits for the next ``step``."""
        self._stopped.release()
        self._go.acquire()

    def step(self) -> bool:
        """Runs the work to its next pause; False if it has ended."""
        if not self._ended:
            self._go.release()
            self._stopped.acquire()
        if self._error is not None:
            raise self._error
        return not self._ended


@dataclass
class PendingInMemory(Pending):
    """The pending events of a story; ``between`` is called before each step of a read."""

    entries: dict[tuple[str, int], PendingEvent] = field(default_factory=dict)
    between: Action = lambda: None

    def put(self, entries: Sequence[PendingEvent], ttl_ms: int = 0) -> int:
        """Adds the entries; they do not expire, and there is always room."""
        self.entries |= {(entry.topic_partition, entry.offset): entry for entry in entries}
        return 0

    def size(self) -> tuple[int, int]:
        return len(self.entries), sum(len(entry.value) for entry in self.entries.values())

    def of(self, view: str, keys: Sequence[str]) -> list[PendingEvent]:
        self.between()
        return [entry for entry in self.entries.values() if entry.key in keys]

    def prune(self, ends: Offsets) -> None:
        self.entries = {
            key: entry for key, entry in self.entries.items() if entry.offset >= ends.get(entry.topic_partition, 0)
        }

    def add_to_session(self, session: str, items: Sequence[str], ttl_ms: int) -> None:
        """Stories have no sessions."""

    def session(self, session: str) -> tuple[str, ...]:
        return ()


class StoryRows(ReadableStore):
    """The story's store behind the port of readers."""

    def __init__(self, story: ReadStory) -> None:
        self._story = story

    def current(self, view: str) -> int | None:
        self._story.pending.between()
        return self._story.current

    def generation(self, stream_id: int, horizons_ms: Any = None) -> Store:
        self._story.pending.between()
        return self._story.store.handle(stream_id, self._story.pending.between, lambda rows: rows)

    def definitions(self, view: str, schema_hash: int) -> str | None:
        """Stories have one definition."""

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        self._story.pending.between()
        current = self._story.current
        if current is None:
            return pa.nulls(len(keys), pa.binary()), None
        self._story.lossy.check_readable(current, "row")
        return self._story.store.handle(current, lambda: None, lambda rows: rows).rows(view, keys), current

    def pending(self) -> Pending:
        return self._story.pending

    def keys(self, view: str) -> pa.Array:
        raise NotImplementedError

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        raise NotImplementedError

    def close(self) -> None:
        """Stories have no connections."""


class ForgetfulStore(MemoryStore):
    """A store that calls ``lost`` after it has lost its last writes: the service still has its events."""

    lost: Callable[[], object] = staticmethod(lambda: None)
    losses: int = 0

    def lose(self, writes: int) -> None:
        super().lose(writes)
        self.losses += 1
        self.lost()


class ReadStory(Story):
    """A story with a reader. All events were accepted before it begins, so every read must give the same values."""

    def __init__(self, seed: int, rows_type: type[RowsWithPending] = RowsWithPending) -> None:
        self.pending, self.turns = PendingInMemory(), None
        self.reads = 0
        self.within = 0
        self.refused = 0
        self.current: int | None = None
        self._reading = Random(f"reads of {seed}")
        self.lossy = store = ForgetfulStore()
        super().__init__(seed, BatchStep, store=store)
        self.retention.has_outages = False
        self.current = self.generations[-1]
        self.pending.put([_entry(record) for record in self.log.records])
        store.lost = lambda: self.pending.put([_entry(record) for record in self.log.records])
        self._reader = FeatureReader(rows_type(StoryRows(self), self.pending, REPO), REPO)
        as_of = self.log.clock
        self._expected = [oracle(VIEW, {"key": key}, as_of, {"s": self.log.valid()}) for key in KEYS]

    turns: Turns | None

    def run(self) -> Outcome:
        """Runs the driver's story with reads between its effects."""
        self.turns = Turns(super().run)
        while self.turns.step():
            if self._reading.random() < READ_SHARE and self.current is not None:
                self._read()
        return self.outcome

    def _read(self) -> None:
        """Makes one read, during which the driver may have some effects."""
        left = self._reading.choice([0, 0, 1, 3, 12])

        def between() -> None:
            nonlocal left
            if left and self._reading.random() < STEP_SHARE and self.turns is not None:
                left -= 1
                self.within += 1
                self.turns.step()

        self.pending.between = between
        losses = self.lossy.losses
        try:
            features = self._reader.read("v", pa.array(KEYS), self.log.clock)
        except StoreError:
            self.refused += 1
            return
        finally:
            self.pending.between = lambda: None
        if features.without_pending:  # as the ids are lost that tell repetitions; and it says so
            self.refused += 1
            return
        # After a loss, this read has pending events of later batches than the rows; the next is right again.
        # A store that has lost the whole generation has no values until a rebuild.
        if self.lossy.losses != losses or self.current is None or self._handle(self.current).marker() is None:
            return
        self.reads += 1
        wrong = disagreements(VIEW, self._expected, features)
        self.outcome.wrong += [f"read {self.reads}: {difference}" for difference in wrong]

    # --- pauses of the driver ---

    def _fuse(self, effects: int, mishap: str) -> Action:
        burn = super()._fuse(effects, mishap)

        def stopping() -> None:
            if self.turns is not None:
                self.turns.pause()
            burn()

        return stopping

    def _batch(self, handles: list[Store]) -> None:
        """Folds the batch; then prunes the pending events that the newest generation contains."""
        super()._batch(handles)
        if self.generations:
            self.current = self.generations[-1]
            marker = self._handle(self.current).marker()
            self.pending.prune({} if marker is None else done_end(marker))

    def _rebuild(self) -> None:
        """Rebuilds; readers use the old generation until the new one is complete."""
        super()._rebuild()
        self.current = self.generations[-1]


def _entry(record: dict[str, Any]) -> PendingEvent:
    place = f"t/{record['partition']}"
    return PendingEvent("v", record["key"], place, record["offset"], record["known_at"], record["message"])


def simulate_reads(seed: int, rows_type: type[RowsWithPending] = RowsWithPending) -> Outcome:
    """The story of one seed, with readers in it."""
    with breaking_comparison():
        return ReadStory(seed, rows_type).run()
