"""What was accepted counts once in every read, whatever the driver does between the read's own steps."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from memory_store import MemoryStore
from reader_stories import ReadStory, simulate_reads

from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream
from features.definitions.repo import FeatureRepo
from features.events.parsing import Records, parse
from features.online_store import pending
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.pending import FoldedUpTo, RowsWithPending
from features.online_store.port import ForwardedStore, Marker, PendingEvent
from features.online_store.reader import FeatureReader
from features.online_store.sqlite.rows import SqliteRows

SEEDS_TO_CATCH = 150

T0 = 1_700_000_000_000


def test_every_read_counts_what_was_accepted_once(seed: int) -> None:
    """Reads that begin before a batch, a crash, a loss or a rebuild, and end behind it, among them."""
    outcomes = [simulate_reads(seed % 10**6 + number) for number in range(60)]
    assert [(one.seed, one.wrong) for one in outcomes if one.wrong] == []


def test_stories_have_reads_and_effects_of_the_driver_within_them() -> None:
    """A reader to whom nothing happens proves nothing."""
    stories = [ReadStory(number) for number in range(20)]
    for story in stories:
        story.run()
    assert sum(story.reads for story in stories) > 60
    assert sum(story.within for story in stories) > 30
    assert sum(story.refused for story in stories) > 2
    assert sum(story.outcome.replays for story in stories) > 5


def caught(rows_type: type[RowsWithPending] = RowsWithPending) -> bool:
    """Whether some story shows the fault."""
    return any(simulate_reads(number, rows_type).wrong for number in range(SEEDS_TO_CATCH))


TOPIC = "t/0"
USER = Entity("user", {"user": "string"})
SHOP = Stream("shop", topic="t", fields={"user": "string"})
CLICKS = FeatureView("clicks", sets=[FeatureSet(USER, SHOP, [Count()], ["1h"])])
ACCEPTED = [{"event_id": f"e{number}", "event_time": T0 + number, "user": "ann"} for number in range(6)]


class Behind(ForwardedStore):
    """Rows that are read only after the driver has folded some batches more, of an event each."""

    def __init__(self, rows: SqliteRows, batches: int) -> None:
        super().__init__(rows)
        self._step, self._left, self.folded = BatchStep(rows.generation(1), [CLICKS], 1), batches, 0

    def fold(self) -> None:
        at, value = self.folded, json.dumps(ACCEPTED[self.folded]).encode()
        records = Records(pa.array([value]), *(np.array([number]) for number in (T0 + at, 0, at)))
        batch = Batch(at, {TOPIC: at}, {TOPIC: at + 1}, {"shop": parse(records, SHOP)}, T0)
        assert self._step.run(batch).folded == 1
        self.folded += 1

    def read(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> tuple[pa.Array, int | None]:
        for _ in range(self._left):
            self.fold()
        self._left = 0
        return super().read(view, keys, schema_hash)


@pytest.mark.parametrize("batches", [0, 1, 2, 3])
def test_a_row_that_is_ahead_of_the_marker_that_was_read_is_read_again(tmp_path: Path, batches: int) -> None:
    """The driver folds some of the pending events after their reader has the marker, and before it has the row."""
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        generation = rows.generation(1)
        generation.begin()
        generation.publish(Marker(-1, {TOPIC: 0}, {TOPIC: 0}, -1))
        rows.set_current(CLICKS.name, 1)
        behind = Behind(rows, batches)
        behind.fold()
        behind.fold()
        values = [json.dumps(event).encode() for event in ACCEPTED]
        entries = [PendingEvent(CLICKS.name, "ann", TOPIC, at, T0 + at, value) for at, value in enumerate(values)]
        rows.pending().put(entries, 60_000)
        repo = FeatureRepo(Path(), {"user": USER}, {"shop": SHOP}, {CLICKS.name: CLICKS})
        reader = FeatureReader(RowsWithPending(behind, rows.pending(), repo), repo)
        assert reader.read(CLICKS.name, pa.array(["ann", "bob"]), T0 + 60).columns[0].to_pylist() == [6, None]
        assert behind.folded == 2 + batches


def test_a_repetition_that_a_whole_batch_has_decided_about_is_not_decided_again(tmp_path: Path) -> None:
    """Bob's record has the id of Ann's, in the same batch: it is in no row, and its entry is still there."""
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        generation = rows.generation(1)
        generation.begin()
        generation.publish(Marker(-1, {TOPIC: 0}, {TOPIC: 0}, -1))
        rows.set_current(CLICKS.name, 1)
        values = [json.dumps(ACCEPTED[0] | {"user": user}).encode() for user in ("ann", "bob")]
        records = Records(pa.array(values), np.array([T0, T0]), np.array([0, 0]), np.array([0, 1]))
        batch = Batch(0, {TOPIC: 0}, {TOPIC: 2}, {"shop": parse(records, SHOP)}, T0)
        counts = BatchStep(generation, [CLICKS], 1).run(batch)
        assert (counts.folded, counts.duplicate) == (1, 1)
        users = enumerate(zip(("ann", "bob"), values, strict=True))
        rows.pending().put(
            [PendingEvent(CLICKS.name, user, TOPIC, at, T0, value) for at, (user, value) in users], 60_000
        )
        repo = FeatureRepo(Path(), {"user": USER}, {"shop": SHOP}, {CLICKS.name: CLICKS})
        reader = FeatureReader(RowsWithPending(rows, rows.pending(), repo), repo)
        assert reader.read(CLICKS.name, pa.array(["ann", "bob"]), T0 + 60).columns[0].to_pylist() == [1, None]


class RowsFirst(RowsWithPending):
    """A planted fault: the rows are read before what is pending and how far they go."""

    def read_rows(self, view: str, keys: pa.Array, schema_hash: int | None = None) -> pending.ReadRows:
        values, stream_id = self._rows.read(view, keys, schema_hash)
        entries = self._pending.of(view, keys.to_pylist())
        current = self._rows.current(view)
        if not entries or current is None or stream_id != current:
            return pending.ReadRows(values, stream_id)
        store = self._rows.generation(current, self._horizons)
        marker = store.marker()
        reach = None if marker is None else pending.folded_up_to(marker, keys, values)
        if reach is None:
            return pending.ReadRows(values, stream_id)
        folded = self._folded(view, pending.PackedRows(keys, values), entries, reach, store, current)
        return pending.ReadRows(folded, current)


def test_rows_that_are_read_first_are_caught() -> None:
    """A batch that ends, and is pruned, between the rows and the entries would hide a click for a read."""
    assert caught(RowsFirst)


def test_a_batch_that_is_being_written_taken_for_done_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the batch has not reached yet would lack its events."""
    honest = pending.folded_up_to

    def done(marker, keys, values):
        reach = honest(marker, keys, values)
        return None if reach is None else FoldedUpTo(reach.ends, dict.fromkeys(reach.batch, marker.batch_id))

    monkeypatch.setattr(pending, "folded_up_to", done)
    assert caught()


def test_entries_counted_beside_the_batch_that_wrote_their_row_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the running batch has written already would count its events twice."""
    honest = pending.folded_up_to

    def not_begun(marker, keys, values):
        reach = honest(marker, keys, values)
        before = marker.batch_id if marker.done >= marker.batch_id else marker.batch_id - 1
        return None if reach is None else FoldedUpTo(reach.ends, dict.fromkeys(reach.batch, before))

    monkeypatch.setattr(pending, "folded_up_to", not_begun)
    assert caught()


def test_repetitions_of_what_was_folded_before_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that the stream has accepted already would count once more until its repetition is folded."""
    honest = pending.decide
    monkeypatch.setattr(pending, "decide", lambda *asked: honest(*asked[:-1]))
    assert caught()


@pytest.mark.parametrize("table", ["row", "seen"])
def test_a_read_of_a_store_that_has_lost_a_table_is_caught(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would look new, and no repetition like an event, if readers did not ask whether the table stands."""
    honest = MemoryStore.check_readable

    def trusting(store, generation, asked):
        if asked != table:
            honest(store, generation, asked)

    monkeypatch.setattr(MemoryStore, "check_readable", trusting)
    assert caught()
