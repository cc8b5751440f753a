"""Definitions with every aggregation, and histories of edge cases: boundary ties, late, future, repeated events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from features.definitions import Entity, FeatureSet, FeatureView, Stream
from features.definitions.aggregations import (
    Aggregation,
    Change,
    Count,
    DecayedCount,
    DistinctCount,
    ExponentialMean,
    First,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    MostFrequent,
    Quantile,
    Ratio,
    Slope,
    StdDev,
    Sum,
    TimeSinceLast,
    Variance,
    ZScore,
)
from features.definitions.expressions import (
    above,
    any_of,
    at_least,
    below,
    difference,
    is_null,
    not_null,
    other_than,
    ratio,
    starts_with,
)
from features.definitions.windows import Window
from features.events.columns import encode_key
from features.events.parsing import event_schema
from features.history.point_in_time_join import Spine

T0 = 1_700_000_000_000
NAMES = ("a", "b", "çà", "", "a long name, longer than eight bytes")

user = Entity("user", keys={"user_id": "string"})
pair = Entity("pair", keys={"user_id": "string", "shop": "int64"})
events = Stream(
    "events",
    topic="t.events",
    fields={
        "user_id": "string",
        "shop": "int64",
        "kind": "string",
        "item": "string",
        "price": "float64",
        "units": "int64",
        "member": "bool",
    },
    dedupe_horizon="10m",
)
other = replace(events, name="other", topic="t.other")

AGGREGATIONS: tuple[Aggregation, ...] = (
    Count(),
    Count("item"),
    Count(where={"member": True}),
    Count(where={"kind": other_than("view")}),
    Sum("units", where={"kind": any_of("view", starts_with("re"), is_null())}),
    Count(where={"units": any_of(is_null(), above(3)), "kind": not_null()}),
    Sum("price"),
    Sum("units", where={"kind": ["view", "return"]}),
    Count(where={"units": above(2**53)}),
    Count(where={"units": below(0.5)}),
    Mean("price"),
    Min("price"),
    Max("units"),
    Min("units", where={"units": at_least(-(2.0**53))}),
    Last("item"),
    Last("price"),
    Last("member"),
    First("item"),
    First("price"),
    First("units", where={"kind": "view"}),
    First("member"),
    LastK("item", 3),
    LastK("units", 2),
    DistinctCount("item"),
    DistinctCount("units", k=16),
    MostFrequent("item"),
    MostFrequent("item", k=2, where={"kind": ["view", "buy"]}),
    MostFrequent("price", k=3),
    MostFrequent("units", k=4),
    MostFrequent("member"),
    TimeSinceLast(),
    DecayedCount(half_life="30s"),
    Quantile("price", q=0.5),
    Quantile("price", q=0.95, relative_error=0.05, where={"price": above(0)}),
    Ratio(Count(where={"kind": "return"}), Count()),
    Ratio(Sum("price"), Sum("units")),
    Variance("price"),
    StdDev("units", where={"kind": ["view", "return"]}),
    ZScore("price"),
    ZScore("units"),
    Slope("price"),
    Slope("units", per="1s"),
    ExponentialMean("price", half_life="30s"),
    Change("price"),
    Change("units"),
    Ratio(StdDev("price"), Mean("price")),
)
WINDOWS = ("10s", "1m", "10m", Window("1h", tile="10s"), Window("2m", delay="1m"), Window("10m", delay="10m"))


def view_of(
    windows: Sequence[Any], aggregations: Sequence[Aggregation] = AGGREGATIONS, entity: Entity = user
) -> FeatureView:
    """A view of these over one stream, two derived features, and a count and a last item of a second stream."""
    first = FeatureSet(entity, events, aggregations, windows, name="all")
    second = FeatureSet(entity, other, [Count(), Last("item")], windows[:1], where={"kind": "view"}, name="other")
    names = [f.name for f in FeatureView("v", [first]).aggregated if f.dtype in ("int64", "float64")]
    derived = {"share": ratio(names[0], names[-1]), "step": difference(names[-1], names[0])}
    return FeatureView("everything", [first, second], derived=derived)


@dataclass(frozen=True)
class World:
    """Events of two streams, each as a list of dicts in the order of their offsets."""

    streams: Mapping[str, list[dict[str, Any]]]

    def tables(self) -> dict[str, pa.Table]:
        """Stream name → its events as a table."""
        return {name: table_of(dicts, name) for name, dicts in self.streams.items()}

    @property
    def clock(self) -> int:
        """``known_at`` of the last event."""
        return max([event["known_at"] for dicts in self.streams.values() for event in dicts], default=T0)


def table_of(dicts: Sequence[Mapping[str, Any]], name: str = "events") -> pa.Table:
    """Event dicts as a table with the stream's columns."""
    return pa.Table.from_pylist(list(dicts), schema=event_schema(events if name == "events" else other))


