"""A simulated shop: users with tastes who look, put in the cart and buy, in sessions, from a catalogue with trends.

There is something to learn, and little that is not in the events: an item belongs to a category and a brand; a user
likes a few categories and mostly one brand; some items sell better than others of their kind; some are hot for hours.
The same seed makes the same shop; the same seed and times make the same events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS
from features.errors import UsageError
from features.events import PLAUSIBLE, implausible

NOUNS = (
    *(
        "lamp",
        "mug",
        "teapot",
        "cushion",
        "clock",
        "candle",
        "basket",
        "frame",
        "notebook",
        "pen",
        "backpack",
        "wallet",
    ),
    *("scarf", "jacket", "boots", "watch", "bottle", "kettle", "knife", "pan", "puzzle", "kite", "tent", "speaker"),
)

ADJECTIVES = ("blue", "red", "small", "large", "classic", "light", "folding", "wooden", "woollen", "travel", "garden")

BRANDS = {"Alder": 0.5, "Birch": 0.8, "Cedar": 1.0, "Elm": 1.3, "Hazel": 1.8, "Rowan": 2.6}
"""Brand → factor of its prices."""

TYPES = ("view", "favorite", "cart", "remove", "purchase", "rating", "return")

VIEW, FAVORITE, CART, REMOVE, PURCHASE, RATING, RETURN = range(len(TYPES))

TASTES = (0.6, 0.25, 0.15)
"""Shares of sessions about a user's first, second and third kind of item."""

LOYALTY = 0.8
"""Probability that a kind that a user likes is of the user's brand."""

FROM_INTENT, FROM_TASTE = 0.75, 0.15
"""Shares of a session's views for its intent and for another taste of the user; the rest follows popularity."""

HOT, HOT_MS = 0.12, 6 * UNITS_MS["h"]
"""Share of views of a kind's hot item, and the ms for which it is hot."""

FAVORED, CARTED = 0.05, 0.14
"""Shares of views of liked items that lead to a favourite or the cart; scaled by the item's appeal."""

INDIFFERENT = 0.35
"""Factor of these shares for items that the user does not like."""

BOUGHT, REMOVED = 0.5, 0.3
"""Share of carts that become purchases, and share of the others that are emptied."""

SECOND, RATED, RETURNED = 0.1, 0.2, 0.06
"""Shares of purchases that are of two, are rated, are returned."""

MEAN_VIEWS, MOST_VIEWS = 6.0, 40

GAP_MS = 15_000.0
"""Mean time between two views of a session."""

BUSY_SHARE = 0.25
"""The largest share of users in a session at once: at higher rates sessions are quicker."""

LONGEST_SESSION_GAPS = 25

TRIAL = 20_000
"""Sessions simulated to estimate the events of one."""

DAY_SWING = 0.6
"""Amplitude of the day's rate around its mean."""


@dataclass(frozen=True)
class Events:
    """Events as numbers: ms, indexes of users, items and types, and session numbers."""

    time: Int64s
    kind: Int64s
    user: Int64s
    session: Int64s
    item: Int64s
    quantity: Int64s
    rating: Int64s

    def pick(self, which: Bools | Int64s) -> Events:
        """Some of them, in that order."""
        return Events(*(getattr(self, field.name)[which] for field in fields(self)))


NOTHING = Events(*(np.zeros(0, dtype=np.int64) for _ in fields(Events)))


def _concatenated(parts: list[Events]) -> Events:
    return Events(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Events)))


