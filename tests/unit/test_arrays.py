"""Orders and searches over (row, time), for rows and times whose product leaves int64."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.arrays import Entries, find, order_by_row_time, running_maximum
from features.events import decide

NOW = 1_764_000_000_000
ROWS = st.one_of(st.integers(0, 3), st.integers(0, 2**40))
TIMES = st.one_of(st.integers(-(2**62), 2**62), st.integers(NOW - 5, NOW + 5), st.sampled_from([0, 1, NOW]))
AFTER_NEVER = st.one_of(st.integers(-(2**60), 2**62), st.integers(NOW - 5, NOW + 5), st.sampled_from([0, 1, NOW]))
"""Times further from NEVER, which stands for no record, than any horizon."""
PAIRS = st.lists(st.tuples(ROWS, TIMES), min_size=1, max_size=30)


def arrays(pairs):
    row, time = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return row, time


@given(PAIRS)
def test_the_order_is_by_row_then_time(pairs):
    row, time = arrays(pairs)
    assert order_by_row_time(row, time).tolist() == np.lexsort((time, row)).tolist()


@given(PAIRS, PAIRS)
def test_the_first_entry_of_a_row_at_or_after_a_time_is_found(pairs, wanted):
    row, time = arrays(sorted(pairs))
    found = find(Entries(row, time, {}), *arrays(wanted))
    assert found.tolist() == [sum(entry < pair for entry in pairs) for pair in wanted]


@given(PAIRS)
def test_a_running_maximum_is_the_rows_own(pairs):
    row, time = arrays(sorted(pairs, key=lambda pair: pair[0]))
    expected = [max(time[: index + 1][row[: index + 1] == row[index]]) for index in range(len(row))]
    assert running_maximum(row, time).tolist() == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), AFTER_NEVER), min_size=1, max_size=30), st.integers(0, 2**50))
def test_duplicates_are_those_within_the_horizon_whatever_the_times(records, horizon):
    ids, known_at = zip(*records, strict=True)
    accepted = decide(pa.array(ids), np.array(known_at), np.arange(len(ids)), horizon).accepted
    last, expected = {}, {}
    for known, number, event_id in sorted(zip(known_at, range(len(ids)), ids, strict=True)):
        expected[number] = event_id not in last or known - last[event_id] > horizon
        if expected[number]:
            last[event_id] = known
    assert accepted.tolist() == [expected[number] for number in range(len(ids))]


def test_six_million_rows_and_an_event_of_1970_are_in_order():
    row = np.array([0, 0, 3_000_000, 6_000_000], dtype=np.int64)
    time = np.array([1, NOW, NOW, NOW], dtype=np.int64)
    entries = Entries(row, time, {})
    assert find(entries, row, np.full(4, NOW)).tolist() == [1, 1, 2, 3]
    assert find(entries, row, np.full(4, NOW + 1)).tolist() == [2, 2, 3, 4]
    assert find(entries, np.array([9_000_000]), np.array([1])).tolist() == [4]
