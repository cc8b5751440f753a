"""One script for every online store, and the simulator's stories on real ones: what one answers, all answer."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest
from store_script import aged, begun, marker

from features.errors import LeaseError, StoreError
from features.events.dedupe import NEVER, Decision, Prior
from features.online_store.port import of_schema
from features.rows.matrix import PackedRows

HORIZON_MS = 1_000
ODD_KEYS = ["", "a", "a\0b", "ä", "漢字", "'; DROP TABLE generations; --", "x" * 2_000, "{1}:rows"]


@pytest.fixture
def store(opened):
    return opened()


def packed(**values):
    return PackedRows(pa.array(list(values), pa.string()), pa.array(list(values.values()), pa.binary()))


def decided(ids, seqs, known):
    return Decision(
        np.ones(len(ids), bool), pa.array(ids, pa.string()), Prior(np.array(seqs, np.int64), np.array(known, np.int64))
    )


def priors(generation, ids, batch_id, stream="s"):
    prior = generation.remembered(stream, pa.array(ids, pa.string()), batch_id)
    return list(zip(prior.seq.tolist(), prior.known_at.tolist(), strict=True))


# --- markers, versions and leases -----------------------------------------------------------------------------------


def test_a_generation_is_unknown_until_its_marker_is_published(store, opened):
    generation = begun(store, 2**63 - 1)
    assert generation.marker() is None
    generation.publish(marker(3, done=2))
    assert begun(opened(), 2**63 - 1).marker() == marker(3, done=2)
    assert begun(store, 2).marker() is None
    assert store.generations() == [2**63 - 1]


def test_a_driver_that_was_overtaken_stops_at_its_next_write_and_changes_nothing(store, opened):
    first, second = begun(store), begun(opened())
    first.put_rows("v", packed(a=b"first"))
    for write in (
        lambda: second.put_rows("v", packed(a=b"second")),
        lambda: second.publish(marker(0)),
        lambda: second.remember("s", decided(["x"], [1], [1]), 0),
    ):
        with pytest.raises(LeaseError):
            write()
    assert first.rows("v", pa.array(["a"])).to_pylist() == [b"first"]
    assert first.marker() is None
    assert priors(first, ["x"], 1) == [(NEVER, NEVER)]
    second.begin()
    second.put_rows("v", packed(a=b"second"))
    with pytest.raises(LeaseError):
        first.publish(marker(0))


def test_the_versions_of_two_generations_are_their_own(store):
    one, two = begun(store, 1), begun(store, 2)
    for number in range(3):
        one.put_rows("v", packed(a=b"1"))
        two.put_rows("v", packed(a=f"{number}".encode()))
    assert one.rows("v", pa.array(["a"])).to_pylist() == [b"1"]
    assert two.rows("v", pa.array(["a"])).to_pylist() == [b"2"]


def test_a_lease_keeps_others_out_until_it_ends_and_can_be_renewed(store, opened):
    store.take_lease(1, "me", ttl_s=60)
    with pytest.raises(LeaseError, match="'me'"):
        opened().take_lease(1, "you", ttl_s=60)
    opened().take_lease(2, "you", ttl_s=60)
    store.take_lease(1, "me", ttl_s=60)
    store.release_lease(1, "you")
    with pytest.raises(LeaseError):
        opened().take_lease(1, "you", ttl_s=60)
    store.release_lease(1, "me")
    opened().take_lease(1, "you", ttl_s=60)


def test_taking_a_lease_stops_the_driver_before_and_renewing_it_does_not(store):
    store.take_lease(1, "me", ttl_s=60)
    driver = begun(store)
    store.take_lease(1, "me", ttl_s=0)
    driver.put_rows("v", packed(a=b"mine"))
    store.take_lease(1, "you", ttl_s=60)
    with pytest.raises(LeaseError):
        driver.put_rows("v", packed(a=b"too late"))


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were_put_in_the_order_of_the_keys_with_null_for_none(store):
    generation = begun(store)
    assert generation.rows("v", pa.array(["a"])).to_pylist() == [None]
    values = [bytes([number]) * (number * 300) for number in range(len(ODD_KEYS))]
    generation.put_rows("v", PackedRows(pa.array(ODD_KEYS), pa.array(values, pa.binary())))
    asked = ["missing", *reversed(ODD_KEYS), "a"]
    assert generation.rows("v", pa.array(asked)).to_pylist() == [None, *reversed(values), values[1]]
    assert generation.rows("w", pa.array(asked)).to_pylist() == [None] * len(asked)
    generation.put_rows("v", packed(a=b"anew"))
    assert generation.rows("v", pa.array(["a", ""])).to_pylist() == [b"anew", b""]
    assert generation.rows("v", pa.array([], pa.string())).to_pylist() == []


def test_every_key_finds_its_own_row_whatever_else_is_asked_for_and_how_often(store):
    rows = packed(**{key: f"row {key}".encode() for key in ODD_KEYS})
    generation = begun(store)
    generation.put_rows("v", rows)
    for keys in (["ä", "nobody", "a", "ä"], *([key] for key in ODD_KEYS), ODD_KEYS[::-1]):
        expected = [f"row {key}".encode() if key in ODD_KEYS else None for key in keys]
        assert generation.rows("v", pa.array(keys, pa.string())).to_pylist() == expected


def test_many_rows_can_be_put_and_asked_for_at_once(store):
    generation = begun(store)
    keys = [f"k{number}" for number in range(9_000)]
    rows = PackedRows(pa.array(keys), pa.array([key.encode() * 20 for key in keys]))
    generation.put_rows("v", rows)
    generation.put_rows("v", rows.slice(5, 4))
    assert generation.rows("v", pa.array(keys)).to_pylist() == rows.values.to_pylist()


def test_readers_read_the_current_generation_and_flip_with_it(store, opened):
    reader, keys = opened(), pa.array(["a", "b"])
    nothing, stream_id = reader.read("v", keys)
    assert (nothing.to_pylist(), nothing.type, stream_id) == ([None, None], pa.binary(), None)
    assert reader.current("v") is None
    assert reader.keys("v").to_pylist() == []
    begun(store, 1).put_rows("v", packed(a=b"old", c=b"older"))
    begun(store, 2).put_rows("v", packed(b=b"new"))
    for stream_id, expected, rows in ((1, [b"old", None], ["a", "c"]), (2, [None, b"new"], ["b"])):
        store.set_current("v", stream_id)
        values, found = reader.read("v", keys)
        assert (values.to_pylist(), found, reader.current("v")) == (expected, stream_id, stream_id)
        assert sorted(reader.keys("v").to_pylist()) == rows
    assert reader.read("w", keys)[1] is None
    assert reader.bytes_per_row() == {"v": 3.0}


def test_readers_of_a_definition_read_its_generation_also_when_the_view_has_gone_on(store, opened):
    reader, keys = opened(), pa.array(["a"])

    def read(schema_hash):
        values, found = reader.read("v", keys, schema_hash)
        return values.to_pylist(), found

    for number, value in ((1, b"old"), (2, b"new")):
        generation = begun(store, number)
        generation.describe(f"definitions {number}")
        generation.put_rows("v", packed(a=value))
    store.set_current("v", 1)
    assert read(7) == ([b"old"], 1)  # nothing is kept for it: the view's own
    assert reader.definitions("v", 7) is None
    store.set_current(of_schema("v", 7), 1)
    store.set_current(of_schema("v", 8), 2)
    store.set_current("v", 2)
    assert (read(7), read(8), read(None)) == (([b"old"], 1), ([b"new"], 2), ([b"new"], 2))
    assert (reader.definitions("v", 7), reader.definitions("v", 8)) == ("definitions 1", "definitions 2")
    assert reader.bytes_per_row() == {"v": 3.0}
    store.drop_generation(1)
    assert (read(7), reader.current(of_schema("v", 7))) == (([b"new"], 2), None)


def test_a_generation_that_is_dropped_leaves_nothing_and_stops_its_driver(store):
    driver, other = begun(store, 1), begun(store, 2)
    for generation in (driver, other):
        generation.remember("s", decided(["x"], [1], [1]), 0)
        generation.put_rows("v", packed(a=b"row"))
        generation.publish(marker(0))
    store.set_current("v", 1)
    store.set_current("w", 2)
    store.drop_generation(1)
    assert store.generations() == [2]
    assert (store.current("v"), store.current("w")) == (None, 2)
    with pytest.raises(LeaseError):
        driver.put_rows("v", packed(a=b"row"))
    again = begun(store, 1)
    assert again.marker() is None
    assert again.rows("v", pa.array(["a"])).to_pylist() == [None]
    assert priors(again, ["x"], 1) == [(NEVER, NEVER)]
    assert other.rows("v", pa.array(["a"])).to_pylist() == [b"row"]


def test_a_new_store_can_be_opened_by_many_at_once(opened):
    stores, wrong, together = [opened() for _ in range(6)], [], threading.Barrier(6)

    def open_it(number, store):
        together.wait()
        try:
            store.take_lease(number, "me", ttl_s=60)
        except StoreError as error:
            wrong.append(error)
        store.close()

    threads = [threading.Thread(target=open_it, args=one) for one in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert opened().generations() == list(range(6))


def test_threads_read_while_another_writes_and_see_whole_writes_only(store, opened, request):
    # A write to a cluster is whole in each of its parts: there, these are one row.
    count = 1 if "cluster" in request.node.name else 50
    keys = pa.array([f"k{number}" for number in range(count)])
    store.set_current("v", 1)
    seen, wrong, done = [0], [], threading.Event()

    def read(reader):
        while not done.is_set():
            values = set(reader.read("v", keys)[0].to_pylist())
            if len(values) != 1:
                wrong.append(values)
            seen[0] += 1

    threads = [threading.Thread(target=read, args=(opened(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    generation, number = begun(store), 0
    while number < 30 or (seen[0] < 30 and number < 3_000):
        generation.put_rows("v", PackedRows(keys, pa.array([f"{number}".encode()] * count)))
        number += 1
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen[0] >= 30


def swept(generation, below_ms):
    """How many rows go when the whole of a view is swept, page by page."""
    cursor, gone = generation.sweep("v", below_ms, (0, 0))
    while cursor != (0, 0):
        cursor, more = generation.sweep("v", below_ms, cursor)
        gone += more
    return gone


def test_a_sweep_takes_the_rows_of_entities_that_have_not_been_seen_for_long_and_no_other(store):
    generation = begun(store)
    rows = aged(*range(5_000), -1, -(2**40))
    generation.put_rows("v", rows)
    assert swept(generation, 1_000) == 1_002
    left = generation.rows("v", rows.keys).to_pylist()
    assert left == [None] * 1_000 + rows.values.to_pylist()[1_000:5_000] + [None] * 2
    assert swept(generation, 1_000) == 0
    assert swept(begun(store, 9), 1_000) == 0
    generation.put_rows("v", aged(7))
    assert generation.rows("v", pa.array(["k0"])).to_pylist() != [None]


def test_a_driver_that_was_overtaken_sweeps_nothing_and_one_that_sweeps_overtakes(store, opened):
    first, second = begun(store), begun(opened())
    first.put_rows("v", aged(5))
    with pytest.raises(LeaseError):
        swept(second, 10)
    second.begin()
    assert swept(second, 10) == 1
    with pytest.raises(LeaseError):
        first.put_rows("v", aged(6))


# --- remembered ids -------------------------------------------------------------------------------------------------


def test_a_batch_run_again_is_decided_from_what_was_remembered_before_it(store):
    generation = begun(store)
    generation.remember("s", decided(["x", "y"], [1, 2], [10, 20]), 0)
    assert priors(generation, ["y", "x", "z"], 1) == [(2, 20), (1, 10), (NEVER, NEVER)]
    assert priors(generation, ["x"], 0) == [(NEVER, NEVER)]
    for last in (5, 6):  # run again, planned anew
        generation.remember("s", decided(["x"], [last], [50]), 1)
        assert priors(generation, ["x"], 1) == [(1, 10)]
        assert priors(generation, ["x"], 2) == [(last, 50)]
    assert priors(generation, ["x"], 2, stream="other") == [(NEVER, NEVER)]
    generation.remember("other", decided([], [], []), 2)


def test_ids_are_forgotten_when_their_horizon_has_passed_and_without_a_horizon_never(store):
    forgetful, elephant = begun(store, 1, horizons_ms={"s": HORIZON_MS}), begun(store, 2)
    for batch_id in range(10):
        known = batch_id * HORIZON_MS
        for generation in (forgetful, elephant):
            generation.remember("s", decided([f"x{batch_id}"], [batch_id << 12], [known]), batch_id)
    ids = [f"x{number}" for number in range(10)]
    kept = [prior != (NEVER, NEVER) for prior in priors(forgetful, ids, 10)]
    assert kept[-2:] == [True, True]
    assert not any(kept[:5])
    assert (NEVER, NEVER) not in priors(elephant, ids, 10)


def test_ids_are_kept_for_two_horizons_as_a_record_that_is_one_behind_repeats_what_is_another_behind_it(store):
    generation = begun(store, horizons_ms={"s": HORIZON_MS})
    generation.remember("s", decided(["x"], [0], [0]), 0)
    for batch_id, known in enumerate(range(HORIZON_MS // 2, 2 * HORIZON_MS + 1, HORIZON_MS // 2), 1):
        generation.remember("s", decided([f"{known}"], [batch_id << 12], [known]), batch_id)
    assert priors(generation, ["x"], 5) == [(0, 0)]
    generation.remember("s", decided(["beyond"], [5 << 12], [2 * HORIZON_MS + 1]), 5)
    assert priors(generation, ["x", "500"], 6) == [(NEVER, NEVER), (1 << 12, 500)]


def test_a_partition_that_is_behind_keeps_the_ids_that_its_records_may_repeat(store):
    """However far ahead the others are: what they brought at the time of the slow one is among the ids."""
    generation = begun(store, horizons_ms={"s": HORIZON_MS})
    generation.remember("s", decided(["slow"], [1], [0]), 0)  # partition 1
    for batch_id in range(1, 10):
        generation.remember("s", decided([f"{batch_id}"], [batch_id << 12], [batch_id * HORIZON_MS]), batch_id)
    generation.remember("s", decided([], [], []), 10)
    assert priors(generation, ["slow", "1", "9"], 11) == [(1, 0), (1 << 12, 1_000), (9 << 12, 9_000)]
    generation.remember("s", decided(["slow again"], [(1 << 12) + 1], [9 * HORIZON_MS]), 11)
    assert priors(generation, ["slow", "9"], 12) == [(NEVER, NEVER), (9 << 12, 9_000)]
