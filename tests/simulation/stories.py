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
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

import click
import numpy as np
import pyarrow as pa
from executors import Scattered
from memory_store import Action, Crash, MemoryStore

from features.checks.oracle import disagreements, oracle
from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count, LastK, Sum
from features.definitions.windows import Window
from features.errors import FenceError, LeaseError
from features.events.parsing import Parsed, Verdict, from_columns
from features.online_store.batch_step import Batch, BatchStep, Counts, build_generation
from features.online_store.port import Marker, Offsets, Store
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows

REPEATED_SHARE = 0.2

SCATTERED_SHARE = 0.4

T0 = 1_700_000_000_000

KEYS = ("a", "b", "c")

STREAM = Stream("s", topic="t", fields={"key": "string", "label": "string", "value": "int64"}, dedupe_horizon="30s")

VIEW = FeatureView(
    "v",
    sets=[
        FeatureSet(
            Entity("e", keys={"key": "string"}),
            STREAM,
            [Count(), Sum("value"), LastK("label", 2)],
            [Window("10s", tile="1s"), Window("1m", tile="5s")],
            name="all",
        )
    ],
)


@dataclass(frozen=True)
class Log:
    """The records of a topic of two partitions, and their verdicts."""

    records: list[dict[str, Any]]
    parsed: Parsed

    @property
    def clock(self) -> int:
        """``known_at`` of the last record."""
        return int(max(record["known_at"] for record in self.records))

    def between(self, start: Offsets, end: Offsets) -> Parsed:
        """The records between these offsets, as a batch gets them."""
        chosen = [
            index
            for index, record in enumerate(self.records)
            if start[f"t/{record['partition']}"] <= record["offset"] < end[f"t/{record['partition']}"]
        ]
        rows = np.array(chosen, dtype=np.int64)
        events = np.flatnonzero(np.isin(self.parsed.rows, rows))
        return Parsed(
            self.parsed.events.take(pa.array(events)),
            np.searchsorted(rows, self.parsed.rows[events]),
            self.parsed.verdicts[rows],
            self.parsed.reasons.take(pa.array(rows)),
        )

    def ends(self) -> Offsets:
        """The end offset of each partition."""
        return {f"t/{p}": sum(record["partition"] == p for record in self.records) for p in (0, 1)}


def make_log(rng: Random, size: int) -> Log:
    """Records in the order of ``known_at``; some are repeated, late or in the future."""
    now, offsets = T0, [0, 0]
    records: list[dict[str, Any]] = []
    for number in range(size):
        now += rng.choice([0, 1, 300, 2_000, 9_000])
        repeated = rng.choice(records) if records and rng.random() < REPEATED_SHARE else None
        key = repeated["key"] if repeated else rng.choice(KEYS)
        partition = KEYS.index(key) % 2
        ago = rng.choice([0, 0, 1, 1_000, 7_000, 59_000, 70_000, -4_000, -400_000])
        records.append(
            {
                "event_id": repeated["event_id"] if repeated else f"id{number}",
                "event_time": now - ago,
                "known_at": now,
                "key": key,
                "label": rng.choice(["x", "y", "z", None]),
                "value": rng.randint(-5, 5),
                "partition": partition,
                "offset": offsets[partition],
            }
        )
        offsets[partition] += 1
    return Log(records, from_columns(pa.Table.from_pylist(records), STREAM, VIEW.horizon_ms))


@dataclass
class Checkpoint:
    """Spark's checkpoint: the offsets planned for each batch, and the last batch that was committed."""

    start: Offsets
    committed: int = -1
    plans: dict[int, Offsets] = field(default_factory=dict)

    def end(self) -> Offsets:
        """End offsets of the committed batches."""
        return self.plans.get(self.committed, self.start)

    def next_plan(self, rng: Random, ends: Offsets) -> tuple[int, Offsets, Offsets]:
        """(number, start, end) of the next batch: the plan from before a crash, or a new one."""
        number, start = self.committed + 1, self.end()
        if number not in self.plans:
            self.plans[number] = {p: min(ends[p], start[p] + rng.randint(0, 12)) for p in ends}
        return number, start, self.plans[number]


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


