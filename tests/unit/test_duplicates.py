"""The first record of an id counts: against a loop over dicts, in one go and batch by batch, with replays."""

from __future__ import annotations

from random import Random

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.events.dedupe import NEVER, Prior, decide, encoded_ids

HORIZON = 100
records = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400)), max_size=30).map(
    lambda several: sorted(several, key=lambda record: record[1])
)


def decided(several: list[tuple[str, int]], first_seq: int = 0, prior: Prior | None = None) -> list[bool]:
    ids = pa.array([one for one, _ in several], pa.string())
    known_at = np.array([known for _, known in several], dtype=np.int64)
    seq = np.arange(first_seq, first_seq + len(several))
    return decide(ids, known_at, seq, HORIZON, prior).accepted.tolist()


def by_hand(several: list[tuple[str, int]]) -> list[bool]:
    last: dict[str, int] = {}
    answers = []
    for one, known in several:
        answers.append(one not in last or known - last[one] > HORIZON)
        if answers[-1]:
            last[one] = known
    return answers


@given(records)
def test_decisions_are_those_of_a_loop(several: list[tuple[str, int]]) -> None:
    assert decided(several) == by_hand(several)


@given(records, st.integers(0, 30))
def test_deciding_batch_by_batch_is_deciding_at_once_and_a_replay_decides_the_same(
    several: list[tuple[str, int]], cut: int
) -> None:
    """What was accepted before a batch is all that it needs to know; asked again with the same, it answers the same."""
    first, second = several[:cut], several[cut:]
    memory = dict.fromkeys("abc", (NEVER, NEVER))
    for place, ((one, known), accepted) in enumerate(zip(first, decided(first), strict=True)):
        if accepted:
            memory[one] = (place, known)
    asked = encoded_ids(pa.array([one for one, _ in second], pa.string())).dictionary.to_pylist()
    prior = Prior(
        np.array([memory[one][0] for one in asked], dtype=np.int64),
        np.array([memory[one][1] for one in asked], dtype=np.int64),
    )
    answers = decided(second, len(first), prior)
    assert decided(first) + answers == by_hand(several)
    assert decided(second, len(first), prior) == answers


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400)), max_size=30), st.randoms(use_true_random=False))
def test_of_partitions_that_are_read_at_once_the_record_known_first_counts(
    several: list[tuple[str, int]], random: Random
) -> None:
    """By known_at, then by offset: whatever the offsets of the two partitions are, and however the batch is mixed."""
    offsets = random.sample(range(1, 1_000), len(several))
    inorder = sorted(zip(several, offsets, strict=True), key=lambda one: (one[0][1], one[1]))
    expected = dict(zip((offset for _, offset in inorder), by_hand([record for record, _ in inorder]), strict=True))
    ids = pa.array([one for one, _ in several], pa.string())
    known_at, seq = (np.array(column, dtype=np.int64) for column in ([known for _, known in several], offsets))
    assert decide(ids, known_at, seq, HORIZON).accepted.tolist() == [expected[offset] for offset in offsets]


def test_the_same_record_again_is_a_replay_and_not_a_duplicate() -> None:
    """A record whose own sequence was accepted counts."""
    prior = Prior(np.array([5]), np.array([50]))
    assert decided([("a", 50)], 5, prior) == [True]
    assert decided([("a", 50)], 6, prior) == [False]


def test_an_id_counts_again_after_the_horizon_and_not_at_it() -> None:
    assert decided([("a", 0), ("a", 100), ("a", 101), ("a", 201), ("a", 202)]) == [True, False, True, False, True]
