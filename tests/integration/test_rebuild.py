"""Online rows from the archive: the same whatever fits into memory, up to where the stream goes on."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import Count, DistinctCount, LastK, Sum
from features.definitions.repo import FeatureRepo
from features.events.parsing import from_columns
from features.history.archive import ALWAYS, ArchiveTable
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.sqlite.rows import SqliteRows
from features.rows.finalizing import finalize
from features.rows.matrix import PackedRows
from streaming.archive.sink import Archive, topic_of
from streaming.context import StreamContext
from streaming.generations.builder import Builder
from streaming.generations.checkpoints import Generation, build_from_archive
from streaming.kafka.topic_admin import ensure_topics
from streaming.settings import StreamOptions

pytestmark = pytest.mark.integration

T0, COUNT = 1_700_000_000_000, 6_000
FIELDS = {"user_id": "string", "item_id": "string", "price": "float64"}
SHOP, OTHER = Stream("shop", topic="shop", fields=FIELDS), Stream("other", topic="other", fields=FIELDS)
user, item = Entity("user", {"user_id": "string"}), Entity("item", {"item_id": "string"})
BY_USER = FeatureView(
    "by_user",
    sets=[
        FeatureSet(user, SHOP, [Count(), Sum("price"), LastK("item_id", 5)], ["1h", "24h"]),
        FeatureSet(user, OTHER, [Count()], ["1h"], name="other"),
    ],
)
BY_ITEM = FeatureView("by_item", sets=[FeatureSet(item, SHOP, [Count(), DistinctCount("user_id", k=64)], ["24h"])])
REPO = FeatureRepo(
    Path(), {"user": user, "item": item}, {"shop": SHOP, "other": OTHER}, {"by_user": BY_USER, "by_item": BY_ITEM}
)
FIRST = {"shop/0": COUNT // 3, "shop/1": COUNT // 3, "other/0": 10**6, "other/1": 10**6}
USERS, ITEMS = (pa.array([f"{kind}{number}" for number in range(count)]) for kind, count in (("u", 60), ("i", 30)))


def events_of(stream: Stream, seed: int) -> pa.Table:
    """Events of two partitions, one in ten of them repeated and a few of nobody."""
    rng = np.random.default_rng(seed)
    known = np.sort(rng.integers(T0, T0 + 20 * 3_600_000, COUNT))
    users = [None if number == 0 else f"u{number}" for number in rng.integers(0, 60, COUNT)]
    columns = {
        "event_id": [f"{stream.name}-{number}" for number in rng.integers(0, 5 * COUNT, COUNT)],
        "event_time": known - rng.integers(0, 60_000, COUNT),
        "known_at": known,
        "partition": (np.arange(COUNT) % 2).astype(np.int32),
        "offset": np.arange(COUNT) // 2,
        "user_id": users,
        "item_id": [f"i{number}" for number in rng.integers(0, 30, COUNT)],
        "price": np.round(rng.gamma(2.0, 15.0, COUNT), 2),
    }
    return from_columns(pa.table(columns), stream, REPO.horizon_ms(stream.name)).events


@pytest.fixture
def archive(tmp_path):
    archive = Archive(tmp_path / "offline", REPO)
    for seed, stream in enumerate((SHOP, OTHER)):
        events = events_of(stream, seed)
        for batch in range(6):
            archive.append(stream, events.slice(batch * COUNT // 6, COUNT // 6))
    return archive


def built(archive, path, rows_in_memory):
    rows = SqliteRows(path)
    build_from_archive(rows.generation(7), REPO, archive, Generation(7, FIRST, {}), T0, rows_in_memory)
    return rows


def values(rows, view, keys):
    return rows.generation(7).rows(view, keys).to_pylist()


@pytest.mark.parametrize("rows_in_memory", [500, 2_000])
def test_rows_that_are_built_a_part_at_a_time_have_the_same_bytes(archive, tmp_path, rows_in_memory):
    whole, parts = (built(archive, tmp_path / f"{rows}.db", rows) for rows in (10**6, rows_in_memory))
    with closing(whole), closing(parts):
        for view, keys in (("by_user", USERS), ("by_item", ITEMS)):
            assert values(parts, view, keys) == values(whole, view, keys)
            assert values(whole, view, keys).count(None) == (view == "by_user")  # u0 is nobody
        assert parts.generation(7).marker() == whole.generation(7).marker()


@pytest.mark.parametrize("rows_in_memory", [500, 10**6])
def test_the_stream_goes_on_where_the_rows_end_and_counts_nothing_twice(archive, tmp_path, rows_in_memory):
    """What is archived beyond the end is not in the rows; an id that is in them is a repetition in the next batch."""
    with closing(built(archive, tmp_path / "rows.db", rows_in_memory)) as rows:
        step = BatchStep(rows.generation(7), [BY_USER, BY_ITEM], 7)
        whole = events_of(SHOP, 0)
        late = pa.compute.greater_equal(whole["offset"], COUNT // 3)
        again = whole.filter(pa.compute.less(whole["offset"], COUNT // 3)).slice(COUNT // 2)
        places = np.arange(len(again)) + COUNT
        again = again.set_column(again.schema.get_field_index("offset"), "offset", pa.array(places))
        parsed = from_columns(pa.concat_tables([whole.filter(late), again]), SHOP, REPO.horizon_ms("shop"))
        end = FIRST | {"shop/0": 2 * COUNT, "shop/1": 2 * COUNT}
        counts = step.run(Batch(0, FIRST, end, {"shop": parsed}, T0))
        assert counts.duplicate >= len(again)
        with closing(SqliteRows(tmp_path / "expected.db")) as other:
            build_from_archive(other.generation(7), REPO, archive, Generation(7, end | {"other/0": 10**6}, {}), T0)
            as_of = T0 + 20 * 3_600_000
            for view in (BY_USER, BY_ITEM):
                keys = USERS if view is BY_USER else ITEMS
                found, right = (
                    finalize(view, PackedRows(keys, one.generation(7).rows(view.name, keys)), as_of, 7).to_table()
                    for one in (rows, other)
                )
                exact = [name for name in view.names if "sum" not in name]
                assert found.select(exact).equals(right.select(exact))


@pytest.mark.parametrize("rows_in_memory", [500, 10**6])
def test_a_rebuild_reads_only_what_rows_can_show(archive, tmp_path, monkeypatch, rows_in_memory):
    """Events of weeks before leave the rows as they are and are not read; an entity last seen then has no row."""
    with closing(built(archive, tmp_path / "before.db", rows_in_memory)) as rows:
        before = [values(rows, view, keys) for view, keys in (("by_user", USERS), ("by_item", ITEMS))]
    earlier = events_of(SHOP, 3).slice(0, COUNT // 10).to_pydict()
    weeks_ms = 40 * 24 * 3_600_000
    earlier["event_id"] = [f"early-{number}" for number in range(COUNT // 10)]
    for name in ("event_time", "known_at"):
        earlier[name] = [time - weeks_ms for time in earlier[name]]
    earlier["offset"] = [-1 - number for number in range(COUNT // 10)]  # of before the partition's first
    earlier["user_id"] = ["of early" if number % 2 else user for number, user in enumerate(earlier["user_id"])]
    early = pa.table(earlier, schema=events_of(SHOP, 3).schema)
    archive.write(SHOP, early, topic_of(early, SHOP), {})
    read = []
    batches = ArchiveTable.batches

    def counted(table, columns, span=ALWAYS):
        for batch in batches(table, columns, span):
            read.append(batch["event_time"].to_pylist() if "event_time" in batch.column_names else [])
            yield batch

    monkeypatch.setattr(ArchiveTable, "batches", counted)
    with closing(built(archive, tmp_path / "after.db", rows_in_memory)) as rows:
        assert [values(rows, view, keys) for view, keys in (("by_user", USERS), ("by_item", ITEMS))] == before
        assert values(rows, "by_user", pa.array(["of early"])) == [None]
    assert min((time for times in read for time in times), default=T0) >= T0 - 60_000


def test_a_new_generation_begins_where_events_are_not_scored(kafka, unique_name, tmp_path):
    """Rows that have events which no model has scored would hide them for good."""
    stream = Stream("shop", topic=unique_name, fields={"user_id": "string"})
    view = FeatureView("by_user", sets=[FeatureSet(user, stream, [Count()], ["1h"])])
    repo, place = FeatureRepo(Path(), {"user": user}, {"shop": stream}, {view.name: view}), f"{unique_name}/0"
    ensure_topics(kafka, [stream], partitions=1)
    archive, archived = Archive(tmp_path / "offline", repo), Generation(1, {place: 10}, {})
    columns = {"event_time": T0 + np.arange(10), "user_id": ["ann"] * 10, "event_id": [f"e{at}" for at in range(10)]}
    archive.append(stream, from_columns(pa.table(columns), stream).events)
    with closing(SqliteRows(tmp_path / "rows.db")) as rows:
        context = StreamContext(StreamOptions(tmp_path, archive.folder, kafka), repo, rows, lambda _: None)
        for scored, first in (({}, 10), ({place: 6}, 6), ({place: 12}, 10), ({place: -3}, 0)):
            made = Builder(context, archive, lambda scored=scored: scored).built(archived)
            assert made.first == {place: first}
            stored = rows.generation(made.stream_id).rows(view.name, pa.array(["ann"]))
            counted = finalize(view, PackedRows(pa.array(["ann"]), stored), T0 + 60, made.stream_id)
            assert counted.columns[0].to_pylist() == [first or None]
