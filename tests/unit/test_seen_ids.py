"""Remembered ids: blocks against a dictionary, and an index that follows what the store has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import StoreError
from features.events.dedupe import NEVER, Decision, Prior
from features.hashing import fingerprints
from features.online_store.generation import GenerationStore
from features.online_store.seen_ids import blocks as seen_ids
from features.online_store.seen_ids import index, index_of
from features.online_store.seen_ids import memory as memory_of_ids
from features.online_store.seen_ids.blocks import Block, SeenIds, prior_of
from features.online_store.sqlite.rows import SqliteRows
from features.times import now_ms

NAMES = [f"id-{number}" * (number % 5) for number in range(40)]
batches = st.lists(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10**6), max_size=12), max_size=12)


def block(seqs: dict[str, int]) -> Block:
    numbers = np.array(list(seqs.values()), dtype=np.int64)
    return Block.of(fingerprints(pa.array(list(seqs), pa.string())), Prior(numbers, numbers + 1))


@given(batches)
def test_an_id_is_found_with_what_its_newest_block_says_as_in_a_dictionary(several):
    seen, expected = SeenIds(), {}
    for one in several:
        seen.add(Block.read(block(one).to_bytes()))
        expected |= one
    prior = prior_of([seen], fingerprints(pa.array(NAMES, pa.string())))
    assert prior.seq.tolist() == [expected.get(name, NEVER) for name in NAMES]
    assert prior.known_at.tolist() == [expected[name] + 1 if name in expected else NEVER for name in NAMES]


def test_ids_that_share_their_first_hash_are_told_apart_by_the_second():
    prints = np.array([[5, 1], [5, 2], [5, 3], [9, 1]], dtype=np.uint64)
    found = Block.of(prints, Prior(np.arange(4), np.arange(4)))
    asked = np.array([[5, 3], [5, 9], [4, 1], [9, 1], [9, 2], [5, 1]], dtype=np.uint64)
    assert found.seq[found.index_of(asked)].tolist() == [2, 3, 3, 3, 3, 0]
    assert (found.index_of(asked) < 0).tolist() == [False, True, True, False, True, False]
    both = seen_ids.merged([found, Block.of(prints[1:2], Prior(np.array([7]), np.array([7])))])
    assert sorted(both.seq.tolist()) == [0, 2, 3, 7]


@given(st.lists(st.text(max_size=30), unique=True, max_size=50))
def test_texts_that_differ_have_fingerprints_that_differ_in_each_hash(texts):
    prints = fingerprints(pa.array(texts, pa.string()))
    assert prints.shape == (len(texts), 2)
    assert all(len(np.unique(prints[:, lane])) == len(texts) for lane in (0, 1))
    assert (prints == fingerprints(pa.array(["left out", *texts], pa.string())[1:])).all()


def test_blocks_that_come_in_great_number_take_few_cells_and_are_all_remembered_by_the_next_driver(tmp_path):
    """Small ones are written again together; a block of many ids is a cell of its own."""
    path, batches = tmp_path / "online.db", 3 * memory_of_ids.RECENT
    with closing(SqliteRows(path)) as rows:
        generation = rows.generation(1, {"s": 10**9})
        generation.begin()
        for number in range(batches):
            names = [f"{number}-{one}" for one in range(memory_of_ids.LARGE if number == 100 else 2)]
            seq = np.arange(len(names)) + 1000 * number << 12
            decision = Decision(np.ones(len(names), bool), pa.array(names), Prior(seq, seq))
            generation.remember("s", decision, number)
        other = rows.generation(1, {"s": 10**9})
        for one in (generation, other):
            prior = one.remembered("s", pa.array([f"{number}-1" for number in range(batches)]), batches)
            assert prior.seq.tolist() == [1000 * number + 1 << 12 for number in range(batches)]
            last = one.remembered("s", pa.array([f"{batches - 1}-1"]), batches - 1)
            assert last.seq.tolist() == [NEVER]
    with closing(sqlite3.connect(path)) as connection:
        (table,) = connection.execute("SELECT id FROM tables WHERE name = 'seen/s/0'").fetchone()
        (cells,) = connection.execute(f"SELECT count(*) FROM cells_{table}").fetchone()
    assert cells <= memory_of_ids.RING + 4


def remembered(generation, number: int, name: str) -> None:
    seq = np.array([number << 12])
    generation.remember("s", Decision(np.ones(1, bool), pa.array([name]), Prior(seq, seq)), number)


def test_a_reader_follows_the_memory_by_reading_what_is_new_and_asks_of_before_as_well(tmp_path):
    """It reads all blocks once, then one a batch; where it comes back too late for the trail, all again."""
    with closing(SqliteRows(tmp_path / "online.db")) as rows, closing(SqliteRows(tmp_path / "online.db")) as others:
        driver, read = rows.generation(1), []
        driver.begin()

        class Counted:
            def get(self, stream_id, table, keys):
                read.extend(keys if table.startswith("seen/") else [])
                return others.get(stream_id, table, keys)

        cells = Counted()

        def asked(name: str, batch_id: int) -> int:
            return GenerationStore(cells, 1).remembered("s", pa.array([name]), batch_id).seq.tolist()[0]

        for number in range(5):
            remembered(driver, number, f"id {number}")
        assert asked("id 4", 5) == 4 << 12
        assert len(read) == 5
        remembered(driver, 5, "id 5")
        remembered(driver, 6, "id 6")
        assert [asked("id 6", batch) for batch in (7, 6, 7)] == [6 << 12, NEVER, 6 << 12]
        assert asked("id 5", 6) == 5 << 12
        assert len(read) == 7
        for number in range(7, 7 + 2 * memory_of_ids.TRAIL):
            remembered(driver, number, f"id {number}")
        assert asked(f"id {6 + 2 * memory_of_ids.TRAIL}", 10**6) == 6 + 2 * memory_of_ids.TRAIL << 12
        assert asked("id 0", 10**6) == 0
        assert len(read) > 7 + 60


class Watched:
    """The cells of a store, with what was read of the ids; ``broken`` cells fail."""

    def __init__(self, rows: SqliteRows) -> None:
        self._rows, self.read, self.broken = rows, [], set()

    def get(self, stream_id: int, table: str, keys: Sequence[str]) -> list[bytes | None]:
        if table.startswith("seen/"):
            if self.broken & set(keys):
                raise StoreError("the online store", "an answer", "none")
            self.read += keys
        return self._rows.get(stream_id, table, keys)

    def prior(self, *names: str, wait: bool = True) -> list[int]:
        """The sequence remembered of each id."""
        return GenerationStore(self, 1).remembered("s", pa.array(names), 10**6, wait=wait).seq.tolist()


def many_remembered(generation, numbers: Iterable[int]) -> None:
    """Batches of ids that make a large block each."""
    for number in numbers:
        seq = np.arange(memory_of_ids.LARGE) + memory_of_ids.LARGE * number << 12
        names = pa.array([f"{number}-{one}" for one in range(memory_of_ids.LARGE)])
        generation.remember("s", Decision(np.ones(len(seq), bool), names, Prior(seq, seq)), number)


@pytest.fixture
def small_blocks(monkeypatch) -> int:
    """Blocks are large from eight ids on."""
    monkeypatch.setattr(memory_of_ids, "LARGE", 8)
    return 8


@pytest.fixture
def store(tmp_path):
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        yield rows


def begun(store: SqliteRows) -> GenerationStore:
    driver = store.generation(1)
    driver.begin()
    return driver


def test_a_reader_that_comes_back_late_reads_what_is_new_and_not_what_it_has(store, small_blocks):
    """Before, a trail that was lost meant all blocks again: of 12 million ids, five seconds of every click's read."""
    driver, reader = begun(store), Watched(store)
    many_remembered(driver, range(300))
    assert reader.prior("0-0", "299-1") == [0, 299 * small_blocks + 1 << 12]
    assert len(reader.read) == 300
    reader.read.clear()
    many_remembered(driver, range(300, 300 + 2 * memory_of_ids.TRAIL))
    remembered(driver, 500, "last")
    asked = ["7-7", "299-0", "300-0", "419-3", "last", "nobody"]
    assert reader.prior(*asked) == Watched(store).prior(*asked)
    assert reader.prior("419-3", "last", "nobody") == [419 * small_blocks + 3 << 12, 500 << 12, NEVER]
    new = 2 * memory_of_ids.TRAIL + 1
    assert len(reader.read) == new + 1  # and the last of those it has, by which it knows the memory again


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 80), st.sampled_from([1, 3, 12]), st.integers(0, 5)), max_size=5))
def test_readers_that_come_when_they_like_find_what_a_new_reader_finds(stories):
    """Batches, small and large, between reads; each read after as many of them as it likes."""
    with TemporaryDirectory() as folder, closing(SqliteRows(Path(folder) / "online.db")) as rows, fewer_ids():
        driver, reader, number = begun(rows), Watched(rows), 0
        for batches, size, known in stories:
            for _ in range(batches):
                names = [f"{number % 40}-{one + known}" for one in range(size)]
                seq = np.arange(size) + 100 * number << 12
                driver.remember("s", Decision(np.ones(size, bool), pa.array(names), Prior(seq, seq)), number)
                number += 1
            asked = [f"{one}-{two}" for one in range(40) for two in range(17)]
            assert reader.prior(*asked) == Watched(rows).prior(*asked)


