"""The made-up events of the benches, and the views that are measured on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from features.definitions import (
    Aggregation,
    Count,
    DecayedCount,
    DistinctCount,
    Entity,
    FeatureSet,
    FeatureView,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Quantile,
    Stream,
    Sum,
    TimeSinceLast,
    ratio,
)

if TYPE_CHECKING:
    import pyarrow as pa

DAY_MS = 86_400_000

WINDOWS, LONG = ["5m", "1h", "24h", "7d", "30d"], ["24h", "7d", "30d"]

TYPES = ("view", "click", "impression", "cart", "favorite", "purchase")

SHARES = dict(zip(TYPES, (0.5, 0.2, 0.1, 0.08, 0.04, 0.08), strict=True))

STREAM = Stream(
    "activity",
    topic="bench.activity",
    fields={"user_id": "string", "item_id": "string", "event_type": "string", "price": "float64"},
)

USER, ITEM = Entity("user", {"user_id": "string"}), Entity("item", {"item_id": "string"})

SMALL = 20


def ranker_views() -> tuple[FeatureView, FeatureView]:
    """A user and an item view of 14 features each, as a ranker reads them."""

    def view(entity: Entity, other: str) -> FeatureView:
        return FeatureView(
            f"{entity.name}_bench",
            sets=[
                _of(entity, "view", [Count()], WINDOWS),
                _of(entity, "purchase", [Count(), Sum("price")], ["7d", "30d"]),
                _of(entity, "purchase", [Mean("price"), Max("price")], ["30d"]),
                FeatureSet(entity, STREAM, [TimeSinceLast()], ["30d"], name="any"),
                FeatureSet(entity, STREAM, [LastK(other, 10), DistinctCount(other, k=64)], ["24h"], name="any"),
            ],
        )

    return view(USER, "item_id"), view(ITEM, "user_id")


def numeric_view(features: int) -> FeatureView:
    """A user's 20 features, or 50 with those among them: numbers only, as stock Feast's are in its own benches."""
    sets = [_of(USER, kind, [Count()], WINDOWS) for kind in TYPES[:2]]
    sets += [
        _of(USER, "purchase", [Sum("price"), Mean("price")], LONG),
        _of(USER, "purchase", [Max("price")], ["30d"]),
        FeatureSet(USER, STREAM, [TimeSinceLast(), DecayedCount("7d")], ["30d"], name="any"),
        FeatureSet(USER, STREAM, [DistinctCount("item_id", k=64)], ["7d"], name="any"),
    ]
    derived = {}
    if features > SMALL:
        sets += [_of(USER, kind, [Count()], WINDOWS) for kind in TYPES[2:5]]
        sets += [_of(USER, "purchase", [Count()], LONG), _of(USER, "view", [Sum("price"), Mean("price")], LONG)]
        sets += [
            _of(USER, "purchase", [Min("price"), Quantile("price", 0.5)], ["30d"]),
            _of(USER, "view", [Last("price")], ["30d"]),
        ]
        derived = {
            "clicks_per_view_24h": ratio("user_click_count_24h", "user_view_count_24h"),
            "clicks_per_view_7d": ratio("user_click_count_7d", "user_view_count_7d"),
            "purchases_per_view_7d": ratio("user_purchase_count_7d", "user_view_count_7d"),
        }
    return FeatureView(f"users_{features}", sets, derived)


def _of(entity: Entity, kind: str, aggregations: list[Aggregation], windows: list[str]) -> FeatureSet:
    return FeatureSet(entity, STREAM, aggregations, windows, where={"event_type": kind})


def user_keys(count: int) -> list[str]:
    """The entity keys of the first users."""
    return [f"user-{number}" for number in range(count)]


class Workload:
    """Made-up events of users and items, the same in every run. Prices follow a gamma distribution.

    Args:
        shares: event type → its share of the events.
    """

    def __init__(self, users: int, items: int, shares: Mapping[str, float] = SHARES, seed: int = 7) -> None:
        import numpy as np

        self.users, self.items, self.shares = users, items, shares
        self.rng = np.random.default_rng(seed)

    def uniform(self, count: int, start: int, span_ms: int, first_offset: int = 0) -> pa.Table:
        """Events at uniform times from ``start`` (epoch ms) on, of uniform users and items."""
        import numpy as np

        times = np.sort(self.rng.integers(start, start + span_ms, count))
        users, items = self.rng.integers(0, self.users, count), self.rng.integers(0, self.items, count)
        return self._table(times, users, items, self._types(count), first_offset)

    def balanced(self, per_user: int, start: int, span_ms: int, first_offset: int = 0) -> pa.Table:
        """``per_user`` events of every user, at uniform times from ``start`` (epoch ms) on, of uniform items."""
        import numpy as np

        count = per_user * self.users
        times = np.sort(self.rng.integers(start, start + span_ms, count))
        users = self.rng.permutation(np.repeat(np.arange(self.users), per_user))
        return self._table(times, users, self.rng.integers(0, self.items, count), self._types(count), first_offset)

    def in_every_tile(self, view: FeatureView, end: int, types: Sequence[str] = TYPES) -> pa.Table:
        """An event of each type of every user in each of the 60 tiles of each window that ends at ``end`` (epoch ms).

        No row of a user can hold more; nor, but for a few, of an item where there are as many items as users.
        """
        import numpy as np

        tiles = [view.tiling.bounds(window).tile_ms for window in view.tiling.windows]
        ages = np.unique(np.concatenate([tile * np.arange(1, 61) - tile // 2 for tile in tiles]))
        times = np.repeat(np.sort(end - ages), len(types) * self.users)
        users = np.tile(np.arange(self.users), len(types) * len(ages))
        each_type = np.tile(np.repeat(types, self.users), len(ages))
        return self._table(times, users, (users * 7 + times // 1000) % self.items, each_type, 0)

    def _types(self, count: int) -> Any:
        return self.rng.choice(list(self.shares), count, p=list(self.shares.values()))

    def _table(self, times: Any, users: Any, items: Any, types: Any, first_offset: int) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        from features.events import event_schema

        count = len(times)
        offsets = np.arange(first_offset, first_offset + count)
        columns = {
            "event_id": pa.array(offsets).cast(pa.string()),
            "event_time": pa.array(times),
            "known_at": pa.array(times),
            "partition": pa.array(np.zeros(count, dtype=np.int32)),
            "offset": pa.array(offsets),
            "user_id": pa.array(np.char.add("user-", users.astype(str))),
            "item_id": pa.array(np.char.add("item-", items.astype(str))),
            "event_type": pa.array(types),
            "price": pa.array(np.round(self.rng.gamma(2.0, 15.0, count), 2)),
        }
        return pa.table(columns, schema=event_schema(STREAM))
