"""Which users a training reads where not all fit: by a seeded hash, with all that they did, within the bound."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pytest

from training.data.sampling import (
    BUCKET_BITS,
    EVENT_BYTES,
    MEMORY_SHARE,
    EventLimit,
    UserSample,
    buckets_of,
    drawn,
    events_in,
    machine_bytes,
)

KEYS = pa.array([f"user-{number}" for number in range(20_000)])


def counts_of(keys: pa.Array, each: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.bincount(buckets_of(keys, seed), each, minlength=1 << BUCKET_BITS).astype(np.int64)


def test_those_who_are_drawn_have_at_most_as_many_events_as_fit(seed):
    each = np.random.default_rng(seed).integers(1, 50, len(KEYS))
    counts = counts_of(KEYS, each)
    for most in (1_000, 50_000, int(each.sum())):
        has = drawn(counts, most, 0).has(KEYS)
        assert 0.8 * most <= each[has].sum() <= most
    assert has.all()


def test_the_same_seed_draws_the_same_users_and_another_one_others():
    counts = counts_of(KEYS, np.ones(len(KEYS)))
    first, again = (drawn(counts, 5_000, 0).has(KEYS) for _ in range(2))
    other = drawn(counts_of(KEYS, np.ones(len(KEYS)), 1), 5_000, 1).has(KEYS)
    assert first.tolist() == again.tolist()
    assert 0.15 < (first & other).sum() / first.sum() < 0.35  # as by chance: a quarter is drawn of all


def test_a_larger_bound_draws_more_users_and_none_of_them_less():
    counts = counts_of(KEYS, np.ones(len(KEYS)))
    few, more = (drawn(counts, most, 0).has(KEYS) for most in (3_000, 9_000))
    assert few.sum() < more.sum()
    assert more[few].all()


def test_one_who_has_more_events_than_all_others_does_not_keep_them_out():
    each = np.ones(len(KEYS))
    robot = int(np.argmin(buckets_of(KEYS, 0)))
    each[robot] = 1_000_000
    has = drawn(counts_of(KEYS, each), 5_000, 0).has(KEYS)
    assert not has[robot]
    assert has.sum() > 4_500


def test_nobody_is_not_drawn():
    everybody = UserSample(np.ones(1 << BUCKET_BITS, dtype=bool), 0)
    assert everybody.has(pa.array(["", None, "a"])).tolist() == [True, False, True]


def test_a_bound_that_is_not_set_is_what_half_of_the_memory_has_room_for(tmp_path):
    assert events_in(64_000_000_000) == int(64_000_000_000 * MEMORY_SHARE / EVENT_BYTES)
    assert EventLimit.of(7, 3) == EventLimit(7, 3)
    assert EventLimit.of(None, 3).events == events_in(machine_bytes())


@pytest.mark.parametrize(("told", "limited"), [("1048576\n", True), ("max\n", False)])
def test_a_containers_memory_is_what_it_may_have(told, limited, tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text(told)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine_bytes(limit) == (1_048_576 if limited else physical)
    assert machine_bytes(tmp_path / "none") == physical
