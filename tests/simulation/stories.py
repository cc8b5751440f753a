"""A seeded simulator of the batch step: a driver, its checkpoint and a store, with crashes, replays and lost writes.

BatchStep, Fold, duplicates and rows are the production code; the processes are simulated, and the store is a
dictionary behind the same port. A seed determines a story. At its end the rows must equal the oracle's values, and
every record must be counted exactly once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Protocol

import click
import pyarrow as pa
from checkpoint import Checkpoint
from executors import Scattered
from memory_store import Action, Crash, MemoryStore
from outages import Retention
from topic import KEYS, STREAM, T0, VIEW, breaking_comparison, make_log

from features.checks.oracle import disagreements, oracle
from features.errors import FenceError, LeaseError
from features.events import NOT_OF_A_RECORD
from features.events.parsing import Parsed
from features.online_store.batch_step import Batch, BatchStep, Counts, build_generation
from features.online_store.port import Marker, Offsets, Store
from features.rows import foldable, tried
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows

SCATTERED_SHARE = 0.4


@dataclass
class Outcome:
    """Events of a story, and the errors at its end (``wrong``)."""

    seed: int
    replays: int = 0
    rebuilds: int = 0
    mishaps: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


MISHAP_SHARE = 0.6

MISHAPS = ("none", "crash", "tear", "forget", "crash and forget", "second driver", "lost plan", "new generation")

SHARED_STORIES, SHARED_SHARE = 0.5, 0.4

SHARED_MISHAPS = ("lost rows", "lost ids", "foreign home", "foreign home after a crash")
"""What happens, in half of the stories, to a store that evicts, or that others have too."""

OUTAGE = "outage beyond retention"

HOME, OTHER_HOME, INTRUDER = "ours", "theirs", "a driver of theirs"

OTHER_GENERATION = 1_000_000


class FallibleStore(Protocol):
    """The simulator's port of a store."""

    evicts: bool
    """Whether it may lose tables while it keeps the marker, and notices."""

    def end_leases(self) -> None:
        """The time of every lease, and of the claim's owner, is over."""

    def claim(self, home: str, owner: str, *, take_over: bool = False) -> None:
        """As OnlineStore.claim(); it and the leases last until end_leases()."""

    def take_lease(self, generation: int, owner: str) -> None:
        """As OnlineStore.take_lease(): the next write of the previous driver fails."""

    def set_current(self, generation: int, owner: str) -> None:
        """As OnlineStore.set_current()."""

    def drop(self, generation: int, owner: str) -> None:
        """As OnlineStore.drop_generation()."""

    def evict(self, generation: int, table: str) -> None:
        """Drops all cells of the table ('row' or 'seen')."""

    def lose(self, writes: int) -> None:
        """Crashes and restarts without the last writes."""

    def handle(self, generation: int, before_effect: Action, tear: Callable[[int], int], /) -> Store:
        """A driver's handle; MemoryHandle describes the calls of ``before_effect`` and ``tear``."""


