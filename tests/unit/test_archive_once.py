"""The archive holds a record once, whoever writes it: two drivers, two streams on a topic, a lost checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import Entity, Stream, Topic
from features.definitions.repo import FeatureRepo
from features.events.parsing import from_columns
from streaming.archive.sink import Archive

T0 = 1_700_000_000_000
SHOP = Stream("shop", topic="t", event_id=None, fields={"user_id": "string"})
TILLS = Stream("tills", topic="t", also=[Topic("u")], event_id=None, fields={"user_id": "string"})
USER = Entity("user", {"user_id": "string"})


def archive_of(folder: Path, *streams: Stream) -> Archive:
    """The archive of a driver of its own."""
    return Archive(folder, FeatureRepo(Path(), {"user": USER}, {stream.name: stream for stream in streams}, {}))


def events_at(stream: Stream, offsets: Any, partition: int = 0) -> pa.Table:
    offset = np.asarray(offsets, dtype=np.int64)
    columns = {"event_time": T0 + offset, "offset": offset, "user_id": ["u"] * len(offset)}
    position = {"partition": np.full(len(offset), partition, dtype=np.int32)}
    return from_columns(pa.table(columns | position), stream).events


def places(archive: Archive, stream: Stream) -> list[tuple[int, int]]:
    """(partition, offset) of each row."""
    events = archive.events(stream)
    return sorted(zip(events["partition"].to_pylist(), events["offset"].to_pylist(), strict=True))


def test_two_drivers_on_a_topic_hold_each_record_once(tmp_path: Path) -> None:
    first, second = archive_of(tmp_path, SHOP), archive_of(tmp_path, SHOP)
    assert first.append(SHOP, events_at(SHOP, [0, 1])) == 2
    assert second.append(SHOP, events_at(SHOP, [1, 2, 3])) == 2
    assert first.append(SHOP, events_at(SHOP, [2, 3])) == 0
    assert places(first, SHOP) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_a_table_of_before_is_added_to_from_where_its_records_end(tmp_path: Path) -> None:
    archive, old = archive_of(tmp_path, SHOP), events_at(SHOP, [3, 4])
    write_deltalake(archive.path(SHOP), old.append_column("topic", pa.array(["t", "t"])))
    assert archive.append(SHOP, events_at(SHOP, [3, 4, 5])) == 1
    assert archive.append(SHOP, events_at(SHOP, [0, 1], partition=1)) == 2
    assert places(archive, SHOP) == [(0, 3), (0, 4), (0, 5), (1, 0), (1, 1)]


def test_a_lost_checkpoint_goes_on_where_the_least_of_the_tables_of_a_topic_ends(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, SHOP, TILLS)
    archive.append(SHOP, events_at(SHOP, range(9)))
    assert archive.end() == {}
    archive.append(TILLS, events_at(TILLS, range(4)))
    assert archive.end() == {"t/0": 4}
    for stream in (SHOP, TILLS):
        archive.append(stream, events_at(stream, range(4, 12)))
        assert places(archive, stream) == [(0, offset) for offset in range(12)]


def test_drivers_that_append_at_the_same_time_lose_and_double_nothing(tmp_path: Path) -> None:
    started = threading.Barrier(3)

    def drive(seed: int) -> int:
        started.wait()
        archive = archive_of(tmp_path, SHOP)
        return sum(archive.append(SHOP, batch) for batch in batches(np.random.default_rng(seed), 60))

    with ThreadPoolExecutor(3) as threads:
        appended = list(threads.map(drive, range(3)))
    assert places(archive_of(tmp_path, SHOP), SHOP) == [(part, offset) for part in (0, 1) for offset in range(60)]
    assert sum(appended) == 120


def batches(rng: np.random.Generator, end: int) -> Iterator[pa.Table]:
    """Both partitions in batches of random lengths; a batch is repeated at times, as after a crash."""
    at = [0, 0]
    while min(at) < end:
        upto = [min(offset + int(rng.integers(0, 20)), end) for offset in at]
        parts = [events_at(SHOP, range(*part), number) for number, part in enumerate(zip(at, upto, strict=True))]
        for _ in range(int(rng.integers(1, 3))):
            yield pa.concat_tables(parts)
        at = upto


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=12))
def test_each_record_is_there_once_however_drivers_take_turns(tmp_path_factory: Any, cuts: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("offline")
    drivers = [archive_of(folder, SHOP) for _ in range(3)]
    ends, most = [0, 0, 0], 0
    for driver, count in cuts:
        batch = events_at(SHOP, range(ends[driver], ends[driver] + count))
        ends[driver] += count
        assert drivers[driver].append(SHOP, batch) == max(ends[driver] - most, 0)
        most = max(most, ends[driver])
    assert places(drivers[0], SHOP) == [(0, offset) for offset in range(most)]
