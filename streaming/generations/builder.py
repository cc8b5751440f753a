"""Makes generations: numbered, described, with rows of all that the archive has."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from features.definitions import FeatureRepo, duration_ms
from features.machine import write_json
from features.online_store import Offsets, Store, evicts
from features.times import now_ms
from streaming.archive import Archive
from streaming.context import StreamContext
from streaming.fold import around_effects
from streaming.generations.checkpoints import Checkpoints, Generation, build_from_archive, new_generation
from streaming.generations.lease import LEASE_S, Lease, owner_of
from streaming.kafka import read_watermarks
from streaming.losses import PinnedTopics
from streaming.supervisor import StoppedError


class Builder:
    """Makes the generations of a project: those that its folds and its archive begin with.

    Args:
        scored: the offsets up to which event models have scored; rows beyond them would hide what is to be scored.
    """

    def __init__(self, context: StreamContext, archive: Archive, scored: Callable[[], Offsets]) -> None:
        self._context = context
        self._options, self._repo, self._rows, self._log = context.options, context.repo, context.rows, context.log
        self._archive = archive
        self._scored = scored
        self.archived = Checkpoints(self._options.home / "checkpoints" / "archive")
        self.folds = Checkpoints(self._options.home / "checkpoints" / "fold")
        self.owner = owner_of(self._options.home)
        self.stop = threading.Event()
        self._lease: Lease | None = None

    def check_eviction(self) -> None:
        """Raise StoreError where the store may drop rows to make room; say where it may drop less, or cannot tell."""
        policy = self._rows.eviction()
        if policy is not None and policy.startswith("allkeys"):
            raise evicts(policy)
        if policy:
            self._log(f"the Redis may drop pending events and sessions (maxmemory-policy {policy})")
        elif policy is not None:
            self._log(
                "the Redis does not say whether it evicts rows (CONFIG GET): it needs maxmemory-policy noeviction"
            )

    def carry_over(self) -> None:
        """Give generations of this home that version 0.1 wrote to a shared store the keys of the project."""
        moved = self._rows.carry_over(self.folds.numbers(), self.owner, LEASE_S)
        if moved:
            self._log(f"the online store had generation {', '.join(map(str, moved))} without a project: carried over")

    def archive_generation(self) -> Generation:
        """The archive's current generation; a new generation starts where the tables end, or a partition begins."""
        generation = self.archived.current()
        if generation is None:
            ends = self._archive.end()
            generation = new_generation({name: ends.get(name, first) for name, first in self._low().items()})
            self.archived.start(generation)
        return generation

    def _low(self) -> Offsets:
        """Our first offset of every partition that the topics have."""
        found = read_watermarks(self._options.bootstrap, self._context.topics(), self._options.client)
        return PinnedTopics.read(self._options.offline).logs(found).low

    def described(self, generation: Generation) -> Generation:
        """The generation with today's definitions, whose rows have the same content."""
        definitions = new_generation(generation.first, self._repo).definitions
        if generation.definitions == definitions:
            return generation
        fresh = Generation(generation.stream_id, generation.first, generation.schemas, definitions)
        Lease(self._rows, fresh.stream_id, self.owner)
        store = self._rows.generation(fresh.stream_id)
        store.begin()
        store.describe(definitions)
        self.folds.write(fresh)
        return fresh

    def store(self, generation: Generation, repo: FeatureRepo) -> Store:
        """The generation's rows, as a driver reads and writes them."""
        horizons = {name: duration_ms(stream.dedupe_horizon) for name, stream in repo.streams.items()}
        store = self._rows.generation(generation.stream_id, horizons)
        return store if self._context.reached is None else around_effects(store, self._context.reached)

    def keep_lease(self) -> None:
        """Renew the lease of the generation that is being built."""
        if self._lease is not None:
            self._lease.keep()

    def built(self, archived: Generation) -> Generation:
        """Build a new generation from the archive: current for the driver, not yet for readers."""
        fold = new_generation(self._end_of(archived), self._repo)
        self._log(f"new generation {fold.stream_id}: making its rows from the archive")
        write_json(self.folds.building, fold.stream_id)
        self._lease = Lease(self._rows, fold.stream_id, self.owner)
        described = self._rows.generation(fold.stream_id)
        described.begin()
        described.describe(fold.definitions)
        store = around_effects(self.store(fold, self._repo), self._unless_stopped)
        build_from_archive(store, self._repo, self._archive, fold, now_ms(), self._options.rows_in_memory)
        self.folds.start(fold)
        self.folds.building.unlink()
        return fold

    def _end_of(self, archived: Generation) -> Offsets:
        """The end of the archive, or the first unscored events that Kafka still has, whichever comes first."""
        committed, low, scored = self.archived.log(archived).standing(), self._low(), self._scored()
        ends = {name: committed.get(name, first) for name, first in low.items()}
        unscored = {name: max(scored[name], low[name]) for name in scored if name in low}
        return {name: min(end, unscored.get(name, end)) for name, end in ends.items()}

    def _unless_stopped(self, _: str) -> None:
        if self.stop.is_set():
            raise StoppedError("the building of a generation")

    def forget_unfinished(self) -> None:
        """Drop what an unfinished build has left."""
        path, current = self.folds.building, self.folds.current()
        if path.exists():
            number = int(json.loads(path.read_text(encoding="utf-8")))
            if current is None or current.stream_id != number:
                self._rows.drop_generation(number, self.owner)
            path.unlink()
