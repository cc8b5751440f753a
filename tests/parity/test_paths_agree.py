"""Oracle = history = fold, for every aggregation, however the events come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryHandle, MemoryStore
from worlds import AGGREGATIONS, WINDOWS, World, pair, spine_of, view_of, worlds

from features.checks.oracle import disagreements, oracle
from features.definitions import FeatureView, Stream
from features.definitions.aggregations import DecayedCount, ExponentialMean
from features.definitions.windows import Window, duration_ms
from features.events.dedupe import without_duplicates
from features.events.parsing import from_columns
from features.history import ranges
from features.history.point_in_time_join import point_in_time
from features.online_store.batch_step import Batch, BatchStep
from features.online_store.port import Marker
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, PackedRows

VIEW = view_of(WINDOWS)
SLOW = tuple(
    replace(one, half_life="10d") if isinstance(one, DecayedCount | ExponentialMean) else one for one in AGGREGATIONS
)
HUGE = view_of(["3000d", Window("1s", tile="1s"), "7d"], SLOW)
DELAYED = view_of([window for window in WINDOWS if not isinstance(window, str)])
PAIRS = view_of(WINDOWS[:2], entity=pair)
NOTHING = PackedRows(pa.array([], pa.string()), pa.array([], pa.binary()))
USERS = [{"user_id": "u1"}, {"user_id": "u2"}, {"user_id": "ü3"}, {"user_id": "nobody"}]


def deduplicated(world: World) -> dict[str, pa.Table]:
    return {name: without_duplicates(table, duration_ms("10m")) for name, table in world.tables().items()}


def folded(view: FeatureView, tables: dict[str, pa.Table], cuts: Sequence[int], order: Sequence[int]) -> PackedRows:
    """The rows after the events in this order, cut into batches at these places."""
    rows = NOTHING
    edges = [0, *sorted(cuts), len(order)]
    whole = pa.concat_tables(
        [table.append_column("stream", pa.array([name] * len(table), pa.string())) for name, table in tables.items()]
    )
    for batch, (start, stop) in enumerate(pairwise(edges)):
        part = whole.take(pa.array(list(order[start:stop]), type=pa.int64()))
        by_stream = {name: part.filter(pa.compute.equal(part["stream"], name)).drop(["stream"]) for name in tables}
        changed = fold(view, rows, by_stream, BatchKey(1, batch, 0))
        rows = merged(rows, changed)
    return rows


def merged(rows: PackedRows, changed: PackedRows) -> PackedRows:
    """The store after a write."""
    both = dict(zip(rows.keys.to_pylist(), rows.values.to_pylist(), strict=True))
    both |= dict(zip(changed.keys.to_pylist(), changed.values.to_pylist(), strict=True))
    return PackedRows(pa.array(list(both), pa.string()), pa.array(list(both.values()), pa.binary()))


def read(view: FeatureView, rows: PackedRows, keys: Sequence[dict[str, Any]], as_of: int) -> Any:
    """The features of these keys from the rows."""
    spine = spine_of(view, [(key, as_of) for key in keys])
    values = (
        rows.values.take(pa.compute.index_in(spine.keys, value_set=rows.keys))
        if len(rows)
        else pa.nulls(len(keys), pa.binary())
    )
    return finalize(view, PackedRows(spine.keys, values), as_of, 1)


VIEWS = pytest.mark.parametrize("view", [VIEW, DELAYED, HUGE], ids=["mixed", "delayed", "huge and tiny"])


@VIEWS
@given(data=st.data(), world=worlds())
def test_history_is_what_the_oracle_says_at_any_time(view: FeatureView, data: st.DataObject, world: World) -> None:
    """Late, future, disordered, repeated and boundary events: each spine row is the oracle's, in the spine's order."""
    moments = [
        world.clock,
        *(e["known_at"] for e in world.streams["events"][:6]),
        *(e["event_time"] for e in world.streams["events"][-6:]),
    ]
    around = st.builds(
        lambda moment, step: moment + step,
        st.sampled_from(moments),
        st.sampled_from([-1, 0, 1, 999, 60_000, 4_000_000]),
    )
    asked = data.draw(st.lists(st.tuples(st.sampled_from(USERS), around), min_size=1, max_size=8))
    expected = [oracle(view, key, as_of, world.streams) for key, as_of in asked]
    found = point_in_time(view, spine_of(view, asked), deduplicated(world))
    assert disagreements(view, expected, found) == []


@VIEWS
@given(data=st.data(), world=worlds(), later=st.sampled_from([0, 1, 9_999, 60_000, 600_000, 3_700_000, 9_000_000]))
def test_fold_in_any_batching_and_order_is_what_the_oracle_says(
    view: FeatureView, data: st.DataObject, world: World, later: int
) -> None:
    """However the same events are cut into batches and shuffled, the rows read as the oracle, at the clock or later."""
    tables = deduplicated(world)
    count = sum(len(table) for table in tables.values())
    order = data.draw(st.permutations(range(count)))
    cuts = data.draw(st.lists(st.integers(0, count), max_size=4))
    as_of = world.clock + later
    found = read(view, folded(view, tables, cuts, order), USERS, as_of)
    expected = [oracle(view, key, as_of, world.streams) for key in USERS]
    assert disagreements(view, expected, found) == []


@given(world=worlds(most=60))
def test_runs_in_blocks_are_runs_entry_by_entry(world: World) -> None:
    """Whether a window's entries are gathered one by one or as blocks of blocks, every feature is the oracle's."""
    asked = [(key, event["known_at"] + 60_000) for key in USERS for event in world.streams["events"][::4]]
    expected = [oracle(VIEW, key, as_of, world.streams) for key, as_of in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "BLOCK", 2)
        patch.setattr(ranges, "WORTH_BLOCKS", -(10**6))
        found = point_in_time(VIEW, spine_of(VIEW, asked), deduplicated(world))
    assert disagreements(VIEW, expected, found) == []


@given(data=st.data(), world=worlds(most=25))
def test_a_composite_key_keeps_its_parts_apart(data: st.DataObject, world: World) -> None:
    """Entities of two key columns are folded and read by both."""
    keys = [{"user_id": user_id, "shop": shop} for user_id in ("u1", "u2", "ü3") for shop in (1, 2, -3)]
    expected = [oracle(PAIRS, key, world.clock, world.streams) for key in keys]
    tables = deduplicated(world)
    count = sum(len(table) for table in tables.values())
    stream = read(PAIRS, folded(PAIRS, tables, [count // 2], range(count)), keys, world.clock)
    history = point_in_time(PAIRS, spine_of(PAIRS, [(key, world.clock) for key in keys]), tables)
    assert disagreements(PAIRS, expected, stream) == []
    assert disagreements(PAIRS, expected, history) == []


@given(data=st.data(), world=worlds(most=30))
def test_batches_with_repeated_events_and_replays_are_what_the_oracle_says(data: st.DataObject, world: World) -> None:
    """The batch step decides duplicates as it goes; a batch that is run again, as after a crash, changes nothing."""
    store, tables = MemoryStore(), world.tables()
    handle = MemoryHandle(store, 1)
    handle.begin()
    handle.publish(Marker(-1, {}, {}, -1))
    step = BatchStep(handle, [VIEW], 1)
    cuts = sorted(data.draw(st.lists(st.integers(0, 40), max_size=3)))
    for number, (start, stop) in enumerate(pairwise([0, *cuts, 50])):
        parsed = {
            name: from_columns(table.slice(start, stop - start), stream) for name, table, stream in sources(tables)
        }
        batch = Batch(number, offsets(number), offsets(number + 1), parsed, 0)
        first = step.run(batch)
        if data.draw(st.booleans()):
            assert step.run(batch) == first
    found = read(VIEW, handle.all_rows(VIEW.name), USERS, world.clock)
    expected = [oracle(VIEW, key, world.clock, world.streams) for key in USERS]
    assert disagreements(VIEW, expected, found) == []


def sources(tables: dict[str, pa.Table]) -> list[tuple[str, pa.Table, Stream]]:
    """Each stream's table as a file has it: without computed columns and with its name's definition."""
    by_name = {stream.name: stream for stream in VIEW.streams}
    return [(name, table, by_name[name]) for name, table in tables.items()]


def offsets(number: int) -> dict[str, int]:
    """Offsets that follow each other from batch to batch."""
    return {} if number == 0 else {"t/0": number}
