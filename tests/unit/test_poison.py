"""One record with which a kernel or a library raises an error is refused, with the error; its neighbours are folded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from older_kernel import BREAKS, older_compared

from features.definitions import Entity, FeatureSet, FeatureView, Field, Stream
from features.definitions.aggregations import Count, Last, Sum
from features.definitions.expressions import above, conditions, product
from features.definitions.repo import FeatureRepo
from features.errors import StoreError
from features.events import parsing
from features.events.bisecting import errors_alone
from features.events.parsing import Parsed, Records, Verdict, from_columns, parse
from features.formats.reading import read_events
from features.history.point_in_time_join import Spine, point_in_time
from features.online_store.batch_step import Counts, added, build_generation
from features.online_store.generation import GenerationStore
from features.online_store.pending import RowsWithPending
from features.online_store.port import Marker, PendingEvent
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.folding import foldable
from features.rows.matrix import PackedRows
from streaming.archive.importing import Importer, ImportSource
from streaming.archive.sink import Archive, ArchiveSink
from streaming.fold.parsed_batches import ParsedBatches
from streaming.fold.sink import FoldTarget, OnlineSink

T0 = 1_700_000_000_000
REFS = Stream(
    "refs",
    topic="t",
    fields={"user_id": Field("string", required=True), "ref": "int64", "price": "float64"},
    computed={"paid": product("price", "ref")},
)
USER = Entity("user", keys={"user_id": "string"})
ALL = FeatureView("a_all", sets=[FeatureSet(USER, REFS, [Count(), Last("ref"), Sum("paid")], ["1h"])])
SOME = FeatureView("b_some", sets=[FeatureSet(USER, REFS, [Count()], ["1h"], where={"ref": above(0.5)})])
REPO = FeatureRepo(Path("repo"), {"user": USER}, {"refs": REFS}, {"a_all": ALL, "b_some": SOME})
LETTER = f"cannot_be_folded: ArrowInvalid: Integer value {BREAKS} not in range: -9007199254740992 to 9007199254740992"
HEADERS = pa.list_(pa.struct({"key": pa.string(), "value": pa.binary()}))


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The comparison of before, which raises an error with one integer."""
    monkeypatch.setattr(conditions, "_compared", older_compared)
    return monkeypatch


def message(number: int, ref: int, user: str = "u1") -> bytes:
    return json.dumps({"event_id": f"e{number}", "event_time": T0, "user_id": user, "ref": ref, "price": 0.5}).encode()


def batch(*values: bytes, first: int = 0) -> pa.Table:
    count = len(values)
    columns = {"topic": ["t"] * count, "partition": pa.array([0] * count, pa.int32())}
    columns |= {"offset": np.arange(first, first + count), "timestamp": np.full(count, T0 + first)}
    columns |= {"key": pa.nulls(count, pa.binary()), "value": pa.array(values, pa.binary())}
    return pa.table(columns | {"headers": pa.nulls(count, HEADERS)})


class Offsets:
    """Ten records a batch."""

    epochs: Mapping[str, int] = {}

    def between(self, batch_id: int) -> tuple[dict[str, int], dict[str, int]]:
        return {"t/0": 10 * batch_id}, {"t/0": 10 * (batch_id + 1)}


