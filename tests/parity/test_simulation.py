"""The batch step under a simulated driver, checkpoint and store that crash, replay, tear and forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import memory_store
import numpy as np
import pytest
import stories
from memory_store import MemoryHandle, MemoryStore
from stories import MISHAPS, OUTAGE, SHARED_MISHAPS, Story, simulate
from topic import BREAKS

from features.events.parsing import Verdict, with_dead_letters
from features.online_store import batch_step
from features.online_store.batch_step import Batch, BatchStep, BatchWork, Counts
from features.online_store.port import Marker, ViewKeys
from features.rows import folding as state
from streaming.losses import TopicLogs

REGRESSIONS = Path(__file__).with_name("simulation_seeds.txt")
SEEDS_TO_CATCH = 900


def test_no_story_loses_or_doubles_an_event(seed: int) -> None:
    """Whatever happens between effects, rows end as the oracle says and every record is counted once."""
    outcomes = [simulate(seed % 10**6 + number) for number in range(150)]
    assert [(one.seed, one.wrong) for one in outcomes if one.wrong] == []


def test_stories_have_every_mishap_and_really_replay(seed: int) -> None:
    """A simulator in which nothing happens proves nothing."""
    outcomes = [simulate(number) for number in range(40)]
    seen = {name for one in outcomes for name in one.mishaps}
    assert seen == {*MISHAPS, *SHARED_MISHAPS, OUTAGE}
    assert sum(one.replays for one in outcomes) > 10
    assert sum(one.rebuilds for one in outcomes) > 3


@pytest.mark.parametrize("number", [int(line) for line in REGRESSIONS.read_text().split()])
def test_a_seed_that_failed_once_stays_mended(number: int) -> None:
    """Seeds that a run of `make simulate` has failed on."""
    assert simulate(number).wrong == []


class DecidesLate(BatchStep):
    """A planted fault: what was accepted is remembered only after the rows."""

    def run_work(self, batch: Batch, work: BatchWork) -> Counts:
        self._store.begin()
        marker = self._checked(batch)
        decided = {name: self._decided(name, ids, batch) for name, ids in work.ids().items()}
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, marker.done))
        shards = work.fold(decided, self._store, self._key(batch))
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, batch.batch_id), shards)
        self._remember(decided, batch)
        return work.counts(decided)


class PublishesAfterRows(BatchStep):
    """A planted fault: the batch's offsets are published only after its rows."""

    def run_work(self, batch: Batch, work: BatchWork) -> Counts:
        self._store.begin()
        self._checked(batch)
        decided = {name: self._decided(name, ids, batch) for name, ids in work.ids().items()}
        self._remember(decided, batch)
        shards = work.fold(decided, self._store, self._key(batch))
        self._store.publish(Marker(batch.batch_id, batch.start, batch.end, batch.batch_id), shards)
        return work.counts(decided)


class TrustsTheLanes(MemoryHandle):
    """A planted fault: that the rows which others wrote are still there when the batch is done is taken for granted."""

    def publish(self, marker: Marker, shards: Mapping[str, str] | None = None, changed: ViewKeys | None = None) -> None:
        super().publish(marker)


class LetsAnybodyWrite(MemoryHandle):
    """A planted fault: a writer beside others asks nobody whether its driver has been overtaken."""

    def check(self, version: int, shards: Mapping[str, str]) -> None:
        if not shards:
            super().check(version, shards)


def caught(step_type: type[BatchStep]) -> bool:
    """Whether some story shows the fault."""
    return any(simulate(number, step_type).wrong for number in range(SEEDS_TO_CATCH))


def test_a_decision_made_late_is_caught() -> None:
    """Duplicates remembered after the rows: a crash between lets a repetition through."""
    assert caught(DecidesLate)


