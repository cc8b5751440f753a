"""What the fold parsed is the archive's to take: all of its offsets, or nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pyarrow as pa

from features.definitions import PARTITIONS_OF_A_TOPIC, Stream, Topic
from streaming.fold.parsed_batches import ParsedBatches

SHOP = Stream("shop", topic="a", fields={"user_id": "string"}, also=[Topic("b")])


def going() -> bool:
    return True


def stuck() -> bool:
    return False


def events(*places: tuple[str, int]) -> dict[str, pa.Table]:
    """The events of these places ('topic/partition', offset)."""
    partitions = [number(place) for place, _ in places]
    columns = {"partition": pa.array(partitions, pa.int32()), "offset": pa.array([at for _, at in places], pa.int64())}
    return {"shop": pa.table(columns)}


def number(place: str) -> int:
    topic, _, partition = place.partition("/")
    return PARTITIONS_OF_A_TOPIC * SHOP.topics.index(topic) + int(partition)


def places(taken: Mapping[str, pa.Table] | None) -> list[tuple[int, int]]:
    assert taken is not None
    table = taken["shop"]
    return list(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))


def with_two_batches(most: int = 100) -> ParsedBatches:
    parsed = ParsedBatches({"shop": SHOP}, most)
    parsed.begin({"a/0": 10, "b/1": 5})
    parsed.add({"a/0": 10, "b/1": 5}, {"a/0": 12, "b/1": 6}, events(("a/0", 10), ("a/0", 11), ("b/1", 5)))
    parsed.add({"a/0": 12, "b/1": 6}, {"a/0": 14, "b/1": 8}, events(("a/0", 12), ("b/1", 6), ("b/1", 7)))
    return parsed


def test_a_range_that_cuts_batches_has_its_own_events_and_no_others() -> None:
    taken = with_two_batches().take({"a/0": 11, "b/1": 5}, {"a/0": 13, "b/1": 7}, stuck)
    a, b = number("a/0"), number("b/1")
    assert places(taken) == [(a, 11), (b, 5), (a, 12), (b, 6)]


def test_ranges_in_a_row_have_each_event_once() -> None:
    parsed = with_two_batches()
    first = parsed.take({"a/0": 10, "b/1": 5}, {"a/0": 13, "b/1": 6}, stuck)
    rest = parsed.take({"a/0": 13, "b/1": 6}, {"a/0": 14, "b/1": 8}, stuck)
    both = places(first) + places(rest)
    assert (len(both), len(set(both))) == (6, 6)


def test_what_was_taken_or_never_given_must_be_read() -> None:
    parsed = with_two_batches()
    assert parsed.take({"a/0": 9, "b/1": 5}, {"a/0": 12, "b/1": 6}, going) is None
    assert parsed.take({"a/0": 10, "b/1": 5}, {"a/0": 12, "b/1": 6}, going) is not None
    assert parsed.take({"a/0": 10, "b/1": 5}, {"a/0": 12, "b/1": 6}, going) is None
    assert ParsedBatches({"shop": SHOP}, 9).take({}, {"a/0": 1}, going) is None


def test_a_batch_that_comes_again_or_from_another_fold_behind_changes_nothing() -> None:
    parsed = with_two_batches()
    parsed.begin({"a/0": 0})
    parsed.add({"a/0": 12, "b/1": 6}, {"a/0": 14, "b/1": 8}, events(("a/0", 12)))
    parsed.add({"a/0": 0, "b/1": 0}, {"a/0": 3, "b/1": 1}, events(("a/0", 0)))
    assert len(places(parsed.take({"a/0": 10, "b/1": 5}, {"a/0": 14, "b/1": 8}, stuck))) == 6


def test_nothing_is_taken_across_a_gap() -> None:
    parsed = with_two_batches()
    parsed.skip({"a/0": 20, "b/1": 8})
    assert parsed.take({"a/0": 10, "b/1": 5}, {"a/0": 20, "b/1": 8}, going) is None
    parsed.add({"a/0": 20, "b/1": 8}, {"a/0": 21, "b/1": 8}, events(("a/0", 20)))
    parsed.add({"a/0": 30, "b/1": 8}, {"a/0": 31, "b/1": 8}, events(("a/0", 30)))
    assert parsed.take({"a/0": 20, "b/1": 8}, {"a/0": 31, "b/1": 8}, going) is None
    assert len(places(parsed.take({"a/0": 30, "b/1": 8}, {"a/0": 31, "b/1": 8}, stuck))) == 1


def test_no_more_records_are_kept_than_it_is_told() -> None:
    parsed = with_two_batches(most=4)
    assert parsed.take({"a/0": 10, "b/1": 5}, {"a/0": 14, "b/1": 8}, going) is None
    assert len(places(parsed.take({"a/0": 12, "b/1": 6}, {"a/0": 14, "b/1": 8}, stuck))) == 3


def test_a_partition_that_is_new_begins_at_its_first_offset() -> None:
    parsed = ParsedBatches({"shop": SHOP}, 100)
    parsed.begin({"a/0": 4})
    parsed.add({"a/0": 4}, {"a/0": 4, "a/1": 2}, events(("a/1", 0), ("a/1", 1)))
    assert len(places(parsed.take({"a/0": 4}, {"a/0": 4, "a/1": 2}, stuck))) == 2


def test_it_waits_for_what_is_on_its_way_and_no_longer_than_somebody_gives() -> None:
    parsed = with_two_batches()
    asked = threading.Event()

    def until_asked() -> bool:
        asked.set()
        return True

    def give() -> None:
        asked.wait(30)
        parsed.add({"a/0": 14, "b/1": 8}, {"a/0": 15, "b/1": 8}, events(("a/0", 14)))

    giver = threading.Thread(target=give)
    giver.start()
    taken = parsed.take({"a/0": 14, "b/1": 8}, {"a/0": 15, "b/1": 8}, until_asked)
    giver.join()
    assert len(places(taken)) == 1
    assert parsed.take({"a/0": 15, "b/1": 8}, {"a/0": 16, "b/1": 8}, stuck) is None