class World:
    """A store, the sinks of the fold and of the archive, and the letters that were sent."""

    def __init__(self, folder: Path) -> None:
        self.store, self.letters = SqliteRows(folder / "online.db"), []
        handle = self.store.generation(7, {"refs": 3_600_000})
        handle.begin()
        handle.publish(Marker(-1, {}, {"t/0": 0}, -1))
        self.parsed = ParsedBatches(REPO.streams, 1_000)
        self.parsed.begin({"t/0": 0})
        target = FoldTarget(REPO, handle, 7)
        self.fold = OnlineSink(target, Offsets(), self.send, handed_over=self.parsed)  # type: ignore[arg-type]
        self.archive = Archive(folder / "offline", REPO)
        nothing: Callable[[str], None] = lambda _: None  # noqa: E731
        self.archiving = ArchiveSink(self.archive, REPO, Offsets(), nothing, self.send)  # type: ignore[arg-type]

    def send(self, stream: Stream, messages: Any, parsed: Parsed) -> None:
        dead = np.flatnonzero(parsed.verdicts == Verdict.DEAD_LETTER).tolist()
        offsets = messages.table["offset"].to_pylist()
        self.letters += [(offsets[row], parsed.reasons[row].as_py()) for row in dead]

    def counts(self, user: str = "u1") -> list[int | None]:
        keys, found = pa.array([user]), []
        for view in (ALL, SOME):
            values = self.store.generation(7, {}).rows(view.name, keys)
            found.append(finalize(view, PackedRows(keys, values), T0 + 100, 7).columns[0][0].as_py())
        return found


# --- the search -----------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=40))
def test_each_record_that_breaks_alone_is_found_and_no_other(bad: list[bool]) -> None:
    tries = []

    def attempt(start: int, stop: int) -> None:
        tries.append((start, stop))
        if any(bad[start:stop]):
            raise ValueError(f"{bad[start:stop].index(True) + start}")

    found = errors_alone(len(bad), attempt)
    assert found == {row: f"ValueError: {row}" for row, one in enumerate(bad) if one}
    assert list(found) == sorted(found)
    assert len(tries) <= 2 + 2 * 7 * sum(bad)


def test_records_that_only_break_together_are_nobodys_fault_and_neither_is_code_that_always_breaks() -> None:
    def together(start: int, stop: int) -> None:
        if stop - start > 3:
            raise ValueError

    def always(start: int, stop: int) -> None:
        raise ValueError("no kernel")

    def without_store(start: int, stop: int) -> None:
        if stop > start:
            raise StoreError("a store", "an answer", "none")

    assert errors_alone(10, together) == {}
    with pytest.raises(ValueError, match="no kernel"):
        errors_alone(10, always)
    with pytest.raises(StoreError):
        errors_alone(10, without_store)


# --- parsing --------------------------------------------------------------------------------------------------------


@contextmanager
def breaking_at(price: float) -> Iterator[None]:
    """Expressions of events cannot be evaluated where the price is this."""
    evaluated = parsing.evaluate

    def evaluate(expression: Any, values: Any) -> Any:
        if (values["price"] == price).any():
            raise OverflowError("a library gave up")
        return evaluated(expression, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "evaluate", evaluate)
        yield


@given(
    prices=st.lists(st.sampled_from([1.0, 2.0, 9.0]), max_size=12),
    bad=st.lists(st.integers(0, 11), max_size=3),
    late=st.integers(0, 11),
)
def test_parsing_refuses_what_a_library_cannot_take_and_changes_no_other_verdict(
    prices: list[float], bad: list[int], late: int
) -> None:
    """Of messages and of columns alike, with dead letters and late records among them."""
    rows = [
        {"event_id": f"e{row}", "event_time": T0 - 10**7 * (row == late), "user_id": "u1", "ref": 2, "price": price}
        for row, price in enumerate(prices)
    ]
    values = [b"{" if row in bad else json.dumps(one).encode() for row, one in enumerate(rows)]
    count = len(values)
    records = Records(
        pa.array(values, pa.binary()), np.full(count, T0), np.zeros(count, np.int32), np.arange(count) + 5
    )
    schema = pa.schema({"event_id": pa.string(), "event_time": pa.int64(), "user_id": pa.string(), "price": "float64"})
    table = pa.Table.from_pylist(rows, schema=schema).append_column("known_at", pa.array(records.known_at))
    problems = {row: "bad_row: it is broken" for row in bad if row < count}
    for judged in (
        lambda: parse(records, REFS, 3_600_000),
        lambda: from_columns(table, REFS, 3_600_000, problems=problems),
    ):
        before = judged()
        with breaking_at(9.0):
            found = judged()
        broken = [row for row in range(count) if prices[row] == 9.0 and row not in bad]
        for row in range(count):
            if row in broken:
                assert found.reasons[row].as_py() == "cannot_be_read: OverflowError: a library gave up"
                assert found.verdicts[row] == Verdict.DEAD_LETTER
            else:
                assert (found.verdicts[row], found.reasons[row]) == (before.verdicts[row], before.reasons[row])
        kept = ~np.isin(before.rows, broken)
        assert found.events.equals(before.events.filter(pa.array(kept)))
        assert found.rows.tolist() == before.rows[kept].tolist()


