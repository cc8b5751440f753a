"""Remembered ids: blocks against a dictionary, and an index that follows what the store has."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.events.dedupe import NEVER, Decision, Prior
from features.hashing import fingerprints
from features.online_store.generation import GenerationStore
from features.online_store.seen_ids import blocks as seen_ids
from features.online_store.seen_ids import memory as memory_of_ids
from features.online_store.seen_ids.blocks import Block, SeenIds, prior_of
from features.online_store.sqlite.rows import SqliteRows

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
