"""Simulated card payments with frauds: the Fraud Detection Handbook's simulator, vectorised, and for live traffic too.

Customers and terminals stand in a square; a customer pays about as much and as often as is usual for that customer, at
terminals nearby, mostly by day. Frauds are of three kinds, with the Handbook's numbers: amounts above 220; all payments
at a terminal, for 28 days from when it was compromised (two are each day); every third payment of a customer, of five
times the amount, for 14 days (three are each day). A fraud becomes known seven days after its payment. Le Borgne and
others, 2022, chapter 3, "Transaction data simulator". Ours: every third terminal is a web shop, near to everybody.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.arrays import Bools, Floats, Int64s
from features.definitions import UNITS_MS
from features.errors import UsageError
from features.events import PLAUSIBLE, implausible

DAY_MS = UNITS_MS["d"]

SIDE, RADIUS = 100.0, 5.0

ONLINE_EVERY = 3
"""One in so many terminals is a web shop."""

BOUGHT_ONLINE = 0.4
"""The share of payments at web shops."""

SUSPICIOUS_AMOUNT = 220.0

TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28

CUSTOMERS_A_DAY, CUSTOMER_DAYS = 3, 14

DEFRAUDED, DEARER = 1 / 3, 5.0

LABEL_DELAY_MS = 7 * DAY_MS

NOON_MS, SPREAD_MS = DAY_MS / 2, 20_000_000.0

BY_DAY = 0.5626
"""The mean over a day of exp(-((t - noon) / spread)² / 2)."""


@dataclass(frozen=True)
class Payments:
    """Payments as columns: ms, number in the run, customer, terminal, amount, fraud."""

    time: Int64s
    number: Int64s
    customer: Int64s
    terminal: Int64s
    amount: Floats
    fraud: Bools

    def pick(self, which: Bools) -> Payments:
        """Some of them."""
        return Payments(*(getattr(self, field.name)[which] for field in fields(self)))

    def __add__(self, other: Payments) -> Payments:
        return Payments(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


Block = Mapping[str, pa.Table]
"""'atm', 'online' and 'fraud_labels' → what became known in the block, in time order, with columns of ours."""


class CardSimulator:
    """Customers with habits and terminals near to them; makes payments and labels of the past, and live ones."""

    def __init__(self, seed: int = 7, customers: int = 5_000, terminals: int = 10_000) -> None:
        if customers < 1 or terminals < ONLINE_EVERY or seed < 0:
            got = f"{customers} customers, {terminals} terminals, seed {seed}"
            required = f"at least one customer and {ONLINE_EVERY} terminals, and a seed of 0 or more"
            raise UsageError("simulated card payments", required, got)
        self.seed, self.customers, self.terminals = seed, customers, terminals
        rng = np.random.default_rng([seed, 0])
        self._mean = rng.uniform(5.0, 100.0, customers)
        self._activity = np.cumsum(rng.uniform(0.0, 4.0, customers))
        self.online: Int64s = np.arange(0, terminals, ONLINE_EVERY)
        self._near, self._first = self._make_neighbours(rng)

    def _make_neighbours(self, rng: np.random.Generator) -> tuple[Int64s, Int64s]:
        """The cash terminals near to each customer, concatenated, and the offset of each customer's first."""
        from scipy.spatial import cKDTree  # type: ignore[import-untyped]

        cash = np.setdiff1d(np.arange(self.terminals), self.online)
        tree = cKDTree(rng.uniform(0.0, SIDE, (len(cash), 2)))
        homes = rng.uniform(0.0, SIDE, (self.customers, 2))
        _, nearest = tree.query(homes)
        near = [
            terminals or [first] for terminals, first in zip(tree.query_ball_point(homes, RADIUS), nearest, strict=True)
        ]
        first = np.concatenate([[0], np.cumsum([len(terminals) for terminals in near])])
        return cash[np.concatenate(near)], first.astype(np.int64)

    # --- what happens -------------------------------------------------------------------------------------------------

    def history(self, days: float, until_ms: int, per_customer_day: float = 2.0) -> Generator[Block, None, Payments]:
        """Blocks of what became known in the days before ``until_ms``, day by day, most of it around noon (UTC).

        Returns the frauds of the last week, which nobody knows yet: live() takes them.
        """
        start_ms = until_ms - int(days * DAY_MS)
        return self._blocks(start_ms, until_ms, DAY_MS, per_customer_day * self.customers / DAY_MS, None, by_day=True)

    def live(
        self, start_ms: int, per_second: float, until_ms: int | None = None, unknown: Payments | None = None
    ) -> Generator[Block, None, Payments]:
        """Blocks of what becomes known from ``start_ms`` on, second by second; without end where no end is given.

        Args:
            start_ms: no payment is before it.
            per_second: the mean rate.
            until_ms: nothing is known at this time or later.
            unknown: frauds from before, whose labels are still to come.
        """
        return self._blocks(start_ms, until_ms, UNITS_MS["s"], per_second / 1_000, unknown, by_day=False)

    def _blocks(
        self,
        start_ms: int,
        until_ms: int | None,
        block_ms: int,
        per_ms: float,
        unknown: Payments | None,
        *,
        by_day: bool,
    ) -> Generator[Block, None, Payments]:
        if implausible(start_ms) or per_ms <= 0:
            got = f"{per_ms * 1_000:g}/s, {start_ms} ms"
            raise UsageError("simulated card payments", f"a rate above 0, and {PLAUSIBLE}", got)
        rng = np.random.default_rng([self.seed, 2, start_ms])
        numbered, low = 0, start_ms
        waiting = unknown or self._payments(rng, np.empty(0, dtype=np.int64), 0)
        while until_ms is None or low < until_ms:
            high = low + block_ms if until_ms is None else min(low + block_ms, until_ms)
            made = self._payments(rng, _arrivals(rng, low, high, per_ms, by_day=by_day), numbered)
            numbered += len(made.time)
            waiting += made.pick(made.fraud)
            due = waiting.time + LABEL_DELAY_MS < high
            yield self._tables(made, waiting.pick(due))
            waiting, low = waiting.pick(~due), high
        return waiting

    def _payments(self, rng: np.random.Generator, time: Int64s, first: int) -> Payments:
        """A payment at each of these times, numbered from ``first``."""
        size, day = len(time), time // DAY_MS
        customer = np.searchsorted(self._activity, rng.random(size) * self._activity[-1])
        amount = rng.normal(self._mean[customer], self._mean[customer] / 2)
        amount = np.where(amount < 0, rng.uniform(0.0, 2.0, size) * self._mean[customer], amount)
        near = self._first[customer + 1] - self._first[customer]
        cash = self._near[self._first[customer] + (rng.random(size) * near).astype(np.int64)]
        terminal = np.where(rng.random(size) < BOUGHT_ONLINE, rng.choice(self.online, size), cash)
        stolen = self._is_hit(customer, day, self._customers_hit) & (rng.random(size) < DEFRAUDED)
        amount = np.round(np.where(stolen, DEARER * amount, amount), 2)
        fraud = stolen | (amount > SUSPICIOUS_AMOUNT) | self._is_hit(terminal, day, self._terminals_hit)
        return Payments(time, np.arange(first, first + size), customer, terminal, amount, fraud)

    def _is_hit(self, who: Int64s, day: Int64s, hit: _Hit) -> Bools:
        """True for each one that was compromised on its day."""
        verdict = np.zeros(len(who), dtype=bool)
        for number in np.unique(day).tolist():
            today = day == number
            verdict[today] = np.isin(who[today], hit(number))
        return verdict

    @property
    def _terminals_hit(self) -> _Hit:
        return _Hit(self.seed, 3, self.terminals, TERMINALS_A_DAY, TERMINAL_DAYS)

    @property
    def _customers_hit(self) -> _Hit:
        return _Hit(self.seed, 4, self.customers, CUSTOMERS_A_DAY, CUSTOMER_DAYS)

    # --- as tables ----------------------------------------------------------------------------------------------------

    def _tables(self, made: Payments, known: Payments) -> Block:
        online = made.terminal % ONLINE_EVERY == 0
        return {
            "atm": self._table(made.pick(~online), 0),
            "online": self._table(made.pick(online), 0),
            "fraud_labels": self._table(known, LABEL_DELAY_MS).drop_columns(["amount"]),
        }

    def _table(self, payments: Payments, later_ms: int) -> pa.Table:
        """The payments as columns of ours, known so much later; an id is of the seed, the time and the number."""
        parts = (pa.array(part).cast(pa.string()) for part in (payments.time, payments.number))
        return pa.table(
            {
                "event_id": pc.binary_join_element_wise(f"card{self.seed}", *parts, "-"),
                "event_time": pa.array(payments.time),
                "known_at": pa.array(payments.time + later_ms),
                "customer_id": pa.array(payments.customer),
                "terminal_id": pa.array(payments.terminal),
                "amount": pa.array(payments.amount),
            }
        )


@dataclass(frozen=True)
class _Hit:
    """The compromised ones of ``count`` on a day: ``a_day`` new ones every day, each for some days."""

    seed: int
    kind: int
    count: int
    a_day: int
    days: int

    def __call__(self, day: int) -> Int64s:
        return _drawn(self, day)


@lru_cache(maxsize=64)
def _drawn(hit: _Hit, day: int) -> Int64s:
    days = range(max(day - hit.days + 1, 0), day + 1)
    new = [np.random.default_rng([hit.seed, hit.kind, day]).integers(0, hit.count, hit.a_day) for day in days]
    return np.unique(np.concatenate(new))


def _arrivals(rng: np.random.Generator, low: int, high: int, per_ms: float, *, by_day: bool) -> Int64s:
    """Sorted random times in [low, high) at a mean rate per ms; around noon where they follow the day."""
    count = rng.poisson((high - low) * per_ms / (BY_DAY if by_day else 1.0))
    times = np.sort(rng.integers(low, high, count))
    if not by_day:
        return times
    away = (times % DAY_MS - NOON_MS) / SPREAD_MS
    return times[rng.random(count) < np.exp(-(away**2) / 2)]