# --- every path -----------------------------------------------------------------------------------------------------


def test_one_record_that_no_view_can_fold_is_a_letter_and_no_view_has_it(
    breaks: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first view could fold it: no view does, nor the archive; the same batch again changes nothing more."""
    world = World(tmp_path)
    values = [message(number, BREAKS if number in (3, 8) else 1, f"u{number % 2}") for number in range(9)]
    for _ in range(2):
        report = world.fold.fold(batch(*values, b"?"), 0)
        assert report.counts == Counts(folded=7, duplicate=0, late=0, dead_letter=3)
        assert (report.cannot.records, report.cannot.reason) == (2, LETTER)
        assert set(world.letters) >= {(3, LETTER), (8, LETTER)}
        assert {offset for offset, _ in world.letters} == {3, 8, 9}
        assert (world.counts("u0"), world.counts("u1")) == ([4, 4], [3, 3])
    events = world.parsed.take({"t/0": 0}, {"t/0": 10}, lambda: True)
    assert events is not None
    assert events["refs"]["event_id"].to_pylist() == [f"e{number}" for number in (0, 1, 2, 4, 5, 6, 7)]


def test_a_letter_that_is_replayed_after_the_repair_is_no_duplicate_and_counts_once(
    breaks: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.fold.fold(batch(message(0, 1), message(1, BREAKS), message(2, 1)), 0)
    assert world.counts() == [2, 2]
    breaks.undo()
    report = world.fold.fold(batch(message(1, BREAKS), message(2, 1), first=10), 1)
    assert report.counts == Counts(folded=1, duplicate=1, late=0, dead_letter=0)
    assert world.counts() == [3, 3]


@pytest.mark.parametrize("same_batch", [True, False])
def test_a_repetition_that_no_view_can_fold_is_a_letter_as_on_executors(
    breaks: pytest.MonkeyPatch, tmp_path: Path, same_batch: bool
) -> None:
    """Executors judge a record before anybody knows that it repeats an id; the counts of both are the same."""
    world, first, again = World(tmp_path), [message(0, 1), message(1, 1)], [message(1, BREAKS), message(0, 1)]
    if same_batch:
        counts = world.fold.fold(batch(*first, *again), 0).counts
    else:
        world.fold.fold(batch(*first), 0)
        counts = added(Counts(2, 0, 0, 0), world.fold.fold(batch(*again, first=10), 1).counts)
    assert counts == Counts(folded=2, duplicate=1, late=0, dead_letter=1)
    assert set(world.letters) == {(2 if same_batch else 10, LETTER)}
    assert world.counts() == [2, 2]
    records = Records(pa.array(again), np.full(2, T0), np.zeros(2, np.int32), np.arange(2))
    on_executors = foldable(parse(records, REFS), REFS, [ALL, SOME])
    assert on_executors.verdicts.tolist() == [Verdict.DEAD_LETTER, Verdict.VALID]


def test_a_batch_that_nothing_of_its_records_broke_is_tried_again_as_it_is(
    breaks: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(tmp_path)
    breaks.setattr(GenerationStore, "put_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        world.fold.fold(batch(message(0, 1)), 0)
    breaks.undo()
    assert world.fold.fold(batch(message(0, 1)), 0).counts.folded == 1
    assert (world.counts(), world.letters) == ([1, 1], [])


def test_the_archives_own_reading_refuses_the_same_records(breaks: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path)
    values = [message(number, BREAKS if number == 1 else 1) for number in range(3)]
    assert world.archiving.append(batch(*values), 0).appended == 2
    assert sorted(world.archive.events(REFS)["event_id"].to_pylist()) == ["e0", "e2"]


def test_an_import_refuses_the_same_records_and_says_why(breaks: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world, path = World(tmp_path), tmp_path / "refs.jsonl"
    path.write_bytes(b"\n".join(message(number, BREAKS if number == 1 else 1) for number in range(3)))
    records = read_events(path, "jsonl", REPO.streams, REPO.horizon_ms, REPO.keys_of)
    (counts,) = Importer(world.archive).run(ImportSource("refs.jsonl", "d", records)).values()
    assert (counts.imported, counts.rejected, dict(counts.refused.reasons)) == (2, 1, {"cannot_be_folded": 1})
    assert sorted(world.archive.events(REFS)["event_id"].to_pylist()) == ["e0", "e2"]


def test_rows_from_an_archive_that_has_such_a_record_are_those_of_history(
    breaks: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A new definition cannot fold what one before it could: the rebuild and history leave it out."""
    values = [message(number, BREAKS if number == 1 else 1) for number in range(3)]
    records = Records(pa.array(values), np.full(3, T0), np.zeros(3, np.int32), np.arange(3))
    events = parse(records, REFS).events
    assert len(events) == 3
    handle = SqliteRows(tmp_path / "online.db").generation(7, {"refs": 3_600_000})
    build_generation(handle, [SOME], 7, {"refs": events}, Marker(0, {}, {"t/0": 3}, 0), T0)
    keys = pa.array(["u1"])
    rebuilt = finalize(SOME, PackedRows(keys, handle.rows("b_some", keys)), T0 + 100, 7)
    history = point_in_time(SOME, Spine(keys, np.array([T0 + 100])), {"refs": events})
    assert rebuilt.to_table().equals(history.to_table())
    assert history.columns[0].to_pylist() == [2]
    prior = handle.remembered("refs", pa.array(["e0", "e1", "e2"]), 1)
    assert (prior.known_at == T0).tolist() == [True, False, True]


def test_a_read_with_such_a_pending_event_has_the_others(breaks: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.fold.fold(batch(message(0, 1)), 0)
    posted = [message(1, 1), message(2, BREAKS), message(3, 1)]
    for view in (ALL, SOME):
        world.store.set_current(view.name, 7)
        entries = [PendingEvent(view.name, "u1", "t/0", 10 + row, T0, value) for row, value in enumerate(posted)]
        world.store.pending().put(entries, 60_000)
        rows = RowsWithPending(world.store, world.store.pending(), REPO)
        keys = pa.array(["u1"])
        found = finalize(view, PackedRows(keys, rows.read(view.name, keys)[0]), T0 + 100, 7)
        # The first view has no filter that breaks: it shows the event until the stream has refused it.
        assert found.columns[0].to_pylist() == [4 if view is ALL else 3]


def test_a_pending_event_with_the_id_of_such_a_one_counts_at_once(breaks: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A refused event leaves no id behind: what is sent again, mended, is no duplicate before the stream has it."""
    world = World(tmp_path)
    world.fold.fold(batch(message(0, 1)), 0)
    world.store.set_current(SOME.name, 7)
    posted = enumerate([message(1, BREAKS), message(1, 1)])
    world.store.pending().put(
        [PendingEvent(SOME.name, "u1", "t/0", 10 + n, T0 + n, value) for n, value in posted], 60_000
    )
    rows, keys = RowsWithPending(world.store, world.store.pending(), REPO), pa.array(["u1"])
    found = finalize(SOME, PackedRows(keys, rows.read(SOME.name, keys)[0]), T0 + 100, 7)
    assert found.columns[0].to_pylist() == [2]
