"""What each event of a batch met is what one would read before folding it, were the events folded one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import T0, WINDOWS, World, pair, table_of, view_of, worlds

from features.definitions import FeatureView, Stream
from features.definitions.aggregations import Count
from features.definitions.windows import Window
from features.errors import UsageError
from features.events.columns import EventColumns
from features.history import within_batch as before_events
from features.history.point_in_time_join import LedgerPositions, Spine, point_in_time
from features.history.within_batch import features_before
from features.rows.finalizing import finalize
from features.rows.folding import fold
from features.rows.matrix import BatchKey, FeatureMatrix, PackedRows

STREAM_ID = 1
Rows = dict[str, bytes]


def stored(rows: Rows, keys: pa.Array) -> pa.Array:
    return pa.array([rows.get(key) for key in keys.to_pylist()], pa.binary())


def folded(view: FeatureView, rows: Rows, events: Mapping[str, pa.Table], batch_id: int) -> None:
    """The events are in the rows."""
    keys = pa.array(list(rows), pa.string())
    changed = fold(view, PackedRows(keys, stored(rows, keys)), events, BatchKey(STREAM_ID, batch_id, 0))
    rows |= dict(zip(changed.keys.to_pylist(), changed.values.to_pylist(), strict=True))


def one_by_one(view: FeatureView, world: World, batches: list[dict[str, pa.Table]]) -> list[FeatureMatrix]:
    """What is read just before each event of the stream 'events', in each batch in the order of its table."""
    rows: Rows = {}
    answers, number = [], 0
    for batch in batches:
        names = [stream.name for stream in view.streams if stream.name in batch]
        ledger = [
            (event["known_at"], names.index(name), (event["offset"], event["partition"]), name, place)
            for name in names
            for place, event in enumerate(batch[name].to_pylist())
        ]
        met: dict[int, FeatureMatrix] = {}
        for known_at, _, _, name, place in sorted(ledger):
            event = batch[name].slice(place, 1)
            if name == "events":
                (stream,) = (one for one in view.streams if one.name == name)
                keys = EventColumns(event, stream).entity_keys(view.entity)
                met[place] = finalize(view, PackedRows(keys, stored(rows, keys)), known_at + 1, STREAM_ID)
            number += 1
            folded(view, rows, {name: event}, number)
        answers += [met[place] for place in sorted(met)]
    return answers


def in_batches(view: FeatureView, batches: list[dict[str, pa.Table]]) -> list[FeatureMatrix]:
    rows: Rows = {}
    answers = []
    for number, batch in enumerate(batches, start=1):
        (stream,) = (one for one in view.streams if one.name == "events")
        key = BatchKey(STREAM_ID, number, 0)
        answers.append(features_before(view, stream, batch, lambda keys: stored(rows, keys), key))
        folded(view, rows, batch, number)
    return answers


def divided(world: World, cuts: list[int]) -> list[dict[str, pa.Table]]:
    """The events in the order of becoming known, cut into batches; each batch's tables in no order."""
    several = [(event["known_at"], name, event) for name, events in world.streams.items() for event in events]
    several.sort(key=lambda one: one[0])
    edges = [0, *sorted(min(cut, len(several)) for cut in cuts), len(several)]
    parts = [several[start:stop] for start, stop in pairwise(edges)]
    return [
        {name: table_of([event for _, of, event in reversed(part) if of == name], name) for name in world.streams}
        for part in parts
    ]


UNSTABLE = ("_per_", "zscore", "stddev", "variance", "slope", "trend")
"""Parts of the names of features that a sum's last bit can change without bound: what is divided may be next to 0."""


def moderate(world: World) -> World:
    """The events with numbers whose sums are exact in any order."""

    def of(event: dict[str, Any]) -> dict[str, Any]:
        price, units = event["price"], event["units"]
        price = None if price is None else round(price) % 1_000 / 4
        return {**event, "price": price, "units": None if units is None else units % 1_000}

    return World({name: [of(event) for event in events] for name, events in world.streams.items()})


EITHER = worlds(most=20).flatmap(lambda world: st.sampled_from([(world, False), (moderate(world), True)]))
"""A world, and whether its sums are exact, so that every feature can be compared."""

VIEWS = st.sampled_from([view_of(WINDOWS), view_of(WINDOWS[:2], entity=pair)])


