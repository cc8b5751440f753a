"""Kernels of retrieval, compiled by features/compiling.py: loops over what a request names, never over all items.

Every sum is made in the order of its entries, so that an item's numbers are the same whatever else is asked with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

SIGNATURES = {
    "add_rows": (
        "void({i8}, {f8}, int64, {i8}, {i4}, {f4}, {f8}, {f8}, boolean, {b1}, {u1},"
        " float64[::1], uint8[::1], int32[::1], float64[::1], int64[::1], float64[::1], int64[::1], int64[::1])"
    ),
    "nearest": (
        "void({f4_3}, {f8}, {i4}, {f4}, float64, boolean, {b1}, {u1},"
        " float32[::1], float64[::1], int64[::1], float64[::1], int64[::1], int64[::1])"
    ),
    "first_open": "int64({i8}, {b1}, {u1}, int64[::1])",
    "products_of": "void({f4_2}, {f4}, {i8}, float64[::1])",
}


@register_jitable
def put_in_order(scores: Any, places: Any, count: int, score: float, place: Any) -> int:
    """The place stands among the highest scores, the best first and of equal ones the lower place; their new count."""
    if count < len(places):
        at = count
        count += 1
    elif score > scores[count - 1] or (score == scores[count - 1] and place < places[count - 1]):
        at = count - 1
    else:
        return count
    while at > 0 and (scores[at - 1] < score or (scores[at - 1] == score and places[at - 1] > place)):
        scores[at] = scores[at - 1]
        places[at] = places[at - 1]
        at -= 1
    scores[at] = score
    places[at] = place
    return count


@register_jitable
def is_open(place: Any, allowed: Any, closed: Any) -> bool:
    """True for a place that may be named; no ``allowed`` at all allows every place."""
    return closed[place] == 0 and (len(allowed) == 0 or allowed[place])


def add_rows(  # noqa: PLR0913, PLR0917  # a kernel takes arrays alone
    rows: Any,
    shares: Any,
    most: int,
    starts: Any,
    column: Any,
    weight: Any,
    divisors: Any,
    factors: Any,
    restricted: bool,
    allowed: Any,
    closed: Any,
    scores: Any,
    seen: Any,
    touched: Any,
    top_scores: Any,
    top: Any,
    open_scores: Any,
    open_top: Any,
    counts: Any,
) -> None:
    """The sum of these sparse rows, each times its share, and its highest positive places.

    Args:
        most: at most so many entries of each row.
        divisors, factors: by place, what its sum is then divided by and multiplied with; empty for nothing.
        restricted: whether ``open_top`` is wanted: the highest that are allowed and not closed.
        scores, seen, touched: zeros before; the sums, 1 where there is one, and the places of these.
        counts: the output: how many places were touched, and are in ``top`` and ``open_top``.
    """
    found = 0
    for at in range(len(rows)):
        first = starts[rows[at]]
        for entry in range(first, first + min(starts[rows[at] + 1] - first, most)):
            place = column[entry]
            if seen[place] == 0:
                seen[place] = 1
                touched[found] = place
                found += 1
            scores[place] += np.float64(weight[entry]) * shares[at]
    named, opened = 0, 0
    for at in range(found):
        place = touched[at]
        if len(divisors) > 0:
            scores[place] /= divisors[place]
        if len(factors) > 0:
            scores[place] *= factors[place]
        score = scores[place]
        if score > 0:
            named = put_in_order(top_scores, top, named, score, place)
            if restricted and is_open(place, allowed, closed):
                opened = put_in_order(open_scores, open_top, opened, score, place)
    counts[0], counts[1], counts[2] = found, named, opened


def nearest(  # noqa: PLR0913, PLR0917  # a kernel takes arrays alone
    blocks: Any,
    longest: Any,
    places: Any,
    user: Any,
    reach: float,
    restricted: bool,
    allowed: Any,
    closed: Any,
    products: Any,
    top_scores: Any,
    top: Any,
    open_scores: Any,
    open_top: Any,
    counts: Any,
) -> None:
    """The places whose vectors have the highest positive products with the user's.

    Blocks stand in the order of their longest vector: where no product of a block can be among the highest, those after
    it are not computed.

    Args:
        blocks: (blocks, f, lanes) vectors; ``places`` of each lane, -1 for none.
        longest: the length of each block's longest vector, falling.
        reach: the length of the user's vector and a little more, for what rounding adds to a product.
        products: (lanes,) working memory.
        counts: how many are in ``top`` and ``open_top`` before and after.
    """
    named, opened = counts[1], counts[2]
    lanes = blocks.shape[2]
    for block in range(len(blocks)):
        bound = longest[block] * reach
        enough = named == len(top) and bound < top_scores[named - 1]
        if enough and (not restricted or (opened == len(open_top) and bound < open_scores[opened - 1])):
            break
        for lane in range(lanes):
            products[lane] = 0
        for factor in range(blocks.shape[1]):
            share = user[factor]
            for lane in range(lanes):
                products[lane] += blocks[block, factor, lane] * share
        for lane in range(lanes):
            score = np.float64(products[lane])
            place = np.int64(places[block * lanes + lane])
            if score > 0 and place >= 0:
                named = put_in_order(top_scores, top, named, score, place)
                if restricted and is_open(place, allowed, closed):
                    opened = put_in_order(open_scores, open_top, opened, score, place)
    counts[1], counts[2] = named, opened


def first_open(order: Any, allowed: Any, closed: Any, out: Any) -> int:
    """The first places of an order that may be named, as many as ``out`` has room for; their count."""
    count = 0
    for at in range(len(order)):
        if count == len(out):
            break
        if is_open(order[at], allowed, closed):
            out[count] = order[at]
            count += 1
    return count


def products_of(vectors: Any, user: Any, places: Any, out: Any) -> None:
    """The products of these places' vectors with the user's, equal to those of ``nearest``."""
    for at in range(len(places)):
        product = np.float32(0)
        for factor in range(len(user)):
            product += vectors[places[at], factor] * user[factor]
        out[at] = product
