"""The inputs of a ranker that learns from impressions: what was known of each item just before it was shown.

A row is an item of a list. Everything is counted from what has a time before the list's own: no list knows of its
clicks, nor of those of lists that were shown in the same millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from features.arrays import Floats, Int64s

PRIOR_CLICKS, PRIOR_SHOWN = 1.0, 10.0
"""An item that was never shown has the click-through of one that was so often, as Metarank's rate feature has it."""

POSITION = "position"


@dataclass(frozen=True)
class ImpressionLists:
    """n items of lists, list by list in the order of time, and the clicks on them."""

    items: int
    list_of: Int64s
    item: Int64s
    position: Int64s
    clicked: NDArray[np.bool_]
    list_ms: Int64s
    """(lists,) the time at which each was shown, rising."""
    list_user: Int64s
    click_item: Int64s
    click_ms: Int64s
    click_user: Int64s

    @property
    def lists(self) -> int:
        """The number of lists."""
        return len(self.list_ms)

    @property
    def time_ms(self) -> Int64s:
        """(n,) the time at which each row was shown."""
        return self.list_ms[self.list_of]


@dataclass(frozen=True)
class Metadata:
    """Metadata of each item: numbers by name, (items,), NaN for null; sets of words by name, (items, words)."""

    numbers: Mapping[str, Floats]
    words: Mapping[str, csr_array]


def click_through(shown: ImpressionLists) -> Floats:
    """(n,) the item's clicks over its impressions before the list, with a prior."""
    clicks, impressions = _counts(shown)
    return (clicks + PRIOR_CLICKS) / (impressions + PRIOR_SHOWN)


def inputs(shown: ImpressionLists, about: Metadata) -> dict[str, Floats]:
    """Column name → (n,) value of each row."""
    clicks, impressions = _counts(shown)
    before = clicked_before(shown)
    columns = {POSITION: shown.position.astype(np.float64), "click_through": click_through(shown)}
    columns |= {"clicks": clicks, "impressions": impressions}
    columns["user_clicks"] = np.asarray(before.sum(axis=1), dtype=np.float64)[shown.list_of]
    for name, values in about.numbers.items():
        columns |= {name: values[shown.item], f"{name}_from_habit": _from_habit(values, shown, before)}
    columns |= {f"{name}_affinity": _affinity(words, shown, before) for name, words in about.words.items()}
    compared = ["click_through", *about.numbers, *(f"{name}_affinity" for name in about.words)]
    return columns | {f"{name}_in_list": rank_in_list(columns[name], shown.list_of) for name in compared}


def rank_in_list(values: Floats, list_of: Int64s) -> Floats:
    """(n,) 0 for the highest value of the list; equal values in their order, NaN last."""
    order = np.lexsort((-values, list_of))
    starts = np.searchsorted(list_of, list_of)
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values)) - starts[order]
    return ranks


def _counts(shown: ImpressionLists) -> tuple[Floats, Floats]:
    """(n,) each item's clicks, and impressions, before the list's time."""
    clicks = _earlier(shown.click_item, shown.click_ms, shown.item, shown.time_ms)
    return clicks, _earlier(shown.item, shown.time_ms, shown.item, shown.time_ms)


def _earlier(code: Int64s, time_ms: Int64s, wanted: Int64s, before_ms: Int64s) -> Floats:
    """For each wanted code how many of its times are less than before_ms."""
    first = int(min(time_ms.min(initial=0), before_ms.min(initial=0)))
    span = int(max(time_ms.max(initial=0), before_ms.max(initial=0))) - first + 2
    keys = np.sort(code * span + (time_ms - first))
    counts = np.searchsorted(keys, wanted * span + (before_ms - first)) - np.searchsorted(keys, wanted * span)
    return counts.astype(np.float64)


def clicked_before(shown: ImpressionLists) -> csr_array:
    """(lists, items) 1 where the list's user had clicked the item before the list's time."""
    order = np.lexsort((shown.click_ms, shown.click_user))
    user, time_ms, item = shown.click_user[order], shown.click_ms[order], shown.click_item[order]
    starts = np.searchsorted(user, shown.list_user)
    counts = _earlier(user, time_ms, shown.list_user, shown.list_ms).astype(np.int64)
    rows = np.repeat(np.arange(shown.lists), counts)
    indices = np.repeat(starts, counts) + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    before = csr_array((np.ones(len(rows)), (rows, item[indices])), shape=(shown.lists, shown.items))
    before.sum_duplicates()
    before.data[:] = 1.0
    return before


def _from_habit(values: Floats, shown: ImpressionLists, before: csr_array) -> Floats:
    """(n,) the distance of the item's value from the mean of what the user had clicked; NaN before any click."""
    there = ~np.isnan(values)
    sums, counts = before @ np.where(there, values, 0.0), before @ there.astype(np.float64)
    habit = np.divide(sums, counts, out=np.full(shown.lists, np.nan), where=counts > 0)
    distance: Floats = values[shown.item] - habit[shown.list_of]
    return distance


def _affinity(words: csr_array, shown: ImpressionLists, before: csr_array) -> Floats:
    """(n,) the cosine of the item's words and those of what the user clicked; NaN before any click."""
    profile = csr_array(before @ words)
    dots = _row_dots(profile, words, shown)
    norms = np.sqrt(profile.multiply(profile).sum(axis=1))[shown.list_of]
    own = np.sqrt(np.asarray(words.sum(axis=1), dtype=np.float64))[shown.item]
    scale = norms * own
    return np.where(norms > 0, np.divide(dots, scale, out=np.zeros(len(dots)), where=scale > 0), np.nan)


def _row_dots(left: csr_array, right: csr_array, shown: ImpressionLists) -> Floats:
    """(n,) left[list] · right[item] of each row."""
    return np.asarray(left[shown.list_of].multiply(right[shown.item]).sum(axis=1), dtype=np.float64)