@given(
    pairs=st.sampled_from([1, 4_000_000]),
    view=VIEWS,
    either=EITHER,
    cuts=st.lists(st.integers(0, 25), max_size=3),
)
def test_events_of_a_batch_meet_what_came_before_them_and_not_themselves(
    pairs: int, view: FeatureView, either: tuple[World, bool], cuts: list[int]
) -> None:
    world, exact = either
    batches = divided(world, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(before_events, "MOST_PAIRS", pairs)
        found = in_batches(view, batches)
    expected = one_by_one(view, world, batches)
    compare(found, expected, exact)


@given(view=VIEWS, either=EITHER)
def test_history_says_of_each_event_what_the_stream_met(view: FeatureView, either: tuple[World, bool]) -> None:
    """Of one batch, whose ledger's order is that of all: training asks what serving answers."""
    world, exact = either
    tables = world.tables()
    if not tables["events"].num_rows:
        return
    (stream,) = (one for one in view.streams if one.name == "events")
    met = in_batches(view, [tables])
    compare([known_before(view, stream, tables["events"], tables)], met, exact)


def known_before(view: FeatureView, stream: Stream, asked: pa.Table, history: Mapping[str, pa.Table]) -> FeatureMatrix:
    """What history says of these events of the stream, by their places in the ledger's order."""
    columns = EventColumns(asked, stream)
    places = LedgerPositions(stream.name, columns.known_at, columns.seq)
    return point_in_time(view, Spine(columns.entity_keys(view.entity), columns.known_at + 1, places), history)


def test_at_a_tiles_edge_history_counts_what_the_stream_counts_and_not_a_tile_more() -> None:
    """Whole seconds and tiles of a second: a ms sooner the window begins a tile sooner."""
    times = [T0 - 61_000, T0 - 60_000, T0]
    given = {"user_id": "u1", "partition": 0}
    rows = [
        {**given, "event_id": f"e{number}", "event_time": time, "known_at": time, "offset": number}
        for number, time in enumerate(times)
    ]
    view, batch = view_of([Window("1m", tile="1s"), Window("10m", tile="1s")], [Count()]), {"events": table_of(rows)}
    (met,) = in_batches(view, [batch])
    history = known_before(view, view.streams[0], batch["events"], batch)
    assert met.columns[0].to_pylist() == history.columns[0].to_pylist() == [None, 1, 1]


def test_of_events_at_one_millisecond_history_counts_those_that_stand_before_in_the_ledger() -> None:
    """Streams in the view's order, then offsets: here two of each stream at one time."""
    given = {"event_time": T0, "known_at": T0, "user_id": "u1", "partition": 0, "kind": "view"}
    rows = [{**given, "event_id": f"e{number}", "offset": number} for number in (1, 0)]
    batch = {"events": table_of(rows), "other": table_of(rows, "other")}
    view = view_of(["1m"], [Count()])
    other_stream = next(one for one in view.streams if one.name == "other")
    ours = known_before(view, view.streams[0], batch["events"], batch)
    theirs = known_before(view, other_stream, batch["other"], batch)
    counts = [dict(zip(one.names, one.columns, strict=True)) for one in (ours, theirs)]
    names = [name for name in counts[0] if "count" in name]
    found = [[one[name].to_pylist() for name in names] for one in counts]
    assert [[value or 0 for value in values] for one in found for values in one] == [[1, 0], [0, 0], [2, 2], [1, 0]]


def compare(found: list[FeatureMatrix], expected: list[FeatureMatrix], exact: bool) -> None:
    """The rows agree; but for UNSTABLE features, unless sums are exact (test_paths_agree has their own tolerances)."""
    for name in ("status", "as_of", "newest_event"):
        left, right = (np.concatenate([[], *(getattr(one, name) for one in several)]) for several in (found, expected))
        assert left.tolist() == right.tolist(), name
    if not expected:
        return
    left, right = (pa.concat_tables([one.to_table() for one in several]) for several in (found, expected))
    scale = 1e-9 * 1e12 * 25
    for name in right.column_names:
        if not exact and any(part in name for part in UNSTABLE):
            continue
        if pa.types.is_floating(right[name].type):
            one, other = (np.asarray(table[name].fill_null(np.nan)) for table in (left, right))
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=scale, err_msg=name)
        else:
            assert left[name].to_pylist() == right[name].to_pylist(), name


def test_a_stream_that_the_view_does_not_read_is_refused() -> None:
    view = view_of(WINDOWS)
    stranger = replace(view.streams[0], name="stranger")
    with pytest.raises(UsageError, match="to read stream 'stranger'"):
        features_before(view, stranger, {}, lambda keys: keys, BatchKey(1, 1, 0))


def test_of_three_events_of_one_entity_in_a_batch_the_first_meets_none_and_the_third_two() -> None:
    given = {"event_time": T0, "known_at": T0, "user_id": "u1", "partition": 0}
    batch = {"events": table_of([{**given, "event_id": f"e{number}", "offset": number} for number in (2, 0, 1)])}
    (found,) = in_batches(view_of(["1m"], [Count()]), [batch])
    assert found.columns[0].to_pylist() == [2, None, 1]