class FallibleStore(Protocol):
    """The simulator's port of a store."""

    def take_lease(self, generation: int) -> None:
        """Increments the generation's version, so that the next write of the previous driver fails."""

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
        self.log = make_log(self.rng, self.rng.randint(size // 2, size))
        self.store: FallibleStore = MemoryStore() if store is None else store
        self.outcome = Outcome(seed)
        self.counted: dict[tuple[int, int], Counts] = {}
        self.generations: list[int] = []
        self.generation = 0
        self.checkpoint = Checkpoint(dict.fromkeys(self.log.ends(), 0))
        self.life = 0
        self._build()

    def run(self) -> Outcome:
        """Runs drivers until the log is folded to its end, then checks the result."""
        for _ in range(200):
            try:
                self._drive()
                break
            except (Crash, LeaseError):
                continue
            except FenceError:
                self._rebuild()
        else:
            self.outcome.wrong.append("the log was never folded to its end")
        self._check()
        return self.outcome

    def _drive(self) -> None:
        """Runs one driver, from its lease until the log ends or a mishap stops it."""
        self._take_leases()
        while self.checkpoint.end() != self.log.ends():
            mishap = self.rng.choice(MISHAPS) if self.rng.random() < MISHAP_SHARE else "none"
            self.outcome.mishaps[mishap] = self.outcome.mishaps.get(mishap, 0) + 1
            if mishap == "new generation":
                self._build(fuse=self.rng.randint(1, 12))
            self._batch(self._armed(mishap))
        for generation, handle in zip(self.generations, self._handles(), strict=True):
            self.step_type(handle, [VIEW], generation).check_standing(self.checkpoint.committed)

    def _take_leases(self) -> None:
        for generation in self.generations:
            self.store.take_lease(generation)

    def _handles(self) -> list[Store]:
        return [self._handle(generation) for generation in self.generations]

    def _handle(self, generation: int) -> Store:
        return self.store.handle(generation, lambda: None, lambda rows: rows)

    def _batch(self, handles: list[Store]) -> None:
        checkpoint = self.checkpoint
        number, start, end = checkpoint.next_plan(self.rng, self.log.ends())
        batch = Batch(number, start, end, {"s": self.log.between(start, end)}, T0)
        steps = zip(self.generations, handles, strict=True)
        counts = [self._stepped(self.step_type(handle, [VIEW], generation), batch) for generation, handle in steps]
        checkpoint.committed = max(checkpoint.committed, number)
        for batch_counts in counts:
            self._count(batch_counts, number)

    def _stepped(self, step: BatchStep, batch: Batch) -> Counts:
        """Folds the batch on the driver or on executors."""
        if self.executors.random() < SCATTERED_SHARE:
            return step.run_work(batch, Scattered(batch, VIEW, STREAM, self.executors))
        return step.run(batch)

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
        if mishap == "second driver":
            self._take_leases()
            if self.checkpoint.end() != self.log.ends():
                self._batch(self._handles())
        if mishap in ("crash", "crash and forget", "lost plan"):
            self.outcome.replays += 1
            raise Crash

    def _build(self, fuse: int = 0) -> None:
        """Builds a generation from the archive up to the committed offsets; keeps it and the newest one before it.

        The number of a build that crashed is not used again.
        """
        generation = self.generation = self.generation + 1
        handle = self.store.handle(generation, self._fuse(fuse, "crash"), lambda rows: rows)
        end = self.checkpoint.end()
        archive = self.log.between(dict.fromkeys(end, 0), end)
        valid = archive.events.filter(pa.array(archive.verdicts[archive.rows] == Verdict.VALID))
        at = Marker(self.checkpoint.committed, end, end, self.checkpoint.committed)
        build_generation(handle, [VIEW], generation, {"s": valid}, at, T0)
        self.generations = [*self.generations[-1:], generation]

    def _rebuild(self) -> None:
        """Follows the refusal's next step for an operator: a new generation, and a new checkpoint from its end."""
        self.outcome.rebuilds += 1
        self.checkpoint = Checkpoint(self.checkpoint.end())
        self.life += 1
        self.generations = []
        self._build()

    def _check(self) -> None:
        """Checks that every row equals the oracle's values and every record was counted once, by its verdict."""
        as_of = self.log.clock
        events = [
            record
            for record, verdict in zip(self.log.records, self.log.parsed.verdicts, strict=True)
            if verdict == Verdict.VALID
        ]
        expected = [oracle(VIEW, {"key": key}, as_of, {"s": events}) for key in KEYS]
        keys = pa.array(KEYS)
        for generation in self.generations:
            rows = PackedRows(keys, self._handle(generation).rows("v", keys))
            features = finalize(VIEW, rows, as_of, generation)
            self.outcome.wrong += [
                f"generation {generation}: {difference}" for difference in disagreements(VIEW, expected, features)
            ]
        self._check_counts(len(events))

    def _check_counts(self, valid: int) -> None:
        committed = list(self.counted.values())
        totals = [
            sum(getattr(counts, name) for counts in committed)
            for name in ("folded", "duplicate", "late", "dead_letter")
        ]
        if sum(totals) != len(self.log.records) or totals[0] + totals[1] != valid:
            self.outcome.wrong.append(f"counted {totals} of {len(self.log.records)} records, {valid} of them valid")


def simulate(seed: int, step_type: type[BatchStep] = BatchStep, store: FallibleStore | None = None) -> Outcome:
    """The story of one seed."""
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