class ShopSimulator:
    """A shop with its catalogue, its users and their tastes; makes events of the past, and live ones without end."""

    def __init__(self, seed: int = 7, users: int = 10_000, items: int = 2_000) -> None:
        if users < 1 or items < 1 or seed < 0:
            got = f"{users} users, {items} items, seed {seed}"
            raise UsageError("a simulated shop", "at least one user and one item, and a seed of 0 or more", got)
        self.seed, self.users, self.items = seed, users, items
        rng = np.random.default_rng([seed, 0])
        self._make_items(rng)
        self._make_users(rng)
        trial = self._session_events(np.random.default_rng([seed, 1]), np.zeros(TRIAL), GAP_MS, 0)
        self._per_session = np.count_nonzero(trial.kind < RATING) / TRIAL

    # --- the world ----------------------------------------------------------------------------------------------------

    def _make_items(self, rng: np.random.Generator) -> None:
        """Items sorted by kind (category and brand), each with a weight, a price and an appeal."""
        share = 1.0 / np.arange(1, len(NOUNS) + 1) ** 0.7
        category = rng.choice(len(NOUNS), self.items, p=share / share.sum())
        brand = rng.integers(0, len(BRANDS), self.items)
        _, self.kind_of = np.unique(np.sort(category * len(BRANDS) + brand), return_inverse=True)
        order = np.argsort(category * len(BRANDS) + brand, kind="stable")
        self.category, self.brand = category[order], brand[order]
        self.weight: Floats = rng.lognormal(0.0, 1.0, self.items)
        self.appeal: Floats = rng.beta(4.0, 4.0, self.items) * 2.0
        base = 5.0 * rng.lognormal(1.0, 0.6, len(NOUNS))[self.category]
        level = np.array(list(BRANDS.values()))[self.brand]
        self.price: Floats = np.maximum(np.round(base * level * rng.lognormal(0.0, 0.2, self.items)), 1.0) - 0.01
        self._starts = np.searchsorted(self.kind_of, np.arange(self.kind_of[-1] + 2))
        self._ends = np.concatenate([[0.0], np.cumsum(self.weight)])
        self._item_ids = _names("i", self.items).take(pa.array(rng.permutation(self.items)))
        self._categories = pa.array(NOUNS).take(pa.array(self.category))
        self._prices = pa.array(self.price)

    def _make_users(self, rng: np.random.Generator) -> None:
        """Users with their activity, readiness to buy, and liked kinds, the dearest first."""
        kinds = int(self.kind_of[-1]) + 1
        mass = np.diff(self._ends[self._starts])
        self.tastes: Int64s = rng.choice(kinds, (self.users, len(TASTES)), p=mass / mass.sum())
        favourite = rng.integers(0, len(BRANDS), self.users)[:, None]
        first = self._starts[:-1]
        kind_at = np.full((len(NOUNS), len(BRANDS)), -1, dtype=np.int64)
        kind_at[self.category[first], self.brand[first]] = np.arange(kinds)
        same_brand = kind_at[self.category[first][self.tastes], favourite]
        loyal = (rng.random(self.tastes.shape) < LOYALTY) & (same_brand >= 0)
        self.tastes = np.where(loyal, same_brand, self.tastes)
        self._activity = np.cumsum(rng.lognormal(0.0, 0.8, self.users))
        self._readiness = np.minimum(rng.lognormal(-0.2, 0.5, self.users), 2.0)
        self._user_ids = _names("u", self.users)

    def catalogue(self, known_at_ms: int) -> pa.Table:
        """An upsert of each item, all of that time, with its title, category, price and brand."""
        adjectives = np.arange(self.items) % len(ADJECTIVES)
        brands = pa.array(list(BRANDS)).take(pa.array(self.brand))
        title = pc.binary_join_element_wise(
            brands, pa.array(ADJECTIVES).take(pa.array(adjectives)), self._categories, " "
        )
        times = pa.array(np.full(self.items, known_at_ms, dtype=np.int64))
        ids = pc.binary_join_element_wise(f"catalogue{self.seed}", times.cast(pa.string()), self._item_ids, "-")
        columns = {"event_id": ids, "event_time": times, "known_at": times, "item_id": self._item_ids, "title": title}
        return pa.table(columns | {"category": self._categories, "price": self._prices, "brand": brands})

    def categories_liked_by(self, user_id: str) -> set[str]:
        """The categories that the user likes: the truth that a model has to learn."""
        kinds = self.tastes[int(user_id[1:])]
        return {NOUNS[category] for category in self.category[self._starts[kinds]].tolist()}

    # --- events -------------------------------------------------------------------------------------------------------

    def history(self, days: float, until_ms: int, per_user_day: float = 4.0) -> pa.Table:
        """The events of the days before ``until_ms``, in time order, with the columns that from_columns() takes.

        Args:
            days: how many.
            until_ms: no event is at this time or later.
            per_user_day: mean events of a user in a day; the most active have many times as many.
        """
        day_ms = UNITS_MS["d"]
        start_ms = until_ms - int(days * day_ms)
        per_ms = per_user_day * self.users / day_ms
        blocks = self._blocks(start_ms, until_ms, day_ms, per_ms, DAY_SWING)
        return pa.concat_tables([self._table(NOTHING, "", 0), *blocks]).combine_chunks()

    def live(
        self, start_ms: int, per_second: float, until_ms: int | None = None, block_ms: int = 1_000
    ) -> Iterator[pa.Table]:
        """Events from ``start_ms`` on, in time order, block by block; without end unless ``until_ms`` is given.

        Args:
            start_ms: no event is before it; sessions that began earlier go on.
            per_second: the mean rate.
            until_ms: no event is at this time or later.
            block_ms: the time that each table covers.
        """
        return self._blocks(start_ms, until_ms, block_ms, per_second / 1_000, 0.0)

    def _blocks(
        self, start_ms: int, until_ms: int | None, block_ms: int, per_ms: float, swing: float
    ) -> Iterator[pa.Table]:
        if implausible(start_ms) or per_ms <= 0:
            raise UsageError(
                "a simulated shop", f"a rate above 0, and {PLAUSIBLE}", f"{per_ms * 1_000:g}/s, {start_ms} ms"
            )
        rng = np.random.default_rng([self.seed, 2, start_ms])
        gap_ms = min(GAP_MS, BUSY_SHARE * self.users / per_ms)
        low, high = start_ms - int(LONGEST_SESSION_GAPS * gap_ms), start_ms
        pending, sessions, events = NOTHING, 0, 0
        while until_ms is None or low < until_ms:
            starts = _arrivals(rng, low, high, per_ms / self._per_session, swing)
            both = _concatenated([pending, self._session_events(rng, starts, gap_ms, sessions)])
            sessions += len(starts)
            due = both.time < high
            pending, ready = both.pick(~due), both.pick(due & (both.time >= start_ms))
            if len(ready.time):
                yield self._table(ready.pick(np.argsort(ready.time, kind="stable")), f"{start_ms:x}", events)
                events += len(ready.time)
            low, high = high, high + block_ms
            high = high if until_ms is None else min(high, until_ms)

    def _session_events(self, rng: np.random.Generator, starts: Floats, gap_ms: float, first: int) -> Events:
        """The events of sessions that start at these times, numbered from ``first``; in no order."""
        users = np.searchsorted(self._activity, rng.random(len(starts)) * self._activity[-1])
        views = np.minimum(rng.geometric(1.0 / MEAN_VIEWS, len(starts)), MOST_VIEWS)
        session = np.repeat(np.arange(len(starts)), views)
        gaps = rng.exponential(gap_ms, len(session))
        elapsed = np.concatenate([[0.0], np.cumsum(gaps)])
        time = starts[session] + elapsed[:-1] - elapsed[np.cumsum(views) - views][session]
        intents = self.tastes[users, rng.choice(len(TASTES), len(starts), p=TASTES)]
        user = users[session]
        item, liking = self._looked_at(rng, user, intents[session], time)
        viewed = _Views(time, gaps, user, session + first, item)
        return self._with_consequences(rng, viewed, liking)

    def _looked_at(self, rng: np.random.Generator, user: Int64s, intent: Int64s, time: Floats) -> tuple[Int64s, Floats]:
        """The item of each view, and the viewer's liking of its kind."""
        source = rng.random(len(user))
        anything = np.searchsorted(self._ends, rng.random(len(user)) * self._ends[-1], side="right") - 1
        taste = self.tastes[user, rng.choice(len(TASTES), len(user), p=TASTES)]
        kind = np.where(source < FROM_INTENT, intent, taste)
        kind = np.where(source < FROM_INTENT + FROM_TASTE, kind, self.kind_of[anything])
        low, high = self._ends[self._starts[kind]], self._ends[self._starts[kind + 1]]
        item = np.searchsorted(self._ends, low + rng.random(len(user)) * (high - low), side="right") - 1
        item = np.clip(item, self._starts[kind], self._starts[kind + 1] - 1)
        item = np.where(rng.random(len(user)) < HOT, self.hot_item(kind, time), item)
        return item, np.where((kind[:, None] == self.tastes[user]).any(axis=1), 1.0, INDIFFERENT)

    def hot_item(self, kind: Int64s, time_ms: Floats) -> Int64s:
        """The item of each kind that is hot at the time."""
        period = (time_ms // HOT_MS).astype(np.int64)
        mixed = (kind * 2_654_435_761 + period * 40_503 * 65_537 + self.seed) & 0x7FFFFFFF
        size = self._starts[kind + 1] - self._starts[kind]
        return self._starts[kind] + (mixed ^ (mixed >> 13)) % size

    def _with_consequences(self, rng: np.random.Generator, views: _Views, liking: Floats) -> Events:
        """The views and their consequences, minutes later in the session or days later."""
        size = len(views.item)
        chance = liking * self.appeal[views.item]
        carted = rng.random(size) < CARTED * chance * self._readiness[views.user]
        bought = carted & (rng.random(size) < BOUGHT)
        again = rng.random(size)
        quantity = 1 + (rng.random(size) < SECOND)
        stars = np.round(1.0 + 3.0 * self.appeal[views.item] + rng.normal(0.0, 0.7, size))
        rating = np.clip(stars, 1, 5).astype(np.int64)
        day_ms = float(UNITS_MS["d"])
        none = np.zeros(size, dtype=np.int64)
        everything = np.ones(size, dtype=np.bool_)
        return _concatenated(
            [
                views.of(VIEW, everything, 0.0 * views.gap, none, none),
                views.of(FAVORITE, rng.random(size) < FAVORED * chance, 0.2 * views.gap, none, none),
                views.of(CART, carted, 0.4 * views.gap, quantity, none),
                views.of(REMOVE, carted & ~bought & (again < REMOVED), 0.8 * views.gap, quantity, none),
                views.of(PURCHASE, bought, 0.8 * views.gap, quantity, none),
                views.of(RATING, bought & (again < RATED), rng.exponential(0.5 * day_ms, size), none, rating),
                views.of(RETURN, bought & (again > 1.0 - RETURNED), rng.exponential(day_ms, size), -quantity, none),
            ]
        )

    # --- as tables ----------------------------------------------------------------------------------------------------

    def _table(self, events: Events, run: str, first: int) -> pa.Table:
        """The events as columns of ours; their ids are of the shop, the run, and their number in it from ``first``."""
        numbers = pa.array(np.arange(first, first + len(events.time), dtype=np.int64)).cast(pa.string())
        sessions = pa.array(events.session, mask=events.session < 0).cast(pa.string())
        item = pa.array(events.item)
        priced = np.isin(events.kind, (RATING, FAVORITE))
        return pa.table(
            {
                "event_id": pc.binary_join_element_wise(f"sim{self.seed}", run, numbers, "-"),
                "event_time": pa.array(events.time),
                "known_at": pa.array(events.time),
                "event_type": pa.array(TYPES).take(pa.array(events.kind)),
                "user_id": self._user_ids.take(pa.array(events.user)),
                "session_id": pc.binary_join_element_wise(f"s{run}", sessions, "-"),
                "item_id": self._item_ids.take(item),
                "category": self._categories.take(item),
                "price": pc.if_else(pa.array(priced), pa.scalar(None, pa.float64()), self._prices.take(item)),
                "quantity": pa.array(events.quantity, mask=events.quantity == 0),
                "rating": pa.array(events.rating.astype(np.float64), mask=events.rating == 0),
            }
        )


@dataclass(frozen=True)
class _Views:
    """Views in no order, with the ms from each to the next."""

    time: Floats
    gap: Floats
    user: Int64s
    session: Int64s
    item: Int64s

    def of(self, kind: int, which: Bools, later_ms: Floats, quantity: Int64s, rating: Int64s) -> Events:
        """Events of that kind, so much later, where the views are chosen."""
        time = (self.time[which] + later_ms[which]).astype(np.int64)
        session = self.session[which] if kind < RATING else np.full(len(time), -1)
        kinds = np.full(len(time), kind)
        return Events(time, kinds, self.user[which], session, self.item[which], quantity[which], rating[which])


def _arrivals(rng: np.random.Generator, low: int, high: int, per_ms: float, swing: float) -> Floats:
    """Random times in [low, high) at a mean rate per ms; most in the evening (UTC), fewest at dawn."""
    count = rng.poisson((high - low) * per_ms * (1.0 + swing))
    times = low + rng.random(count) * (high - low)
    if not swing:
        return times
    day = times / UNITS_MS["d"] * 2.0 * np.pi
    return times[rng.random(count) * (1.0 + swing) < 1.0 - swing * np.sin(day + np.pi / 6)]


def _names(letter: str, count: int) -> pa.Array:
    return pc.binary_join_element_wise(letter, pa.array(np.arange(count)).cast(pa.string()), "")
