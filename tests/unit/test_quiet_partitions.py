"""The memory of ids is bounded in time: a partition with nothing to read does not hold it back, one that lags does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.definitions import Count, Entity, FeatureSet, FeatureView, Stream, Topic
from features.events.dedupe import NEVER, decide
from features.events.parsing import Records, parse
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.port import Idle, Marker
from features.online_store.sqlite.rows import SqliteRows

T0 = 1_700_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
USER = Entity("user", {"user": "string"})
SHOP = Stream("shop", topic="t", also=[Topic("phones")], fields={"user": "string"}, dedupe_horizon="1h")
CLICKS = FeatureView("clicks", sets=[FeatureSet(USER, SHOP, [Count()], ["1h"])])


class Shop:
    """A driver of two topics: partition 0 of ``t``, and partition 1 of ``phones``."""

    def __init__(self, rows: SqliteRows) -> None:
        self.generation = rows.generation(1, {"shop": HOUR})
        self.generation.begin()
        self.ends, self.batches = {"t/0": 0, "phones/1": 0}, 0
        self.generation.publish(Marker(-1, self.ends, self.ends, -1))
        self.step = BatchStep(self.generation, [CLICKS], 1)

    def batch(self, wall: int, *records: tuple[str, str, int]) -> int:
        """The number of these records (place, id, known_at) that count."""
        start, self.ends = self.ends, dict(self.ends)
        values, known, partitions, offsets = [], [], [], []
        for place, name, at in records:
            topic, _, partition = place.rpartition("/")
            values.append(json.dumps({"event_id": name, "event_time": at, "user": "ann"}).encode())
            known.append(at)
            partitions.append(int(partition) + 1024 * (topic == "phones"))
            offsets.append(self.ends[place])
            self.ends[place] += 1
        read = Records(pa.array(values), np.array(known), np.array(partitions, np.int32), np.array(offsets))
        done = self.step.run(Batch(self.batches, start, self.ends, {"shop": parse(read, SHOP)}, wall))
        self.batches += 1
        return done.folded

    def oldest_hours(self, minutes: int) -> float:
        """How far back an id of partition 0 is remembered, of those a minute apart until now."""
        names = [f"e{number}" for number in range(0, minutes + 1, 10)]
        seen = self.generation.remembered("shop", pa.array(names), self.batches).seq != NEVER
        return (minutes - 10 * int(np.flatnonzero(seen)[0])) / 60


@pytest.fixture
def shop(tmp_path) -> Iterator[Shop]:
    with closing(SqliteRows(tmp_path / "online.db")) as rows:
        yield Shop(rows)


def test_a_quiet_partition_does_not_keep_a_day_of_ids(shop):
    """Thirty hours with a record every ten minutes: before, the ids of 26 of them were kept."""
    shop.batch(T0, ("phones/1", "once", T0), ("t/0", "e0", T0))
    kept = []
    for minutes in range(10, 30 * 60, 10):
        at = T0 + minutes * MINUTE
        assert shop.batch(at, ("t/0", f"e{minutes}", at)) == 1
        kept.append(shop.oldest_hours(minutes))
    assert 3 <= max(kept) < 3.6
    assert 12 < shop.generation.remembered_ids() < 24
    at += 10 * MINUTE
    assert shop.batch(at, ("phones/1", f"e{minutes - 40}", at), ("phones/1", "new", at), ("t/0", "new", at + 1)) == 1


def test_a_partition_that_lags_keeps_what_its_records_may_repeat(shop):
    """It is read a record at a time, ten hours behind, and repeats what the other brought at that time."""
    for minutes in range(0, 600, 10):
        at = T0 + minutes * MINUTE
        shop.batch(at, ("t/0", f"e{minutes}", at), ("phones/1", f"p{minutes}", T0 + minutes))
    for behind in range(0, 300, 10):
        wall = T0 + 600 * MINUTE + behind
        late = (("phones/1", f"e{behind}", T0 + behind * MINUTE + 1), ("t/0", f"n{behind}", wall))
        assert shop.batch(wall, *late) == 1


def test_a_replay_of_what_is_long_known_waits_for_a_partition_that_gets_its_records_later(shop):
    """Its producer sends to one partition first; the times are those of the file, a year ago."""
    year = 365 * 24 * HOUR
    for minutes in range(0, 600, 10):
        wall, at = T0 + year + minutes * MINUTE, T0 + minutes * MINUTE
        records = [("t/0", f"e{minutes}", at)] + [("phones/1", "p", T0)] * (minutes == 0)
        shop.batch(wall, *records)
    wall += MINUTE
    assert shop.batch(wall, ("phones/1", "e10", T0 + 10 * MINUTE + 1), ("t/0", "last", T0 + 600 * MINUTE)) == 1


appended = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), max_size=5)
steps = st.lists(st.tuples(st.integers(1, 80), appended, st.integers(1, 3), st.integers(1, 3)), min_size=4, max_size=30)


@settings(max_examples=40)
@given(steps)
def test_what_counts_is_what_would_count_if_nothing_were_forgotten(story):
    """Records become known as they are appended; each batch takes some of every partition that has any, in order."""
    with TemporaryDirectory() as folder, closing(SqliteRows(Path(folder) / "online.db")) as rows:
        bounded, endless = rows.generation(1, {"s": HOUR}), rows.generation(2)
        bounded.begin()
        endless.begin()
        waiting: list[list[tuple[str, int]]] = [[], []]
        wall, offsets = T0, [0, 0]
        for batch_id, (minutes, new, *most) in enumerate(story):
            wall += minutes * MINUTE
            for number, (partition, name) in enumerate(new):
                waiting[partition].append((f"id {name}", wall + number))
            names, known, seq = [], [], []
            for partition in (0, 1):
                for name, at in waiting[partition][: most[partition]]:
                    names.append(name)
                    known.append(at)
                    seq.append(offsets[partition] << 12 | partition)
                    offsets[partition] += 1
            idle = Idle(frozenset(one for one in (0, 1) if not waiting[one]), wall)
            waiting = [queue[take:] for queue, take in zip(waiting, most, strict=True)]
            counted = []
            for generation, said in ((bounded, idle), (endless, None)):
                ids = pa.array(names, pa.string()).dictionary_encode()
                prior = generation.remembered("s", ids.dictionary, batch_id)
                decision = decide(ids, np.array(known, np.int64), np.array(seq, np.int64), HOUR, prior)
                generation.remember("s", decision, batch_id, said)
                counted.append(decision.accepted.tolist())
            assert counted[0] == counted[1]