@contextmanager
def fewer_ids() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_of_ids, "LARGE", 8)
        yield


def test_a_memory_that_was_lost_and_written_anew_is_read_anew(tmp_path, store, small_blocks):
    """The store is put back to what it was, and the driver goes on with other events under the same cells."""
    driver, reader = begun(store), Watched(store)
    many_remembered(driver, range(4))
    with closing(sqlite3.connect(tmp_path / "online.db")) as at, closing(sqlite3.connect(tmp_path / "kept.db")) as kept:
        at.backup(kept)
    many_remembered(driver, range(4, 6))
    assert reader.prior("5-0", "1-1") == [5 * small_blocks << 12, 1 * small_blocks + 1 << 12]
    with closing(sqlite3.connect(tmp_path / "kept.db")) as kept, closing(sqlite3.connect(tmp_path / "online.db")) as at:
        kept.backup(at)
    many_remembered(begun(store), range(10, 14 + 2 * memory_of_ids.TRAIL))
    assert reader.prior("5-0", "1-1", "10-0", "13-3") == Watched(store).prior("5-0", "1-1", "10-0", "13-3")
    assert reader.prior("5-0")[0] == NEVER


def read_by_the_thread(reader: Watched) -> None:
    """Waits until no thread reads ids."""
    while (thread := index_of(reader, 1, "s")._reading) is not None:
        thread.join()