class Story:
    """The story of one seed. ``step_type`` can be a step with a planted fault, ``store`` a real store."""

    def __init__(
        self, seed: int, step_type: type[BatchStep] = BatchStep, size: int = 40, store: FallibleStore | None = None
    ) -> None:
        self.rng = Random(seed)
        self.executors = Random(f"executors {seed}")
        self.step_type = step_type
        self.log = make_log(self.rng, self.rng.randint(size // 2, size), Random(f"poison {seed}"))
        self.retention = Retention(seed, self.log.ends())
        self.spans: list[tuple[Offsets, Offsets]] = []
        self.store: FallibleStore = MemoryStore() if store is None else store
        self.outcome = Outcome(seed)
        self.counted: dict[tuple[int, int], Counts] = {}
        self.generations: list[int] = []
        self.generation = 0
        self.checkpoint = Checkpoint(dict.fromkeys(self.log.ends(), 0))
        self.life = 0
        self.shared, self.drivers = Random(f"shared {seed}"), 0
        self.is_shared = self.shared.random() < SHARED_STORIES
        self._take_store()
        self._build()

    def run(self) -> Outcome:
        """Runs drivers until the log is folded to its end, then checks the result."""
        is_refused = False
        for _ in range(200):
            try:
                if is_refused:
                    self._rebuild()
                    is_refused = False
                self._drive()
                break
            except (Crash, LeaseError):
                continue
            except FenceError:
                is_refused = True
            except Exception as error:  # noqa: BLE001  (the story of another seed goes on)
                self.outcome.wrong.append(f"{type(error).__name__}: {error}")
                return self.outcome
        else:
            self.outcome.wrong.append("the log was never folded to its end")
        self._check()
        return self.outcome

    def _drive(self) -> None:
        """Runs one driver, from its lease until the log ends or a mishap stops it."""
        self._take_store()
        self._settle()
        self._take_leases()
        while self.checkpoint.end() != self.log.ends():
            mishap = self.rng.choice(MISHAPS) if self.rng.random() < MISHAP_SHARE else "none"
            if self.is_shared and mishap == "none" and self.shared.random() < SHARED_SHARE:
                mishap = self.shared.choice(SHARED_MISHAPS)
            if mishap == "none" and self.retention.begins():
                mishap = OUTAGE
            self.outcome.mishaps[mishap] = self.outcome.mishaps.get(mishap, 0) + 1
            if mishap == "new generation":
                self._build(fuse=self.rng.randint(1, 12))
            if mishap == OUTAGE:
                self.retention.outlast(self.checkpoint.end())
                raise Crash
            if mishap == "lost ids":
                self._evict("seen")
            self._batch(self._armed(mishap))
        for generation, handle in zip(self.generations, self._handles(), strict=True):
            self.step_type(handle, [VIEW], generation).check_standing(self.checkpoint.committed)

    @property
    def owner(self) -> str:
        """The driver's name."""
        return f"driver {self.drivers}"

    def _take_store(self) -> None:
        """A new driver claims the store, when the time of the one before is over."""
        self.drivers += 1
        self.store.end_leases()
        self.store.claim(HOME, self.owner)

    def _take_leases(self) -> None:
        for generation in self.generations:
            self.store.take_lease(generation, self.owner)
        self.store.set_current(self.generations[-1], self.owner)

    def _handles(self) -> list[Store]:
        return [self._handle(generation) for generation in self.generations]

    def _handle(self, generation: int) -> Store:
        return self.store.handle(generation, lambda: None, lambda rows: rows)

    def _batch(self, handles: list[Store]) -> None:
        checkpoint = self.checkpoint
        number, start, end = checkpoint.next_plan(self.rng, self.log.ends())
        if not self.retention.has(start):
            raise Crash  # as a query that asks for offsets which are gone
        steps = zip(self.generations, handles, strict=True)
        counts = [
            self._stepped(self.step_type(handle, [VIEW], generation), number, start, end)
            for generation, handle in steps
        ]
        checkpoint.committed = max(checkpoint.committed, number)
        for batch_counts in counts:
            self._count(batch_counts, number)

    def _stepped(self, step: BatchStep, number: int, start: Offsets, end: Offsets) -> Counts:
        """Folds the batch on executors, or on the driver, which tries the records again that raise an error."""

        def batch_of(parsed: Parsed) -> Batch:
            return Batch(number, start, end, {"s": parsed}, T0)

        parsed = self.log.between(start, end)
        if self.executors.random() < SCATTERED_SHARE:
            batch = batch_of(foldable(parsed, STREAM, [VIEW]))
            return step.run_work(batch, Scattered(batch, VIEW, STREAM, self.executors))
        try:
            return step.run(batch_of(parsed))
        except (*NOT_OF_A_RECORD, Crash):
            raise
        except Exception:  # noqa: BLE001  (as of a library that a record makes raise)
            return step.run(batch_of(tried(parsed, STREAM, [VIEW])))

    def _count(self, counts: Counts, number: int) -> None:
        before = self.counted.setdefault((self.life, number), counts)
        if before != counts:
            self.outcome.wrong.append(f"batch {number} counted {before}, then {counts}")

    def _armed(self, mishap: str) -> list[Store]:
        """Handles of all generations; the mishap happens at one of their next effects."""
        burn = self._fuse(self.rng.randint(1, 14), mishap)

        def tear(rows: int) -> int:
            return self.rng.randint(0, rows) if mishap == "tear" else rows

        return [self.store.handle(generation, burn, tear) for generation in self.generations]

    def _fuse(self, effects: int, mishap: str) -> Action:
        """A function that is called before and after every effect; its call number ``effects`` causes the mishap."""
        left = [effects]

        def burn() -> None:
            left[0] -= 1
            if left[0] == 0:
                self._happen(mishap)

        return burn

    def _happen(self, mishap: str) -> None:
        if mishap in ("forget", "crash and forget"):
            self.store.lose(self.rng.randint(1, 6))
        if mishap == "lost plan":
            self.checkpoint.plans.pop(self.checkpoint.committed + 1, None)
        if mishap == "lost rows":
            self._evict("row")
        if mishap.startswith("foreign home"):
            self._meet_foreign_home(after_crash=mishap != "foreign home")
        if mishap == "second driver":
            self._take_store()
            self._take_leases()
            if self.checkpoint.end() != self.log.ends():
                self._batch(self._handles())
        if mishap in ("crash", "crash and forget", "lost plan"):
            self.outcome.replays += 1
            raise Crash

    def _evict(self, table: str) -> None:
        if self.store.evicts:
            self.store.evict(self.shared.choice(self.generations), table)

    def _meet_foreign_home(self, *, after_crash: bool) -> None:
        """Another home tries to have the store, while the driver lives (its claim and leases are kept) or is gone."""
        self.store.claim(HOME, self.owner)
        self._take_leases()
        tries: dict[str, Callable[[], None]] = {"claim": lambda: self.store.claim(OTHER_HOME, INTRUDER)}
        if after_crash:
            self.store.end_leases()
        else:
            generation = self.shared.choice(self.generations)
            tries |= {
                "take over": lambda: self.store.claim(OTHER_HOME, INTRUDER, take_over=True),
                "lead": lambda: self.store.take_lease(generation, INTRUDER),
                "switch": lambda: self.store.set_current(OTHER_GENERATION, INTRUDER),
                "drop": lambda: self.store.drop(generation, INTRUDER),
            }
        for name, attempt in tries.items():
            try:
                attempt()
            except LeaseError:
                continue
            self.outcome.wrong.append(f"another home could {name}")
        if after_crash:
            self.outcome.replays += 1
            raise Crash

    def _build(self, fuse: int = 0) -> None:
        """Builds a generation from the archive up to the committed offsets; keeps it and the newest one before it.

        The number of a build that crashed is not used again.
        """
        generation = self.generation = self.generation + 1
        handle = self.store.handle(generation, self._fuse(fuse, "crash"), lambda rows: rows)
        end = self.checkpoint.end()
        self.retention.archived(end)
        archive = self.log.archived(dict.fromkeys(end, 0), end)
        at = Marker(self.checkpoint.committed, end, end, self.checkpoint.committed)
        build_generation(handle, [VIEW], generation, {"s": archive}, at, T0)
        self.store.take_lease(generation, self.owner)
        self.store.set_current(generation, self.owner)
        self.generations = [*self.generations[-1:], generation]

    def _settle(self) -> None:
        """Accepts what the topic has lost; if archive or rows cannot read on, rows are made again from the archive."""
        accepted = self.retention.accept(self.checkpoint.end())
        if accepted is not None:
            passed_over = self.log.passed_over | accepted.passed_over
            self.log = replace(self.log, lost=self.log.lost | accepted.lost, passed_over=passed_over)
            self._begin_again(accepted.rows)

    def _rebuild(self) -> None:
        """Follows the refusal's next step for an operator: a new generation, and a new checkpoint from its end."""
        self.outcome.rebuilds += 1
        self._take_store()
        self._begin_again(self.checkpoint.end())

    def _begin_again(self, start: Offsets) -> None:
        self.spans.append((self.checkpoint.start, self.checkpoint.end()))
        self.checkpoint = Checkpoint(start)
        self.life += 1
        self.generations = []
        self._build()

    def _check(self) -> None:
        """Checks that every row equals the oracle's values and every record was counted once, by its verdict."""
        as_of, events = self.log.clock, self.log.valid()
        expected = [oracle(VIEW, {"key": key}, as_of, {"s": events}) for key in KEYS]
        keys = pa.array(KEYS)
        for generation in self.generations:
            rows = PackedRows(keys, self._handle(generation).rows("v", keys))
            features = finalize(VIEW, rows, as_of, generation)
            self.outcome.wrong += [
                f"generation {generation}: {difference}" for difference in disagreements(VIEW, expected, features)
            ]
        self._check_counts()

    def _check_counts(self) -> None:
        committed = list(self.counted.values())
        folded, duplicate, late, dead_letter = (
            sum(getattr(counts, name) for counts in committed)
            for name in ("folded", "duplicate", "late", "dead_letter")
        )
        counted = [folded + duplicate, late, dead_letter]
        spans = [*self.spans, (self.checkpoint.start, self.checkpoint.end())]
        expected = [sum(of_verdict) for of_verdict in zip(*(self.log.counts(*span) for span in spans), strict=True)]
        if counted != expected:
            self.outcome.wrong.append(f"counted {counted} valid, late and refused records instead of {expected}")


def simulate(seed: int, step_type: type[BatchStep] = BatchStep, store: FallibleStore | None = None) -> Outcome:
    """The story of one seed."""
    with breaking_comparison():
        return Story(seed, step_type, store=store).run()


def failures(seeds: Sequence[int]) -> list[Outcome]:
    """Outcomes of these seeds that have errors."""
    return [outcome for outcome in map(simulate, seeds) if outcome.wrong]


@click.command()
@click.option("--seeds", default=10_000, show_default=True, help="Number of stories.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--processes", default=2, show_default=True, help="Number of processes.")
@click.option("--keep", type=click.Path(dir_okay=False, path_type=Path), help="File to add failing seeds to.")
def main(seeds: int, first: int, processes: int, keep: Path | None) -> None:
    """Run many stories; print the seeds that fail, add them to the file of --keep, and exit with 1 if there are any."""
    started = time.monotonic()
    parts = [range(start, min(start + 100, first + seeds)) for start in range(first, first + seeds, 100)]
    wrong: list[Outcome] = []
    with ProcessPoolExecutor(processes) as pool:
        for done, outcomes in enumerate(pool.map(failures, parts), start=1):
            wrong += outcomes
            if done % 10 == 0:
                click.echo(f"{100 * done:,} of {seeds:,} seeds, {len(wrong)} failed", err=True)
    for outcome in wrong:
        click.echo(f"seed {outcome.seed}: {outcome.wrong[0]}")
    if keep and wrong:
        with keep.open("a") as file:
            file.writelines(f"{outcome.seed}\n" for outcome in wrong)
    click.echo(f"{seeds:,} seeds, {len(wrong)} failed, {time.monotonic() - started:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