@pytest.mark.parametrize("handle", [TrustsTheLanes, LetsAnybodyWrite])
def test_rows_that_writers_beside_each_other_lose_or_should_not_write_are_caught(
    handle: type[MemoryHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that forgot an executor's rows must not pass for one that has them, nor an old executor for a new one."""
    monkeypatch.setattr(memory_store, "MemoryHandle", handle)
    assert caught(BatchStep)


def test_offsets_published_after_the_rows_are_caught() -> None:
    """A batch planned anew after a lost plan must meet its marker, not rows that skip it."""
    assert caught(PublishesAfterRows)


def test_a_fence_off_by_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that lets its own batch in again counts a replay twice."""
    monkeypatch.setattr(state, "is_open", lambda written_by, batch_id: written_by <= batch_id)
    assert caught(BatchStep)


def test_stories_have_records_that_the_parser_refuses_and_some_that_no_fold_can_take() -> None:
    """Poison that nobody meets proves nothing."""
    poison = [one["message"] for number in range(40) for one in Story(number).log.records if one["is_poison"]]
    unfoldable = sum(str(BREAKS).encode() in message for message in poison)
    assert 10 < unfoldable < len(poison) - 10


@pytest.mark.parametrize("fault", ["its batch is refused with it", "it is tried for ever"])
def test_poison_that_harms_its_neighbours_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that raises an error must be refused, and it alone."""

    def all_refused(parsed, stream, views):
        valid = np.flatnonzero(parsed.verdicts[parsed.rows] == Verdict.VALID)
        return with_dead_letters(parsed, dict.fromkeys(valid.tolist(), "in bad company"))

    refused = {"its batch is refused with it": all_refused, "it is tried for ever": lambda parsed, *_: parsed}[fault]
    monkeypatch.setattr(stories, "tried", refused)
    assert caught(BatchStep)


def test_a_build_that_takes_what_no_fold_can_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive may have records that an earlier definition could fold."""
    monkeypatch.setattr(batch_step, "can_take", lambda *_: True)
    assert caught(BatchStep)


class RemembersTheRefused(MemoryHandle):
    """A planted fault: the ids that a batch remembered with other verdicts stay."""

    def _before(self, stream: str, batch_id: int) -> list[str]:
        return []


def test_ids_that_refused_records_leave_behind_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record that is sent again, mended, would be a duplicate of one that counts nowhere."""
    monkeypatch.setattr(memory_store, "MemoryHandle", RemembersTheRefused)
    assert caught(BatchStep)


@pytest.mark.parametrize("check", ["check_tables", "_check_lease", "claim"])
def test_a_store_that_trusts_what_it_has_and_who_comes_is_caught(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows would be counted on from nothing; another home would lead, switch or drop what a driver has, or claim it."""
    monkeypatch.setattr(MemoryStore, check, lambda *_, **__: None)
    assert caught(BatchStep)


@pytest.mark.parametrize("fault", ["no loss is found", "one record more is passed over", "one lost record is not said"])
def test_a_loss_that_is_not_accepted_as_it_is_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries would wait for ever, or rows lack what the topic still has, or what is lost be thought to count."""
    honest = TopicLogs.gaps

    def less(logs, query, standing):
        return [replace(gap, end=gap.end - 1) for gap in honest(logs, query, standing)]

    if fault == "no loss is found":
        monkeypatch.setattr(TopicLogs, "gaps", lambda *_: [])
    elif fault == "one lost record is not said":
        monkeypatch.setattr(TopicLogs, "gaps", less)
    else:
        monkeypatch.setattr(
            TopicLogs, "_resumed", lambda logs, name, at: min(max(at, logs.low[name]) + 1, logs.high[name])
        )
    assert caught(BatchStep)


def test_stories_lose_records_before_and_behind_the_fold() -> None:
    """Outages that cost nothing prove nothing."""
    stories_told = [Story(number) for number in range(60)]
    for story in stories_told:
        story.run()
    assert sum(len(story.log.lost) for story in stories_told) > 50


def test_the_same_seed_is_the_same_story() -> None:
    """A printed seed is all that is needed to see a failure again."""
    assert simulate(12) == simulate(12)