def test_a_read_that_may_not_wait_is_told_so_and_a_thread_reads_for_the_next(store, small_blocks):
    driver, reader = begun(store), Watched(store)
    many_remembered(driver, range(20))
    with pytest.raises(StoreError, match="ids of folded events within a read's deadline"):
        reader.prior("3-1", wait=False)
    read_by_the_thread(reader)
    assert reader.prior("3-1", wait=False) == [3 * small_blocks + 1 << 12]
    many_remembered(driver, range(20, 22))
    assert reader.prior("21-1", wait=False) == [21 * small_blocks + 1 << 12]  # a few blocks it reads itself
    assert len(reader.read) == 22


def test_a_store_that_fails_in_between_is_read_on_where_it_failed(store, small_blocks, monkeypatch):
    monkeypatch.setattr(index, "AGAIN_S", 0.0)
    driver, reader = begun(store), Watched(store)
    many_remembered(driver, range(20))
    reader.broken = {"large 13"}
    for _ in range(3):
        with pytest.raises(StoreError):
            reader.prior("3-1", wait=False)
        read_by_the_thread(reader)
    with pytest.raises(StoreError):
        reader.prior("3-1")
    assert [reader.read.count(f"large {number}") for number in (0, 10, 12, 13, 19)] == [1, 1, 0, 0, 0]
    reader.broken = set()
    assert reader.prior("19-2", "3-1") == [19 * small_blocks + 2 << 12, 3 * small_blocks + 1 << 12]
    assert reader.read.count("large 0") == 1


def test_a_read_does_not_wait_for_another_that_reads(store):
    reader = Watched(store)
    remembered(begun(store), 0, "id 0")
    with index_of(reader, 1, "s")._lock, pytest.raises(StoreError, match="still being read"):
        reader.prior("id 0", wait=False)
    assert reader.prior("id 0", wait=False) == [0]


def test_a_record_from_hours_ahead_does_not_make_other_ids_old(tmp_path):
    """One producer's clock that is wrong: the ids of all others are remembered as if it had not been there."""
    hour, now = 3_600_000, now_ms()
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        driver = rows.generation(1, {"s": hour})
        driver.begin()
        times = {"first": now - 1_000, "ahead": now + 4 * hour, "then": now, "again ahead": now + 5 * hour, "last": now}
        for number, (name, known_at) in enumerate(times.items()):
            decision = Decision(
                np.ones(1, bool), pa.array([name]), Prior(np.array([number << 12]), np.array([known_at]))
            )
            driver.remember("s", decision, number)
        prior = driver.remembered("s", pa.array(list(times)), 10**6)
        assert prior.known_at.tolist() == list(times.values())
