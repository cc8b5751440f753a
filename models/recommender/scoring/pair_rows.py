"""The kernel of pair features: a row for each candidate, from its item's numbers and the user's few items."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from models.recommender.scoring.columns import COLUMN, SCORED, SPARSE

SCORES = tuple(COLUMN[f"{source}_score"] for source in SPARSE)
RANKS = tuple(COLUMN[f"{source}_rank"] for source in SPARSE)
MOST = tuple(SCORED[source] for source in SPARSE)
FACTOR_MOST = SCORED["factor"]
FACTOR_SCORE, FACTOR_RANK = COLUMN["factor_score"], COLUMN["factor_rank"]
POPULAR_SCORE, POPULAR_RANK = COLUMN["popular_score"], COLUMN["popular_rank"]
TRENDING_SCORE, LASTING_SCORE = COLUMN["trending_score"], COLUMN["lasting_score"]
OWN_COUNT, OWN_SHARE, OWN_RANK = COLUMN["own_count"], COLUMN["own_share"], COLUMN["own_rank"]
OWN_AGE, OWN_VISITS, OWN_DUE = COLUMN["own_age_ms"], COLUMN["own_visits"], COLUMN["own_due"]
RECENT_PLACE, HISTORY_SIZE = COLUMN["recent_place"], COLUMN["history_size"]
CATEGORY_SHARE, POSITION = COLUMN["category_share"], COLUMN["position"]
SIMILAR, BLENDED = COLUMN["similar_score"], COLUMN["blended"]

SIGNATURES = {
    "fill": "void({i8}, int32[::1], {i8}, float64[:, ::1], uint8[:, ::1], int32[:, ::1], {i8}, {i8_2},"
    " boolean, {f8}, {i8}, {f8}, {f8}, {f4}, {f8},"
    " {i8}, {f8_2}, boolean, {i8}, {i4}, {i8}, {f8}, float64, float64, float64[:, ::1])"
}


@register_jitable
def _highest(pairs: Any, column: int) -> float:
    """The highest value of a column that is above 0; NaN where it holds NaN."""
    highest = 0.0
    for at in range(len(pairs)):
        value = pairs[at, column]
        if np.isnan(value):
            return np.nan
        highest = max(highest, value)
    return highest


def fill(  # noqa: C901, PLR0913, PLR0915, PLR0917  # a kernel takes arrays alone
    indices: Any,
    slots: Any,
    touched_counts: Any,
    scores: Any,
    seen: Any,
    touched: Any,
    top_counts: Any,
    tops: Any,
    has_factors: bool,
    products: Any,
    factor_top: Any,
    popular_log: Any,
    popular_rank: Any,
    trending: Any,
    lasting_log: Any,
    own: Any,
    own_values: Any,
    has_visits: bool,
    recent: Any,
    category: Any,
    trail: Any,
    trail_weights: Any,
    trail_known: float,
    position: float,
    pairs: Any,
) -> None:
    """The pair features of these items, and the scores of the sparse sources are zeros again.

    Args:
        slots: (n,) zeros, before and after.
        touched_counts: of each sparse source, how many places have a score; -1 for a source that the tables lack.
        scores, seen, touched, tops: of each sparse source, what add_rows filled; ``top_counts`` of ``tops``.
        products, factor_top: each item's product with the user's vector, and the places of the highest of all.
        own, own_values: places of the history, and for each its count, share, rank, age, visits and due.
        trail_known: the sum of the weights of the trail's items with a known category; 0 for none.
        pairs: (c, pair features), NaN; the output, but for price_from_habit.
    """
    for at in range(len(indices)):
        place = indices[at]
        slots[place] = at + 1
        pairs[at, POPULAR_SCORE] = popular_log[place]
        pairs[at, POPULAR_RANK] = popular_rank[place]
        pairs[at, TRENDING_SCORE] = trending[place]
        pairs[at, LASTING_SCORE] = lasting_log[place]
        pairs[at, OWN_COUNT] = 0.0
        pairs[at, OWN_SHARE] = 0.0
        pairs[at, HISTORY_SIZE] = len(own) + len(recent)
        pairs[at, POSITION] = position
        if has_visits:
            pairs[at, OWN_VISITS] = 0.0
        if has_factors:
            pairs[at, FACTOR_SCORE] = products[at]
            pairs[at, FACTOR_RANK] = FACTOR_MOST
        if trail_known > 0 and category[place] >= 0:
            share = 0.0
            for step in range(len(trail)):
                if category[trail[step]] == category[place]:
                    share += trail_weights[step]
            pairs[at, CATEGORY_SHARE] = share / trail_known
    for source in range(len(SCORES)):
        if touched_counts[source] < 0:
            continue
        for at in range(len(indices)):
            pairs[at, SCORES[source]] = scores[source, indices[at]]
            pairs[at, RANKS[source]] = MOST[source]
        for rank in range(top_counts[source]):
            slot = slots[tops[source, rank]]
            if slot > 0:
                pairs[slot - 1, RANKS[source]] = rank
        for at in range(touched_counts[source]):
            scores[source, touched[source, at]] = 0.0
            seen[source, touched[source, at]] = 0
    for rank in range(len(factor_top)):
        slot = slots[factor_top[rank]]
        if slot > 0:
            pairs[slot - 1, FACTOR_RANK] = rank
    for at in range(len(own)):
        slot = slots[own[at]]
        if slot > 0:
            pairs[slot - 1, OWN_COUNT] = own_values[0, at]
            pairs[slot - 1, OWN_SHARE] = own_values[1, at]
            pairs[slot - 1, OWN_RANK] = own_values[2, at]
            pairs[slot - 1, OWN_AGE] = own_values[3, at]
            if has_visits:
                pairs[slot - 1, OWN_VISITS] = own_values[4, at]
                pairs[slot - 1, OWN_DUE] = own_values[5, at]
    for at in range(len(recent)):
        slot = slots[recent[at]]
        if slot > 0:
            pairs[slot - 1, RECENT_PLACE] = at
    similar, counted, popular = _highest(pairs, SIMILAR), _highest(pairs, OWN_COUNT), _highest(pairs, POPULAR_SCORE)
    for at in range(len(indices)):
        slots[indices[at]] = 0
        blended = pairs[at, SIMILAR] / similar if similar > 0 else 0.0
        blended += pairs[at, OWN_COUNT] / counted if counted > 0 else 0.0
        blended += 0.1 * (pairs[at, POPULAR_SCORE] / popular if popular > 0 else 0.0)
        pairs[at, BLENDED] = blended