def spine_of(view: FeatureView, pairs: Sequence[tuple[Mapping[str, Any], int]]) -> Spine:
    """A spine of (key values, as_of)."""
    keys = pa.array([encode_key(key, view.entity) for key, _ in pairs], type=pa.string())
    return Spine(keys, np.array([as_of for _, as_of in pairs], dtype=np.int64))


# Times: mostly at or next to tile boundaries of the windows, at distances where windows end.
_SCALES = (1, 166, 1_000, 10_000, 60_000, 600_000, 3_600_000)
times = st.builds(
    lambda scale, n, jitter: T0 + scale * n + jitter, st.sampled_from(_SCALES), st.integers(-40, 40), st.integers(-1, 1)
)
delays = st.one_of(
    st.just(0),
    st.integers(0, 5_000),
    st.integers(-300_000, 0),
    st.sampled_from([60_000, 600_000, 1_260_000, 3_600_000, 3_600_001, 7_200_000]),
)
prices = st.one_of(
    st.none(),
    st.sampled_from([19.99, -19.99, 0.1, 0.2, -0.3, 0.0, -0.0, 5.0, 1e-7, 1e12, -1e12]),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6)),
)


EDGES = [sign * edge + step for sign in (1, -1) for edge in (2**53, 2**62) for step in (-1, 0, 1)]
EDGES += [2**63 - 1, 2**63 - 2, -(2**63), 1 - 2**63]
"""Integers where float64 begins to round, and where int64 ends."""


@st.composite
def event_dicts(draw: st.DrawFn, ids: int = 60) -> dict[str, Any]:
    """An event without partition and offset."""
    time = draw(times)
    return {
        "event_id": f"e{draw(st.integers(0, ids))}",
        "event_time": time,
        "known_at": time + draw(delays),
        "user_id": draw(st.sampled_from(["u1", "u1", "u2", "ü3", None])),
        "shop": draw(st.sampled_from([1, 2, -3, None])),
        "kind": draw(st.sampled_from(["view", "return", "buy", None])),
        "item": draw(st.sampled_from((*NAMES, None))),
        "price": draw(prices),
        "units": draw(st.one_of(st.sampled_from([0, 1, 2, 3, -1, 2**40, *EDGES, None]), st.integers(0, 99))),
        "member": draw(st.sampled_from([True, False, None])),
    }


@st.composite
def worlds(draw: st.DrawFn, most: int = 40, kept_times: bool = False) -> World:
    """Two streams, with up to ``most`` and five events, on two partitions; offsets are in the order of ``known_at``."""
    streams = {}
    for name, most_here in (("events", most), ("other", 5)):
        dicts = draw(st.lists(event_dicts(), max_size=most_here))
        if kept_times:
            dicts = [{**event, "known_at": event["event_time"]} for event in dicts]
        dicts.sort(key=lambda event: event["known_at"])
        parts = draw(st.lists(st.integers(0, 1), min_size=len(dicts), max_size=len(dicts)))
        streams[name] = [
            {**event, "partition": part, "offset": 7 + number}
            for number, (event, part) in enumerate(zip(dicts, parts, strict=True))
        ]
    return World(streams)
