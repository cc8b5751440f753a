"""Batches in pieces of bounded bytes: each message once, a partition's in order."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.spark.pieces import most_bytes, ranges_of

MOST = 100
PLACES = [("a", 0), ("a", 7), ("b", 0)]


@given(
    messages=st.lists(
        st.tuples(st.sampled_from(PLACES), st.integers(1, 3), st.sampled_from([1, 7, 40, 99, 100, 101, 5_000])),
        max_size=60,
    )
)
def test_ranges_have_each_message_once_in_order_and_in_bounded_bytes(messages: list[Any]) -> None:
    ends = dict.fromkeys(PLACES, 0)
    rows = []
    for (topic, partition), step, size in messages:  # a step of more than one jumps over markers of transactions
        ends[topic, partition] += step
        rows.append({"topic": topic, "partition": partition, "offset": ends[topic, partition], "bytes": size})
    schema = pa.schema({"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64(), "bytes": pa.int32()})
    ranges = ranges_of(pa.Table.from_pylist(rows[::-1], schema=schema), MOST)
    taken = []
    for start, end in ranges:
        assert start.keys() == end.keys()
        own = [row for row in rows if within(row, start, end)]
        assert own
        assert sum(row["bytes"] for row in own) <= MOST or len(own) == 1
        taken += own
    assert key(taken) == key(rows)
    for place in PLACES:
        offsets = [row["offset"] for row in taken if (row["topic"], row["partition"]) == place]
        assert offsets == sorted(offsets)


def within(row: dict[str, Any], start: dict[str, int], end: dict[str, int]) -> bool:
    name = f"{row['topic']}/{row['partition']}"
    return name in start and start[name] <= row["offset"] < end[name]


def key(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for row in rows)


@pytest.mark.parametrize(
    ("memory", "most"),
    [
        ("1g", 64 << 20),
        ("512m", 32 << 20),
        ("1024", 64 << 20),
        ("2097152k", 128 << 20),
        ("1gb", 64 << 20),
        ("64G", 256 << 20),
    ],
)
def test_a_piece_is_a_part_of_the_heap(memory: str, most: int) -> None:
    assert most_bytes(memory) == most
